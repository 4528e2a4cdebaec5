//! The emulated machine, described: CPUs, memory, what the kernel is handed, and how long it may run.
//!
//! [`Machine::run`] starts it; `session` does the work. Defaults are those of `cargo run`.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use abi::{Pair, fw_cfg};
use anyhow::{Context, Result};

use crate::draws::Draws;
use crate::emulator::{Emulator, Firmware};
use crate::image::Built;
use crate::nested::{answer, on_path};
use crate::run::{Event, Run};
use crate::say::say;
use crate::session;

/// Fewest MiB of memory that the firmware and the kernel boot with.
pub const MIN_MEM_MIB: u32 = 128;

/// Most MiB of memory on offer.
pub const MAX_MEM_MIB: u32 = 64 * 1024;

/// What a file for the kernel holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What this file holds when the machine starts.
    File(PathBuf),
}

/// What the program reads on its standard input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing: the end at once.
    #[default]
    Null,
    /// These bytes, then the end.
    Bytes(Vec<u8>),
    /// Whatever this process reads on its own standard input.
    Inherit,
}

/// How the machine comes to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Entry {
    /// As a computer does: UEFI firmware loads the boot loader from the disk.
    #[default]
    Uefi,
    /// Without firmware: QEMU loads the direct loader (`boot/direct`) and the kernel's file itself. A small fraction of the
    /// instructions, and the kernel cannot tell the difference.
    Direct,
}

/// What the machine's time is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Time {
    /// The host's: CPUs run at the same time.
    #[default]
    Host,
    /// A nanosecond for each instruction executed: CPUs take turns in one thread, and a run is the same each time.
    Counted,
}

/// How long a CPU's turn is, where CPUs take turns ([`Time::Counted`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turns {
    /// Until it waits, or millions of instructions: a nanosecond each, up to the next timer, which is the kernel's tick.
    #[default]
    Long,
    /// At most some thousand instructions, a microsecond each: shorter than most calls of the memory manager, which thus
    /// overlap on several CPUs.
    Short,
}

/// Who lets a machine run that waits before its first instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Starter {
    /// The launcher, when it is ready.
    #[default]
    Launcher,
    /// The person at the debugger.
    Debugger,
}

/// A machine that can be started, any number of times.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(crate) image: Built,
    pub(crate) timeout: Duration,
    pub(crate) stdin: Stdin,
    pub(crate) stop: Option<Arc<AtomicBool>>,
    cpus: u32,
    mem_mib: u32,
    entry: Entry,
    pub(crate) time: Time,
    turns: Turns,
    pub(crate) starter: Starter,
    files: Vec<(&'static str, Payload)>,
    qemu_args: Vec<OsString>,
}

impl Machine {
    /// A machine that boots `image`: 4 CPUs, 512 MiB, a minute.
    pub fn new(image: &Built) -> Machine {
        Machine {
            image: image.clone(),
            timeout: Duration::from_secs(60),
            stdin: Stdin::Null,
            stop: None,
            cpus: 4,
            mem_mib: 512,
            entry: Entry::Uefi,
            time: Time::Host,
            turns: Turns::Long,
            starter: Starter::Launcher,
            files: Vec::new(),
            qemu_args: Vec::new(),
        }
    }

    /// With this many CPUs, 1 to [`abi::MAX_CPUS`].
    pub fn cpus(mut self, cpus: u32) -> Machine {
        self.cpus = cpus;
        self
    }

    /// With this much memory, [`MIN_MEM_MIB`] to [`MAX_MEM_MIB`].
    pub fn mem_mib(mut self, mem_mib: u32) -> Machine {
        self.mem_mib = mem_mib;
        self
    }

    /// Coming to the kernel this way.
    pub fn entry(mut self, entry: Entry) -> Machine {
        self.entry = entry;
        self
    }

    /// With this kind of time.
    pub fn time(mut self, time: Time) -> Machine {
        self.time = time;
        self
    }

    /// With turns of this length, where CPUs take turns.
    pub fn turns(mut self, turns: Turns) -> Machine {
        self.turns = turns;
        self
    }

    /// Started by `starter`, where it waits.
    pub fn starter(mut self, starter: Starter) -> Machine {
        self.starter = starter;
        self
    }

    /// Stopped after this long of the host's time, boot included.
    pub fn timeout(mut self, timeout: Duration) -> Machine {
        self.timeout = timeout;
        self
    }

    /// With a file for the kernel, by its name in [`abi::fw_cfg`]; a second one of the same name replaces the first.
    pub fn file(mut self, name: &'static str, payload: Payload) -> Machine {
        self.files.retain(|(other, _)| *other != name);
        self.files.push((name, payload));
        self
    }

    /// Runs a program with these arguments, of which the first is its name for itself.
    pub fn program(self, program: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Machine {
        self.file(fw_cfg::MODE, Payload::Bytes(b"run".to_vec()))
            .file(fw_cfg::PROGRAM, Payload::File(program.to_owned()))
            .file(fw_cfg::ARGS, nul_ended(args))
    }

    /// With these `NAME=value` in the program's environment.
    pub fn env(self, env: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Machine {
        self.file(fw_cfg::ENV, nul_ended(env))
    }

    /// Runs guest tests: these, or all that do not panic if none is named.
    pub fn tests(self, names: &[&str]) -> Machine {
        let machine = self.file(fw_cfg::MODE, Payload::Bytes(b"test".to_vec()));
        if names.is_empty() { machine } else { machine.file(fw_cfg::TESTS, nul_ended(names)) }
    }

    /// With the kernel's log on the console down to this level: `error`, `warn`, `info`, `debug`, `trace`, or `off`.
    pub fn log(self, level: &str) -> Machine {
        self.file(fw_cfg::LOG, Payload::Bytes(level.as_bytes().to_vec()))
    }

    /// Asks for the counters at the end.
    pub fn stats(self) -> Machine {
        self.file(fw_cfg::STATS, Payload::Bytes(b"1".to_vec()))
    }

    /// Without recording events for reports.
    pub fn events_off(self) -> Machine {
        self.file(fw_cfg::EVENTS, Payload::Bytes(b"off".to_vec()))
    }

    /// With waits of the kernel that last longer than this drawn in its log.
    pub fn wait_limit_ms(self, limit_ms: u32) -> Machine {
        self.file(fw_cfg::WAIT_LIMIT_MS, Payload::Bytes(limit_ms.to_string().into_bytes()))
    }

    /// With these lock protocols.
    pub fn pair(self, pair: Pair) -> Machine {
        let name = |name: &str| Payload::Bytes(name.as_bytes().to_vec());
        self.file(fw_cfg::VMA_LOCK, name(pair.read().name())).file(fw_cfg::UPDATE, name(pair.update().name()))
    }

    /// Plants these faults on purpose: the checks must catch them.
    pub fn plant(self, names: &[&str]) -> Machine {
        self.file(fw_cfg::PLANT, nul_ended(names))
    }

    /// With random numbers that follow from `seed`: those that the kernel hands to programs.
    pub fn seed(self, seed: u64) -> Machine {
        let mut draws = Draws::new(seed);
        let bytes = (0..4).flat_map(|_| draws.next().to_le_bytes()).collect();
        self.file(fw_cfg::SEED, Payload::Bytes(bytes))
    }

    /// With delays and meetings at the kernel's schedule points: a text for [`abi::point::rules`].
    pub fn points(self, rules: &str) -> Machine {
        self.file(fw_cfg::POINTS, Payload::Bytes(rules.as_bytes().to_vec()))
    }

    /// With CPUs and threads that start late, by delays that follow from `seed`, which is not 0.
    pub fn start_delays(self, seed: u64) -> Machine {
        self.file(fw_cfg::START_DELAYS, Payload::Bytes(seed.to_string().into_bytes()))
    }

    /// Stopped, with an error, soon after somebody has set `flag`.
    pub fn stop_when(mut self, flag: Arc<AtomicBool>) -> Machine {
        self.stop = Some(flag);
        self
    }

    /// With something for the program to read.
    pub fn stdin(mut self, stdin: Stdin) -> Machine {
        self.stdin = stdin;
        self
    }

    /// With these words at the end of QEMU's command line.
    pub fn qemu_args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Machine {
        self.qemu_args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Where time is counted, with what keeps the host's time out of the run: a boot CPU that never halts, and all input given
    /// at the start, for bytes that come when the host gets round to it come at another moment each time. Reads this
    /// process's own standard input to its end, if that is the input.
    ///
    /// # Errors
    /// That cannot be read.
    pub(crate) fn kept_apart(self) -> Result<Machine> {
        if self.time == Time::Host {
            return Ok(self);
        }
        let bytes = match &self.stdin {
            Stdin::Null => Vec::new(),
            Stdin::Bytes(bytes) => bytes.clone(),
            Stdin::Inherit => {
                let mut bytes = Vec::new();
                let mut stdin = std::io::stdin().lock();
                if stdin.is_terminal() {
                    say("with --icount the program's whole input comes first: end it with Ctrl-D");
                }
                stdin.read_to_end(&mut bytes).context("cannot read the standard input")?;
                bytes
            }
        };
        let spin = Payload::Bytes(fw_cfg::IDLE_SPIN.into());
        Ok(self.file(fw_cfg::STDIN, Payload::Bytes(bytes)).file(fw_cfg::IDLE, spin))
    }

    /// Starts the machine, waits for its end, and keeps what the program wrote.
    ///
    /// # Errors
    /// QEMU is missing or cannot be started. What goes wrong later is a [`crate::run::Verdict`].
    pub fn run(&self) -> Result<Run> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut run = self.run_with(|event| {
            match event {
                Event::Stdout(bytes) => stdout.extend_from_slice(bytes),
                Event::Stderr(bytes) => stderr.extend_from_slice(bytes),
                _ => {}
            }
            Ok(())
        })?;
        run.stdout = stdout;
        run.stderr = stderr;
        Ok(run)
    }

    /// Starts the machine and hands on what happens as it happens; an error from `on` stops the machine.
    ///
    /// # Errors
    /// QEMU is missing or cannot be started, or the error of `on` (an [`std::io::Error`]).
    pub fn run_with(&self, on: impl FnMut(Event<'_>) -> std::io::Result<()>) -> Result<Run> {
        session::run(self, &Emulator::find()?, on)
    }

    /// QEMU's command line, but for the serial ports ([`crate::ports`]). `dir` is a directory of this machine's own for the
    /// files that go with it.
    pub(crate) fn command(&self, emulator: &Emulator, dir: &Path) -> Result<Command> {
        let mut command = killed_with_us(&emulator.qemu);
        command.args(["-nodefaults", "-display", "none", "-machine", "q35", "-cpu", "max,-la57,-erms"]);
        match self.time {
            Time::Host => command.args(["-accel", "tcg,thread=multi"]),
            // No sleep: when all CPUs halt, time jumps to the next timer. The battery-backed clock shows the same time at
            // each start, and goes on as the instructions do. RDRAND draws from the seed. The machine waits (`-S`) until
            // the monitor has been greeted: later nothing wakes QEMU's main loop at a moment of the host's choosing.
            Time::Counted => command
                .args(["-accel", "tcg,thread=single", "-icount"])
                // An instruction takes 1 ns, or 1,024: QEMU's most.
                .arg(match self.turns {
                    Turns::Long => "shift=0,sleep=off",
                    Turns::Short => "shift=10,sleep=off",
                })
                .args(["-rtc", "base=2026-01-01T00:00:00,clock=vm"])
                .args(["-seed", "0", "-S"]),
        };
        command.arg("-smp").arg(self.cpus.to_string()).arg("-m").arg(format!("{}M", self.mem_mib));
        // A reset stops the machine where it stands, so that a report can say where that was.
        command.args(["-action", "reboot=shutdown,shutdown=pause,panic=pause"]);
        // A kernel that panics says so there; the machine stops to be looked at.
        command.args(["-device", "pvpanic"]);
        // Tells a triple fault from any other reset.
        command.args(["-d", "cpu_reset"]).arg("-D").arg(resets(dir));
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        command.arg("-chardev").arg(joined("socket,id=monitor,path=", &monitor_socket(dir)));
        command.args(["-mon", "chardev=monitor,mode=control"]);
        match self.entry {
            Entry::Uefi => self.boot_by_firmware(&mut command, emulator, dir)?,
            Entry::Direct => self.boot_directly(&mut command),
        }
        for (index, (name, payload)) in self.files.iter().enumerate() {
            let file = match payload {
                Payload::File(file) => file.clone(),
                Payload::Bytes(bytes) => {
                    let file = dir.join(format!("file-{index}"));
                    std::fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
                    file
                }
            };
            command.arg("-fw_cfg").arg(joined(&format!("name={name},file="), &file));
        }
        command.args(&self.qemu_args);
        Ok(command)
    }

    fn boot_by_firmware(&self, command: &mut Command, emulator: &Emulator, dir: &Path) -> Result<()> {
        match &emulator.firmware {
            Firmware::Whole(file) => command.arg("-bios").arg(file),
            Firmware::Flash { code, vars } => {
                let own = dir.join("vars");
                std::fs::copy(vars, &own).with_context(|| format!("cannot copy {}", vars.display()))?;
                command.arg("-drive").arg(joined("if=pflash,unit=0,format=raw,readonly=on,file=", code));
                command.arg("-drive").arg(joined("if=pflash,unit=1,format=raw,file=", &own))
            }
        };
        command.arg("-drive").arg(joined("if=none,id=disk,format=raw,readonly=on,file=", &self.image.disk));
        command.args(["-device", "virtio-blk-pci,drive=disk,bootindex=0"]);
        Ok(())
    }

    /// QEMU's own minimal start-up code, which comes with it, leaves ACPI tables and a memory map behind and enters the
    /// loader by its PVH note.
    fn boot_directly(&self, command: &mut Command) {
        command.args(["-bios", "qboot.rom"]);
        command.arg("-kernel").arg(&self.image.loader).arg("-initrd").arg(&self.image.elf);
    }
}

/// Where QEMU finds the monitor's socket.
pub(crate) fn monitor_socket(dir: &Path) -> PathBuf {
    dir.join("monitor")
}

/// Where QEMU writes why CPUs were reset.
pub(crate) fn resets(dir: &Path) -> PathBuf {
    dir.join("resets")
}

/// A command that the system kills when we die, however we die, where there is a tool for that (Linux's `setpriv`). It
/// watches the thread that starts the command: that one must stay until the command has ended.
fn killed_with_us(program: &Path) -> Command {
    const WITH_US: [&str; 2] = ["--pdeathsig", "KILL"];
    if let Some(setpriv) = on_path("setpriv")
        && answer(Command::new(&setpriv).args(WITH_US).arg("true")).is_some()
    {
        let mut command = Command::new(setpriv);
        command.args(WITH_US).arg(program);
        return command;
    }
    Command::new(program)
}

/// Strings as the kernel takes lists of them: each ended by a NUL byte.
fn nul_ended(strings: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Payload {
    let mut bytes = Vec::new();
    for string in strings {
        bytes.extend_from_slice(string.as_ref().as_bytes());
        bytes.push(0);
    }
    Payload::Bytes(bytes)
}

/// A QEMU option that ends in a path: commas in the path are doubled, which is how QEMU's options quote them.
pub(crate) fn joined(option: &str, path: &Path) -> OsString {
    let mut bytes = option.as_bytes().to_vec();
    for &byte in path.as_os_str().as_bytes() {
        bytes.push(byte);
        if byte == b',' {
            bytes.push(byte);
        }
    }
    OsStr::from_bytes(&bytes).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let [disk, elf, loader] = ["/images/a,b.img", "/images/a.elf", "/images/a.loader"].map(PathBuf::from);
        Machine::new(&Built { disk, elf, loader })
    }

    fn words(machine: &Machine) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let emulator = Emulator { qemu: "/bin/qemu".into(), firmware: Firmware::Whole("/bin/fw".into()) };
        let command = machine.command(&emulator, dir.path()).unwrap();
        command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn the_command_line_says_what_was_asked_for() {
        let words = words(&machine().cpus(8).mem_mib(256).log("debug").qemu_args(["-d", "int"]));
        let pair = |first: &str, second: &str| words.windows(2).any(|pair| pair == [first, second]);
        assert!(pair("-smp", "8") && pair("-m", "256M") && pair("-d", "int"), "{words:?}");
        assert!(words.iter().any(|word| word.starts_with("name=opt/tessera/log,file=")));
        assert!(words.contains(&"if=none,id=disk,format=raw,readonly=on,file=/images/a,,b.img".to_owned()));
    }

    #[test]
    fn the_kernel_is_handed_its_protocols() {
        let machine = machine().pair(Pair::DEFAULT);
        let handed = [(fw_cfg::VMA_LOCK, "slot"), (fw_cfg::UPDATE, "bulk")];
        assert_eq!(machine.files, handed.map(|(name, text)| (name, Payload::Bytes(text.into()))));
    }

    #[test]
    fn without_firmware_there_is_no_disk() {
        let words = words(&machine().entry(Entry::Direct).time(Time::Counted));
        let pair = |first: &str, second: &str| words.windows(2).any(|pair| pair == [first, second]);
        assert!(pair("-kernel", "/images/a.loader") && pair("-initrd", "/images/a.elf"), "{words:?}");
        assert!(pair("-accel", "tcg,thread=single") && pair("-icount", "shift=0,sleep=off"), "{words:?}");
        let short = self::words(&machine().time(Time::Counted).turns(Turns::Short));
        assert!(short.windows(2).any(|pair| pair == ["-icount", "shift=10,sleep=off"]), "{short:?}");
        assert!(!words.iter().any(|word| word.contains("/images/a,,b.img") || word == "/bin/fw"), "{words:?}");
    }

    #[test]
    fn a_file_of_the_same_name_replaces_the_first() {
        let machine = machine().log("info").log("trace");
        assert_eq!(machine.files, [(fw_cfg::LOG, Payload::Bytes(b"trace".to_vec()))]);
    }

    #[test]
    fn lists_end_each_string() {
        assert_eq!(nul_ended(["a", "", "b c"]), Payload::Bytes(b"a\0\0b c\0".to_vec()));
        assert_eq!(nul_ended([OsStr::from_bytes(b"\xff")]), Payload::Bytes(b"\xff\0".to_vec()));
    }
}
