//! The compilers that stand on this computer, and what each of them lacks.

use std::path::{Path, PathBuf};

use super::{BARE_METAL, DEBIAN, LINUX, Version};
use crate::host::Host;

/// Who put a compiler here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Rustup, in a directory of its own.
    Rustup,
    /// The distribution's packages, under `/usr`.
    Distribution,
}

/// A compiler of a release that was tested, with or without the parts that the kernel needs.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Who put it here.
    pub origin: Origin,
    /// Its release.
    pub version: Version,
    /// Where `rustc` and `cargo` stand.
    pub bin: PathBuf,
    /// Where it keeps its libraries.
    pub sysroot: PathBuf,
    /// The linker for the bare machine, if there is one.
    pub linker: Option<PathBuf>,
}

impl Candidate {
    /// Rustup's toolchain of the release `wanted`: the one of that name, or another one that is of exactly that release.
    ///
    /// # Errors
    /// There is none: why.
    pub fn of_rustup(host: &Host, wanted: Version) -> Result<Candidate, String> {
        let missing = || format!("rustup: toolchain {wanted} is not installed");
        let home = host.var("RUSTUP_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(Path::new(host.var("HOME")?).join(".rustup"))).ok_or_else(missing)?;
        let toolchains = std::fs::read_dir(home.join("toolchains")).map_err(|_| missing())?;
        let mut toolchains: Vec<PathBuf> = toolchains.flatten().map(|entry| entry.path()).collect();
        let named = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{wanted}-")))
        };
        // Its name first, for it is what rustup would take; a name may lie, so the compiler has the last word.
        toolchains.sort_by_key(|path| (!named(path), path.clone()));
        let sysroot =
            toolchains.into_iter().find(|path| asked(host, &path.join("bin/rustc")).is_ok_and(|found| found == wanted));
        let sysroot = sysroot.ok_or_else(missing)?;
        let linker = Some(sysroot.join("lib/rustlib").join(LINUX).join("bin/rust-lld")).filter(|file| file.is_file());
        Ok(Candidate { origin: Origin::Rustup, version: wanted, bin: sysroot.join("bin"), sysroot, linker })
    }

    /// The distribution's compiler, if it is of the release `pinned` or of the one that was tested with Debian's packages.
    ///
    /// # Errors
    /// There is none, or it is of another release.
    pub fn of_distribution(host: &Host, pinned: Version) -> Result<Candidate, String> {
        let bin = host.file("/usr/bin");
        let (rustc, cargo) = (bin.join("rustc"), bin.join("cargo"));
        if !rustc.is_file() || !cargo.is_file() {
            return Err("the distribution's compiler: not installed".into());
        }
        let sysroot = PathBuf::from(host.ask(&rustc, &["--print", "sysroot"]).unwrap_or_default().trim());
        if sysroot != host.file("/usr") {
            // Some distributions package rustup, whose `rustc` is not a compiler but a door to rustup's toolchains.
            return Err(format!(
                "{}: not the distribution's compiler, but a door to {}",
                rustc.display(),
                sysroot.display()
            ));
        }
        for tool in [&rustc, &cargo] {
            match asked(host, tool) {
                Ok(version) if version == pinned || version == DEBIAN => {}
                Ok(version) => {
                    return Err(format!(
                        "{} {version}: only {pinned} and {DEBIAN} were tested, and other releases need not build the boot \
                         loader",
                        tool.display()
                    ));
                }
                Err(said) => return Err(format!("{}: not a release: {said:?}", tool.display())),
            }
        }
        let (version, beside) = (asked(host, &rustc)?, asked(host, &cargo)?);
        if version != beside {
            return Err(format!("the distribution's compiler is {version}, but its cargo {beside}"));
        }
        let linker = Some(bin.join("rust-lld")).filter(|file| file.is_file());
        Ok(Candidate { origin: Origin::Distribution, version, bin, sysroot, linker })
    }

    /// The sources of `core` and its siblings, where they stand when they are there.
    pub fn sources(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust/library")
    }

    /// Whether the sources are there. The boot loader needs them always.
    pub fn has_sources(&self) -> bool {
        self.sources().join("core").is_dir()
    }

    /// Whether the libraries for `target` are there.
    pub fn has_target(&self, target: &str) -> bool {
        self.sysroot.join("lib/rustlib").join(target).join("lib").is_dir()
    }

    /// What is missing of it that `core` built from its sources cannot replace.
    pub fn lacks(&self) -> Option<&'static str> {
        match self {
            _ if !self.has_sources() => Some("the sources of its library (rust-src)"),
            _ if self.linker.is_none() => Some("the linker rust-lld"),
            _ => None,
        }
    }

    /// Whether `core` for the bare machine comes with it.
    pub fn has_bare_metal(&self) -> bool {
        self.has_target(BARE_METAL)
    }

    /// Its name for people.
    pub fn name(&self) -> String {
        match self.origin {
            Origin::Rustup => format!("rustup's Rust {}", self.version),
            Origin::Distribution => format!("the distribution's Rust {}", self.version),
        }
    }
}

/// The release that a tool says it is of, or what it says instead.
fn asked(host: &Host, tool: &Path) -> Result<Version, String> {
    let said = host.ask(tool, &["--version"]).unwrap_or_default();
    Version::parse(&said).ok_or_else(|| said.trim().to_owned())
}
