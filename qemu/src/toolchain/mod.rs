//! Which compiler builds the kernel and the image: decided here, once, by exact version.
//!
//! 1. Rustup's toolchain of the release that `rust-toolchain.toml` names, with `rust-src` and the bare-metal target.
//! 2. The distribution's compiler of a release that was tested, with its sources: it has no bare-metal `core`, and
//!    builds one (`-Zbuild-std`).
//! 3. What is missing of the first, fetched by rustup.
//! 4. What is missing of the second, from Debian's packages of exactly the tested release.
//!
//! A search for "anything that works" would change its answer when something else is installed, and silently rebuild
//! everything; so releases are exact, and key the target directories.

mod candidate;
#[cfg(test)]
mod tests;
mod version;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

pub use self::candidate::{Candidate, Origin};
pub use self::version::{DEBIAN, Version};
use crate::host::Host;
use crate::packages::{self, Versions};
use crate::say::say;
use crate::workspace;

/// The kernel's target.
pub const BARE_METAL: &str = "x86_64-unknown-none";

/// The target of user programs, and of the host.
pub const LINUX: &str = "x86_64-unknown-linux-gnu";

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
    host: Host,
    candidate: Candidate,
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
        Choice::here()?.choose()
    }

    /// Its name for people, with the reasons against the ones that come first: another compiler than last time builds
    /// everything again, and should not do so without a word.
    pub fn name(&self) -> String {
        let mut name = self.candidate.name();
        if self.core == Core::Built {
            name += " and a `core` built from its sources";
        }
        if self.instead_of.is_empty() { name } else { format!("{name} ({})", self.instead_of.join("; ")) }
    }

    /// The compiler itself.
    pub fn candidate(&self) -> &Candidate {
        &self.candidate
    }

    /// Where its `core` for the bare machine comes from.
    pub fn core(&self) -> Core {
        self.core
    }

    /// What target directories are keyed by: everything that makes cargo build again.
    pub fn key(&self) -> String {
        key(&self.candidate, self.core)
    }

    /// The name of the target directory for kernels.
    pub fn kernel_target(&self) -> String {
        kernel_target(&self.candidate, self.core)
    }

    /// This toolchain's cargo, in a clean environment, in the root of the source tree.
    ///
    /// # Errors
    /// The source tree has gone.
    pub fn cargo(&self) -> Result<Command> {
        let bin = &self.candidate.bin;
        let mut cargo = self.host.command(bin.join("cargo"));
        cargo.current_dir(workspace::root()?).env("RUSTC", bin.join("rustc")).env("PATH", self.host.path_with(bin));
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
    /// Only a `core` that is built gets cargo's unstable options, and then that one: our own code is for stable Rust.
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
}

fn key(candidate: &Candidate, core: Core) -> String {
    let origin = match candidate.origin {
        Origin::Rustup => "",
        Origin::Distribution => "-distribution",
    };
    let core = match core {
        Core::Prebuilt => "",
        Core::Built => "-built-core",
    };
    format!("{}{origin}{core}", candidate.version)
}

fn kernel_target(candidate: &Candidate, core: Core) -> String {
    format!("kernel-{}", key(candidate, core))
}

/// How a compiler is chosen: on which computer, for which pin, beside which target directories.
pub(crate) struct Choice {
    host: Host,
    pinned: Version,
    target: PathBuf,
}

impl Choice {
    /// The choice for this source tree on this computer.
    pub(crate) fn here() -> Result<Choice> {
        let root = workspace::root()?;
        let file = root.join("rust-toolchain.toml");
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let pinned = Version::pinned(&text).with_context(|| format!("{} pins no release", file.display()))?;
        Ok(Choice { host: Host::here(), pinned, target: root.join("target") })
    }

    /// The computer.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// Where target directories stand.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// The pinned release.
    pub(crate) fn pinned(&self) -> Version {
        self.pinned
    }

    /// What serves as it is, or why nothing does. Installs nothing.
    pub(crate) fn look(&self) -> std::result::Result<Toolchain, Vec<String>> {
        let mut against = Vec::new();
        for step in [Choice::of_rustup, Choice::of_distribution] {
            match step(self) {
                Ok(toolchain) => return Ok(Toolchain { instead_of: against, ..toolchain }),
                Err(why) => against.push(why),
            }
        }
        Err(against)
    }

    /// What serves, fetched or installed if need be.
    pub(crate) fn choose(&self) -> Result<Toolchain> {
        let against = match self.look() {
            Ok(toolchain) => return Ok(toolchain),
            Err(against) => against,
        };
        say(format_args!("no compiler for the kernel is complete: {}", against.join("; ")));
        let mut against = Vec::new();
        for step in [Choice::fetched, Choice::installed] {
            match step(self) {
                Ok(toolchain) => return Ok(Toolchain { instead_of: against, ..toolchain }),
                Err(why) => against.push(why),
            }
        }
        bail!("no compiler for the kernel.\n  {}\n{}", against.join("\n  "), self.mend())
    }

    /// What a person can type when nothing serves: the first that works.
    pub(crate) fn commands(&self) -> Vec<String> {
        let mut commands = Vec::new();
        if self.host.on_path("rustup").is_some() {
            let pinned = self.pinned;
            commands.push(format!("rustup toolchain install {pinned} --component rust-src --target {BARE_METAL}"));
        }
        // Where there is no apt, it is at least clear what was meant.
        if self.host.on_path("apt-get").is_some() || commands.is_empty() {
            commands.push(packages::apt_command(&debian_packages()));
        }
        commands
    }

    fn mend(&self) -> String {
        let commands = self.commands();
        let mut text =
            format!("This mends it:\n  {}", commands.join("\nor, where rustup's server is out of reach:\n  "));
        if self.host.on_path("rustup").is_none() {
            text += "\n(Debian 12's security archive has these; elsewhere install rustup, https://rustup.rs)";
        }
        text
    }

    fn of_rustup(&self) -> std::result::Result<Toolchain, String> {
        let candidate = Candidate::of_rustup(&self.host, self.pinned)?;
        if let Some(part) = candidate.lacks() {
            return Err(format!("{} lacks {part}", candidate.name()));
        }
        if candidate.has_bare_metal() {
            Ok(self.toolchain(candidate, Core::Prebuilt))
        } else if self.target.join(kernel_target(&candidate, Core::Built)).is_dir() {
            // Fetching the target was tried before, and refused: another answer today would build everything again.
            Ok(self.toolchain(candidate, Core::Built))
        } else {
            Err(format!("{} lacks the target {BARE_METAL}", candidate.name()))
        }
    }

    fn of_distribution(&self) -> std::result::Result<Toolchain, String> {
        let candidate = Candidate::of_distribution(&self.host, self.pinned)?;
        if let Some(part) = candidate.lacks() {
            return Err(format!("{} lacks {part}", candidate.name()));
        }
        let core = if candidate.has_bare_metal() { Core::Prebuilt } else { Core::Built };
        Ok(self.toolchain(candidate, core))
    }

    /// Rustup's toolchain, completed by rustup.
    fn fetched(&self) -> std::result::Result<Toolchain, String> {
        let Some(rustup) = self.host.on_path("rustup") else {
            return Err("rustup: not installed".into());
        };
        let _lock = self.lock()?;
        let (release, found) = (self.pinned.to_string(), || Candidate::of_rustup(&self.host, self.pinned));
        let ask = |what: &str, args: &[&str]| {
            say(format_args!("{what}: rustup {}", args.join(" ")));
            // Whether it worked shows in the toolchain's directory.
            let mut command = self.host.command(&rustup);
            command.args(args).env_remove("RUST_BACKTRACE").stdout(std::io::stderr());
            if !command.status().is_ok_and(|status| status.success()) {
                say("rustup could not do it");
            }
        };
        if found().is_err() {
            let args = ["toolchain", "install", "--profile", "minimal", &release];
            ask(&format!("fetching Rust {release} (a minute or so)"), &args);
        }
        if found().is_ok_and(|candidate| !candidate.has_sources()) {
            ask("fetching Rust's sources", &["component", "add", "rust-src", "--toolchain", &release]);
        }
        if let Some(part) = found()?.lacks() {
            return Err(format!("rustup's Rust {release} lacks {part}, and rustup could not fetch it"));
        }
        if found().is_ok_and(|candidate| !candidate.has_bare_metal()) {
            let args = ["target", "add", BARE_METAL, "--toolchain", &release];
            ask(&format!("fetching the target {BARE_METAL}"), &args);
        }
        let candidate = found()?;
        let core = if candidate.has_bare_metal() { Core::Prebuilt } else { Core::Built };
        Ok(self.toolchain(candidate, core))
    }

    /// The distribution's compiler, from Debian's packages.
    fn installed(&self) -> std::result::Result<Toolchain, String> {
        let _lock = self.lock()?;
        // Another launcher may have installed them while we waited.
        self.of_distribution().or_else(|before| {
            packages::install(&self.host, &debian_packages(), Versions::Rise)
                .map_err(|why| format!("{before}; {why}"))?;
            self.of_distribution()
        })
    }

    fn toolchain(&self, candidate: Candidate, core: Core) -> Toolchain {
        Toolchain { host: self.host.clone(), candidate, core, instead_of: Vec::new() }
    }

    fn lock(&self) -> std::result::Result<File, String> {
        workspace::exclusive_below(&self.target, "toolchain").map_err(|error| format!("{error:#}"))
    }
}

/// Debian's compiler of exactly the tested release, its sources and a linker. (`rust-lld` comes with `rust-web-llvm`, as
/// a link to what `lld-22` brings.)
pub fn debian_packages() -> Vec<String> {
    let ours = ["rustc-web", "cargo-web", "rust-web-src", "rust-web-llvm"];
    ours.iter().map(|name| format!("{name}={DEBIAN}*")).chain(["lld-22".into()]).collect()
}

/// Made-up compilers on made-up computers.
#[cfg(test)]
pub(crate) mod imagined {
    use std::ffi::OsString;

    use super::*;
    use crate::host::imagined::Imagined;

    /// How much of a compiler there is.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Parts {
        /// Compiler, cargo, library for Linux, linker.
        Minimal,
        /// With sources, and what rustup offers beside them.
        All,
    }

    /// The choice on a made-up computer, for the pin 1.95.0.
    pub(crate) fn choice(computer: &Imagined, vars: &[(&str, OsString)]) -> Choice {
        let pinned = Version { major: 1, minor: 95, patch: 0 };
        Choice { host: computer.host(vars), pinned, target: computer.path("/target") }
    }

    fn tools(computer: &Imagined, sysroot: &str, rustc: &str, cargo: &str) {
        let asked = format!("[ $1 = --print ] && echo $ROOT{sysroot} || echo 'rustc {rustc} (0 2026-01-01)'");
        computer.script(&format!("{sysroot}/bin/rustc"), &asked);
        computer.script(&format!("{sysroot}/bin/cargo"), &format!("echo 'cargo {cargo} (0 2026-01-01)'"));
        computer.dir(&format!("{sysroot}/lib/rustlib/{LINUX}/lib"));
    }

    /// Rustup's toolchain in the directory `name`, whose compiler says that it is of `release`.
    pub(crate) fn rustup_toolchain(computer: &Imagined, name: &str, release: &str, parts: Parts) {
        let sysroot = format!("/home/.rustup/toolchains/{name}");
        tools(computer, &sysroot, release, release);
        computer.file(&format!("{sysroot}/lib/rustlib/{LINUX}/bin/rust-lld"));
        if parts == Parts::All {
            computer.dir(&format!("{sysroot}/lib/rustlib/src/rust/library/core"));
            computer.dir(&format!("{sysroot}/lib/rustlib/{BARE_METAL}/lib"));
            computer.file(&format!("{sysroot}/bin/cargo-fmt"));
            computer.file(&format!("{sysroot}/bin/cargo-clippy"));
        }
    }

    /// The distribution's compiler.
    pub(crate) fn distribution(computer: &Imagined, rustc: &str, cargo: &str, parts: Parts) {
        tools(computer, "/usr", rustc, cargo);
        computer.file("/usr/bin/rust-lld");
        if parts == Parts::All {
            computer.dir("/usr/lib/rustlib/src/rust/library/core");
        }
    }
}
