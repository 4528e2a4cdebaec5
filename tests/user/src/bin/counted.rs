//! Stretches whose instructions and shared lines were counted by hand, between markers, on two CPUs.
//!
//! What a counter says about each window must be what stands above it here; the test knows the same numbers. Both
//! threads are pinned, memory is touched before it is counted, and what waits for the other CPU stands outside windows.
//!
//! | window | CPU | instructions | locked | shared reads | shared writes |
//! |---|---|---|---|---|---|
//! | 1 | 0 | 1 + 2 x 1000 | | | |
//! | 1 | 1 | 1 + 2 x 777 | | | |
//! | 2 | 0 | 1 + 8 x 300 | 5 x 300 | | |
//! | 3 | 0 | 3 | | | |
//! | 4 | both | 3 x 100 | | 100 | |
//! | 5 | both | 2 x 100 | | | 100 |
//! | 6 | both | 2 x 100 | 2 x 100 | | 100 |
//! | 7 | both | 1 x 100 | | 2 x 100 | |
//! | 8 | 0 | 1 + 4 x 10, and the kernel's | | | |

use std::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::marker::Kind::{Begin, End};
use user::marker::{self, displacement};
use user::must;

/// Turns of each CPU in windows 4 to 7.
const ROUNDS: u64 = 100;

/// A line of its own.
#[repr(align(64))]
struct Line([AtomicU64; 8]);

impl Line {
    const fn new() -> Line {
        Line([const { AtomicU64::new(0) }; 8])
    }
}

/// Two lines, side by side.
#[repr(align(128))]
struct Lines(Line, Line);

static BALL: Lines = Lines(Line::new(), Line::new());
static TURN: Line = Line::new();

/// One stretch of assembly between the markers of a window.
macro_rules! window {
    ($window:literal, [$($line:literal),*], $($operands:tt)*) => {
        // SAFETY: the lines touch the registers and the memory that the operands name.
        unsafe {
            asm!(
                ".byte 0x0f, 0x1f, 0x80", ".long {begin}",
                $($line,)*
                ".byte 0x0f, 0x1f, 0x80", ".long {end}",
                begin = const displacement(Begin, $window),
                end = const displacement(End, $window),
                $($operands)*
            )
        }
    };
}

fn main() {
    pin(0);
    marker::arm();
    loop_of(1000);
    locked();
    repeated();
    calls();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            loop_of(777);
            play(1);
        });
        play(0);
    });
    println!("counted");
}

/// Runs the calling thread on this CPU from now on.
fn pin(cpu: usize) {
    let mask = 1usize << cpu;
    let args = [0, size_of::<usize>(), &raw const mask as usize, 0, 0, 0];
    // SAFETY: the call reads one word.
    let answer = unsafe { user::raw::call(libc::SYS_sched_setaffinity, args) };
    must!(answer.is_ok(), "cannot run on CPU {cpu}");
}

/// Window 1: 1 + 2 x `times`.
fn loop_of(times: u32) {
    window!(1, ["mov ecx, {times:e}", "2: dec ecx", "jnz 2b"], times = in(reg) times, out("ecx") _);
}

/// Window 2: 1 + 8 x 300, of which 5 x 300 are locked.
fn locked() {
    let line = Line::new();
    line.0[0].store(1, Ordering::Relaxed);
    window!(
        2,
        [
            "mov ecx, 300",
            "2: lock inc qword ptr [{line}]",
            "xchg rax, [{line} + 8]", // locks without a prefix
            "xchg rax, rdx",          // between registers: does not lock
            "xchg [{line} + 16], al",
            "lock cmpxchg [{line} + 24], rdx",
            "lock xadd [{line} + 32], rdx",
            "dec ecx",
            "jnz 2b"
        ],
        line = in(reg) &raw const line, out("rax") _, out("rdx") _, out("ecx") _
    );
}

/// Window 3: 3, for a repeated string instruction is one.
fn repeated() {
    let mut words = [1u64; 8];
    window!(3, ["mov ecx, 8", "xor eax, eax", "rep stosq"], inout("rdi") words.as_mut_ptr() => _, out("rax") _, out("rcx") _);
    must!(words == [0; 8], "the words were not cleared");
}

/// Window 8: 1 + 4 x 10 of the program, which enters the kernel 10 times.
fn calls() {
    window!(
        8,
        ["mov {times:e}, 10", "2: mov eax, {getpid}", "syscall", "dec {times:e}", "jnz 2b"],
        times = out(reg) _, getpid = const libc::SYS_getpid, out("rax") _, out("rcx") _, out("r11") _
    );
}

/// Windows 4 to 7: two CPUs take turns at the same lines. In each turn a CPU meets what the other one wrote in the turn
/// before. The first round is not counted: before it, nobody knows who wrote what.
fn play(cpu: u64) {
    for round in 0..=ROUNDS {
        turns(cpu, round, |ball| {
            window!(4,
            ["mov rax, [{ball}]", "mov rax, [{ball} + 8]", "mov [{ball}], rax"], // read, know, write
            ball = in(reg) ball, out("rax") _)
        });
    }
    for round in 0..=ROUNDS {
        turns(cpu, round, |ball| {
            window!(5,
            ["mov [{ball}], rax", "mov [{ball} + 56], rax"],
            ball = in(reg) ball, in("rax") 0)
        });
    }
    for round in 0..=ROUNDS {
        turns(cpu, round, |ball| {
            window!(6,
            ["lock inc qword ptr [{ball}]", "xchg rax, [{ball}]"],
            ball = in(reg) ball, inout("rax") 0 => _)
        });
    }
    for round in 0..=ROUNDS {
        turns(cpu, round, |ball| {
            window!(7, ["mov rax, [{ball} + 60]"], // across both lines
                ball = in(reg) ball, out("rax") _);
            BALL.0.0[0].store(round, Ordering::Relaxed);
            BALL.1.0[0].store(round, Ordering::Relaxed);
        });
    }
}

/// Waits for the turn of `cpu`, plays, and hands the turn on. In round 0 only writes what the other CPU will meet.
fn turns(cpu: u64, round: u64, play: impl Fn(*const Lines)) {
    let turn = &TURN.0[0];
    while turn.load(Ordering::Acquire) != cpu {
        std::hint::spin_loop();
    }
    if round == 0 {
        BALL.0.0[0].store(0, Ordering::Relaxed);
        BALL.1.0[0].store(0, Ordering::Relaxed);
    } else {
        play(&BALL);
    }
    turn.store(1 - cpu, Ordering::Release);
}
