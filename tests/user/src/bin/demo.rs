//! The demonstration behind `cargo run`: more threads than CPUs change one address space and fault in it at the same
//! time, and every byte is checked after every step.
//!
//! `demo [THREADS] [ROUNDS] [PAGES]`. Ends with status 1 and a line on standard error at the first wrong byte.
//!
//! Five acts: regions that lie apart (each thread faults in VMAs of its own), regions that the kernel merges (neighbours'
//! calls mark the VMA in which a thread faults), regions where the kernel puts them, one mapping that all threads fault in
//! at once while its edges are cut off and grown back, and threads that come and go.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;
use user::churn::{self, Done, Layout, Plan, Probes};
use user::must;
use user::pattern::Pattern;
use user::region::{Place, Region, Rights};

/// One word in this many is written and checked: one a cache line.
const STRIDE: usize = 8;

/// Sizes, from the command line.
#[derive(Clone, Copy)]
struct Size {
    threads: usize,
    rounds: u64,
    pages: usize,
}

fn main() {
    let cpus = user::raw::cpus();
    let size = Size {
        threads: user::number(1, (2 * cpus).max(4) as u64) as usize,
        rounds: user::number(2, 40),
        pages: user::number(3, 32) as usize,
    };
    must!(
        size.threads > 0 && size.pages >= 4 && size.pages.is_multiple_of(2),
        "at least one thread, 4 pages, an even number"
    );
    println!("{} threads on {cpus} CPUs change one address space, and fault in it, at the same time.", size.threads);
    println!("Each round: map, fill, check, make read-only, check, make writable, discard half, fill, check, unmap.");
    println!();

    let begin = Instant::now();
    let mut total = Done::default();
    total += act("apart", "a PROT_NONE page parts the threads' regions: no two threads share a VMA", || {
        rounds(size, Layout::Apart)
    });
    total += act("merged", "neighbouring regions are one VMA: calls of one thread lock what others fault in", || {
        rounds(size, Layout::Merged)
    });
    total += act("placed", "the kernel finds a free place for each region, anew in every round", || {
        rounds(size, Layout::Placed)
    });
    total +=
        act("shared", "all fault in one VMA, interleaved, while its ends are cut off and grow back", || shared(size));
    total += act("passing", "threads start, fault on new stacks, and end, by the dozen", || passing(size));
    println!();
    println!(
        "total: {} page faults expected, {} verified, every byte right, {:.2} s",
        grouped(total.touches),
        mebibytes(total.checked),
        begin.elapsed().as_secs_f64()
    );
}

/// Runs one act between its heading and its result.
fn act(name: &str, idea: &str, play: impl FnOnce() -> Done) -> Done {
    println!("{name:<8} {idea}");
    let begin = Instant::now();
    let done = play();
    println!(
        "         {} pages touched for the first time, {} verified, {:.2} s",
        grouped(done.touches),
        mebibytes(done.checked),
        begin.elapsed().as_secs_f64()
    );
    done
}

fn rounds(size: Size, layout: Layout) -> Done {
    let Size { threads, rounds, pages } = size;
    churn::run(Plan { layout, threads, rounds, pages, stride: STRIDE, probes: Probes::LastRound })
}

/// One mapping for all threads. Thread `t` touches the pages `t`, `t + threads`, ...; then every thread checks every
/// page, whoever wrote it. Meanwhile one more thread cuts pages off both ends of the mapping by changing their rights,
/// so that its VMA is split and merged under the faulting threads.
fn shared(size: Size) -> Done {
    let Size { threads, rounds, pages } = size;
    // Pages at either end that only the cutting thread uses.
    let edge = 4;
    let middle = threads * pages;
    let rounds = (rounds / 2).max(1);
    let region = Region::map(Place::Anywhere, middle + 2 * edge, Rights::ReadWrite)
        .unwrap_or_else(|errno| user::wrong(format_args!("mmap failed: {errno}")));
    let barrier = Barrier::new(threads);
    let over = AtomicBool::new(false);
    let mut sum = Done::default();
    std::thread::scope(|scope| {
        let cutter = scope.spawn(|| cut_edges(&region, edge, &over));
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (region, barrier) = (&region, &barrier);
                scope.spawn(move || {
                    let mut done = Done::default();
                    for round in 0..rounds {
                        done += share(region, barrier, edge..edge + middle, thread, threads, round);
                    }
                    done
                })
            })
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(done) => sum += done,
                Err(_) => user::wrong(format_args!("a thread panicked")),
            }
        }
        over.store(true, Relaxed);
        match cutter.join() {
            Ok(done) => sum += done,
            Err(_) => user::wrong(format_args!("a thread panicked")),
        }
    });
    sum
}

/// One thread's part of a round in the shared mapping.
fn share(
    region: &Region,
    barrier: &Barrier,
    pages: std::ops::Range<usize>,
    thread: usize,
    threads: usize,
    round: u64,
) -> Done {
    let mut done = Done::default();
    let content = |page: usize| Pattern::new((page - pages.start) % threads, round, page, STRIDE);
    for page in (pages.start + thread..pages.end).step_by(threads) {
        content(page).fill_fresh(region, page);
        done.touches += 1;
    }
    barrier.wait();
    done.checked += pages.clone().map(|page| content(page).check(region, page)).sum::<u64>();
    // Nobody discards a page that somebody still checks.
    if barrier.wait().is_leader()
        && let Err(errno) = region.discard(pages)
    {
        user::wrong(format_args!("madvise failed: {errno}"));
    }
    barrier.wait();
    done
}

/// Takes the rights off the pages at both ends and gives them back, until it is `over`. Its two own pages keep their
/// content.
fn cut_edges(region: &Region, edge: usize, over: &AtomicBool) -> Done {
    let mut done = Done::default();
    let ends = [0..edge, region.pages() - edge..region.pages()];
    let content = |page| Pattern::new(usize::from(u16::MAX), 0, page, STRIDE);
    for end in &ends {
        content(end.start).fill_fresh(region, end.start);
        done.touches += 1;
    }
    while !over.load(Relaxed) {
        for end in &ends {
            for rights in [Rights::None, Rights::ReadWrite] {
                if let Err(errno) = region.protect(end.clone(), rights) {
                    user::wrong(format_args!("mprotect failed: {errno}"));
                }
            }
            done.checked += content(end.start).check(region, end.start);
        }
        std::thread::yield_now();
    }
    done
}

/// Threads in groups, each of which fills and checks a small region and ends.
fn passing(size: Size) -> Done {
    let mut sum = Done::default();
    for group in 0..(size.rounds / 4).max(1) {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..size.threads).map(|thread| scope.spawn(move || pass(thread, group))).collect();
            for worker in workers {
                match worker.join() {
                    Ok(done) => sum += done,
                    Err(_) => user::wrong(format_args!("a thread panicked")),
                }
            }
        });
    }
    sum
}

fn pass(thread: usize, group: u64) -> Done {
    let mut done = Done::default();
    let region = Region::map(Place::Anywhere, 4, Rights::ReadWrite)
        .unwrap_or_else(|errno| user::wrong(format_args!("mmap failed: {errno}")));
    for page in 0..region.pages() {
        let content = Pattern::new(thread, group, page, STRIDE);
        content.fill_fresh(&region, page);
        done.touches += 1;
        done.checked += content.check(&region, page);
    }
    done
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
