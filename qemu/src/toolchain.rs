//! Which compiler builds the kernel and the image: decided here, once, by exact version.
//!
//! 1. The toolchain that `rust-toolchain.toml` names, with `rust-src` and the bare-metal target, where rustup keeps it.
//! 2. A distribution's compiler of a version that was tested, with its sources: it has no bare-metal `core`, and
//!    builds one (`-Zbuild-std`).
//! 3. What is missing of the first, fetched by rustup.
//! 4. What is missing of the second, from Debian's packages.
//!
//! A search for "anything that works" would change its answer when something else is installed, and silently rebuild
//! everything; so versions are exact, and key the target directories.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::nested::{answer, command, on_path, path_with};
use crate::packages;
use crate::say::say;
use crate::workspace;

/// The kernel's target.
pub const BARE_METAL: &str = "x86_64-unknown-none";

/// Debian's compiler, its sources and a linker. (`rust-lld` comes with the first LLVM package and needs the second.)
const DEBIAN: [&str; 5] = ["rustc-web", "cargo-web", "rust-web-src", "rust-web-llvm", "lld-22"];

/// A release of the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl Version {
    /// Oldest and newest minor releases that build both the kernel and the boot loader: the loader's crates stand
    /// between a compiler too old for them and one too new.
    const TESTED: std::ops::RangeInclusive<u32> = 95..=96;

    /// The release in `1.95.0` or in the line that `rustc --version` prints; none for a nightly or beta.
    pub fn parse(text: &str) -> Option<Version> {
        let number = text.trim().trim_start_matches("rustc ").split(' ').next()?;
        let mut parts = number.split('.').map(|part| part.parse().ok());
        let version = Version { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? };
        parts.next().is_none().then_some(version)
    }

    fn tested(self) -> bool {
        self.major == 1 && Version::TESTED.contains(&self.minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Where the bare-metal `core` and `alloc` come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Core {
    /// The toolchain brings them.
    Prebuilt,
    /// Cargo builds them from the sources.
    Built,
}

/// A compiler that builds the kernel and the image.
#[derive(Clone, Debug)]
pub struct Toolchain {
    bin: PathBuf,
    version: Version,
    core: Core,
    /// Why what was looked at before this one did not do.
    instead_of: Vec<String>,
}

impl Toolchain {
    /// Finds the compiler, installing what is missing where that is possible, and says what it does.
    ///
    /// # Errors
    /// Nothing serves: the text lists what was looked at, and the command that mends it.
    pub fn choose() -> Result<Toolchain> {
        let wanted = wanted()?;
        let mut against = Vec::new();
        for step in [Toolchain::of_rustup, Toolchain::of_distribution, Toolchain::fetched, Toolchain::installed] {
            match step(wanted) {
                Ok(toolchain) => return Ok(Toolchain { instead_of: against, ..toolchain }),
                Err(why) => against.push(why),
            }
        }
        let mend = if on_path("rustup").is_some() {
            format!("rustup toolchain install {wanted} --component rust-src --target {BARE_METAL}")
        } else {
            format!("{} (Debian), or install rustup from https://rustup.rs", packages::apt_command(&DEBIAN))
        };
        bail!("no compiler for the kernel.\n  {}\nThis mends it:\n  {mend}", against.join("\n  "))
    }

    fn new(bin: &Path, version: Version, core: Core) -> Toolchain {
        Toolchain { bin: bin.to_owned(), version, core, instead_of: Vec::new() }
    }

    /// Its name for people, with the reasons against the ones that come first: another compiler than last time builds
    /// everything again, and should not do so without a word.
    pub fn name(&self) -> String {
        let name = format!("Rust {}", self.version);
        if self.instead_of.is_empty() { name } else { format!("{name} ({})", self.instead_of.join("; ")) }
    }

    /// The release.
    pub fn version(&self) -> Version {
        self.version
    }

    /// What target directories are keyed by: everything that makes cargo build again.
    pub fn key(&self) -> String {
        match self.core {
            Core::Prebuilt => self.version.to_string(),
            Core::Built => format!("{}-built-core", self.version),
        }
    }

    /// The name of the target directory for kernels.
    pub fn kernel_target(&self) -> String {
        format!("kernel-{}", self.key())
    }

    /// This toolchain's cargo, in a clean environment, in the root of the source tree.
    ///
    /// # Errors
    /// The source tree has gone.
    pub fn cargo(&self) -> Result<Command> {
        let mut cargo = command(self.bin.join("cargo"));
        cargo.current_dir(workspace::root()?).env("RUSTC", self.bin.join("rustc")).env("PATH", path_with(&self.bin));
        Ok(cargo)
    }

    /// A cargo that may use unstable options, which the boot loader's build needs.
    ///
    /// # Errors
    /// The source tree has gone.
    pub fn bootstrap_cargo(&self) -> Result<Command> {
        let mut cargo = self.cargo()?;
        cargo.env("RUSTC_BOOTSTRAP", "1");
        Ok(cargo)
    }

    /// `cargo build` for the bare machine: the caller adds packages and a target directory.
    ///
    /// # Errors
    /// The source tree has gone.
    pub fn bare_metal_build(&self) -> Result<Command> {
        let mut cargo = match self.core {
            Core::Prebuilt => self.cargo()?,
            Core::Built => self.bootstrap_cargo()?,
        };
        cargo.args(["build", "--target", BARE_METAL]);
        if self.core == Core::Built {
            cargo.args(["-Zbuild-std=core,alloc", "-Zbuild-std-features=compiler-builtins-mem"]);
        }
        Ok(cargo)
    }

    /// Rustup's toolchain as it is.
    fn of_rustup(wanted: Version) -> std::result::Result<Toolchain, String> {
        let sysroot = rustup_sysroot(wanted).ok_or_else(|| format!("rustup: toolchain {wanted} is not installed"))?;
        if !has_sources(&sysroot) {
            return Err(format!("rustup: toolchain {wanted} lacks rust-src"));
        }
        let toolchain = |core| Toolchain::new(&sysroot.join("bin"), wanted, core);
        let built = toolchain(Core::Built);
        if has_bare_metal(&sysroot) {
            Ok(toolchain(Core::Prebuilt))
        } else if workspace::root().is_ok_and(|root| root.join("target").join(built.kernel_target()).is_dir()) {
            Ok(built) // fetching the target was tried before, and refused
        } else {
            Err(format!("rustup: toolchain {wanted} lacks the target {BARE_METAL}"))
        }
    }

    /// Rustup's toolchain, completed by rustup.
    fn fetched(wanted: Version) -> std::result::Result<Toolchain, String> {
        if on_path("rustup").is_none() {
            return Err("rustup: not installed".into());
        }
        let _lock = workspace::exclusive("toolchain").map_err(|error| error.to_string())?;
        let release = wanted.to_string();
        if rustup_sysroot(wanted).is_none() {
            let args = ["toolchain", "install", "--profile", "minimal", &release];
            rustup(&format!("fetching Rust {wanted} (a minute or so)"), &args);
        }
        if rustup_sysroot(wanted).is_some_and(|sysroot| !has_sources(&sysroot)) {
            rustup("fetching Rust's sources", &["component", "add", "rust-src", "--toolchain", &release]);
        }
        if rustup_sysroot(wanted).is_some_and(|sysroot| !has_bare_metal(&sysroot)) {
            let args = ["target", "add", BARE_METAL, "--toolchain", &release];
            rustup(&format!("fetching the target {BARE_METAL}"), &args);
        }
        let why = match Toolchain::of_rustup(wanted) {
            Ok(toolchain) => return Ok(toolchain),
            Err(why) => why,
        };
        match rustup_sysroot(wanted) {
            Some(sysroot) if has_sources(&sysroot) => {
                say(format_args!("without the target {BARE_METAL}, `core` is built from its sources instead"));
                Ok(Toolchain::new(&sysroot.join("bin"), wanted, Core::Built))
            }
            _ => Err(format!("{why}, and it could not be fetched")),
        }
    }

    /// The distribution's compiler, from Debian's packages.
    fn installed(wanted: Version) -> std::result::Result<Toolchain, String> {
        let _lock = workspace::exclusive("toolchain").map_err(|error| error.to_string())?;
        // Another launcher may have installed them while we waited.
        Toolchain::of_distribution(wanted).or_else(|_| {
            packages::install(&DEBIAN).map_err(|why| format!("Debian's packages: {why}"))?;
            Toolchain::of_distribution(wanted)
        })
    }

    /// A distribution's compiler as it is.
    fn of_distribution(_wanted: Version) -> std::result::Result<Toolchain, String> {
        let bin = Path::new("/usr/bin");
        let rustc = bin.join("rustc");
        if !rustc.is_file() || !bin.join("cargo").is_file() {
            return Err("the distribution's compiler: not installed".into());
        }
        let line = answer(command(&rustc).arg("--version")).unwrap_or_default();
        let Some(version) = Version::parse(&line).filter(|version| version.tested()) else {
            return Err(format!(
                "the distribution's compiler: {}, and only 1.{} to 1.{} were tested",
                line.trim(),
                Version::TESTED.start(),
                Version::TESTED.end()
            ));
        };
        let sysroot = answer(command(&rustc).args(["--print", "sysroot"])).unwrap_or_default();
        let sysroot = PathBuf::from(sysroot.trim());
        if !has_sources(&sysroot) {
            return Err(format!("the distribution's compiler {version}: without its sources"));
        }
        if on_path("rust-lld").is_none() {
            return Err(format!("the distribution's compiler {version}: no rust-lld on the search path"));
        }
        let core = if has_bare_metal(&sysroot) { Core::Prebuilt } else { Core::Built };
        Ok(Toolchain::new(bin, version, core))
    }
}

/// The release that `rust-toolchain.toml` pins.
fn wanted() -> Result<Version> {
    let file = workspace::root()?.join("rust-toolchain.toml");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    channel(&text).with_context(|| format!("{} pins no release", file.display()))
}

fn channel(text: &str) -> Option<Version> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("channel"))?;
    Version::parse(line.trim_start_matches([' ', '=']).trim_matches('"'))
}

/// The pinned toolchain's directory among rustup's, whatever the host's triple.
fn rustup_sysroot(wanted: Version) -> Option<PathBuf> {
    let home = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".rustup")))?;
    let name = format!("{wanted}-");
    let toolchains = std::fs::read_dir(home.join("toolchains")).ok()?.flatten();
    let mut found = toolchains.filter(|entry| entry.file_name().to_string_lossy().starts_with(&name));
    found.find(|entry| entry.path().join("bin/rustc").is_file()).map(|entry| entry.path())
}

fn has_sources(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core").is_dir()
}

fn has_bare_metal(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib").join(BARE_METAL).join("lib").is_dir()
}

/// Asks rustup for something. Whether it worked shows in the toolchain's directory.
fn rustup(what: &str, args: &[&str]) {
    say(format_args!("{what}: rustup {}", args.join(" ")));
    let mut rustup = command("rustup");
    rustup.args(args).env_remove("RUST_BACKTRACE").stdout(std::io::stderr());
    if !rustup.status().is_ok_and(|status| status.success()) {
        say("rustup could not do it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PINNED: Version = Version { major: 1, minor: 95, patch: 0 };

    #[test]
    fn versions_are_read_from_files_and_from_rustc() {
        assert_eq!(Version::parse("1.95.0"), Some(PINNED));
        assert_eq!(Version::parse("rustc 1.95.0 (59807616e 2026-04-14)\n"), Some(PINNED));
        assert_eq!(
            Version::parse("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)"),
            Some(Version { minor: 96, ..PINNED })
        );
        for not in ["", "rustc", "1.95", "1.95.0.1", "rustc 1.97.0-nightly (0 2026-05-19)", "stable"] {
            assert_eq!(Version::parse(not), None, "{not:?}");
        }
    }

    #[test]
    fn only_tested_releases_count() {
        assert!(PINNED.tested());
        assert!(Version { minor: 96, ..PINNED }.tested());
        assert!(!Version { minor: 85, ..PINNED }.tested());
        assert!(!Version { minor: 97, ..PINNED }.tested());
        assert!(!Version { major: 2, ..PINNED }.tested());
    }

    #[test]
    fn the_pin_is_found_in_its_file() {
        assert_eq!(channel("[toolchain]\nchannel = \"1.95.0\"\ncomponents = []\n"), Some(PINNED));
        assert_eq!(channel("[toolchain]\nchannel = \"nightly\"\n"), None);
        assert!(wanted().unwrap().tested());
    }
}
