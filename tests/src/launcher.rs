//! The launcher as people use it: the `tessera` binary, its exit status, and what it leaves behind.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::child::{self, Finished};
use crate::executables;
use crate::oracle::LIMIT;
use crate::turn;

/// The launcher's binary, built once: what `cargo run` would start.
///
/// # Errors
/// It cannot be built.
pub fn binary() -> Result<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    built.as_deref().map_err(|error| anyhow::anyhow!("the launcher cannot be built: {error}"))
}

fn build() -> Result<PathBuf> {
    let mut command = qemu::nested::command("cargo");
    command.current_dir(qemu::workspace::root()?).args(["build", "--package", "qemu", "--bin", "tessera"]);
    let built = executables::built_by(command)?.pop();
    Ok(built.context("cargo named no executable")?.path)
}

/// A command line for the launcher.
///
/// # Errors
/// The launcher cannot be built.
pub fn command(args: &[impl AsRef<OsStr>]) -> Result<Command> {
    let mut command = qemu::nested::command(binary()?);
    command.args(args);
    Ok(command)
}

/// Runs the launcher to its end.
///
/// # Errors
/// It cannot be built or started, or does not end.
pub fn run(args: &[impl AsRef<OsStr>], input: &[u8]) -> Result<Finished> {
    let mut command = command(args)?;
    let _turn = turn::take();
    child::run(&mut command, input, LIMIT + Duration::from_secs(60))
}

/// What a build or an image changes: every file under `target/` that belongs to them, with its time.
///
/// # Errors
/// The directory cannot be read.
pub fn built_files() -> Result<BTreeMap<PathBuf, SystemTime>> {
    let target = qemu::workspace::root()?.join("target");
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(&target).with_context(|| format!("cannot read {}", target.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if ["images", "kernel-", "boot-", "user-", "plugin-"].iter().any(|kind| name.starts_with(kind)) {
            collect(&entry.path(), 3, &mut files)?;
        }
    }
    Ok(files)
}

/// Files down to `depth` directories below `dir`: deep enough for what cargo puts out, without its incremental state.
fn collect(dir: &Path, depth: usize, files: &mut BTreeMap<PathBuf, SystemTime>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        // What vanishes meanwhile was somebody's scratch file.
        let Ok(meta) = entry.metadata() else { continue };
        // Cargo's locks, and the lists of sources that it writes at every call.
        let name = entry.file_name().to_string_lossy().into_owned();
        let ledger = name.starts_with('.') || name.ends_with(".d");
        if meta.is_dir() && depth > 0 {
            collect(&entry.path(), depth - 1, files)?;
        } else if meta.is_file() && !ledger {
            files.insert(entry.path(), meta.modified()?);
        }
    }
    Ok(())
}

/// The processes that process `id` has started and not yet outlived, and theirs.
pub fn descendants(id: u32) -> Vec<u32> {
    let children = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let lists = children.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let mut all: Vec<u32> = lists.flat_map(|list| numbers(&list)).collect();
    for child in all.clone() {
        all.extend(descendants(child));
    }
    all
}

fn numbers(list: &str) -> Vec<u32> {
    list.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Whether process `id` still runs (a process that has ended and was not waited for does not).
pub fn runs(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The state is the first word after the name, which is in parentheses.
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}
