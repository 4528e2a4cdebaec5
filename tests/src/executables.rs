//! What a cargo run has built, from its own messages.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::child;

/// How long a build may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// One executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable {
    /// Its target's name.
    pub target: String,
    /// The file that the target begins with.
    pub source: PathBuf,
    /// Where it stands.
    pub path: PathBuf,
}

/// Runs `cargo`, a build whose arguments are said but for the form of its messages, and returns the executables that it was for.
///
/// # Errors
/// The build fails: the text says why.
pub fn built_by(mut cargo: Command) -> Result<Vec<Executable>> {
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let finished = child::run(&mut cargo, &[], LIMIT)?;
    ensure!(finished.status == 0, "{}", finished.err());
    let mut found = Vec::new();
    for line in finished.out().lines() {
        let message: serde_json::Value = serde_json::from_str(line).context("cargo wrote a line that is not JSON")?;
        let target = &message["target"];
        if let (Some(path), Some(name), Some(source)) =
            (message["executable"].as_str(), target["name"].as_str(), target["src_path"].as_str())
        {
            found.push(Executable { target: name.into(), source: source.into(), path: path.into() });
        }
    }
    Ok(found)
}
