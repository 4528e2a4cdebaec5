//! Giving up: a line on the console, and the end of the machine.

use core::fmt::{self, Write};
use core::panic::PanicInfo;

use x86_64::instructions::port::Port;

/// COM1's first port.
const COM1: u16 = 0x3f8;

/// Why the kernel cannot be entered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refusal {
    /// What QEMU handed over is no start_info with a memory map.
    NoStartInfo,
    /// There is no module.
    NoKernel,
    /// There are no ACPI tables.
    NoRootPointer,
    /// Too many ranges, ranges that overlap, or the loader lies in none.
    BadMemoryMap,
    /// Not a kernel that this loader can load: why.
    BadKernel(&'static str),
    /// Memory is too small.
    NoMemory,
    /// Not an address, or not aligned.
    BadAddress(u64),
    /// Something is mapped there already, or there is no memory for a table.
    NotMapped(u64),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoStartInfo => f.write_str("entered without a start_info"),
            Refusal::NoKernel => f.write_str("no kernel was handed over (QEMU's -initrd)"),
            Refusal::NoRootPointer => f.write_str("no ACPI tables were handed over"),
            Refusal::BadMemoryMap => f.write_str("the memory map is of no use"),
            Refusal::BadKernel(why) => write!(f, "the kernel cannot be loaded: {why}"),
            Refusal::NoMemory => f.write_str("memory is too small for the kernel"),
            Refusal::BadAddress(address) => write!(f, "the kernel cannot be loaded: {address:#x} is no page"),
            Refusal::NotMapped(address) => {
                write!(f, "the kernel cannot be loaded: nothing can be mapped at {address:#x}")
            }
        }
    }
}

/// The console port as it comes out of reset, which is enough for QEMU.
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const LINE_STATUS: u16 = COM1 + 5;
        const EMPTY: u8 = 1 << 5;
        for byte in text.bytes() {
            // SAFETY: reading the status has no effect that matters: nobody else uses the port.
            while unsafe { Port::<u8>::new(LINE_STATUS).read() } & EMPTY == 0 {}
            // SAFETY: sends a byte.
            unsafe { Port::<u8>::new(COM1).write(byte) };
        }
        Ok(())
    }
}

/// Says `why` and ends the machine: what it was given cannot be run on.
pub(crate) fn refuse(why: fmt::Arguments<'_>) -> ! {
    leave(why, abi::exit::REFUSED)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    leave(format_args!("{info}"), abi::exit::PANIC)
}

fn leave(why: fmt::Arguments<'_>, value: u8) -> ! {
    // Whether it gets out or not, this is the end.
    let _ = writeln!(Console, "direct boot: {why}");
    // SAFETY: the debug-exit port has no other function, and an absent device ignores the write.
    unsafe { Port::<u8>::new(abi::exit::PORT).write(value) };
    loop {
        x86_64::instructions::hlt();
    }
}
