//! Where the source tree and what is built from it stand, and who may write there when several launchers run.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::say::say;

/// The root of the source tree that this launcher was built from.
///
/// # Errors
/// The tree is not there any more.
pub fn root() -> Result<PathBuf> {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    tree.canonicalize().with_context(|| format!("the source tree {} has gone; build again", tree.display()))
}

/// A directory under `target/`, made if need be.
///
/// # Errors
/// It cannot be made.
pub fn target(name: &str) -> Result<PathBuf> {
    let dir = root()?.join("target").join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// Waits until no other launcher does `what`, and keeps others from doing it until the result is dropped.
///
/// # Errors
/// The lock file cannot be made.
pub fn exclusive(what: &str) -> Result<File> {
    exclusive_below(&root()?.join("target"), what)
}

/// The same for those who work with another target directory.
pub(crate) fn exclusive_below(target: &Path, what: &str) -> Result<File> {
    let locks = target.join("locks");
    std::fs::create_dir_all(&locks).with_context(|| format!("cannot make {}", locks.display()))?;
    let path = locks.join(what);
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    if file.try_lock().is_err() {
        say(format_args!("another launcher is busy with the {what}; waiting for it"));
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}
