//! The emulator and its firmware: found, or installed through apt where we may.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::nested::{answer, on_path};
use crate::packages;
use crate::say::say;
use crate::workspace;

/// Debian's packages for both.
const PACKAGES: [&str; 2] = ["qemu-system-x86", "ovmf"];

/// Oldest release of QEMU that was tried.
const OLDEST: u32 = 7;

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
        if qemu().is_none() || firmware().is_none() {
            let _lock = workspace::exclusive("emulator")?;
            if (qemu().is_none() || firmware().is_none())
                && let Err(why) = packages::install(&PACKAGES)
            {
                say(format_args!("could not install QEMU and its firmware: {why}"));
            }
        }
        let mend = packages::apt_command(&PACKAGES);
        let Some(qemu) = qemu() else {
            bail!("qemu-system-x86_64 is not installed (or set $QEMU). On Debian and Ubuntu this mends it:\n  {mend}");
        };
        let Some(firmware) = firmware() else {
            bail!(
                "no UEFI firmware (OVMF) for QEMU in the usual places; set $OVMF_CODE (and $OVMF_VARS) to it. On Debian \
                 and Ubuntu this mends it:\n  {mend}"
            );
        };
        let line = answer(Command::new(&qemu).arg("--version")).unwrap_or_default();
        match major(&line) {
            Some(version) if version >= OLDEST => Ok(Emulator { qemu, firmware }),
            Some(version) => bail!("{} is version {version}; Tessera needs {OLDEST} or newer", qemu.display()),
            None => bail!("{} --version says nothing that looks like QEMU: {line:?}", qemu.display()),
        }
    }
}

/// The first number in `QEMU emulator version 7.2.22 (...)`.
fn major(line: &str) -> Option<u32> {
    line.split_once("version ")?.1.split('.').next()?.parse().ok()
}

fn qemu() -> Option<PathBuf> {
    match std::env::var_os("QEMU") {
        Some(path) => Some(PathBuf::from(path)).filter(|path| path.is_file()),
        None => on_path("qemu-system-x86_64"),
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

fn firmware() -> Option<Firmware> {
    if let Some(code) = std::env::var_os("OVMF_CODE").map(PathBuf::from) {
        let firmware = match std::env::var_os("OVMF_VARS").map(PathBuf::from) {
            Some(vars) => Firmware::Flash { code, vars },
            None => match vars_beside(&code) {
                Some(vars) => Firmware::Flash { code, vars },
                None => Firmware::Whole(code),
            },
        };
        return Some(firmware).filter(Firmware::exists);
    }
    let whole = Firmware::Whole(WHOLE.into());
    let flash = FLASH.iter().map(|(code, vars)| Firmware::Flash { code: code.into(), vars: vars.into() });
    std::iter::once(whole).chain(flash).find(Firmware::exists)
}

impl Firmware {
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

    #[test]
    fn qemu_tells_its_version() {
        assert_eq!(major("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright"), Some(7));
        assert_eq!(major("QEMU emulator version 10.1.0\n"), Some(10));
        assert_eq!(major("something else"), None);
    }
}
