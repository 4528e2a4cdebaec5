//! One page fault or one `munmap` between markers, for `cargo run -- explain` to follow.
//!
//! Whatever else might happen at the same time has happened before: the page table is there, memory that earlier calls
//! deferred is free. The munmap's window stays open until what *it* deferred is free, too.

use std::arch::asm;
use std::time::Duration;

use abi::marker::Kind::Begin;
use user::marker::{self, displacement};
use user::must;
use user::region::{PAGE, Place, Region, Rights};

/// Longer than a grace period takes on an idle CPU.
const GRACE: Duration = Duration::from_millis(50);

/// Sleeps until what was deferred is free. Several times: a busy host may give the machine no time while it sleeps.
fn let_go() {
    (0..4).for_each(|_| std::thread::sleep(GRACE));
}

fn main() {
    let what = std::env::args().nth(1).unwrap_or_default();
    let region = Region::map(Place::Anywhere, 8, Rights::None);
    let region = region.unwrap_or_else(|why| user::wrong(format_args!("mmap: {why}")));
    let rights = region.protect(1..7, Rights::ReadWrite);
    must!(rights.is_ok(), "mprotect: {rights:?}");
    for page in 1..5 {
        touch(region.address() + page * PAGE); // the page table, and the frames' cache
    }
    marker::arm();
    let_go();
    match &*what {
        "fault" => {
            marker::begin::<1>();
            touch(region.address() + 5 * PAGE);
            marker::end::<1>();
        }
        "munmap" => {
            unmap(region.address() + PAGE, 6 * PAGE);
            let_go();
            marker::end::<1>();
        }
        _ => user::wrong(format_args!("fault or munmap?")),
    }
}

/// Writes the word at `address`, which is the caller's.
#[inline(always)]
fn touch(address: usize) {
    // SAFETY: a mapped page of the caller's.
    unsafe { asm!("mov qword ptr [{}], 1", in(reg) address, options(nostack, preserves_flags)) };
}

/// Unmaps, and leaves the window open.
fn unmap(address: usize, len: usize) {
    let answer: isize;
    // SAFETY: nobody uses these pages any more.
    unsafe {
        asm!(
            ".byte 0x0f, 0x1f, 0x80", ".long {begin}",
            "syscall",
            begin = const displacement(Begin, 1),
            inout("rax") libc::SYS_munmap as isize => answer,
            in("rdi") address, in("rsi") len, out("rcx") _, out("r11") _,
        );
    }
    must!(answer == 0, "munmap: {answer}");
}
