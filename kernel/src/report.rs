//! The black box of this machine (`abi::report`): what the host reads when the machine has stopped.

use core::fmt::{self, Write};
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use abi::report::{BlackBox, CpuBox, MESSAGE_BYTES, PANIC_PORT, PANIC_VALUE};
use linux::UserRegs;
use sync::CpuId;
use x86_64::instructions::port::Port;

use crate::arch::percpu;

/// Found by its name in the symbol table: `abi::report::SYMBOL`.
// SAFETY: nothing else in the kernel has this name.
#[unsafe(no_mangle)]
static TESSERA_BLACK_BOX: BlackBox = BlackBox::new();

/// Where number and arguments of a call stand (System V ABI for AMD64, appendix A.2).
const CALL: [usize; 7] = [
    offset_of!(UserRegs, rax),
    offset_of!(UserRegs, rdi),
    offset_of!(UserRegs, rsi),
    offset_of!(UserRegs, rdx),
    offset_of!(UserRegs, r10),
    offset_of!(UserRegs, r8),
    offset_of!(UserRegs, r9),
];

/// Fills in what does not change. Called on the boot CPU when the number of CPUs is known.
pub fn init() {
    let black_box = &TESSERA_BLACK_BOX;
    for (place, offset) in black_box.call_offsets.iter().zip(CALL) {
        place.store(offset as u64, Ordering::Relaxed);
    }
    black_box.cpu_count.store(percpu::count() as u64, Ordering::Relaxed);
}

/// The entry of a CPU.
pub fn cpu(cpu: CpuId) -> &'static CpuBox {
    &TESSERA_BLACK_BOX.cpus[cpu.index()]
}

/// Writes why the kernel panics, and that CPU `me` does.
pub(crate) fn panicking(me: CpuId, why: fmt::Arguments<'_>) {
    TESSERA_BLACK_BOX.panicking.store(u64::from(me.0) + 1, Ordering::Relaxed);
    // Formatting errors are those of the panic's own `Display`; the text before them is written.
    let _ = Message.write_fmt(why);
}

/// Stops the machine for the host to look at it; goes on when the host has. Without the device, goes on at once.
pub(crate) fn stop_and_show() {
    // SAFETY: the port has no other function, and an absent device ignores the write.
    unsafe { Port::<u8>::new(PANIC_PORT).write(PANIC_VALUE) };
}

/// Appends to the message. The panicking CPU alone writes it.
struct Message;

impl Write for Message {
    /// What does not fit is cut off.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let len = TESSERA_BLACK_BOX.message_len.load(Ordering::Relaxed) as usize;
        let room = TESSERA_BLACK_BOX.message.get(len..).unwrap_or_default();
        for (place, byte) in room.iter().zip(text.bytes()) {
            place.store(byte, Ordering::Relaxed);
        }
        let len = (len + text.len()).min(MESSAGE_BYTES);
        TESSERA_BLACK_BOX.message_len.store(len as u64, Ordering::Relaxed);
        Ok(())
    }
}
