//! What was a machine doing that panicked, reset itself or hung?
//!
//! Everything is read out of the stopped machine: registers by QEMU's monitor, the rest out of the kernel's black box
//! (`abi::report`) and off the stacks, with names and lines from the kernel's ELF. The machine may be half dead: each
//! piece stands for itself, and one that cannot be read leaves a line that says so.

use std::mem::offset_of;
use std::path::Path;

use abi::lock::{Class, HELD_STACK_BYTES, HeldStack, Mode, Place, Wait};
use abi::report::{BlackBox, CpuBox, MAGIC, MESSAGE_BYTES, SYMBOL, ThreadBox};
use anyhow::Result;

use crate::backtrace::{Step, walk};
use crate::monitor::{Cpu, Monitor};
use crate::peek::{Memory, Peek};
use crate::recorder;
use crate::symbols::Symbols;

/// Longest text of the kernel's that is shown: names of threads and files.
const LONGEST_NAME: u64 = 200;

/// Why there is a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The kernel found itself wrong.
    Panic,
    /// A fault while reporting a fault while reporting a fault: the CPU gave up, and reset the machine.
    TripleFault,
    /// Something reset the machine.
    Reset,
    /// Time was up.
    Hang,
}

/// Stops the machine, if it has not stopped, and tells what it was doing. It stays stopped.
///
/// # Errors
/// QEMU does not answer.
pub fn report(monitor: &mut Monitor, symbols: &Symbols, scratch: &Path, why: Why) -> Result<Vec<String>> {
    if why == Why::Hang {
        monitor.stop()?;
    }
    let cpus = monitor.cpus()?;
    // A CPU in the kernel has the kernel's tables for sure; the others' upper half should be the same.
    let mut readers: Vec<&Cpu> = cpus.iter().filter(|cpu| cpu.paging).collect();
    readers.sort_by_key(|cpu| (cpu.user, !cpu.halted));
    let readers = readers.iter().map(|cpu| cpu.index).collect();
    Ok(text(&mut Peek::new(monitor, readers, scratch), symbols, &cpus, why))
}

/// The report's lines.
pub fn text(memory: &mut impl Memory, symbols: &Symbols, cpus: &[Cpu], why: Why) -> Vec<String> {
    let mut report = Report { memory, symbols, base: Err(NoBox::NoSymbol), lines: Vec::new() };
    report.base = report.find_box();
    report.headline(why);
    let panicking = report.field(offset_of!(BlackBox, panicking)).and_then(|number| number.checked_sub(1));
    let mut order: Vec<&Cpu> = cpus.iter().collect();
    order.sort_by_key(|cpu| panicking != Some(cpu.index.into()));
    for cpu in order {
        report.cpu(cpu, panicking == Some(cpu.index.into()));
    }
    report.events(cpus);
    report.lines
}

/// Why the black box is no help.
#[derive(Clone, Copy)]
enum NoBox {
    NoSymbol,
    NotReadable,
    NotOurs,
}

/// A report as it is made.
struct Report<'a, M> {
    memory: &'a mut M,
    symbols: &'a Symbols,
    /// Address of the black box.
    base: Result<u64, NoBox>,
    lines: Vec<String>,
}

impl<M: Memory> Report<'_, M> {
    fn say(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    fn find_box(&mut self) -> Result<u64, NoBox> {
        let (base, _) = self.symbols.object(SYMBOL).ok_or(NoBox::NoSymbol)?;
        match self.memory.word(base) {
            Some(MAGIC) => Ok(base),
            Some(_) => Err(NoBox::NotOurs),
            None => Err(NoBox::NotReadable),
        }
    }

    /// A word of the black box.
    fn field(&mut self, offset: usize) -> Option<u64> {
        self.memory.word(self.base.ok()? + offset as u64)
    }

    /// A word of a CPU's part of the black box.
    fn cpu_field(&mut self, cpu: u32, offset: usize) -> Option<u64> {
        if cpu as usize >= abi::MAX_CPUS {
            return None;
        }
        self.field(offset_of!(BlackBox, cpus) + cpu as usize * size_of::<CpuBox>() + offset)
    }

    /// Text of the kernel's.
    fn name(&mut self, address: u64, len: u64) -> Option<String> {
        let bytes = self.memory.read(address, len.min(LONGEST_NAME) as usize)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn headline(&mut self, why: Why) {
        match self.base {
            Ok(_) => {}
            Err(NoBox::NoSymbol) => self.say("(no black box: the kernel's ELF has no such symbol)"),
            Err(NoBox::NotReadable) => {
                self.say("(no black box: not readable; the kernel has not come far, or is gone)")
            }
            Err(NoBox::NotOurs) => self.say("(no black box: what lies there is none)"),
        }
        match why {
            Why::Panic => self.message(),
            Why::TripleFault => {
                self.say("triple fault: an exception could not be delivered, nor the double fault about it");
            }
            Why::Reset => self.say("a reset that was no triple fault: somebody wrote to a reset port"),
            Why::Hang => self.say("time was up"),
        }
    }

    /// The panic's own words.
    fn message(&mut self) {
        let len = self.field(offset_of!(BlackBox, message_len)).unwrap_or(0).min(MESSAGE_BYTES as u64) as usize;
        let address = self.base.map(|base| base + offset_of!(BlackBox, message) as u64);
        match address.ok().and_then(|address| self.memory.read(address, len)) {
            Some(bytes) if len > 0 => {
                let message = String::from_utf8_lossy(&bytes).into_owned();
                let mut lines = message.lines();
                self.say(format!("kernel panic: {}", lines.next().unwrap_or_default()));
                lines.for_each(|line| self.say(line));
            }
            _ => self.say("kernel panic: (message not readable)"),
        }
    }

    fn cpu(&mut self, cpu: &Cpu, panicked: bool) {
        let mut state = vec![if cpu.user { "in user mode" } else { "in the kernel" }];
        if panicked {
            state.push("panicked here");
        }
        if !cpu.paging {
            state.push("not started");
        }
        if cpu.halted {
            state.push("halted");
        }
        if !cpu.interrupts {
            state.push("interrupts off");
        }
        self.say(format!("CPU {}: {}", cpu.index, state.join(", ")));
        self.thread(cpu);
        for line in &cpu.registers {
            self.lines.push(format!("    {line}"));
        }
        for step in walk(self.memory, self.symbols, cpu.rip, cpu.rbp, cpu.rsp) {
            self.step(step);
        }
    }

    /// The thread that runs on a CPU, and what it is in the middle of.
    fn thread(&mut self, cpu: &Cpu) {
        let thread = self.cpu_field(cpu.index, offset_of!(CpuBox, thread));
        let Some(thread) = thread.filter(|&address| address != 0) else {
            return self.say("  no thread");
        };
        let mut field = |offset: usize| self.memory.word(thread.checked_add(offset as u64)?);
        let name = field(offset_of!(ThreadBox, name)).zip(field(offset_of!(ThreadBox, name_len)));
        let ids = field(offset_of!(ThreadBox, pid)).zip(field(offset_of!(ThreadBox, tid)));
        let call = field(offset_of!(ThreadBox, call));
        let transaction = field(offset_of!(ThreadBox, transaction));
        let space = field(offset_of!(ThreadBox, space));
        let locks = field(offset_of!(ThreadBox, locks));

        let name = name.and_then(|(address, len)| self.name(address, len));
        let name = name.unwrap_or_else(|| "(name not readable)".into());
        let ids = match ids {
            Some((_, 0)) => "of the kernel".into(),
            Some((pid, tid)) => format!("pid {pid} tid {tid}"),
            None => "(not readable)".into(),
        };
        let call = match call {
            Some(0) => String::new(),
            Some(registers) => format!(", in the call {}", self.call(registers)),
            None => ", in a call? (not readable)".into(),
        };
        self.say(format!("  thread {name}, {ids}{call}"));
        match transaction {
            Some(0) => {}
            Some(mark) => {
                let space = space.map_or("(not readable)".into(), |space| format!("{space:#x}"));
                self.say(format!("  open transaction: mark {}, update lock {space}", recorder::mark(mark)));
            }
            None => self.say("  open transaction? (not readable)"),
        }
        let interrupt = self.cpu_field(cpu.index, offset_of!(CpuBox, interrupt_locks));
        for (whose, stack) in [("", locks), (" (interrupt handler)", interrupt)] {
            match stack {
                Some(0) => {}
                Some(address) => self.locks(address, whose),
                None => self.say(format!("  locks{whose}? (not readable)")),
            }
        }
    }

    /// A system call by the caller's registers at this address.
    fn call(&mut self, registers: u64) -> String {
        let word = |report: &mut Self, index: usize| {
            let offset = report.field(offset_of!(BlackBox, call_offsets) + index * 8)?;
            report.memory.word(registers.checked_add(offset)?)
        };
        let Some(number) = word(self, 0) else { return "(not readable)".into() };
        let arguments: Vec<String> =
            (1..7).map(|index| word(self, index).map_or("?".into(), |value| format!("{value:#x}"))).collect();
        let name = abi::nr::name(number).map_or(format!("number {number}"), str::to_owned);
        format!("{name}({})", arguments.join(", "))
    }

    /// The record of held locks at `address`.
    fn locks(&mut self, address: u64, whose: &str) {
        let held = self.memory.read(address, HELD_STACK_BYTES).and_then(|bytes| HeldStack::decode(&bytes));
        let Some(held) = held else {
            return self.say(format!("  locks{whose}? (not readable)"));
        };
        for place in held.places() {
            let line = self.place(place, "taken");
            self.say(format!("  holds{whose} {line}"));
        }
        if held.wait != Wait::Nothing {
            let line = held.waiting.map_or("something (not readable)".into(), |place| self.place(&place, "waiting"));
            self.say(format!("  waits{whose} ({}) for {line}", wait_name(held.wait)));
        }
    }

    /// A lock, and where it was `taken`, or where its taker is waiting.
    fn place(&mut self, place: &Place, how: &str) -> String {
        let class = if place.class == Class::None { "what is at" } else { place.class.name() };
        let mut text = format!("{class} {:#x}", place.address);
        if place.mode == Mode::Read {
            text += " (read)";
        }
        if place.count > 1 {
            text += &format!(" and {} more", place.count - 1);
        }
        if place.start < place.end {
            text += &format!(" over {:#x}..{:#x}", place.start, place.end);
        }
        if place.file != 0 {
            let file = self.name(place.file, place.file_len.into()).unwrap_or_else(|| "(not readable)".into());
            text += &format!(", {how} at {file}:{}", place.line);
        }
        text
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::At(address) => self.frames("at", address, address),
            // The call itself lies before the address that it returns to.
            Step::Call(address) => self.frames("by", address, address - 1),
            Step::Trap(vector) => self.say(format!("    -- vector {vector:#x} ({}) interrupted:", vector_name(vector))),
            Step::User(address) => self.say(format!("    user mode, at {address:#x}")),
            Step::Lost(address) => {
                self.say(format!("    (frame at {address:#x} not readable: what called this is unknown)"))
            }
        }
    }

    /// All functions at an address, the inlined ones first.
    fn frames(&mut self, how: &str, shown: u64, address: u64) {
        let frames = self.symbols.frames(address);
        if frames.is_empty() {
            return self.say(format!("    {how} {shown:#018x} (no function)"));
        }
        for (index, frame) in frames.iter().enumerate() {
            let inlined = if index + 1 < frames.len() { " (inlined)" } else { "" };
            match index {
                0 => self.say(format!("    {how} {shown:#018x} {frame}{inlined}")),
                _ => self.say(format!("       {:18} {frame}{inlined}", "")),
            }
        }
    }

    /// The last events.
    fn events(&mut self, cpus: &[Cpu]) {
        if self.base.is_err() {
            return;
        }
        let mut rings = Vec::new();
        for cpu in cpus {
            match self.cpu_field(cpu.index, offset_of!(CpuBox, ring)) {
                Some(0) => {}
                Some(address) => match recorder::read(self.memory, address) {
                    Some(records) => rings.push(records),
                    None => self.say(format!("(events of CPU {} not readable)", cpu.index)),
                },
                None => self.say(format!("(events of CPU {} not readable)", cpu.index)),
            }
        }
        if rings.iter().all(Vec::is_empty) {
            return self.say("no events were recorded");
        }
        self.say("last events of all CPUs, the newest last:");
        for record in recorder::last(&rings) {
            self.say(format!("    {}", recorder::line(&record)));
        }
    }
}

/// What an interrupt vector means.
fn vector_name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        6 => "invalid opcode",
        8 => "double fault",
        13 => "general protection fault",
        14 => "page fault",
        18 => "machine check",
        0xe0 => "timer",
        0xe1 => "nudge",
        0xe2 => "TLB flush",
        _ => "interrupt",
    }
}

fn wait_name(wait: Wait) -> &'static str {
    match wait {
        Wait::Nothing => "not at all",
        Wait::Event => "event",
        Wait::Lock => "lock",
        Wait::TransactionEnd => "end of a transaction",
        Wait::Cell => "a free cell",
        Wait::FaultEnd => "end of a fault",
        Wait::GracePeriod => "grace period",
        Wait::Shootdown => "TLB shootdown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peek::fake::Fake;

    const BOX: u64 = 0xffff_ffff_8020_0000;
    const THREAD: u64 = 0xffff_8000_0000_1000;
    const CODE: u64 = 0xffff_ffff_8000_0000;

    fn cpu(index: u32) -> Cpu {
        Cpu {
            index,
            rip: CODE + 0x10,
            rbp: 0,
            rsp: 0,
            user: false,
            interrupts: false,
            halted: false,
            paging: true,
            registers: vec!["RAX=0000000000000007".into()],
        }
    }

    fn symbols() -> Symbols {
        Symbols::of(&[(CODE, 0x100, "kernel::first")]).with_object(SYMBOL, BOX)
    }

    /// A kernel whose CPU 1 panics in a thread that is in `munmap`.
    fn machine() -> Fake {
        let mut memory = Fake::default();
        memory.put(BOX, &vec![0; size_of::<BlackBox>()]);
        memory.put_word(BOX, MAGIC);
        memory.put_word(BOX + offset_of!(BlackBox, panicking) as u64, 2);
        memory.put_word(BOX + offset_of!(BlackBox, message_len) as u64, 12);
        memory.put(BOX + offset_of!(BlackBox, message) as u64, b"why\n  at x:1");
        for index in 0..7 {
            memory.put_word(BOX + offset_of!(BlackBox, call_offsets) as u64 + index * 8, index * 8);
        }
        let second = BOX + (offset_of!(BlackBox, cpus) + size_of::<CpuBox>()) as u64;
        memory.put_word(second + offset_of!(CpuBox, thread) as u64, THREAD);
        memory.put(THREAD, &vec![0; size_of::<ThreadBox>()]);
        let field = |offset: usize| THREAD + offset as u64;
        memory.put_word(field(offset_of!(ThreadBox, name)), THREAD + 0x800);
        memory.put_word(field(offset_of!(ThreadBox, name_len)), 4);
        memory.put(THREAD + 0x800, b"user");
        memory.put_word(field(offset_of!(ThreadBox, tid)), 5);
        memory.put_word(field(offset_of!(ThreadBox, pid)), 1);
        memory.put_word(field(offset_of!(ThreadBox, transaction)), 3 << 48 | 17);
        memory.put_word(field(offset_of!(ThreadBox, space)), 0xab);
        memory.put_word(field(offset_of!(ThreadBox, call)), THREAD + 0x900);
        memory.put(THREAD + 0x900, &[0; 56]);
        memory.put_word(THREAD + 0x900, abi::nr::munmap);
        memory.put_word(THREAD + 0x908, 0x7000);
        memory
    }

    fn lines(memory: &mut Fake, why: Why) -> Vec<String> {
        text(memory, &symbols(), &[cpu(0), cpu(1)], why)
    }

    #[test]
    fn the_cpu_that_panicked_comes_first() {
        let lines = lines(&mut machine(), Why::Panic);
        assert_eq!(
            lines[..9],
            [
                "kernel panic: why",
                "  at x:1",
                "CPU 1: in the kernel, panicked here, interrupts off",
                "  thread user, pid 1 tid 5, in the call munmap(0x7000, 0x0, 0x0, 0x0, 0x0, 0x0)",
                "  open transaction: mark 3:17, update lock 0xab",
                "    RAX=0000000000000007",
                "    at 0xffffffff80000010 kernel::first",
                "CPU 0: in the kernel, interrupts off",
                "  no thread",
            ]
        );
        assert_eq!(lines.last().unwrap(), "no events were recorded");
    }

    /// Whichever byte cannot be read: every CPU and its registers are told of.
    #[test]
    fn every_piece_may_be_missing() {
        let sizes = [(BOX, size_of::<BlackBox>()), (THREAD, size_of::<ThreadBox>()), (THREAD + 0x900, 56)];
        for (start, size) in sizes {
            for at in (start..start + size as u64).step_by(8) {
                let mut memory = machine();
                memory.forget(at + 3);
                let lines = lines(&mut memory, Why::Panic);
                for what in ["CPU 0: ", "CPU 1: "] {
                    assert!(lines.iter().any(|line| line.starts_with(what)), "{at:#x}: {lines:?}");
                }
                assert_eq!(lines.iter().filter(|line| line.contains("RAX=")).count(), 2, "{at:#x}");
            }
        }
        let mut memory = machine();
        memory.forget(THREAD + 0x900);
        assert!(lines(&mut memory, Why::Hang).iter().any(|line| line.ends_with("in the call (not readable)")));
    }

    #[test]
    fn a_machine_without_a_kernel_has_registers_all_the_same() {
        let nothing = lines(&mut Fake::default(), Why::TripleFault);
        assert!(nothing[0].starts_with("(no black box: not readable"), "{nothing:?}");
        assert!(nothing[1].starts_with("triple fault"), "{nothing:?}");
        let mut other = machine();
        other.put_word(BOX, 1);
        assert!(lines(&mut other, Why::Reset)[0].starts_with("(no black box: what lies there is none"));
        assert!(text(&mut machine(), &Symbols::default(), &[cpu(0)], Why::Hang)[0].contains("no such symbol"));
    }
}
