//! `cargo run -- doctor`: what this computer has of what Tessera needs, and the command that mends each lack. It only
//! looks: what it lists as missing, the other commands fetch by themselves where they may.

use std::fmt;
use std::path::Path;

use anyhow::Result;

use crate::emulator;
use crate::host::Host;
use crate::packages::apt_command;
use crate::status;
use crate::toolchain::{BARE_METAL, Candidate, Choice, DEBIAN, LINUX, Origin, debian_packages};

/// Room in bytes under `target/` that a build from nothing and the tests take.
const ROOM_BYTES: u64 = 6 << 30;

/// Prints the list, and returns the exit status: 0, or [`status::SET_UP`] if something is missing that is required.
///
/// # Errors
/// The source tree has gone, or standard output cannot be written.
pub fn main() -> Result<u8> {
    use std::io::Write;

    let choice = Choice::here()?;
    let checkup = Checkup::of(&choice, free_bytes(choice.target()));
    write!(std::io::stdout(), "{checkup}")?;
    Ok(checkup.status())
}

/// How much depends on a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing boots without it.
    Required,
    /// Something is poorer without it: what.
    Helps(&'static str),
}

/// One thing that was looked for.
#[derive(Clone, Debug)]
struct Item {
    name: &'static str,
    need: Need,
    /// What was found, or why that will not do.
    found: Result<String, String>,
    /// What a person types, for what is missing.
    mend: String,
}

/// Everything that was looked for.
struct Checkup {
    items: Vec<Item>,
    /// What there is to say about the choice of the compiler.
    choice: String,
}

impl Checkup {
    fn of(choice: &Choice, free_bytes: Option<u64>) -> Checkup {
        let host = choice.host();
        let look = choice.look();
        let candidate = match &look {
            Ok(toolchain) => Some(toolchain.candidate().clone()),
            // The nearest to one that serves: its parts are looked at one by one.
            Err(_) => Candidate::of_rustup(host, choice.pinned())
                .or_else(|_| Candidate::of_distribution(host, choice.pinned()))
                .ok(),
        };
        let mut items = compiler(choice, candidate.as_ref());
        items.extend(c_compiler(host));
        items.extend(machine(host));
        items.push(room(free_bytes));
        items.extend(helpers(host, choice, candidate.as_ref()));
        let choice = match look {
            Ok(toolchain) => format!("kernel and boot loader are built by {}", toolchain.name()),
            Err(against) => format!("no compiler is complete yet: {}", against.join("; ")),
        };
        Checkup { items, choice }
    }

    fn status(&self) -> u8 {
        let missing = |item: &Item| item.need == Need::Required && item.found.is_err();
        if self.items.iter().any(missing) { status::SET_UP } else { 0 }
    }
}

impl fmt::Display for Checkup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Item { name, need, found, mend } in &self.items {
            match (found, need) {
                (Ok(found), _) => writeln!(f, "ok       {name:<20} {found}")?,
                (Err(why), Need::Required) => writeln!(f, "MISSING  {name:<20} {why}\n         mend it with: {mend}")?,
                (Err(why), Need::Helps(what)) => {
                    writeln!(f, "without  {name:<20} {why}: {what}\n         mend it with: {mend}")?;
                }
            }
        }
        writeln!(f, "not used KVM                  every machine is emulated")?;
        writeln!(f, "\n{}", self.choice)?;
        let missing = self.items.iter().filter(|item| item.need == Need::Required && item.found.is_err()).count();
        match missing {
            0 => writeln!(f, "everything that is required is there"),
            1 => writeln!(f, "one thing that is required is missing"),
            many => writeln!(f, "{many} things that are required are missing"),
        }
    }
}

/// The compiler and its parts.
fn compiler(choice: &Choice, candidate: Option<&Candidate>) -> Vec<Item> {
    let required = |name, found, mend| Item { name, need: Need::Required, found, mend };
    let pinned = choice.pinned();
    let Some(candidate) = candidate else {
        let why = format!("neither rustup's {pinned} nor the distribution's {pinned} or {DEBIAN}");
        return vec![required("rustc and cargo", Err(why), choice.commands().join("\n         or:           "))];
    };
    let mend = |rustup: String| match candidate.origin {
        Origin::Rustup => rustup,
        Origin::Distribution => apt_command(&debian_packages()),
    };
    let part = |there: bool, path: &Path| {
        if there { Ok(path.display().to_string()) } else { Err(format!("{} has none", candidate.name())) }
    };
    let sources = part(candidate.has_sources(), &candidate.sources());
    let bare_metal = if candidate.has_bare_metal() {
        format!("{BARE_METAL}, prebuilt")
    } else {
        match candidate.origin {
            Origin::Rustup => {
                format!("{BARE_METAL} is not there: the first run asks rustup for it, or builds `core` instead")
            }
            Origin::Distribution => "`core` is built from the sources".into(),
        }
    };
    let linker = match &candidate.linker {
        Some(linker) => Ok(linker.display().to_string()),
        None => Err(format!("{} has no rust-lld", candidate.name())),
    };
    let linux = candidate.sysroot.join("lib/rustlib").join(LINUX);
    vec![
        required("rustc and cargo", Ok(format!("{} in {}", candidate.version, candidate.bin.display())), String::new()),
        required("library sources", sources, mend(format!("rustup component add rust-src --toolchain {pinned}"))),
        required("bare-metal target", Ok(bare_metal), String::new()),
        required("bare-metal linker", linker, mend(format!("rustup toolchain install {pinned} --force"))),
        required(
            "library for Linux",
            part(candidate.has_target(LINUX), &linux),
            mend(format!("rustup target add {LINUX} --toolchain {pinned}")),
        ),
    ]
}

/// What links programs for this computer and static ones for Tessera, and compiles the tests' programs in C.
fn c_compiler(host: &Host) -> Vec<Item> {
    let mend = apt_command(&["gcc", "libc6-dev"]);
    let compiler = host.on_path("cc");
    let linker = compiler.as_ref().map(|path| path.display().to_string()).ok_or("no cc on the search path".to_owned());
    // The compiler answers with a path when it has the file, and with the bare name when it has not.
    let libc = compiler.and_then(|path| host.ask(path, &["-print-file-name=libc.a"]));
    let libc = libc.map(|said| said.trim().to_owned()).filter(|path| Path::new(path).is_file());
    let libc = libc.ok_or("cc knows no libc.a, which static programs are linked with".to_owned());
    let gcc = host.on_path("gcc").and_then(|path| first_line(host, &path));
    let gcc = gcc.ok_or("no gcc on the search path".to_owned());
    vec![
        Item { name: "linker for Linux", need: Need::Required, found: linker, mend: mend.clone() },
        Item { name: "static C library", need: Need::Required, found: libc, mend: mend.clone() },
        Item { name: "gcc", need: Need::Helps("the tests' C programs cannot be built"), found: gcc, mend },
    ]
}

/// The emulator and its firmware.
fn machine(host: &Host) -> [Item; 2] {
    let mend = apt_command(&emulator::PACKAGES);
    let qemu = emulator::qemu(host).and_then(|path| {
        let release = emulator::release(host, &path)?;
        let tested = if release == emulator::TESTED { "" } else { " (newer than the release that was tested)" };
        Ok(format!("{release}{tested}, {}", path.display()))
    });
    let firmware = emulator::firmware(host).map(|firmware| firmware.code().display().to_string());
    [
        Item { name: "QEMU", need: Need::Required, found: qemu, mend: mend.clone() },
        Item { name: "UEFI firmware", need: Need::Required, found: firmware, mend },
    ]
}

/// Room on the disk.
fn room(free_bytes: Option<u64>) -> Item {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let found = match free_bytes {
        Some(free) if free < ROOM_BYTES => Err(format!("{} free under target/, {} needed", gib(free), gib(ROOM_BYTES))),
        Some(free) => Ok(format!("{} free under target/", gib(free))),
        None => Ok("cannot be asked here".into()),
    };
    Item {
        name: "room on the disk",
        need: Need::Required,
        found,
        mend: "cargo clean, or a CARGO_TARGET_DIR elsewhere".into(),
    }
}

/// What the launcher, the tests or a person are better off with.
fn helpers(host: &Host, choice: &Choice, candidate: Option<&Candidate>) -> Vec<Item> {
    let here = |name: &str| host.on_path(name).ok_or_else(|| format!("no {name} on the search path"));
    let helps = |name, found: Result<std::path::PathBuf, String>, what, mend| {
        let found = found.map(|path| path.display().to_string());
        Item { name, need: Need::Helps(what), found, mend }
    };
    let works = |path: std::path::PathBuf, args: &[&str], without: &str| match host.ask(&path, args) {
        Some(_) => Ok(path),
        None => Err(format!("{} {without}", path.display())),
    };
    let setpriv =
        here("setpriv").and_then(|path| works(path, &["--pdeathsig", "KILL", "true"], "knows no --pdeathsig"));
    let gdb = here("gdb").and_then(|path| works(path, &["-nx", "-batch", "-ex", "python print(1)"], "has no Python"));
    let lints = candidate.ok_or("no compiler yet".to_owned()).and_then(|candidate| {
        let missing = ["cargo-fmt", "cargo-clippy"].into_iter().find(|tool| !candidate.bin.join(tool).is_file());
        match missing {
            None => Ok(candidate.bin.clone()),
            Some(tool) => Err(format!("{} has no {tool}", candidate.name())),
        }
    });
    let lints_mend = match candidate.map(|candidate| candidate.origin) {
        Some(Origin::Distribution) => {
            apt_command(&[format!("rustfmt-web={DEBIAN}*"), format!("rust-web-clippy={DEBIAN}*")])
        }
        _ => format!("rustup component add rustfmt clippy --toolchain {}", choice.pinned()),
    };
    vec![
        helps("strip", here("strip"), "images carry debug information, and boot slower", apt_command(&["binutils"])),
        helps("setpriv", setpriv, "a launcher that is killed leaves its QEMU behind", apt_command(&["util-linux"])),
        helps("gdb", gdb, "no look at a running kernel", apt_command(&["gdb"])),
        helps("rustfmt and clippy", lints, "`.ci/run` cannot check form and lints", lints_mend),
    ]
}

/// The first line of what a tool says about its version.
fn first_line(host: &Host, tool: &Path) -> Option<String> {
    Some(host.ask(tool, &["--version"])?.lines().next()?.to_owned())
}

/// Bytes free for us where `dir` stands, or will stand.
fn free_bytes(dir: &Path) -> Option<u64> {
    let existing = dir.ancestors().find(|dir| dir.is_dir())?;
    let file_system = rustix::fs::statvfs(existing).ok()?;
    file_system.f_bavail.checked_mul(file_system.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::imagined::Imagined;
    use crate::toolchain::imagined::{Parts, choice, distribution, rustup_toolchain};

    const PLENTY: Option<u64> = Some(ROOM_BYTES * 4);

    /// A computer that has everything but a compiler.
    fn computer() -> Imagined {
        let computer = Imagined::new();
        computer.file("/usr/lib/libc.a");
        computer.script("/usr/bin/cc", "echo $ROOT/usr/lib/libc.a");
        computer.script("/usr/bin/gcc", "echo 'gcc 12.2.0'; echo more");
        computer.script("/usr/bin/qemu-system-x86_64", "echo 'QEMU emulator version 7.2.22'");
        computer.file("/usr/share/ovmf/OVMF.fd");
        for tool in ["strip", "setpriv", "gdb"] {
            computer.script(&format!("/usr/bin/{tool}"), "exit 0");
        }
        computer
    }

    fn check(computer: &Imagined, free_bytes: Option<u64>) -> (String, u8) {
        let checkup = Checkup::of(&choice(computer, &[]), free_bytes);
        (checkup.to_string(), checkup.status())
    }

    /// The lines about one thing: what was found, and what mends it.
    fn about(text: &str, name: &str) -> String {
        let mut lines = text.lines().skip_while(|line| line.get(9..).is_none_or(|rest| !rest.starts_with(name)));
        let first = lines.next().unwrap_or_else(|| panic!("nothing about {name}: {text}"));
        let rest: String = lines.take_while(|line| line.starts_with("    ")).map(|line| format!("\n{line}")).collect();
        format!("{first}{rest}")
    }

    #[test]
    fn a_computer_with_everything_is_well() {
        let computer = computer();
        rustup_toolchain(&computer, "1.95.0-x86_64-unknown-linux-gnu", "1.95.0", Parts::All);
        let (text, status) = check(&computer, PLENTY);
        assert_eq!(status, 0, "{text}");
        assert!(!text.contains("mend it") && !text.contains("MISSING"), "{text}");
        assert!(text.contains("built by rustup's Rust 1.95.0\n"), "{text}");
        assert!(about(&text, "KVM").starts_with("not used"), "{text}");
        for line in text.lines().take_while(|line| !line.is_empty()) {
            assert!(line.starts_with("ok       ") || line.starts_with("not used "), "{line}");
        }
    }

    #[test]
    fn each_lack_is_named_with_the_command_that_mends_it() {
        let lacks: [(&str, &str, u8, &str); 8] = [
            ("/usr/bin/cc", "linker for Linux", 69, "gcc libc6-dev"),
            ("/usr/lib/libc.a", "static C library", 69, "gcc libc6-dev"),
            ("/usr/bin/qemu-system-x86_64", "QEMU", 69, "qemu-system-x86 ovmf"),
            ("/usr/share/ovmf/OVMF.fd", "UEFI firmware", 69, "qemu-system-x86 ovmf"),
            ("/usr/bin/gcc", "gcc", 0, "gcc libc6-dev"),
            ("/usr/bin/strip", "strip", 0, "binutils"),
            ("/usr/bin/setpriv", "setpriv", 0, "util-linux"),
            ("/usr/bin/gdb", "gdb", 0, "install --no-install-recommends gdb"),
        ];
        for (file, name, wanted, mend) in lacks {
            let computer = computer();
            rustup_toolchain(&computer, "1.95.0-x86_64-unknown-linux-gnu", "1.95.0", Parts::All);
            std::fs::remove_file(computer.path(file)).unwrap();
            let (text, status) = check(&computer, PLENTY);
            assert_eq!(status, wanted, "without {file}: {text}");
            let about = about(&text, name);
            assert!(about.contains("mend it with: sudo apt-get") && about.contains(mend), "without {file}: {about}");
            assert_eq!(about.starts_with("MISSING"), wanted != 0, "{about}");
        }
    }

    #[test]
    fn without_a_compiler_both_ways_to_one_are_shown() {
        let computer = computer();
        computer.script("/usr/bin/rustup", "exit 1");
        computer.script("/usr/bin/apt-get", ": > $ROOT/ran");
        let (text, status) = check(&computer, PLENTY);
        assert_eq!(status, 69, "{text}");
        let about = about(&text, "rustc and cargo");
        assert!(about.contains("rustup toolchain install 1.95.0") && about.contains("'rustc-web=1.96.0*'"), "{about}");
        assert!(!computer.path("ran").exists(), "it only looks");
    }

    #[test]
    fn the_parts_of_an_incomplete_compiler_are_looked_at_one_by_one() {
        let computer = computer();
        rustup_toolchain(&computer, "1.95.0-x86_64-unknown-linux-gnu", "1.95.0", Parts::Minimal);
        let (text, status) = check(&computer, PLENTY);
        assert_eq!(status, 69, "{text}");
        assert!(about(&text, "rustc and cargo").starts_with("ok"), "{text}");
        let sources = about(&text, "library sources");
        assert!(sources.starts_with("MISSING"), "{text}");
        assert!(sources.ends_with("mend it with: rustup component add rust-src --toolchain 1.95.0"), "{text}");
        assert!(text.contains("no compiler is complete yet: rustup's Rust 1.95.0 lacks"), "{text}");
    }

    #[test]
    fn the_distributions_compiler_does_and_is_named_with_the_reason() {
        let computer = computer();
        distribution(&computer, "1.96.0", "1.96.0", Parts::Minimal);
        let (text, status) = check(&computer, PLENTY);
        assert_eq!(status, 69, "{text}");
        assert!(about(&text, "library sources").contains("'rust-web-src=1.96.0*'"), "{text}");
        distribution(&computer, "1.96.0", "1.96.0", Parts::All);
        let (text, status) = check(&computer, PLENTY);
        assert_eq!(status, 0, "{text}");
        let built =
            "built by the distribution's Rust 1.96.0 and a `core` built from its sources (rustup: toolchain 1.95.0";
        assert!(text.contains(built), "{text}");
    }

    #[test]
    fn a_full_disk_and_an_old_emulator_are_no_good() {
        let computer = computer();
        rustup_toolchain(&computer, "1.95.0-x86_64-unknown-linux-gnu", "1.95.0", Parts::All);
        let (text, status) = check(&computer, Some(ROOM_BYTES - 1));
        assert!(status == 69 && about(&text, "room").starts_with("MISSING"), "{text}");
        assert_eq!(check(&computer, None).1, 0);
        computer.script("/usr/bin/qemu-system-x86_64", "echo 'QEMU emulator version 6.2.0'");
        let (text, status) = check(&computer, PLENTY);
        assert!(status == 69 && about(&text, "QEMU").contains("QEMU 6.2"), "{text}");
    }

    #[test]
    fn the_room_under_a_directory_that_is_yet_to_be_made_can_be_asked() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_bytes(&dir.path().join("not/yet")).is_some_and(|free| free > 0));
    }
}
