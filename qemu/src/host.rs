//! What this computer offers: its files, its search path, its variables. Everything that looks for a tool looks through
//! here, so that a test can imagine another computer: a directory with a few scripts in it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A computer: the one that we run on, or one that a test made up.
#[derive(Clone, Debug)]
pub struct Host {
    /// What stands before every absolute path: `/`, but for tests.
    root: PathBuf,
    vars: BTreeMap<OsString, OsString>,
}

impl Host {
    /// This computer.
    pub fn here() -> Host {
        Host { root: PathBuf::from("/"), vars: std::env::vars_os().collect() }
    }

    /// A computer whose files stand below `root`, with these variables and no others.
    pub fn imagined<'a>(root: &Path, vars: impl IntoIterator<Item = (&'a str, OsString)>) -> Host {
        let vars = vars.into_iter().map(|(name, value)| (name.into(), value)).collect();
        Host { root: root.to_owned(), vars }
    }

    /// A variable, unless it is empty.
    pub fn var(&self, name: &str) -> Option<&OsStr> {
        self.vars.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// Where the system's file `path` stands.
    pub fn file(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Where a command of this name stands on the search path.
    pub fn on_path(&self, name: &str) -> Option<PathBuf> {
        std::env::split_paths(self.var("PATH")?).map(|dir| dir.join(name)).find(|file| file.is_file())
    }

    /// The search path with `first` before everything else.
    pub fn path_with(&self, first: &Path) -> OsString {
        let rest = self.var("PATH").unwrap_or_default();
        let dirs = std::iter::once(first.to_owned()).chain(std::env::split_paths(rest));
        std::env::join_paths(dirs).unwrap_or_else(|_| rest.to_owned())
    }

    /// A command that sees this computer's variables without what an outer cargo or rustup told us, and no input.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let kept = self.vars.iter().filter(|(name, _)| !name.to_str().is_some_and(dropped));
        command.env_clear().envs(kept).stdin(Stdio::null());
        command
    }

    /// What a short command prints on standard output, or none if it fails or does not exist.
    pub fn ask(&self, program: impl AsRef<OsStr>, args: &[&str]) -> Option<String> {
        let output = self.command(program).args(args).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// What a user may have set for every cargo of the machine: where it keeps things, and how it reaches the registry.
const KEPT: [&str; 6] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"];

/// What outer tools set for their own children. A nested cargo that inherits them takes the outer one's toolchain,
/// flags or target directory, and rebuilds everything or breaks: this is the one place that removes them.
const DROPPED: [&str; 8] =
    ["CARGO", "RUSTC", "RUSTFLAGS", "RUSTDOC", "RUSTUP_TOOLCHAIN", "RUST_RECURSION_COUNT", "LD_LIBRARY_PATH", "DYLD_"];

fn dropped(name: &str) -> bool {
    DROPPED.iter().any(|prefix| name.starts_with(prefix)) && !KEPT.iter().any(|prefix| name.starts_with(prefix))
}

/// A made-up computer in a directory that goes with it: files, and commands that are shell scripts.
#[cfg(test)]
pub(crate) mod imagined {
    use std::io::Write;

    use super::*;

    /// The directory below which the made-up files stand.
    pub(crate) struct Imagined(tempfile::TempDir);

    impl Imagined {
        pub(crate) fn new() -> Imagined {
            Imagined(tempfile::tempdir().expect("a temporary directory"))
        }

        /// Where the made-up file `path` stands.
        pub(crate) fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path.trim_start_matches('/'))
        }

        /// The computer, with `/usr/bin` as its search path and these variables beside `HOME`.
        pub(crate) fn host(&self, vars: &[(&str, OsString)]) -> Host {
            let own = [("PATH", self.path("/usr/bin").into()), ("HOME", self.path("/home").into())];
            Host::imagined(self.0.path(), own.into_iter().chain(vars.iter().cloned()))
        }

        pub(crate) fn dir(&self, path: &str) {
            std::fs::create_dir_all(self.path(path)).expect("a directory");
        }

        pub(crate) fn file(&self, path: &str) {
            self.dir(Path::new(path).parent().and_then(Path::to_str).unwrap_or(""));
            std::fs::write(self.path(path), "").expect("a file");
        }

        /// A command: `body` is for `/bin/sh`, and finds the made-up root in `$ROOT`.
        pub(crate) fn script(&self, path: &str, body: &str) {
            self.file(path);
            // Written by a child, for a script that this process has open for writing, be it only because another
            // thread's child inherited the file for a moment, cannot be run.
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", "cat > \"$0\" && chmod +x \"$0\""]).arg(self.path(path));
            let mut child = shell.stdin(Stdio::piped()).spawn().expect("a shell");
            let text = format!("#!/bin/sh\nROOT={}\n{body}\n", self.0.path().display());
            child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("the shell reads");
            assert!(child.wait().expect("the shell ends").success());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::imagined::Imagined;
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
    fn a_made_up_computer_has_what_it_was_given_and_nothing_else() {
        let computer = Imagined::new();
        computer.script("/usr/bin/greet", "echo \"hello $1 $NAME $RUSTFLAGS\"");
        let host = computer.host(&[("NAME", "you".into()), ("RUSTFLAGS", "-x".into()), ("EMPTY", "".into())]);
        let greet = host.on_path("greet").unwrap();
        assert_eq!(host.ask(greet, &["to"]).unwrap(), "hello to you \n");
        assert_eq!(host.on_path("ls"), None);
        assert_eq!(host.ask(computer.path("/usr/bin/none"), &[]), None);
        assert_eq!(host.var("EMPTY"), None);
        assert!(host.path_with(Path::new("/first")).to_str().unwrap().starts_with("/first:/"));
    }
}
