//! What each CPU did in each window, instruction by instruction.
//!
//! A virtual CPU writes its own part only, so counting takes no lock and no locked instruction. Tables appear when they
//! are first needed, on the CPU that needs them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::marker::{self, Marker, WINDOWS};

use crate::lines::Access;
use crate::sites::{MAX_SITES, Site};
use crate::watched::Watched;

/// Instructions in one table.
const TABLE_SITES: usize = 1024;

/// What was counted of one instruction.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) run: AtomicU64,
    pub(crate) locked: AtomicU64,
    pub(crate) shared_reads: AtomicU64,
    pub(crate) shared_writes: AtomicU64,
}

/// A counter that only one thread writes: a plain addition.
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}

/// One CPU's counts in one window.
struct Window {
    tables: Box<[OnceLock<Box<[Counts]>>]>,
}

impl Window {
    fn new() -> Window {
        Window { tables: (0..MAX_SITES / TABLE_SITES).map(|_| OnceLock::new()).collect() }
    }

    fn of(&self, site: Site) -> &Counts {
        let table = self.tables[site as usize / TABLE_SITES]
            .get_or_init(|| (0..TABLE_SITES).map(|_| Counts::default()).collect());
        &table[site as usize % TABLE_SITES]
    }
}

const NO_SITE: u32 = u32::MAX;

/// One virtual CPU's part; on lines of its own.
#[repr(align(128))]
struct Cpu {
    /// Windows that are open here: one bit each.
    open: AtomicU32,
    /// The string instruction that ran last, if nothing ran after it.
    repeating: AtomicU32,
    /// 1: what runs is an interrupt's.
    interrupted: AtomicU32,
    windows: [OnceLock<Window>; WINDOWS],
}

/// All that is counted.
pub(crate) struct Counter {
    /// Windows that are open on all CPUs.
    open_everywhere: AtomicU32,
    cpus: Box<[Cpu]>,
}

impl Counter {
    pub(crate) fn new(cpus: usize) -> Counter {
        let cpu = |_| Cpu {
            open: AtomicU32::new(0),
            repeating: AtomicU32::new(NO_SITE),
            interrupted: AtomicU32::new(0),
            windows: std::array::from_fn(|_| OnceLock::new()),
        };
        Counter { open_everywhere: AtomicU32::new(0), cpus: (0..cpus).map(cpu).collect() }
    }

    pub(crate) fn cpus(&self) -> usize {
        self.cpus.len()
    }

    /// CPU `cpu` executes a marker.
    pub(crate) fn mark(&self, cpu: u32, marker: Marker) {
        let bit = 1 << marker.window;
        let here = &self.cpus[cpu as usize];
        here.repeating.store(NO_SITE, Ordering::Relaxed);
        // Relaxed: a CPU sees its own stores, and that the others begin and end a little later is what "at once" means
        // for them.
        match marker.kind {
            marker::Kind::Begin => here.open.fetch_or(bit, Ordering::Relaxed),
            marker::Kind::End => here.open.fetch_and(!bit, Ordering::Relaxed),
            marker::Kind::BeginAll => self.open_everywhere.fetch_or(bit, Ordering::Relaxed),
            marker::Kind::EndAll => self.open_everywhere.fetch_and(!bit, Ordering::Relaxed),
            marker::Kind::Arm => 0,
        };
    }

    /// The windows that are open for what CPU `cpu` does now: one bit each, none in an interrupt that is left out.
    #[inline]
    pub(crate) fn open(&self, cpu: u32) -> u32 {
        let here = &self.cpus[cpu as usize];
        if here.interrupted.load(Ordering::Relaxed) != 0 {
            return 0;
        }
        here.open.load(Ordering::Relaxed) | self.open_everywhere.load(Ordering::Relaxed)
    }

    /// CPU `cpu` begins an instruction. Returns the windows in which it counts.
    #[inline]
    pub(crate) fn begins(&self, cpu: u32, what: Watched) -> u32 {
        let interrupted = &self.cpus[cpu as usize].interrupted;
        if what.has(Watched::INTERRUPT) {
            interrupted.store(1, Ordering::Relaxed);
        }
        let open = self.open(cpu);
        if what.has(Watched::RETURN) {
            interrupted.store(0, Ordering::Relaxed); // from the next one on
        }
        open
    }

    /// CPU `cpu` begins an instruction, which counts in the windows `open`.
    #[inline]
    pub(crate) fn count(&self, cpu: u32, open: u32, what: Watched) {
        let here = &self.cpus[cpu as usize];
        let goes_on = here.repeating.load(Ordering::Relaxed) == what.site();
        here.repeating.store(if what.has(Watched::REPEATED) { what.site() } else { NO_SITE }, Ordering::Relaxed);
        if goes_on {
            return;
        }
        for window in bits(open) {
            let counts = here.windows[window].get_or_init(Window::new).of(what.site());
            add(&counts.run, 1);
            if what.has(Watched::LOCKED) {
                add(&counts.locked, 1);
            }
        }
    }

    /// CPU `cpu` touched `lines` lines that another CPU had written since.
    pub(crate) fn shared(&self, cpu: u32, open: u32, what: Watched, access: Access, lines: u64) {
        for window in bits(open) {
            let counts = self.cpus[cpu as usize].windows[window].get_or_init(Window::new).of(what.site());
            match access {
                Access::Read => add(&counts.shared_reads, lines),
                Access::Write => add(&counts.shared_writes, lines),
            }
        }
    }

    /// Calls `f` with window, CPU, instruction and counts of all that was counted.
    pub(crate) fn for_each(&self, mut f: impl FnMut(usize, usize, Site, &Counts)) {
        for window in 0..WINDOWS {
            for (index, cpu) in self.cpus.iter().enumerate() {
                let Some(counted) = cpu.windows[window].get() else { continue };
                for (number, table) in counted.tables.iter().enumerate() {
                    let Some(table) = table.get() else { continue };
                    for (at, counts) in table.iter().enumerate() {
                        let all = [&counts.run, &counts.shared_reads, &counts.shared_writes];
                        if all.iter().any(|count| count.load(Ordering::Relaxed) != 0) {
                            f(window, index, (number * TABLE_SITES + at) as Site, counts);
                        }
                    }
                }
            }
        }
    }
}

/// The numbers of the bits that are set.
fn bits(mut set: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = set.trailing_zeros() as usize;
        set &= set.wrapping_sub(1);
        (lowest < u32::BITS as usize).then_some(lowest)
    })
}

#[cfg(test)]
mod tests {
    use abi::marker::Kind;

    use super::*;

    fn say(counter: &Counter, cpu: u32, kind: Kind, window: u32) {
        counter.mark(cpu, Marker { kind, window });
    }

    fn run(counter: &Counter, cpu: u32, site: Site, flags: u64) {
        let what = Watched::new(site, flags);
        counter.count(cpu, counter.begins(cpu, what), what);
    }

    /// Window, CPU, site, and the four counts.
    fn all(counter: &Counter) -> Vec<(usize, usize, Site, [u64; 4])> {
        let mut all = Vec::new();
        counter.for_each(|window, cpu, site, counts| {
            let counts = [&counts.run, &counts.locked, &counts.shared_reads, &counts.shared_writes];
            all.push((window, cpu, site, counts.map(|count| count.load(Ordering::Relaxed))));
        });
        all
    }

    #[test]
    fn only_open_windows_count_and_only_where_they_are_open() {
        let counter = Counter::new(2);
        run(&counter, 0, 5, 0);
        say(&counter, 0, Kind::Begin, 3);
        run(&counter, 0, 5, 0);
        run(&counter, 1, 5, 0);
        say(&counter, 1, Kind::BeginAll, 7);
        run(&counter, 0, 5, Watched::LOCKED);
        run(&counter, 1, 6000, 0);
        say(&counter, 0, Kind::End, 3);
        say(&counter, 0, Kind::EndAll, 7);
        run(&counter, 0, 5, 0);
        assert_eq!(all(&counter), [(3, 0, 5, [2, 1, 0, 0]), (7, 0, 5, [1, 1, 0, 0]), (7, 1, 6000, [1, 0, 0, 0])]);
    }

    #[test]
    fn a_string_instruction_is_one_however_often_it_repeats() {
        let counter = Counter::new(1);
        say(&counter, 0, Kind::Begin, 0);
        for _ in 0..512 {
            run(&counter, 0, 9, Watched::REPEATED);
        }
        assert_eq!(all(&counter), [(0, 0, 9, [1, 0, 0, 0])]);
        run(&counter, 0, 10, 0);
        run(&counter, 0, 9, Watched::REPEATED);
        run(&counter, 0, 9, Watched::REPEATED);
        assert_eq!(all(&counter), [(0, 0, 9, [2, 0, 0, 0]), (0, 0, 10, [1, 0, 0, 0])]);
    }

    #[test]
    fn interrupts_are_left_out_up_to_their_return() {
        let counter = Counter::new(2);
        say(&counter, 0, Kind::BeginAll, 1);
        run(&counter, 0, 1, 0);
        run(&counter, 0, 2, Watched::INTERRUPT);
        run(&counter, 0, 3, Watched::INTERRUPT);
        run(&counter, 0, 4, 0);
        run(&counter, 1, 4, 0);
        assert_eq!(counter.open(0), 0);
        run(&counter, 0, 5, Watched::RETURN);
        run(&counter, 0, 6, 0);
        run(&counter, 0, 7, Watched::RETURN);
        let ran: Vec<_> = all(&counter).into_iter().map(|(_, cpu, site, counts)| (cpu, site, counts[0])).collect();
        assert_eq!(ran, [(0, 1, 1), (0, 6, 1), (0, 7, 1), (1, 4, 1)]);
    }

    #[test]
    fn shared_lines_stand_beside_the_instructions() {
        let counter = Counter::new(1);
        counter.shared(0, 0b10, Watched::new(4, 0), Access::Read, 2);
        counter.shared(0, 0b10, Watched::new(4, 0), Access::Write, 1);
        counter.shared(0, 0, Watched::new(4, 0), Access::Write, 1);
        assert_eq!(all(&counter), [(1, 0, 4, [0, 0, 2, 1])]);
    }

    #[test]
    fn bits_are_found_from_the_lowest_up() {
        assert_eq!(bits(0).count(), 0);
        assert_eq!(bits(0x8000_8001).collect::<Vec<_>>(), [0, 15, 31]);
    }
}
