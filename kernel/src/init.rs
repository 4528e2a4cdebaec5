//! The kernel's main thread: does what the launcher asked for, checks the accounts, and ends the machine.
//!
//! `run` loads a program, waits for its end and then proves that **every frame came back** ([`accounts`]).
//!
//! What goes wrong with the launcher's wishes is one line on the console and `REFUSED`; a wrong account is the list
//! of owners and `CHECK_FAILED`. A program's own failure is neither: its status travels in a frame.

use alloc::boxed::Box;
use core::fmt::{self, Write};

use abi::exit::REFUSED;
use abi::fw_cfg as names;
use abi::wire::Kind;
use abi::{Counter, MAX_CPUS};
use arrayvec::ArrayString;
use linux::{ExitStatus, Loaded, System, UserRegs};
use mm::Owner;
use sync::{Arc, CpuId, Platform};

use crate::arch::paging;
use crate::fw_cfg::{self, ReadError};
use crate::memory::memory;
use crate::platform::Machine;
use crate::{accounts, clock, exit, ktest, stream};

/// Why the kernel did not do what it was asked for.
enum Refusal {
    /// No `opt/tessera/mode` file.
    NoMode,
    /// A mode that this kernel does not have.
    UnknownMode,
    /// No program file in mode `run`.
    NoProgram,
    /// A file of the launcher's could not be read.
    Unreadable(&'static str, ReadError),
    /// The program could not be loaded.
    Load(linux::LoadError),
    /// Its first thread could not be started.
    Start(abi::Errno),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoMode => write!(f, "the launcher did not say what to do ({} is missing)", names::MODE),
            Refusal::UnknownMode => write!(f, "{} is neither `run` nor `test`", names::MODE),
            Refusal::NoProgram => write!(f, "there is no program to run ({} is missing)", names::PROGRAM),
            Refusal::Unreadable(name, ReadError::NoMemory) => write!(f, "{name} does not fit into the kernel's memory"),
            Refusal::Unreadable(name, ReadError::Device) => write!(f, "{name} could not be read from the device"),
            Refusal::Load(error) => write!(f, "program not loaded: {error}"),
            Refusal::Start(errno) => write!(f, "program not started: {}", errno.name()),
        }
    }
}

/// The main thread's life. Called by `boot` on a kernel thread when all CPUs run.
pub fn main(_: u64) {
    clock::init();
    #[cfg(debug_assertions)]
    crate::plant::init();
    let mut buffer = [0; 16];
    let done = match fw_cfg::read_small(names::MODE, &mut buffer) {
        Some(b"run") => run(),
        Some(b"test") => Ok(ktest::run_requested()),
        Some(_) => Err(Refusal::UnknownMode),
        None => Err(Refusal::NoMode),
    };
    let value = done.unwrap_or_else(|refusal| {
        log::error!("{refusal}");
        REFUSED
    });
    #[cfg(debug_assertions)]
    crate::point::report();
    exit::exit(value)
}

/// Runs the launcher's program to its end.
fn run() -> Result<u8, Refusal> {
    let program = read(names::PROGRAM)?.ok_or(Refusal::NoProgram)?;
    let args = read(names::ARGS)?;
    let env = read(names::ENV)?;
    if let Some(input) = read(names::STDIN)? {
        stream::give_input(input);
    }
    let before = memory().frames.usage();
    let status = {
        let args = args.as_deref().unwrap_or(b"program\0");
        let process = start(&program, args, env.as_deref().unwrap_or_default())?;
        process.wait_exit()
    };
    accounts::settle();
    if fw_cfg::planted("leak-frame") {
        // The check below must catch it.
        core::mem::forget(memory().frames.alloc(Owner::Anon));
    }
    let value = accounts::check(&before, &memory().frames.usage());
    if fw_cfg::read_small(names::STATS, &mut [0; 4]) == Some(b"1") {
        send_stats();
        // Whoever cannot be told has nothing to do: a stream that fails does so without a word.
        let _ = send_spaces();
    }
    send_exit(status);
    Ok(value)
}

fn read(name: &'static str) -> Result<Option<Box<[u8]>>, Refusal> {
    fw_cfg::read(name).map_err(|error| Refusal::Unreadable(name, error))
}

/// Loads and starts the first process.
fn start(program: &[u8], args: &[u8], env: &[u8]) -> Result<Arc<linux::Process<Machine>>, Refusal> {
    let loaded = linux::load(program, args, env, paging::kernel_root()).map_err(Refusal::Load)?;
    let Loaded { process, thread, regs } = loaded;
    start_thread(thread, &regs).map_err(Refusal::Start)?;
    Ok(process)
}

/// Starts the first thread of a loaded process; if that fails, the process is taken down again.
///
/// # Errors
/// As [`System::spawn`].
pub fn start_thread(thread: Arc<linux::Thread<Machine>>, regs: &UserRegs) -> Result<(), abi::Errno> {
    Machine::spawn(thread.clone(), regs).inspect_err(|_| linux::thread_exit(&thread))
}

/// Sends how the first process ended.
fn send_exit(status: ExitStatus) {
    let (how, number) = match status {
        ExitStatus::Exited(code) => (0, code as u32),
        ExitStatus::Signalled(signal) => (1, signal),
    };
    stream::send_frame(Kind::Exit, &[&[how], &number.to_le_bytes()]);
}

/// Text on its way to the launcher, in frames as large as the buffer.
struct Frames(ArrayString<512>);

impl Frames {
    fn flush(&mut self) {
        stream::send_frame(Kind::Spaces, &[self.0.as_bytes()]);
        self.0.clear();
    }
}

impl Write for Frames {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.remaining_capacity() < text.len() {
            self.flush();
        }
        self.0.try_push_str(text).map_err(|_| fmt::Error)
    }
}

/// Sends what was counted in the whole machine and in each address space.
fn send_spaces() -> fmt::Result {
    let memory = memory();
    let mut out = Frames(ArrayString::new());
    write!(out, "machine\n{}", memory.snapshot())?;
    let mut last = 0;
    while let Some(tally) = memory.counters.after(last) {
        last = tally.space();
        write!(out, "space {last} {} ", tally.process())?;
        for byte in tally.name().into_iter().take_while(|&byte| byte != 0) {
            out.write_char(if matches!(byte, b' '..=b'~') { byte.into() } else { '?' })?;
        }
        write!(out, "\n{}", tally.snapshot())?;
    }
    out.flush();
    Ok(())
}

/// Sends every CPU's counters.
fn send_stats() {
    const COUNTERS: usize = abi::counter::COUNTERS;
    let cpus = Machine::cpu_count();
    let mut bytes = [0; 8 + MAX_CPUS * COUNTERS * 8];
    bytes[..4].copy_from_slice(&(cpus as u32).to_le_bytes());
    bytes[4..8].copy_from_slice(&(COUNTERS as u32).to_le_bytes());
    let values = (0..cpus).flat_map(|cpu| Counter::ALL.iter().map(move |&counter| (CpuId(cpu as u32), counter)));
    for (place, (cpu, counter)) in bytes[8..].chunks_exact_mut(8).zip(values) {
        place.copy_from_slice(&memory().count(cpu, counter).to_le_bytes());
    }
    stream::send(Kind::Stats, &bytes[..8 + cpus * COUNTERS * 8]);
}
