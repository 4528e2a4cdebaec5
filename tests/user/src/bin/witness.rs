//! `witness [THREADS] [ROUNDS]`: says all that may differ between two runs: random bytes, addresses, the input, and for each
//! thread a digest of when it passed each step, on which CPU, and where its mappings lay. Two runs are the same when this is.
//!
//! Between the steps the threads do what makes schedules differ: they wait for each other, sleep, map, fault and unmap.

use std::io::Read;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use user::region::{Place, Region, Rights};

/// FNV-1a over words.
struct Digest(u64);

impl Digest {
    fn new() -> Digest {
        Digest(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
    }
}

fn main() {
    let threads = user::number(1, 4);
    let rounds = user::number(2, 40);
    let begin = Instant::now();
    // SAFETY: reads a counter; every x86_64 CPU has it.
    let since_reset = unsafe { std::arch::x86_64::_rdtsc() };
    println!("time stamp at the start: {since_reset}");

    let mut random = [0u8; 16];
    // SAFETY: a buffer of this length.
    let got = unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), 0) };
    user::must!(got == random.len() as isize, "getrandom gave {got} bytes");
    println!("random: {random:02x?}");
    println!("stack: {:p}", &raw const random);

    let mut input = Vec::new();
    if let Err(error) = std::io::stdin().read_to_end(&mut input) {
        user::wrong(format_args!("no input: {error}"));
    }
    let mut digest = Digest::new();
    input.iter().for_each(|&byte| digest.add(byte.into()));
    println!("input: {} bytes, {:016x}", input.len(), digest.0);

    let shared = Mutex::new(Digest::new());
    let digests: Vec<u64> = std::thread::scope(|scope| {
        let work = |thread| {
            let shared = &shared;
            move || steps(thread, rounds, begin, shared)
        };
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(work(thread))).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or(0)).collect()
    });
    for (thread, digest) in digests.iter().enumerate() {
        println!("thread {thread}: {digest:016x}");
    }
    let order = shared.lock().map_or(0, |digest| digest.0);
    println!("order: {order:016x}, {} ns", begin.elapsed().as_nanos());
}

/// One thread's steps; their digest.
fn steps(thread: u64, rounds: u64, begin: Instant, shared: &Mutex<Digest>) -> u64 {
    let mut digest = Digest::new();
    let mut step = |what: u64| {
        digest.add(what);
        digest.add(begin.elapsed().as_nanos() as u64);
        // SAFETY: only asks.
        digest.add(unsafe { libc::sched_getcpu() } as u64);
    };
    for round in 0..rounds {
        match Region::map(Place::Anywhere, 8, Rights::ReadWrite) {
            Ok(region) => {
                step(region.address() as u64);
                for page in 0..8 {
                    region.word(page, 0).store(round, std::sync::atomic::Ordering::Relaxed);
                }
            }
            Err(error) => user::wrong(format_args!("no mapping: {error}")),
        }
        step(round);
        if let Ok(mut order) = shared.lock() {
            order.add(thread);
            order.add(begin.elapsed().as_nanos() as u64);
        }
        if round % 4 == thread % 4 {
            std::thread::sleep(Duration::from_micros(20 + 7 * thread));
        }
        step(u64::MAX);
    }
    digest.0
}
