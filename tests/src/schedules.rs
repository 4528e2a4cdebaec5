//! Loom and shuttle over the shipped code, and its mutants: what is there, how it is built, and how one is run.
//!
//! The models are ordinary test functions in `kernel/*/tests/loom_*.rs` and `shuttle_*.rs`, compiled with `--cfg loom` or
//! `--cfg shuttle` into target directories of their own. A **mutant** is one ordering, fence or step of the shipped code that the
//! environment variable `TESSERA_MUTANT` weakens; the package's `tests/mutants.list` names each, with a loom model that must
//! fail with it, and `tests/shuttle.list` those that a shuttle model must find, too:
//!
//! ```text
//! # name              file        test
//! slot-enter-release  loom_slots  a_writer_waits_for_a_reader_inside
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::child;
use crate::executables;

/// Crates with models.
const PACKAGES: [&str; 3] = ["sync", "mm", "linux"];

/// How long one model may take. Generous: the limit is there for models that never end.
const LIMIT: Duration = Duration::from_secs(900);

/// What runs a model's schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Explorer {
    /// All schedules of a few steps, and weak memory.
    Loom,
    /// Many schedules of many steps.
    Shuttle,
}

impl Explorer {
    const ALL: [Explorer; 2] = [Explorer::Loom, Explorer::Shuttle];

    /// Its name: what files begin with, and the build's `cfg`.
    pub fn name(self) -> &'static str {
        match self {
            Explorer::Loom => "loom",
            Explorer::Shuttle => "shuttle",
        }
    }

    /// The file that names what its models must find.
    fn list(self) -> &'static str {
        match self {
            Explorer::Loom => "mutants.list",
            Explorer::Shuttle => "shuttle.list",
        }
    }

    /// Whose model `file` is.
    fn of(file: &str) -> Option<Explorer> {
        Explorer::ALL.into_iter().find(|explorer| file.split_once('_').is_some_and(|(name, _)| name == explorer.name()))
    }
}

/// One test function that runs in many schedules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// What runs it.
    pub explorer: Explorer,
    /// The crate that is checked.
    pub package: String,
    /// The test target, which is the file's name.
    pub file: String,
    /// The function.
    pub test: String,
}

/// One weakening of the shipped code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// Its name in the code and in `TESSERA_MUTANT`.
    pub name: String,
    /// The model that must fail with it.
    pub caught_by: Model,
}

/// All models, by reading the sources: listing tests builds nothing.
///
/// # Errors
/// The sources cannot be read.
pub fn models() -> Result<Vec<Model>> {
    let mut models = Vec::new();
    for package in PACKAGES {
        let dir = tests_of(package);
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry?.path();
            let Some(file) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
            if let Some(explorer) = Explorer::of(file)
                && path.extension().is_some_and(|extension| extension == "rs")
            {
                let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                for test in test_functions(&text) {
                    models.push(Model { explorer, package: package.into(), file: file.into(), test: test.into() });
                }
            }
        }
    }
    models.sort_by(|a, b| (&a.package, &a.file, &a.test).cmp(&(&b.package, &b.file, &b.test)));
    Ok(models)
}

/// Names of the functions under a `#[test]` attribute.
fn test_functions(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        if line == "#[test]" {
            marked = true;
        } else if let Some(rest) = line.strip_prefix("fn ")
            && marked
        {
            names.extend(rest.split('(').next());
            marked = false;
        }
    }
    names
}

/// All mutants of all packages.
///
/// # Errors
/// A list cannot be read, has a line that is not understood, or names a model that does not exist.
pub fn mutants(models: &[Model]) -> Result<Vec<Mutant>> {
    let mut mutants = Vec::new();
    for (package, explorer) in
        PACKAGES.into_iter().flat_map(|package| Explorer::ALL.map(|explorer| (package, explorer)))
    {
        let path = tests_of(package).join(explorer.list());
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, file, test] = words[..] else { bail!("{}: not understood: {line}", path.display()) };
            let named = |model: &&Model| (&*model.package, &*model.file, &*model.test) == (package, file, test);
            let model = models.iter().filter(|model| model.explorer == explorer).find(named);
            let model = model.with_context(|| format!("{}: no such model: {line}", path.display()))?;
            mutants.push(Mutant { name: name.into(), caught_by: model.clone() });
        }
    }
    Ok(mutants)
}

/// Runs a model on the code as it is: it must pass.
///
/// # Errors
/// It fails, or cannot be built or run.
pub fn check(model: &Model) -> Result<()> {
    let finished = run(model, None)?;
    let out = finished.out();
    ensure!(finished.status == 0 && out.contains("1 passed"), "the model failed\n{}\n{}", out, finished.err());
    Ok(())
}

/// Runs a mutant: its model must fail, by its own verdict.
///
/// # Errors
/// It passes, ends in another way, or cannot be built or run.
pub fn check_mutant(mutant: &Mutant) -> Result<()> {
    let finished = run(&mutant.caught_by, Some(&mutant.name))?;
    let out = finished.out();
    ensure!(
        !out.contains("1 passed"),
        "{} is weakened, and the model {} did not notice",
        mutant.name,
        mutant.caught_by.test
    );
    // A model may also be ended by a failed check inside a destructor, which aborts.
    let failed = out.contains("test result: FAILED") || finished.status == 128 + 6;
    ensure!(failed, "the model ended with status {} and no verdict\n{}\n{}", finished.status, out, finished.err());
    Ok(())
}

fn run(model: &Model, mutant: Option<&str>) -> Result<child::Finished> {
    let executable = executables(model.explorer)
        .get(&(model.package.clone(), model.file.clone()))
        .with_context(|| format!("{} of package {} was not built", model.file, model.package))?;
    let mut command = Command::new(executable);
    command.args(["--exact", &model.test, "--nocapture", "--test-threads=1"]);
    // What they show of a schedule that failed, and which schedules they try, is not for the environment to say.
    for name in ["TESSERA_MUTANT", "TESSERA_SEED", "TESSERA_SCHEDULES", "LOOM_LOG"] {
        command.env_remove(name);
    }
    if let Some(mutant) = mutant {
        command.env("TESSERA_MUTANT", mutant);
    }
    child::run(&mut command, &[], LIMIT)
}

/// Builds all models of one explorer once, and says where each file's executable stands. Failure of the build is a failure of
/// every test.
fn executables(explorer: Explorer) -> &'static BTreeMap<(String, String), PathBuf> {
    static BUILT: [OnceLock<BTreeMap<(String, String), PathBuf>>; 2] = [OnceLock::new(), OnceLock::new()];
    let name = explorer.name();
    BUILT[explorer as usize]
        .get_or_init(|| build(explorer).unwrap_or_else(|error| panic!("the {name} models cannot be built: {error:#}")))
}

fn build(explorer: Explorer) -> Result<BTreeMap<(String, String), PathBuf>> {
    let name = explorer.name();
    let models: Vec<Model> = models()?.into_iter().filter(|model| model.explorer == explorer).collect();
    let mut command = qemu::nested::command("cargo");
    command.current_dir(root()).args(["test", "--no-run", "--release"]);
    command.arg("--target-dir").arg(root().join("target").join(name)).env("RUSTFLAGS", format!("--cfg {name}"));
    for package in PACKAGES.iter().filter(|package| models.iter().any(|model| model.package == **package)) {
        command.args(["--package", package]);
    }
    let mut files: Vec<&str> = models.iter().map(|model| &*model.file).collect();
    files.dedup();
    for file in files {
        command.args(["--test", file]);
    }
    eprintln!("building the {name} models");
    let mut found = BTreeMap::new();
    for built in executables::built_by(command)? {
        if let Some(model) = models.iter().find(|model| model.file == built.target) {
            found.insert((model.package.clone(), built.target), built.path);
        }
    }
    Ok(found)
}

fn tests_of(package: &str) -> PathBuf {
    root().join("kernel").join(package).join("tests")
}

/// The root of the source tree.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_functions_are_found_by_their_attribute() {
        let text = "fn helper() {}\n#[test]\nfn first() {\n}\n    #[test]\n    #[should_panic]\n    fn second() {}\n";
        assert_eq!(test_functions(text), ["first", "second"]);
    }
}
