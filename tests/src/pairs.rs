//! The hosted tests of the memory manager and of the program interface once more, under each pair of lock protocols.
//!
//! Their executables are those that `cargo test` runs anyway, under the default pair. Whatever in them makes a
//! `mm::testing::Machine` gets its locks from the environment (`TESSERA_PAIR`); which executables those are is read out of the
//! sources, and models and their explorers are left out ([`crate::schedules`] has them).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use abi::Pair;
use anyhow::{Context, Result, ensure};

use crate::child::{self, Finished};
use crate::executables::{self, Executable};

/// Crates whose tests make machines.
const PACKAGES: [&str; 2] = ["mm", "linux"];

/// What a file says that makes a machine.
const MAKES_MACHINES: &str = "Machine::new(";

/// How long one executable may take. Generous: the limit is there for deadlocks.
const LIMIT: Duration = Duration::from_secs(600);

/// One executable with tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tests {
    /// The package and the target: `mm::stress`; for unit tests `linux::unit`.
    pub name: String,
    package: &'static str,
    source: PathBuf,
}

/// All executables with tests that make machines, by reading the sources: listing builds nothing.
///
/// # Errors
/// The sources cannot be read.
pub fn all() -> Result<Vec<Tests>> {
    let mut all = Vec::new();
    for package in PACKAGES {
        let dir = root().join("kernel").join(package);
        let lib = dir.join("src/lib.rs");
        // Unit tests, wherever they are; the hosted machine itself is no test.
        let sources =
            rust_files(&dir.join("src"))?.into_iter().filter(|file| !file.starts_with(dir.join("src/testing")));
        if any_makes_machines(sources)? {
            all.push(Tests { name: format!("{package}::unit"), package, source: lib });
        }
        for entry in std::fs::read_dir(dir.join("tests")).with_context(|| format!("no tests of {package}"))? {
            let path = entry?.path();
            let (source, files) = if path.is_dir() {
                (path.join("main.rs"), rust_files(&path)?)
            } else {
                (path.clone(), vec![path.clone()])
            };
            let name = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
            let explored = name.starts_with("loom_") || name.starts_with("shuttle_");
            let rust = source.is_file() && source.extension() == Some(OsStr::new("rs"));
            if rust && !explored && any_makes_machines(files)? {
                all.push(Tests { name: format!("{package}::{name}"), package, source });
            }
        }
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    ensure!(!all.is_empty(), "no test makes a machine");
    Ok(all)
}

/// All Rust sources below `dir`.
fn rust_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension() == Some(OsStr::new("rs")) {
            files.push(path);
        }
    }
    Ok(files)
}

fn any_makes_machines(files: impl IntoIterator<Item = PathBuf>) -> Result<bool> {
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        if text.contains(MAKES_MACHINES) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// All the tests, built.
#[derive(Debug)]
pub struct Built(Vec<Executable>);

impl Built {
    /// Builds them as far as they are not built yet.
    ///
    /// # Errors
    /// The build fails.
    pub fn new() -> Result<Built> {
        let mut cargo = qemu::nested::command("cargo");
        cargo.current_dir(root()).args(["test", "--no-run"]);
        cargo.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
        executables::built_by(cargo).map(Built)
    }

    /// Runs `tests` with locks of this name.
    ///
    /// # Errors
    /// They were not built, cannot be started, or do not end.
    pub fn run(&self, tests: &Tests, pair: &str) -> Result<Finished> {
        let source = tests.source.canonicalize().with_context(|| format!("{} has gone", tests.source.display()))?;
        let same = |built: &&Executable| built.source.canonicalize().is_ok_and(|other| other == source);
        let built = self.0.iter().find(same).with_context(|| format!("{} was not built", tests.name))?;
        let mut command = Command::new(&built.path);
        command.current_dir(root().join("kernel").join(tests.package)).env("TESSERA_PAIR", pair);
        child::run(&mut command, &[], LIMIT)
    }

    /// Runs `tests` under `pair`: all of them must pass.
    ///
    /// # Errors
    /// One fails, or they do not end: the text is what they wrote.
    pub fn check(&self, tests: &Tests, pair: Pair) -> Result<()> {
        let finished = self.run(tests, &pair.to_string())?;
        let again = format!("TESSERA_PAIR={pair} cargo test -p {}", tests.package);
        ensure!(finished.status == 0, "{again}: status {}\n{}\n{}", finished.status, finished.out(), finished.err());
        ensure!(finished.out().contains("test result: ok. "), "{again}: no verdict\n{}", finished.out());
        Ok(())
    }

    /// Tests do use the locks that they are told to: a pair that does not exist fails them.
    ///
    /// # Errors
    /// They pass, or fail for another reason.
    pub fn check_refusal(&self, tests: &Tests) -> Result<()> {
        let finished = self.run(tests, "mm+cycle")?;
        let said = finished.out() + &finished.err();
        ensure!(finished.status != 0 && said.contains("mm+cycle is no pair"), "status {}\n{said}", finished.status);
        Ok(())
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
