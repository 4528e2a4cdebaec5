//! `fuzz_calls [SECONDS] [SEED] [THREADS]`: random memory calls with good, bad and absurd arguments from many threads.
//! The kernel must survive; what the calls answer is not compared.
//!
//! Calls that change mappings keep to a stretch of address space of their own, or ask for what must be refused: the
//! program itself is to survive as well.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use user::raw;

const PAGE: usize = 4096;
const BASE: usize = 0x2000_0000_0000;
const SPAN_PAGES: usize = 256;
const END: usize = 0x7fff_ffff_f000;

fn main() {
    let seconds = Duration::from_secs(user::number(1, 2));
    let seed = user::number(2, 1);
    let threads = user::number(3, 8);
    println!("seed {seed}");
    let (calls, answered) = (AtomicU64::new(0), AtomicU64::new(0));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (calls, answered) = (&calls, &answered);
            scope.spawn(move || {
                let mut random = Random(seed << 8 | thread);
                while begin.elapsed() < seconds {
                    for _ in 0..64 {
                        let ok = step(&mut random);
                        calls.fetch_add(1, Relaxed);
                        answered.fetch_add(ok as u64, Relaxed);
                    }
                }
            });
        }
    });
    eprintln!("{} calls, {} without error", calls.into_inner(), answered.into_inner());
    println!("survived");
}

/// One random call. Says whether it succeeded.
fn step(random: &mut Random) -> bool {
    let (number, args) = match random.below(12) {
        0..=2 => (libc::SYS_mmap, mmap(random)),
        3 | 4 => (libc::SYS_munmap, with(range(random), [0; 4])),
        5 | 6 => {
            let rights = if random.below(8) == 0 { random.word() } else { random.below(8) };
            (libc::SYS_mprotect, with(range(random), [rights, 0, 0, 0]))
        }
        7 | 8 => {
            let advice = match random.below(8) {
                0 => random.word(),
                1 => random.below(30),
                _ => libc::MADV_DONTNEED as usize,
            };
            (libc::SYS_madvise, with(range(random), [advice, 0, 0, 0]))
        }
        // The kernel itself touches the stretch: its copies must live through whatever it finds.
        9 => (libc::SYS_getrandom, with(inside(random), [0; 4])),
        10 => (libc::SYS_clock_gettime, [1, BASE + random.below(SPAN_PAGES * PAGE), 0, 0, 0, 0]),
        _ => {
            let word = BASE + random.below(SPAN_PAGES * PAGE / 4) * 4;
            // Wakes, and waits for a value that hardly any word has.
            let operation = [129, 128][random.below(2)];
            (libc::SYS_futex, [word, operation, 0x7abc_def1, ZERO.as_ptr() as usize, 0, 0])
        }
    };
    // SAFETY: only the stretch changes, which holds nothing of the program's.
    unsafe { raw::call(number, args) }.is_ok()
}

/// A time limit of nothing.
static ZERO: [u64; 2] = [0, 0];

fn mmap(random: &mut Random) -> [usize; 6] {
    let rights = random.below(8);
    let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE) as usize;
    match random.below(8) {
        // Without a place of our own: only sizes that are refused, or the mappings would pile up.
        0 => [0, [0, usize::MAX, 1 << 47, END][random.below(4)], rights, private, usize::MAX, 0],
        1 => [random.word(), 0, random.word(), random.word(), usize::MAX, 0],
        2 => with(range(random), [rights, private | libc::MAP_FIXED_NOREPLACE as usize, usize::MAX, 0]),
        _ => with(range(random), [rights, private | libc::MAP_FIXED as usize, usize::MAX, 0]),
    }
}

/// Address and length of some pages of the stretch.
fn inside(random: &mut Random) -> [usize; 2] {
    let first = random.below(SPAN_PAGES);
    let pages = 1 + random.below(SPAN_PAGES - first).min(1 << random.below(9));
    [BASE + first * PAGE, pages * PAGE]
}

/// Address and length: mostly inside the stretch, sometimes such that the call must refuse them.
fn range(random: &mut Random) -> [usize; 2] {
    let [address, len] = inside(random);
    match random.below(16) {
        0 => [address + 1 + random.below(PAGE - 1), len],
        1 => [address, len - random.below(PAGE)],
        2 => [address, usize::MAX - random.below(PAGE)],
        3 => [END + random.below(1 << 46), len],
        4 => [0xffff_8000_0000_0000 | random.word(), len],
        5 => [address, 0],
        _ => [address, len],
    }
}

fn with(range: [usize; 2], rest: [usize; 4]) -> [usize; 6] {
    [range[0], range[1], rest[0], rest[1], rest[2], rest[3]]
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn word(&mut self) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ x >> 31) as usize
    }

    fn below(&mut self, bound: usize) -> usize {
        self.word() % bound
    }
}
