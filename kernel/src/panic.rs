//! The end of a kernel that found itself wrong: stop the other CPUs, say why and where, leave QEMU with `abi::exit::PANIC`.
//!
//! Everything here works in any context, on any CPU, with any lock held, and needs no memory. A second panic while
//! the first is being reported only stops its CPU.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::arch::fault::Report;
use crate::arch::trap::TrapFrame;
use crate::arch::{cpu, ipi, paging, percpu};
use crate::{console, exit};

/// The CPU that panics, plus one; 0 while none does.
static PANICKING: AtomicU32 = AtomicU32::new(0);

/// Most callers that a report lists.
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
    // One CPU reports. AcqRel: those that stop by `stop_asked` come after the decision.
    if PANICKING.compare_exchange(0, me.0 + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        cpu::halt_forever();
    }
    ipi::stop_others();
    console::break_in();
    console::print(format_args!("\nKERNEL PANIC on CPU {}", me.0));
    if let Some(thread) = crate::sched::current_name() {
        console::print(format_args!(", thread {thread}"));
    }
    console::print(format_args!(": {cause}\n"));
    match &cause {
        Cause::Panic(_) => print_callers(frame_pointer()),
        Cause::Exception { frame, .. } => print_callers(frame.rbp),
    }
    exit::exit_panicking(abi::exit::PANIC)
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
