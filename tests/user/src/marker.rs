//! Where a stretch begins and ends that somebody outside the machine counts (`cargo run -- run --count`).
//!
//! Each is one instruction that does nothing ([`abi::marker`]); in C, `marker.h`. A program calls [`arm`] once, and then
//! opens and closes windows as often as it likes: a window's counts add up.

use std::arch::asm;

use abi::marker::{Kind, Marker};

/// Says that windows will follow, and gives the counter the moment that it needs to get ready.
pub fn arm() {
    say::<{ Kind::Arm as u32 }, 0>();
    // The counter gets ready when this CPU next leaves a block of instructions; a call of the kernel is many of them.
    std::thread::yield_now();
}

/// Opens window `WINDOW` on the CPU that executes this: the thread should be pinned to it.
#[inline(always)]
pub fn begin<const WINDOW: u32>() {
    say::<{ Kind::Begin as u32 }, WINDOW>();
}

/// Closes it there.
#[inline(always)]
pub fn end<const WINDOW: u32>() {
    say::<{ Kind::End as u32 }, WINDOW>();
}

/// Opens window `WINDOW` on all CPUs.
#[inline(always)]
pub fn begin_all<const WINDOW: u32>() {
    say::<{ Kind::BeginAll as u32 }, WINDOW>();
}

/// Closes it on all of them.
#[inline(always)]
pub fn end_all<const WINDOW: u32>() {
    say::<{ Kind::EndAll as u32 }, WINDOW>();
}

/// The displacement of a marker: also for assembly that has one in its midst.
pub const fn displacement(kind: Kind, window: u32) -> u32 {
    Marker { kind, window }.displacement()
}

#[inline(always)]
fn say<const KIND: u32, const WINDOW: u32>() {
    // SAFETY: a long NOP. Nothing says so to the compiler, which therefore moves no access to memory across it.
    unsafe {
        asm!(
            ".byte 0x0f, 0x1f, 0x80",
            ".long {}",
            const {
                let kind = match KIND {
                    0 => Kind::Begin,
                    1 => Kind::End,
                    2 => Kind::BeginAll,
                    3 => Kind::EndAll,
                    _ => Kind::Arm,
                };
                displacement(kind, WINDOW)
            },
            options(nostack, preserves_flags)
        );
    }
}
