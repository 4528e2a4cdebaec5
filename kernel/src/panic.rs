//! The end of a kernel that found itself wrong: say why and where, let the host look at the machine, leave QEMU with
//! `abi::exit::PANIC`.
//!
//! The message goes into the black box first, and the machine stops with every CPU where it is ([`report::stop_and_show`]):
//! the host then reads whatever it wants, and lets it go on. What follows is for a host that does not look: the other CPUs
//! stop, and the message goes to the console.
//!
//! Everything here works in any context, on any CPU, with any lock held, and needs no memory. A second CPU that panics
//! meanwhile only stops; a panic of the report itself leaves out what comes after.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::event::Kind;

use crate::arch::fault::Report;
use crate::arch::frame::TrapFrame;
use crate::arch::{cpu, ipi, paging, percpu};
use crate::{console, event, exit, report};

/// The CPU that panics, plus one; 0 while none does.
static PANICKING: AtomicU32 = AtomicU32::new(0);

/// How often the panicking CPU has come here.
static TIMES: AtomicU32 = AtomicU32::new(0);

/// Most callers that the console lists.
const MAX_CALLERS: usize = 32;

/// Why the kernel dies.
pub enum Cause<'a> {
    /// A `panic!`, a failed assertion, arithmetic that overflowed.
    Panic(&'a PanicInfo<'a>),
    /// An exception that nothing handles.
    Exception {
        /// Registers at the exception.
        frame: &'a TrapFrame,
        /// CR2, where it means something.
        address: Option<u64>,
    },
}

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Panic(info) => {
                write!(f, "{}", info.message())?;
                match info.location() {
                    Some(place) => write!(f, "\n  at {}:{}", place.file(), place.line()),
                    None => Ok(()),
                }
            }
            Cause::Exception { frame, address } => write!(f, "{}", Report { frame, address: *address }),
        }
    }
}

/// Whether this CPU's NMI means "stop": another CPU panics.
pub(crate) fn stop_asked() -> bool {
    PANICKING.load(Ordering::Acquire) != 0
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    die(Cause::Panic(info))
}

/// Reports `cause` and ends the machine.
pub(crate) fn die(cause: Cause<'_>) -> ! {
    let _ = cpu::interrupts_disable();
    let me = percpu::id();
    crate::sched::stop_checking();
    // One CPU reports. AcqRel: those that stop by `stop_asked` come after the decision.
    match PANICKING.compare_exchange(0, me.0 + 1, Ordering::AcqRel, Ordering::Relaxed) {
        Ok(_) => {}
        Err(first) if first == me.0 + 1 => {}
        Err(_) => cpu::halt_forever(),
    }
    match TIMES.fetch_add(1, Ordering::Relaxed) {
        0 => {
            event::event(Kind::Panic, 0, 0);
            event::freeze();
            report::panicking(me, format_args!("{cause}"));
            report::stop_and_show();
            ipi::stop_others();
            print(&cause);
            exit::exit_panicking(abi::exit::PANIC)
        }
        // The report panicked: what it had to say so far, and where this one comes from, without a `Display` of anybody's.
        1 => {
            let at = if let Cause::Panic(info) = &cause { info.location() } else { None };
            let (file, line) = at.map_or(("an exception", 0), |at| (at.file(), at.line()));
            report::panicking(me, format_args!("\n  and the report of this panicked: {file}:{line}"));
            report::stop_and_show();
            exit::exit_panicking(abi::exit::PANIC)
        }
        _ => exit::leave(abi::exit::PANIC),
    }
}

/// For the console: who panics, why, and from where.
fn print(cause: &Cause<'_>) {
    console::break_in();
    console::print(format_args!("\nKERNEL PANIC on CPU {}", percpu::id().0));
    if let Some(thread) = crate::sched::current_name() {
        console::print(format_args!(", thread {thread}"));
    }
    console::print(format_args!(": {cause}\n"));
    match cause {
        Cause::Panic(_) => print_callers(frame_pointer()),
        Cause::Exception { frame, .. } => print_callers(frame.rbp),
    }
}

/// RBP of the caller.
#[inline(always)]
fn frame_pointer() -> u64 {
    let value: u64;
    // SAFETY: reading a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Prints return addresses along the frame pointers, innermost first. Each frame's address must be mapped kernel memory above the
/// last one, so a broken chain ends the list and nothing faults.
fn print_callers(mut frame: u64) {
    console::print(format_args!("  callers (symbolise with addr2line):"));
    for _ in 0..MAX_CALLERS {
        let mapped = |address: u64| address >= paging::WINDOW && paging::translate(address).is_some();
        if !frame.is_multiple_of(8) || !mapped(frame) || !mapped(frame + 8) {
            break;
        }
        let words = frame as *const u64;
        // SAFETY: aligned and mapped, checked above; whatever is there is only printed.
        let next = unsafe { words.read_volatile() };
        // SAFETY: as above, the next word.
        let caller = unsafe { words.wrapping_add(1).read_volatile() };
        if caller == 0 {
            break;
        }
        console::print(format_args!(" {caller:#x}"));
        if next <= frame {
            break;
        }
        frame = next;
    }
    console::print(format_args!("\n"));
}
