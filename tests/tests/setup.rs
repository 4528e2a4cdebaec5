//! Set-up where rustup's downloads cannot be had, from a clean clone as a newcomer has it: `doctor` on this computer and on
//! one without anything, always; the whole way, with every build from nothing, on demand:
//!
//! ```text
//! cargo test -p tests --test setup -- --ignored
//! ```

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use qemu::host::Host;
use qemu::packages::Versions;
use qemu::toolchain::{Candidate, Origin, Version, debian_packages};
use tests::child::{self, Finished};
use tests::{launcher, turn};

/// The longest that one step of a rehearsal may take: it is there for those that never end.
const LIMIT: Duration = Duration::from_secs(3600);

/// Nobody listens there.
const CLOSED_SERVER: &str = "http://127.0.0.1:9";

fn main() -> ExitCode {
    let trials = vec![
        trial("doctor_finds_this_computer_well", doctor_here),
        trial("doctor_names_what_an_empty_computer_lacks", doctor_on_nothing),
        trial("ci_names_the_compiler_that_it_needs", ci_without_the_pin),
        trial("rehearse_closed_server", rehearse_closed_server).with_ignored_flag(true),
        trial("rehearse_no_rustup", rehearse_no_rustup).with_ignored_flag(true),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(name: &str, check: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || check().map_err(|error| Failed::from(format!("{error:#}"))))
}

/// The other tests boot machines on this computer, so it has everything.
fn doctor_here() -> Result<()> {
    let finished = launcher::run(&["doctor"], &[])?;
    let out = finished.out();
    ensure!(finished.status == 0, "status {}\n{out}{}", finished.status, finished.err());
    ensure!(!out.contains("MISSING") && out.contains("everything that is required is there"), "{out}");
    ensure!(out.contains("kernel and boot loader are built by "), "no choice is named: {out}");
    Ok(())
}

/// An empty search path, no rustup: each thing that comes by the search path is missing, with a command.
fn doctor_on_nothing() -> Result<()> {
    let empty = tempfile::tempdir()?;
    let mut command = Command::new(launcher::binary()?);
    command.arg("doctor").env_clear().env("PATH", empty.path()).env("HOME", empty.path());
    let finished = child::run(&mut command, &[], Duration::from_secs(60))?;
    let out = finished.out();
    ensure!(finished.status == i32::from(qemu::status::SET_UP), "status {}\n{out}", finished.status);
    for (name, mend) in [("linker for Linux", "gcc libc6-dev"), ("QEMU", "qemu-system-x86 ovmf")] {
        let mut lines = out.lines().skip_while(|line| !line.starts_with(&format!("MISSING  {name}")));
        let (first, second) = (lines.next(), lines.next());
        ensure!(first.is_some() && second.is_some_and(|line| line.contains(mend)), "{name}: {out}");
    }
    ensure!(std::fs::read_dir(empty.path())?.next().is_none(), "it left something behind");
    Ok(())
}

/// `.ci/run` without rustup: one look, the command, and nothing is built.
fn ci_without_the_pin() -> Result<()> {
    let pinned = pinned()?;
    if Candidate::of_distribution(&Host::here(), pinned).is_ok_and(|found| found.version == pinned) {
        return Ok(()); // this distribution has the pinned release itself
    }
    if ["/usr/bin/rustup", "/bin/rustup"].iter().any(|rustup| Path::new(rustup).exists()) {
        return Ok(()); // a distribution's rustup, which would fetch it
    }
    let home = tempfile::tempdir()?;
    let mut command = Command::new("bash");
    command.arg(qemu::workspace::root()?.join(".ci/run")).env_clear();
    command.env("PATH", "/usr/bin:/bin").env("HOME", home.path());
    let finished = child::run(&mut command, &[], Duration::from_secs(60))?;
    let err = finished.err();
    ensure!(finished.status == i32::from(qemu::status::SET_UP), "status {}\n{}{err}", finished.status, finished.out());
    ensure!(err.contains(&format!("rustup toolchain install {pinned} --component")), "{err}");
    ensure!(finished.stdout.is_empty(), "it went on: {}", finished.out());
    Ok(())
}

/// Rustup is there with the pinned compiler, but without the parts, and its server cannot be reached.
fn rehearse_closed_server() -> Result<()> {
    let newcomer = Newcomer::new()?;
    let home = newcomer.dir.path().join("rustup");
    let pinned = Candidate::of_rustup(&Host::here(), pinned()?).map_err(anyhow::Error::msg)?;
    minimal_copy(&pinned.sysroot, &home)?;
    let path = std::env::var_os("PATH").context("no search path")?;
    let rustup: [(&str, OsString); 2] = [("RUSTUP_HOME", home.into()), ("RUSTUP_DIST_SERVER", CLOSED_SERVER.into())];
    newcomer.rehearse(Path::new("cargo"), path, &rustup, "lacks the sources of its library (rust-src)")
}

/// There is no rustup, and nothing of it on the search path.
fn rehearse_no_rustup() -> Result<()> {
    let newcomer = Newcomer::new()?;
    if Candidate::of_distribution(&Host::here(), pinned()?).is_err() {
        // What the README tells such a person to type.
        qemu::packages::install(&Host::here(), &debian_packages(), Versions::Rise).map_err(anyhow::Error::msg)?;
    }
    newcomer.rehearse(Path::new("/usr/bin/cargo"), "/usr/bin:/bin".into(), &[], "rustup: ")
}

/// A person with a clean clone, and nothing of cargo's.
struct Newcomer {
    dir: tempfile::TempDir,
    clone: PathBuf,
}

impl Newcomer {
    fn new() -> Result<Newcomer> {
        let dir = tempfile::tempdir()?;
        let clone = dir.path().join("clone");
        for each in ["home", "cargo"] {
            std::fs::create_dir(dir.path().join(each))?;
        }
        let mut git = Command::new("git");
        git.args(["clone", "--quiet", "--no-local"]).arg(qemu::workspace::root()?).arg(&clone);
        let finished = child::run(&mut git, &[], Duration::from_secs(300))?;
        ensure!(finished.status == 0, "git clone: {}", finished.err());
        Ok(Newcomer { dir, clone })
    }

    /// The demonstration, `doctor`, and guest tests: all by Debian's compiler, whose choice is named with the reason `why`.
    fn rehearse(&self, cargo: &Path, path: OsString, vars: &[(&str, OsString)], why: &str) -> Result<()> {
        let choice = "the distribution's Rust 1.96.0 and a `core` built from its sources (";
        let named = |said: &str| {
            said.split(choice).skip(1).any(|reasons| reasons.lines().next().is_some_and(|line| line.contains(why)))
        };
        let step = |args: &[&str]| -> Result<Finished> {
            let mut command = Command::new(cargo);
            command.args(args).current_dir(&self.clone).env_clear().env("PATH", &path);
            command.env("HOME", self.dir.path().join("home")).env("CARGO_HOME", self.dir.path().join("cargo"));
            command.envs(vars.iter().cloned());
            let began = Instant::now();
            let finished = child::run(&mut command, &[], LIMIT)?;
            eprintln!("cargo {}: status {}, {} s", args.join(" "), finished.status, began.elapsed().as_secs());
            ensure!(finished.status == 0, "cargo {}\n{}\n{}", args.join(" "), finished.out(), finished.err());
            Ok(finished)
        };
        let _turn = turn::take();

        let shown = step(&["run", "--", "--timeout", "600"])?;
        ensure!(shown.out().contains("every byte right"), "the demonstration did not end well\n{}", shown.out());
        ensure!(named(&shown.err()), "the choice was not printed\n{}", shown.err());
        let built = std::fs::read_dir(self.clone.join("target"))?.flatten().map(|entry| entry.file_name());
        let built: BTreeSet<String> = built.map(|name| name.to_string_lossy().into_owned()).collect();
        let keyed = built.iter().filter(|name| ["kernel-", "boot-", "user-"].iter().any(|kind| name.starts_with(kind)));
        let keyed: Vec<&str> = keyed.map(String::as_str).collect();
        let wanted = [
            "boot-1.96.0-distribution-built-core",
            "kernel-1.96.0-distribution-built-core",
            "user-1.96.0-distribution-built-core",
        ];
        ensure!(keyed == wanted, "built into {keyed:?}");

        let doctor = step(&["run", "--quiet", "--", "doctor"])?;
        ensure!(named(&doctor.out()), "the doctor names another choice\n{}", doctor.out());

        let tests = step(&["test", "--package", "tests", "--test", "guest", "cpus2::"])?;
        ensure!(tests.out().contains("cpus2::the_boot_ends_well"), "no guest test ran\n{}", tests.out());

        // What stands is used again, by the same compiler.
        let again = step(&["run", "--", "--timeout", "600"])?;
        ensure!(!again.err().contains("tessera: building"), "the second run built again\n{}", again.err());

        // The other way to boot has a loader of our own, for the bare machine too.
        let direct = step(&["run", "--", "--firmware", "none", "--timeout", "600"])?;
        ensure!(direct.out().contains("every byte right"), "without firmware it did not end well\n{}", direct.out());
        Ok(())
    }
}

/// The release that this tree pins.
fn pinned() -> Result<Version> {
    let text = std::fs::read_to_string(qemu::workspace::root()?.join("rust-toolchain.toml"))?;
    Version::pinned(&text).context("no pin")
}

/// A rustup home that holds of the toolchain `sysroot` what a minimal installation has: no sources, no bare metal.
fn minimal_copy(sysroot: &Path, home: &Path) -> Result<()> {
    let toolchain = home.join("toolchains").join(format!("{}-x86_64-unknown-linux-gnu", pinned()?));
    let rustlib = toolchain.join("lib/rustlib");
    std::fs::create_dir_all(&rustlib)?;
    let copy = |from: &Path, to: &Path| -> Result<()> {
        let mut cp = Command::new("cp");
        let finished = child::run(cp.arg("-rL").arg(from).arg(to), &[], Duration::from_secs(300))?;
        ensure!(finished.status == 0, "{}", finished.err());
        Ok(())
    };
    copy(&sysroot.join("bin"), &toolchain)?;
    for entry in std::fs::read_dir(sysroot.join("lib"))?.flatten().filter(|entry| entry.file_name() != "rustlib") {
        copy(&entry.path(), &toolchain.join("lib"))?;
    }
    copy(&sysroot.join("lib/rustlib/x86_64-unknown-linux-gnu"), &rustlib)?;
    // Rustup's own books: what it believes to be installed, and where the rest is to be had.
    let parts = ["cargo", "rust-std", "rustc"];
    let host = "x86_64-unknown-linux-gnu";
    for part in parts {
        copy(&sysroot.join(format!("lib/rustlib/manifest-{part}-{host}")), &rustlib)?;
    }
    for book in ["multirust-channel-manifest.toml", "rust-installer-version"] {
        copy(&sysroot.join("lib/rustlib").join(book), &rustlib)?;
    }
    let components: String = parts.iter().map(|part| format!("{part}-{host}\n")).collect();
    std::fs::write(rustlib.join("components"), components)?;
    let tables = parts
        .iter()
        .map(|part| format!("\n[[components]]\npkg = \"{part}\"\ntarget = \"{host}\"\nis_extension = false\n"));
    std::fs::write(
        rustlib.join("multirust-config.toml"),
        format!("config_version = \"1\"\n{}", tables.collect::<String>()),
    )?;
    std::fs::write(
        home.join("settings.toml"),
        "version = \"12\"\nprofile = \"minimal\"\nauto_self_update = \"disable\"\n",
    )?;

    let left = Candidate::of_rustup(&Host::imagined(Path::new("/"), [("RUSTUP_HOME", home.into())]), pinned()?);
    let left = left.map_err(anyhow::Error::msg).context("the copy is no toolchain")?;
    ensure!(left.origin == Origin::Rustup && !left.has_sources() && !left.has_bare_metal(), "the copy lacks nothing");
    Ok(())
}
