//! Hands bad pointers to every call that takes one: each must answer with an error, and nothing else may happen.
//!
//! Standard input must hold at least one byte, so that a read gets as far as its buffer.

use user::raw;
use user::region::{PAGE, Place, Region, Rights};

fn main() {
    // Far below where the kernel places mappings by itself.
    let hole = 0x1000_0000_0000;
    let forbidden = map(1, Rights::None);
    let read_only = map(1, Rights::Read);
    let places = [
        ("null", 0),
        ("unmapped", hole),
        ("no rights", forbidden.address()),
        ("past the end", 0x7fff_ffff_f000),
        ("non-canonical", 0x8000_0000_0000),
        ("kernel", 0xffff_8000_0000_0000),
        ("kernel image", 0xffff_ffff_8000_0000),
        ("last bytes", usize::MAX - 3),
    ];
    for (name, place) in places {
        println!("{name}:");
        reads(place);
        writes(place);
    }
    println!("read-only:");
    writes(read_only.address());
    println!("across the end of a mapping:");
    let edge = map(2, Rights::ReadWrite);
    if let Err(errno) = edge.protect(1..2, Rights::None) {
        user::wrong(format_args!("mprotect failed: {errno}"));
    }
    let edge = edge.address() + PAGE - 4;
    show("clock_gettime", libc::SYS_clock_gettime, [libc::CLOCK_MONOTONIC as usize, edge, 0, 0]);
    show("nanosleep", libc::SYS_nanosleep, [edge, 0, 0, 0]);
    show("rt_sigaction", libc::SYS_rt_sigaction, [libc::SIGUSR1 as usize, edge, 0, 8]);
    show("writev", libc::SYS_writev, [1, edge, 1, 0]);
    wrong_values();
    println!("alive");
}

/// Calls that read from `place`.
fn reads(place: usize) {
    let wait = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
    show("write", libc::SYS_write, [1, place, 5, 0]);
    show("write nothing", libc::SYS_write, [1, place, 0, 0]);
    show("writev", libc::SYS_writev, [1, place, 1, 0]);
    let vector = [place, 5];
    show("writev of one", libc::SYS_writev, [1, vector.as_ptr() as usize, 1, 0]);
    show("nanosleep", libc::SYS_nanosleep, [place, 0, 0, 0]);
    show("clock_nanosleep", libc::SYS_clock_nanosleep, [libc::CLOCK_MONOTONIC as usize, 0, place, 0]);
    show("rt_sigaction", libc::SYS_rt_sigaction, [libc::SIGUSR1 as usize, place, 0, 8].map(no_null));
    show("rt_sigprocmask", libc::SYS_rt_sigprocmask, [libc::SIG_BLOCK as usize, place, 0, 8].map(no_null));
    show("poll", libc::SYS_poll, [place, 1, 0, 0]);
    show("futex wait", libc::SYS_futex, [place & !3, wait, 1, 0]);
    show("sched_setaffinity", libc::SYS_sched_setaffinity, [0, 8, place, 0]);
    show("clone3", libc::SYS_clone3, [place, 88, 0, 0]);
}

/// Calls that write to `place`.
fn writes(place: usize) {
    show("read", libc::SYS_read, [0, place, 1, 0]);
    show("clock_gettime", libc::SYS_clock_gettime, [libc::CLOCK_REALTIME as usize, place, 0, 0]);
    show("clock_getres", libc::SYS_clock_getres, [libc::CLOCK_MONOTONIC as usize, place, 0, 0].map(no_null));
    show("gettimeofday", libc::SYS_gettimeofday, [place, 0, 0, 0].map(no_null));
    show("getrandom", libc::SYS_getrandom, [place, 16, 0, 0]);
    show("rt_sigaction", libc::SYS_rt_sigaction, [libc::SIGUSR1 as usize, 0, place, 8].map(no_null));
    show("rt_sigprocmask", libc::SYS_rt_sigprocmask, [0, 0, place, 8].map(no_null));
    show("sched_getaffinity", libc::SYS_sched_getaffinity, [0, 128, place, 0]);
    show("prlimit64", libc::SYS_prlimit64, [0, libc::RLIMIT_STACK as usize, 0, no_null(place)]);
    show("arch_prctl", libc::SYS_arch_prctl, [0x1003, place, 0, 0]);
    show("uname", libc::SYS_uname, [place, 0, 0, 0]);
}

/// Where null means "nothing", it is not a bad pointer.
fn no_null(value: usize) -> usize {
    if value == 0 { 8 } else { value }
}

/// Calls whose arguments are wrong otherwise.
fn wrong_values() {
    println!("wrong values:");
    let mut word = 0u32;
    let futex = &raw mut word as usize;
    let nothing = [0usize; 4];
    let nothing = nothing.as_ptr() as usize;
    let too_long = [0i64, 1_000_000_000];
    let before = [-1i64, 0];
    let wait = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
    let wake = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as usize;
    show("write to no file", libc::SYS_write, [99, nothing, 1, 0]);
    show("write to file -1", libc::SYS_write, [usize::MAX, nothing, 1, 0]);
    show("read from no file", libc::SYS_read, [99, nothing, 1, 0]);
    show("writev, too many", libc::SYS_writev, [1, nothing, 1025, 0]);
    show("writev, fewer than none", libc::SYS_writev, [1, nothing, usize::MAX, 0]);
    show("writev, none", libc::SYS_writev, [1, nothing, 0, 0]);
    show("futex wait, unaligned", libc::SYS_futex, [futex + 1, wait, 0, 0]);
    show("futex wake, unaligned", libc::SYS_futex, [futex + 1, wake, 1, 0]);
    show("futex wait, other value", libc::SYS_futex, [futex, wait, 1, 0]);
    show("futex, no such operation", libc::SYS_futex, [futex, 127, 0, 0]);
    show("futex wait, time with too many nanoseconds", libc::SYS_futex, [futex, wait, 0, too_long.as_ptr() as usize]);
    show("nanosleep, too many nanoseconds", libc::SYS_nanosleep, [too_long.as_ptr() as usize, 0, 0, 0]);
    show("nanosleep, before", libc::SYS_nanosleep, [before.as_ptr() as usize, 0, 0, 0]);
    show("clock_gettime, no such clock", libc::SYS_clock_gettime, [77, nothing, 0, 0]);
    show("clock_nanosleep, no such clock", libc::SYS_clock_nanosleep, [77, 0, nothing, 0]);
    show("rt_sigaction, no such signal", libc::SYS_rt_sigaction, [65, 0, 0, 8]);
    show("rt_sigaction, signal 0", libc::SYS_rt_sigaction, [0, 0, 0, 8]);
    show("rt_sigaction, wrong size", libc::SYS_rt_sigaction, [libc::SIGUSR1 as usize, 0, 0, 4]);
    show("rt_sigaction of SIGKILL", libc::SYS_rt_sigaction, [libc::SIGKILL as usize, nothing, 0, 8]);
    show("rt_sigprocmask, no such way", libc::SYS_rt_sigprocmask, [9, nothing, 0, 8]);
    show("getrandom, no such flag", libc::SYS_getrandom, [nothing, 0, 0x100, 0]);
    show("arch_prctl, into the kernel", libc::SYS_arch_prctl, [0x1002, 0xffff_8000_0000_0000, 0, 0]);
    show("arch_prctl, non-canonical", libc::SYS_arch_prctl, [0x1002, 0x8000_0000_0000, 0, 0]);
    show("arch_prctl, no such code", libc::SYS_arch_prctl, [0xdead, 0, 0, 0]);
    show("prlimit64, no such limit", libc::SYS_prlimit64, [0, 99, 0, 0]);
    show("sched_getaffinity, no such thread", libc::SYS_sched_getaffinity, [0x7fff_fff0, 8, nothing, 0]);
    show("sched_getaffinity, too short", libc::SYS_sched_getaffinity, [0, 4, nothing, 0]);
    show("sched_setaffinity, no CPU", libc::SYS_sched_setaffinity, [0, 8, nothing, 0]);
    show("set_robust_list, wrong size", libc::SYS_set_robust_list, [nothing, 1, 0, 0]);
    show("clone3, too short", libc::SYS_clone3, [nothing, 8, 0, 0]);
    show("tgkill, no such thread", libc::SYS_tgkill, [0x7fff_fff0, 0x7fff_fff0, 0, 0]);
    show("tgkill, no such signal", libc::SYS_tgkill, [1, 1, 99, 0]);
    std::hint::black_box((&mut word, &too_long, &before));
}

fn show(what: &str, number: i64, args: [usize; 4]) {
    // SAFETY: every call is one that must fail, or does nothing; none gets memory that is in use to write to.
    match unsafe { raw::call(number, [args[0], args[1], args[2], args[3], 0, 0]) } {
        Ok(value) => println!("  {what}: {value}"),
        Err(errno) => println!("  {what}: {errno}"),
    }
}

fn map(pages: usize, rights: Rights) -> Region {
    Region::map(Place::Anywhere, pages, rights)
        .unwrap_or_else(|errno| user::wrong(format_args!("mmap failed: {errno}")))
}
