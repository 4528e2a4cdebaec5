//! Leaving QEMU: the last frame on the stream port, then a write to the debug-exit device.

use abi::exit::PORT;
use abi::wire::Kind;
use x86_64::instructions::port::Port;

use crate::arch::cpu;
use crate::stream;

/// Ends the machine with one of `abi::exit`'s values. On a machine without the device, stops this CPU.
pub fn exit(value: u8) -> ! {
    stream::send(Kind::End, &[value]);
    leave(value)
}

/// The same out of a panic: the stream's lock may be held by a CPU that has stopped.
pub(crate) fn exit_panicking(value: u8) -> ! {
    stream::break_in();
    exit(value)
}

/// The same without a word to anybody.
pub(crate) fn leave(value: u8) -> ! {
    // SAFETY: the debug-exit port has no other function, and an absent device ignores the write.
    unsafe { Port::<u8>::new(PORT).write(value) };
    cpu::halt_forever()
}
