//! A machine that waits for a debugger: where it listens, and the one line that a person has to type.
//!
//! Everything that gdb must know is written into one file of commands: the kernel's symbols, where its sources are, the
//! printers for the memory manager's types (`qemu/gdb/tessera.py`), and the socket. The kernel runs at the address that it was
//! linked for, so its symbols and breakpoints hold from the first instruction on, before the kernel is even loaded.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::image::Built;
use crate::machine::{Machine, Starter, joined};
use crate::workspace;

/// What a machine needs that is to be debugged, for as long as it runs.
#[derive(Debug)]
pub struct Debugging {
    /// Has the socket; its path is short, as a socket's must be.
    dir: tempfile::TempDir,
    script: PathBuf,
}

impl Debugging {
    /// Writes the debugger's commands for a machine that boots `image`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn new(image: &Built) -> Result<Debugging> {
        let dir = tempfile::Builder::new().prefix("tessera-gdb-").tempdir_in("/tmp");
        let dir = dir.context("cannot make a directory for the debugger's socket")?;
        let root = workspace::root()?;
        let script = workspace::target("gdb")?.join(format!("tessera-{}.gdb", std::process::id()));
        let text = commands(&root, &image.elf, &socket(dir.path()));
        std::fs::write(&script, text).with_context(|| format!("cannot write {}", script.display()))?;
        Ok(Debugging { dir, script })
    }

    /// `machine`, stopped before its first instruction until a debugger lets it go.
    pub fn of(&self, machine: Machine) -> Machine {
        let chardev = joined("socket,id=gdb,server=on,wait=off,path=", &socket(self.dir.path()));
        machine.starter(Starter::Debugger).qemu_args([
            OsString::from("-S"),
            "-chardev".into(),
            chardev,
            "-gdb".into(),
            "chardev:gdb".into(),
        ])
    }

    /// What to type to debug it.
    pub fn line(&self) -> String {
        let here = std::env::current_dir().unwrap_or_default();
        let script = self.script.strip_prefix(here).unwrap_or(&self.script);
        format!("gdb -q -x {}", quoted(script))
    }
}

impl Drop for Debugging {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.script); // somebody else removed it: then it is gone
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("gdb")
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |char: char| char.is_ascii_alphanumeric() || "/._-+,".contains(char);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// What gdb is told.
fn commands(root: &Path, elf: &Path, socket: &Path) -> String {
    let mut text =
        String::from("# Debugging one Tessera machine: made by `cargo run -- --gdb`, removed when it ends.\n");
    // Paths stand at the end of their lines, where gdb takes them as they are.
    let _ = write!(
        text,
        "set pagination off\n\
         set confirm off\n\
         set print asm-demangle on\n\
         set print finish on\n\
         set print symbol off\n\
         file {elf}\n\
         directory {root}\n\
         source {printers}\n\
         target remote {socket}\n\
         # The machine stands before its first instruction. Breakpoints may be set now:\n\
         #     break kernel::boot::boot\n\
         #     tessera break call::memory::munmap\n\
         # `continue` lets it go; Ctrl-C stops it; `help tessera` lists what this kernel adds.\n",
        elf = elf.display(),
        root = root.display(),
        printers = root.join("qemu/gdb/tessera.py").display(),
        socket = socket.display(),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::{Emulator, Firmware};

    fn image() -> Built {
        let [disk, elf, loader] = ["/images/a.img", "/images/a.elf", "/images/a.loader"].map(PathBuf::from);
        Built { disk, elf, loader }
    }

    #[test]
    fn the_machine_waits_at_the_socket_that_the_commands_name() {
        let debugging = Debugging::new(&image()).unwrap();
        let text = std::fs::read_to_string(&debugging.script).unwrap();
        let target = text.lines().find_map(|line| line.strip_prefix("target remote ")).unwrap();
        assert!(text.contains("file /images/a.elf\n"));

        let dir = tempfile::tempdir().unwrap();
        let emulator = Emulator { qemu: "/bin/qemu".into(), firmware: Firmware::Whole("/bin/fw".into()) };
        let command = debugging.of(Machine::new(&image())).command(&emulator, dir.path()).unwrap();
        let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        assert!(words.contains(&"-S".to_owned()), "{words:?}");
        assert!(words.iter().any(|word| word.starts_with("socket,id=gdb,") && word.ends_with(target)), "{words:?}");

        let script = debugging.script.clone();
        assert!(debugging.line().starts_with("gdb -q -x "));
        drop(debugging);
        assert!(!script.exists(), "left behind");
    }

    #[test]
    fn the_line_can_be_typed_as_it_stands() {
        assert_eq!(quoted(Path::new("target/gdb/x-1.gdb")), "target/gdb/x-1.gdb");
        assert_eq!(quoted(Path::new("a b/it's")), r"'a b/it'\''s'");
    }
}
