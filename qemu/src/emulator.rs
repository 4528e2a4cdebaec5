//! The emulator and its firmware: found, or installed through apt where we may.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::host::Host;
use crate::packages::{self, Versions};
use crate::say::say;
use crate::workspace;

/// Debian's packages for both.
pub(crate) const PACKAGES: [&str; 2] = ["qemu-system-x86", "ovmf"];

/// Debian's package of QEMU's tools, which goes with one release of the emulator.
const TOOLS: &str = "qemu-utils";

/// A release of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
}

/// The release that the tests pass with, and the oldest that we accept: what an older one emulates of the CPU, and how
/// its monitor answers, nobody has looked at. Newer ones are accepted.
pub(crate) const TESTED: Release = Release { major: 7, minor: 2 };

impl Release {
    /// The release in `QEMU emulator version 7.2.22 (...)`.
    pub fn parse(line: &str) -> Option<Release> {
        let mut numbers = line.split_once("version ")?.1.split(|byte: char| !byte.is_ascii_digit());
        Some(Release { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// UEFI firmware for the emulated machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// One file with code and variables.
    Whole(PathBuf),
    /// Code in flash, and the variables' first state, of which each machine gets a copy.
    Flash {
        /// Read-only code.
        code: PathBuf,
        /// Variables.
        vars: PathBuf,
    },
}

/// An emulator that can boot our image.
#[derive(Clone, Debug)]
pub struct Emulator {
    /// The program.
    pub qemu: PathBuf,
    /// What it starts first.
    pub firmware: Firmware,
}

impl Emulator {
    /// Finds both, installing them where that is possible, and says what it does.
    ///
    /// # Errors
    /// They are missing: the text has the command that mends it. Or QEMU is too old.
    pub fn find() -> Result<Emulator> {
        Emulator::find_on(&Host::here())
    }

    fn find_on(host: &Host) -> Result<Emulator> {
        // Where a variable says which one to take, another one would not help.
        let chosen = host.var("QEMU").is_some() || host.var("OVMF_CODE").is_some();
        let missing = || qemu(host).is_err() || firmware(host).is_err();
        if missing() && !chosen {
            let _lock = workspace::exclusive("emulator")?;
            if missing()
                && let Err(why) = install(host)
            {
                say(format_args!("could not install QEMU and its firmware: {why}"));
            }
        }
        let mend = packages::apt_command(&PACKAGES);
        match (qemu(host), firmware(host)) {
            (Ok(qemu), Ok(firmware)) => {
                release(host, &qemu).map_err(anyhow::Error::msg)?;
                Ok(Emulator { qemu, firmware })
            }
            (Err(why), _) | (_, Err(why)) => bail!("{why}. On Debian and Ubuntu this mends it:\n  {mend}"),
        }
    }
}

/// Installs both. Tools of a newer QEMU, which a backport may have brought, keep the emulator out; they become those of its release.
fn install(host: &Host) -> Result<(), String> {
    let first = packages::install(host, &PACKAGES, Versions::Rise);
    let Err(why) = first else { return first };
    match (packages::installed(host, TOOLS), packages::candidate(host, PACKAGES[0])) {
        (Some(have), Some(wanted)) if have != wanted => {
            say(format_args!("{TOOLS} {have} may keep {} {wanted} out, so that version is taken of both", PACKAGES[0]));
            let tools = format!("{TOOLS}={wanted}");
            packages::install(host, &[PACKAGES[0], PACKAGES[1], &tools], Versions::AsAsked)
        }
        _ => Err(why),
    }
}

/// The emulator: `$QEMU`, or what is on the search path.
///
/// # Errors
/// It is not there: one line.
pub(crate) fn qemu(host: &Host) -> Result<PathBuf, String> {
    match host.var("QEMU").map(PathBuf::from) {
        Some(path) if path.is_file() => Ok(path),
        Some(path) => Err(format!("$QEMU is {}, and that is no file", path.display())),
        None => host.on_path("qemu-system-x86_64").ok_or_else(|| "qemu-system-x86_64 is not on the search path".into()),
    }
}

/// The release of the emulator `qemu`, if it will do.
///
/// # Errors
/// It is older than what was tested, or says nothing that looks like QEMU: one line.
pub(crate) fn release(host: &Host, qemu: &Path) -> Result<Release, String> {
    let said = host.ask(qemu, &["--version"]).unwrap_or_default();
    match Release::parse(&said) {
        Some(release) if release >= TESTED => Ok(release),
        Some(release) => Err(format!(
            "{} is QEMU {release}; Tessera was tested with {TESTED}, and what an older one lacks shows as a hang. A newer one \
             on the search path, or in $QEMU, mends it",
            qemu.display()
        )),
        None => Err(format!("{} --version says nothing that looks like QEMU: {:?}", qemu.display(), said.trim())),
    }
}

/// Code and variables where distributions put them.
const FLASH: [(&str, &str); 8] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"), // Debian, Ubuntu
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),       // older Debian, Fedora's links
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"), // Fedora
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"), // Arch
    ("/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"), // older Arch
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"), // openSUSE
    ("/opt/homebrew/share/qemu/edk2-x86_64-code.fd", "/opt/homebrew/share/qemu/edk2-i386-vars.fd"), // Homebrew, Apple silicon
    ("/usr/local/share/qemu/edk2-x86_64-code.fd", "/usr/local/share/qemu/edk2-i386-vars.fd"), // Homebrew, Intel; QEMU's own
];

/// Debian's and Ubuntu's single file: starts half a second sooner than flash.
const WHOLE: &str = "/usr/share/ovmf/OVMF.fd";

/// The firmware: `$OVMF_CODE` and `$OVMF_VARS`, or what a distribution brings.
///
/// # Errors
/// It is not there: one line.
pub(crate) fn firmware(host: &Host) -> Result<Firmware, String> {
    if let Some(code) = host.var("OVMF_CODE").map(PathBuf::from) {
        let firmware = match host.var("OVMF_VARS").map(PathBuf::from).or_else(|| vars_beside(&code)) {
            Some(vars) => Firmware::Flash { code: code.clone(), vars },
            None => Firmware::Whole(code.clone()),
        };
        let missing = || format!("$OVMF_CODE is {}, and it (or $OVMF_VARS) is no file", code.display());
        return Some(firmware).filter(Firmware::exists).ok_or_else(missing);
    }
    let whole = Firmware::Whole(host.file(WHOLE));
    let flash = FLASH.iter().map(|(code, vars)| Firmware::Flash { code: host.file(code), vars: host.file(vars) });
    let found = std::iter::once(whole).chain(flash).find(Firmware::exists);
    found.ok_or_else(|| {
        "no UEFI firmware (OVMF) for QEMU in the usual places, nor in $OVMF_CODE (and $OVMF_VARS)".into()
    })
}

impl Firmware {
    /// Where the code stands.
    pub fn code(&self) -> &Path {
        match self {
            Firmware::Whole(code) | Firmware::Flash { code, .. } => code,
        }
    }

    fn exists(&self) -> bool {
        match self {
            Firmware::Whole(file) => file.is_file(),
            Firmware::Flash { code, vars } => code.is_file() && vars.is_file(),
        }
    }
}

/// The variables that belong to a code file, by the names that distributions give the pair.
fn vars_beside(code: &Path) -> Option<PathBuf> {
    let name = code.file_name()?.to_str()?;
    let vars = name.replace("CODE", "VARS").replace("code", "vars");
    (vars != name).then(|| code.with_file_name(vars)).filter(|vars| vars.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::imagined::Imagined;

    #[test]
    fn qemu_tells_its_version() {
        let parse = |line| Release::parse(line).map(|release| (release.major, release.minor));
        assert_eq!(parse("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright"), Some((7, 2)));
        assert_eq!(parse("QEMU emulator version 10.1.0\n"), Some((10, 1)));
        assert_eq!(parse("QEMU emulator version 9.2\n"), Some((9, 2)));
        assert_eq!(parse("something else"), None);
        assert_eq!(parse("version of mine"), None);
    }

    fn qemu_of(computer: &Imagined, path: &str, version: &str) {
        computer.script(path, &format!("echo 'QEMU emulator version {version} (made up)'"));
    }

    #[test]
    fn a_release_older_than_the_tested_one_is_refused_with_the_reason() {
        let computer = Imagined::new();
        computer.file(WHOLE);
        for (version, good) in [("7.2.0", true), ("10.0.2", true), ("7.1.9", false), ("6.2.0", false)] {
            qemu_of(&computer, "/usr/bin/qemu-system-x86_64", version);
            let found = Emulator::find_on(&computer.host(&[]));
            assert_eq!(found.is_ok(), good, "{version}");
            if let Err(why) = found {
                let why = why.to_string();
                assert!(why.contains(&version[..3]) && why.contains("7.2") && why.contains("$QEMU"), "{why}");
            }
        }
    }

    #[test]
    fn variables_decide_and_are_named_when_they_are_wrong() {
        let computer = Imagined::new();
        computer.file("/fw/MY_CODE.fd");
        computer.file("/fw/MY_VARS.fd");
        qemu_of(&computer, "/mine/qemu", "9.0.0");
        // Were apt asked, it would say so.
        computer.script("/usr/bin/apt-get", ": > $ROOT/ran");
        computer.script("/usr/bin/id", "echo 0");
        let host = |qemu: &str, code: &str| {
            computer.host(&[("QEMU", computer.path(qemu).into()), ("OVMF_CODE", computer.path(code).into())])
        };
        let found = Emulator::find_on(&host("/mine/qemu", "/fw/MY_CODE.fd")).unwrap();
        assert_eq!(found.qemu, computer.path("/mine/qemu"));
        let (code, vars) = (computer.path("/fw/MY_CODE.fd"), computer.path("/fw/MY_VARS.fd"));
        assert_eq!(found.firmware, Firmware::Flash { code, vars });
        let why = Emulator::find_on(&host("/mine/none", "/fw/MY_CODE.fd")).unwrap_err().to_string();
        assert!(why.contains("$QEMU is "), "{why}");
        let why = Emulator::find_on(&host("/mine/qemu", "/fw/NO_CODE.fd")).unwrap_err().to_string();
        assert!(why.contains("$OVMF_CODE is "), "{why}");
        assert!(!computer.path("ran").exists());
    }

    #[test]
    fn what_is_missing_is_installed_or_the_command_is_named() {
        let computer = Imagined::new();
        computer.script("/usr/bin/id", "echo 1000");
        let why = Emulator::find_on(&computer.host(&[])).unwrap_err().to_string();
        assert!(why.contains("apt-get install --no-install-recommends qemu-system-x86 ovmf"), "{why}");
        computer.script("/usr/bin/id", "echo 0");
        qemu_of(&computer, "/made/qemu", "7.2.22");
        computer.script(
            "/usr/bin/apt-get",
            "[ \"$2\" = update ] && exit 1\n/bin/cp $ROOT/made/qemu $ROOT/usr/bin/qemu-system-x86_64\n\
             /bin/mkdir -p $ROOT/usr/share/ovmf && : > $ROOT/usr/share/ovmf/OVMF.fd",
        );
        let found = Emulator::find_on(&computer.host(&[])).unwrap();
        assert_eq!(found.firmware, Firmware::Whole(computer.path(WHOLE)));
    }

    #[test]
    fn tools_of_another_release_do_not_keep_the_emulator_out() {
        let computer = Imagined::new();
        computer.script("/usr/bin/id", "echo 0");
        qemu_of(&computer, "/made/qemu", "7.2.22");
        computer.script(
            "/usr/bin/apt-get",
            "echo \"$@\" >> $ROOT/said\ncase \"$*\" in *--allow-downgrades*) ;; *) exit 100 ;; esac\n\
             /bin/cp $ROOT/made/qemu $ROOT/usr/bin/qemu-system-x86_64\n\
             /bin/mkdir -p $ROOT/usr/share/ovmf && : > $ROOT/usr/share/ovmf/OVMF.fd",
        );
        computer.script("/usr/bin/apt-cache", "echo \"$2:\"; echo '  Installed: (none)'; echo '  Candidate: 1:7.2+x'");
        // Without the tools, or with those of that release, they are not what is in the way.
        computer.script("/usr/bin/dpkg-query", "exit 1");
        assert!(Emulator::find_on(&computer.host(&[])).is_err());
        computer.script("/usr/bin/dpkg-query", "echo 'ii  1:7.2+x'");
        assert!(Emulator::find_on(&computer.host(&[])).is_err());
        computer.script("/usr/bin/dpkg-query", "echo 'ii  1:10.0'");
        Emulator::find_on(&computer.host(&[])).unwrap();
        let said = std::fs::read_to_string(computer.path("said")).unwrap();
        assert_eq!(said.matches("--allow-downgrades").count(), 1, "{said}");
        assert!(said.ends_with("--no-remove --allow-downgrades qemu-system-x86 ovmf qemu-utils=1:7.2+x\n"), "{said}");
    }
}
