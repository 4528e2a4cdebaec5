//! What a page fault and an `munmap` cost: each done many times between markers, for `cargo run -- count` to count.
//!
//! For each window one line says what it holds: `measured WINDOW LESS TIMES WHAT`, where window `LESS` holds the same loop
//! without the work (`-`: none). On more than one CPU also beside a thread that faults, or computes, on another CPU at
//! the same time. Everything that would disturb is done before: page tables are there, threads are pinned.

use std::arch::asm;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::marker::Kind::{Begin, End};
use user::marker::{self, displacement};
use user::must;
use user::raw;
use user::region::{PAGE, Place, Region, Rights};

/// Faults measured in one window.
const FAULTS: usize = 256;

/// Times that each other call is measured.
const CALLS: usize = 64;

/// Pages of the larger `munmap`.
const MANY: usize = 64;

/// Pages that the other thread touches one after the other: more than it can while we measure.
const BESIDE: usize = 8192;

/// What a page table spans: the faults measured need no new one.
const TABLE_SPAN: usize = 512 * PAGE;

/// What the other thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Other {
    /// It is not there yet.
    Absent,
    /// It counts, in user mode.
    Computes,
    /// It touches one fresh page after the other.
    Faults,
    /// It ends.
    Ends,
}

/// What the other thread is told, and what it has begun.
static TOLD: AtomicU32 = AtomicU32::new(Other::Absent as u32);
static DOES: AtomicU32 = AtomicU32::new(Other::Absent as u32);

fn main() {
    let cpus = raw::cpus();
    pin(0);
    marker::arm();
    println!("measured 0 - {FAULTS} a loop that touches pages");
    println!("measured 1 0 {FAULTS} a page fault (first write to a page)");
    faults::<1>();
    println!("measured 2 - {CALLS} an empty call (getppid)");
    for _ in 0..CALLS {
        call::<2>(libc::SYS_getppid, 0, 0);
    }
    println!("measured 3 - {CALLS} munmap of 1 page");
    unmaps::<3>(1);
    println!("measured 4 - {CALLS} munmap of {MANY} pages");
    unmaps::<4>(MANY);
    if cpus < 2 {
        return;
    }
    std::thread::scope(|scope| {
        scope.spawn(beside);
        tell(Other::Faults);
        println!("measured 5 0 {FAULTS} a page fault, while CPU 1 faults");
        faults::<5>();
        tell(Other::Computes);
        println!("measured 6 - {CALLS} munmap of 1 page, while CPU 1 runs the program");
        unmaps::<6>(1);
        println!("measured 7 - {CALLS} munmap of {MANY} pages, while CPU 1 runs the program");
        unmaps::<7>(MANY);
        tell(Other::Ends);
    });
}

/// Runs the calling thread on this CPU from now on.
fn pin(cpu: usize) {
    let mask = 1usize << cpu;
    let args = [0, size_of::<usize>(), &raw const mask as usize, 0, 0, 0];
    // SAFETY: the call reads one word.
    let answer = unsafe { raw::call(libc::SYS_sched_setaffinity, args) };
    must!(answer.is_ok(), "cannot run on CPU {cpu}");
}

fn map(pages: usize, rights: Rights) -> Region {
    Region::map(Place::Anywhere, pages, rights).unwrap_or_else(|why| user::wrong(format_args!("mmap: {why}")))
}

/// Window `WINDOW`: first touches under one page table, which is there. Window 0: the same once more.
fn faults<const WINDOW: u32>() {
    let region = map(2 * TABLE_SPAN / PAGE, Rights::ReadWrite);
    let first = region.address().next_multiple_of(TABLE_SPAN);
    touch::<15>(first, 1); // makes the page table
    touch::<WINDOW>(first + PAGE, FAULTS);
    if WINDOW == 1 {
        touch::<0>(first + PAGE, FAULTS);
    }
}

/// Writes a word of each of `pages` pages from `start` on, which are mapped and the caller's: four instructions a page.
fn touch<const WINDOW: u32>(start: usize, pages: usize) {
    // SAFETY: the caller's pages, which nobody else uses.
    unsafe {
        asm!(
            ".byte 0x0f, 0x1f, 0x80", ".long {begin}",
            "2: mov qword ptr [{page}], 1",
            "add {page}, 4096",
            "dec {pages}",
            "jnz 2b",
            ".byte 0x0f, 0x1f, 0x80", ".long {end}",
            begin = const displacement(Begin, WINDOW),
            end = const displacement(End, WINDOW),
            page = inout(reg) start => _,
            pages = inout(reg) pages => _,
        );
    }
}

/// Window `WINDOW`: unmapping `pages` touched pages, [`CALLS`] times: a mapping of their own, between pages without rights.
fn unmaps<const WINDOW: u32>(pages: usize) {
    for _ in 0..CALLS {
        let region = map(pages + 2, Rights::None);
        let answer = region.protect(1..1 + pages, Rights::ReadWrite);
        must!(answer.is_ok(), "mprotect: {answer:?}");
        let start = region.address() + PAGE;
        touch::<15>(start, pages);
        let answer = call::<WINDOW>(libc::SYS_munmap, start, pages * PAGE);
        must!(answer == 0, "munmap: {answer}");
    }
}

/// Window `WINDOW`: one call of the kernel.
fn call<const WINDOW: u32>(number: i64, first: usize, second: usize) -> isize {
    let answer;
    // SAFETY: the callers' calls end, and unmap only what is nobody's any more.
    unsafe {
        asm!(
            ".byte 0x0f, 0x1f, 0x80", ".long {begin}",
            "syscall",
            ".byte 0x0f, 0x1f, 0x80", ".long {end}",
            begin = const displacement(Begin, WINDOW),
            end = const displacement(End, WINDOW),
            inout("rax") number as isize => answer,
            in("rdi") first, in("rsi") second, out("rcx") _, out("r11") _,
        );
    }
    answer
}

/// Tells the other thread what to do, and waits until it does it.
fn tell(what: Other) {
    TOLD.store(what as u32, Ordering::Release);
    while DOES.load(Ordering::Acquire) != what as u32 {
        std::thread::yield_now();
    }
}

/// The other thread: on CPU 1, until it is told to end.
fn beside() {
    pin(1);
    let region = map(BESIDE, Rights::ReadWrite);
    let mut page = 0;
    loop {
        let told = TOLD.load(Ordering::Acquire);
        DOES.store(told, Ordering::Release);
        if told == Other::Ends as u32 {
            return;
        }
        if told == Other::Faults as u32 && page < BESIDE {
            region.word(page, 0).store(1, Ordering::Relaxed);
            page += 1;
        } else {
            std::hint::spin_loop();
        }
    }
}
