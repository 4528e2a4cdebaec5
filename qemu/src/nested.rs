//! Starting other programs, above all another cargo: a clean environment (`Host::command`), and output only when there is
//! news.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::say::say;

/// A command without what cargo and rustup told us.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    Host::here().command(program)
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
    Host::here().on_path(name)
}

#[cfg(test)]
mod tests {
    use super::*;

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
