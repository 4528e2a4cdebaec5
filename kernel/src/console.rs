//! The console: lines of text on COM1, whole, from every CPU.
//!
//! One lock with interrupts off keeps lines together. A panic must get through even if the lock's holder is the very code that
//! panicked, or a CPU that has been stopped: [`break_in`] takes the port over for good after a bounded wait.

use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use sync::Platform;
use sync::order::{self, Class, Mode, NO_RANGE};
use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550};

use crate::arch::cpu;
use crate::platform::Machine;

/// COM1's first port.
const COM1: u16 = 0x3f8;

/// [`Console::owner`] when nobody prints.
const FREE: u32 = u32::MAX;

struct Console {
    /// The CPU that prints, or [`FREE`].
    owner: AtomicU32,
    port: UnsafeCell<Option<Uart16550<PioBackend>>>,
}

// SAFETY: `port` is used by the owner only; `break_in` takes ownership when no other CPU runs any more.
unsafe impl Sync for Console {}

static CONSOLE: Console = Console { owner: AtomicU32::new(FREE), port: UnsafeCell::new(None) };

/// The port, as text: `\n` becomes `\r\n`.
struct Text<'a>(&'a mut Uart16550<PioBackend>);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (index, line) in text.split('\n').enumerate() {
            if index > 0 {
                self.0.send_bytes_exact(b"\r\n");
            }
            self.0.send_bytes_exact(line.as_bytes());
        }
        Ok(())
    }
}

/// Initialises the port. Called once, first thing, on the boot CPU. A machine without the port runs silently.
pub fn init() {
    // SAFETY: COM1's ports belong to this module.
    let Ok(mut port) = (unsafe { Uart16550::new_port(COM1) }) else { return };
    if port.init(Config::default()).is_ok() {
        // SAFETY: one CPU runs, and nobody prints yet.
        unsafe { *CONSOLE.port.get() = Some(port) };
    }
}

/// Prints the text as one piece: no other CPU's output comes between. Ends no line by itself.
pub fn print(text: fmt::Arguments<'_>) {
    let state = Machine::interrupts_disable();
    let me = Machine::cpu().0;
    // Acquire pairs with the Release below: the port's state travels with the ownership. If this CPU owns the console already
    // (it panicked, or an NMI struck, while printing), it goes on as owner.
    let nested = CONSOLE.owner.load(Ordering::Relaxed) == me;
    let address = core::ptr::from_ref(&CONSOLE).addr() as u64;
    if !nested {
        order::before::<Machine>(Class::Console, address);
        while CONSOLE.owner.compare_exchange_weak(FREE, me, Ordering::Acquire, Ordering::Relaxed).is_err() {
            Machine::relax();
        }
        order::acquired::<Machine>(Class::Console, Mode::Write, address, NO_RANGE);
    }
    // SAFETY: this CPU owns the console, and interrupts are off.
    if let Some(port) = unsafe { &mut *CONSOLE.port.get() } {
        // Formatting errors are those of the caller's `Display`; the text before them is out.
        let _ = Text(port).write_fmt(text);
    }
    if !nested {
        order::released::<Machine>(Class::Console, address);
        CONSOLE.owner.store(FREE, Ordering::Release);
    }
    Machine::interrupts_restore(state);
}

/// Takes the console over for good, for a panic: waits a while for its owner to finish the line, then no longer. All other
/// CPUs have been told to stop.
pub fn break_in() {
    let me = Machine::cpu().0;
    let _ = cpu::interrupts_disable();
    for _ in 0..10_000_000 {
        if CONSOLE.owner.compare_exchange(FREE, me, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return;
        }
        if CONSOLE.owner.load(Ordering::Relaxed) == me {
            return;
        }
        core::hint::spin_loop();
    }
    CONSOLE.owner.store(me, Ordering::Relaxed);
}
