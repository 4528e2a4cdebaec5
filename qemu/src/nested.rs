//! Starting other programs, above all another cargo: a clean environment, and output only when there is news.
//!
//! Cargo and rustup tell their children about themselves through variables. A nested cargo that inherits them takes
//! the outer one's toolchain, flags or target directory, and rebuilds everything or breaks: this is the one place
//! that removes them.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::say::say;

/// What a user may have set for every cargo of the machine: where it keeps things, and how it reaches the registry.
const KEPT: [&str; 6] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"];

/// What outer tools set for their own children.
const DROPPED: [&str; 8] =
    ["CARGO", "RUSTC", "RUSTFLAGS", "RUSTDOC", "RUSTUP_TOOLCHAIN", "RUST_RECURSION_COUNT", "LD_LIBRARY_PATH", "DYLD_"];

fn dropped(name: &str) -> bool {
    DROPPED.iter().any(|prefix| name.starts_with(prefix)) && !KEPT.iter().any(|prefix| name.starts_with(prefix))
}

/// A command without what cargo and rustup told us.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(dropped) {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a build step. A step with nothing to do passes in silence; otherwise `announce` is said first and what the
/// step reports is passed on as it comes.
///
/// # Errors
/// The step cannot be started, or fails; it has then said why itself.
pub fn build(mut command: Command, announce: &str) -> Result<()> {
    command.env("CARGO_TERM_PROGRESS_WHEN", "never").stdout(Stdio::null()).stderr(Stdio::piped());
    if std::io::stderr().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().with_context(|| format!("cannot run {name}"))?;
    let mut news = false;
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line.with_context(|| format!("cannot read what {name} says"))?;
            let line = String::from_utf8_lossy(&line);
            if !routine(&line) {
                if !news {
                    say(announce);
                    news = true;
                }
                eprintln!("{line}");
            }
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
    if !status.success() {
        bail!("{announce}: failed ({status})");
    }
    Ok(())
}

/// Lines that cargo prints when it found nothing to do, or waited a moment for another cargo to look something up.
fn routine(line: &str) -> bool {
    let plain = strip_color(line);
    match plain.split_whitespace().next() {
        None | Some("Finished" | "Running") => true,
        Some("Blocking") => plain.contains("package cache"),
        Some(_) => false,
    }
}

fn strip_color(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        out += before;
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    out + rest
}

/// What a short command prints on standard output, or none if it fails or does not exist.
pub fn answer(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where a command of this name stands on the search path.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The search path with `first` before everything else.
pub fn path_with(first: &std::path::Path) -> OsString {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(first.to_owned()).chain(std::env::split_paths(&rest));
    std::env::join_paths(dirs).unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_tools_are_forgotten_and_the_users_settings_kept() {
        for name in [
            "CARGO",
            "CARGO_MANIFEST_DIR",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTC_BOOTSTRAP",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "LD_LIBRARY_PATH",
        ] {
            assert!(dropped(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_HTTP_PROXY", "RUSTUP_HOME", "PATH", "HOME"] {
            assert!(!dropped(name), "{name}");
        }
    }

    #[test]
    fn a_fresh_build_is_no_news() {
        assert!(routine("    Finished `kernel` profile [optimized] target(s) in 0.05s"));
        assert!(routine("\u{1b}[1m\u{1b}[92m    Finished\u{1b}[0m `dev` profile"));
        assert!(!routine("\u{1b}[1m\u{1b}[92m   Compiling\u{1b}[0m abi v0.1.0"));
        assert!(routine("    Blocking waiting for file lock on package cache"));
        assert!(!routine("    Blocking waiting for file lock on build directory"));
        assert!(!routine("error: could not compile"));
    }
}
