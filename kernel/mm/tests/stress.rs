//! Four CPUs map, unmap, protect, empty and touch one address space at once.
//!
//! Each CPU has pages of its own, interleaved with the others' so that they share page tables and neighbouring VMAs, and
//! knows what every word of them must be. Besides, all of them touch one shared mapping that one CPU keeps changing. At
//! the end every frame is accounted for.

use std::{process::Command, thread};

use abi::{
    Counter,
    flags::{madv, prot},
};
use mm::{
    FaultError, MMAP_BASE, MapRequest, PAGE_SIZE,
    testing::{Machine, Process, User},
};
use sync::testing::{planted, run_seed, shaken};

mod random;

use random::Random;

const RW: u32 = prot::READ | prot::WRITE;
const CPUS: u32 = 4;
const P: u64 = PAGE_SIZE;
/// The interleaved pages: chunks of 4, the n-th of them CPU n % 4's.
const BASE: u64 = 0x10_0000_0000 - 40 * P;
const CHUNK: u64 = 4;
const CHUNKS: u64 = 6;
/// Touched by all.
const SHARED: u64 = BASE + 4096 * P;
const SHARED_PAGES: u64 = 8;

/// What a CPU knows of one of its pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Page {
    prot: u32,
    word: u64,
}

struct Worker<'a> {
    process: &'a Process,
    user: &'a User<'a>,
    cpu: u64,
    random: Random,
    pages: [Option<Page>; (CHUNK * CHUNKS) as usize],
}

impl Worker<'_> {
    fn addr(&self, page: usize) -> u64 {
        let page = page as u64;
        BASE + ((page / CHUNK) * u64::from(CPUS) * CHUNK + self.cpu * CHUNK + page % CHUNK) * P
    }

    /// Some pages of one chunk.
    fn range(&mut self) -> core::ops::Range<usize> {
        let chunk = self.random.below(CHUNKS) * CHUNK;
        let first = self.random.below(CHUNK);
        let pages = 1 + self.random.below(CHUNK - first);
        (chunk + first) as usize..(chunk + first + pages) as usize
    }

    fn step(&mut self) {
        let range = self.range();
        let chunk = range.start - range.start % CHUNK as usize;
        let (addr, len) = (self.addr(range.start), range.len() as u64 * P);
        let space = &self.process.space;
        match self.random.below(12) {
            0 | 1 => {
                assert_eq!(space.mmap(MapRequest::fixed(addr, len, RW)), Ok(addr));
                self.pages[range].fill(Some(Page { prot: RW, word: 0 }));
            }
            2 => {
                assert_eq!(space.munmap(addr, len), Ok(()));
                self.pages[range].fill(None);
            }
            3 => {
                let prot = self.random.one_of(&[prot::NONE, prot::READ, RW]);
                let whole = self.pages[range.clone()].iter().all(Option::is_some);
                assert_eq!(space.mprotect(addr, len, prot).is_ok(), whole);
                for page in self.pages[range].iter_mut().map_while(Option::as_mut) {
                    page.prot = prot;
                }
            }
            4 => {
                let whole = self.pages[range.clone()].iter().all(Option::is_some);
                assert_eq!(space.madvise(addr, len, madv::DONTNEED).is_ok(), whole);
                for page in self.pages[range].iter_mut().flatten() {
                    page.word = 0;
                }
            }
            5 => self.touch_shared(),
            6 => self.private_round(),
            _ => range.for_each(|page| self.touch(page)),
        }
        // Nobody else's calls or faults concern our pages, and ours is over.
        let (first, last) = (self.addr(chunk), self.addr(chunk + CHUNK as usize - 1));
        self.process.check_tlbs_at(first..last + P);
        self.user.tick();
    }

    fn touch(&mut self, page: usize) {
        let addr = self.addr(page) + 8 * self.cpu;
        let word = self.random.below(u64::MAX / 2) + 1;
        match self.pages[page] {
            None => assert_eq!(self.user.load(addr), Err(FaultError::NoMapping)),
            Some(Page { prot: prot::NONE, .. }) => {
                assert!(matches!(self.user.load(addr), Err(FaultError::Denied { .. })));
            }
            Some(Page { prot, word: old }) => {
                assert_eq!(self.user.load(addr), Ok(old), "CPU {} at {addr:#x}", self.cpu);
                let stored = self.user.store(addr, word);
                assert_eq!(stored.is_ok(), prot == RW);
                if stored.is_ok() {
                    self.pages[page] = Some(Page { prot, word });
                }
            }
        }
    }

    /// Each word of the shared pages is 0 or its own address: anything else comes from somebody else's memory.
    fn touch_shared(&mut self) {
        for n in 0..SHARED_PAGES {
            let addr = SHARED + n * P + 8 * self.cpu;
            // The writer below may have taken the right to write, or all, just now.
            if let Ok(word) = self.user.load(addr) {
                assert!(word == 0 || word == addr, "{word:#x} at {addr:#x}");
            }
            let _ = self.user.store(addr, addr);
        }
        if self.cpu == 0 {
            let space = &self.process.space;
            let part = SHARED + self.random.below(SHARED_PAGES) * P;
            match self.random.below(4) {
                0 => space.mprotect(part, P, prot::READ).unwrap(),
                1 => space.madvise(SHARED, SHARED_PAGES * P, madv::DONTNEED).unwrap(),
                2 => assert_eq!(space.mmap(MapRequest::fixed(part, P, RW)), Ok(part)),
                _ => space.mprotect(SHARED, SHARED_PAGES * P, RW).unwrap(),
            }
        }
    }

    /// Maps where there is room, touches, unmaps: what allocators do.
    fn private_round(&mut self) {
        let space = &self.process.space;
        let addr = space.mmap(MapRequest::anonymous(3 * P, RW)).unwrap();
        assert!(addr < MMAP_BASE && addr > SHARED);
        for n in 0..3 {
            assert_eq!(self.user.load(addr + n * P), Ok(0), "fresh memory is empty");
            self.user.store(addr + n * P, addr).unwrap();
        }
        space.munmap(addr, 3 * P).unwrap();
    }
}

fn rounds() -> u64 {
    // More for a soak: TESSERA_STRESS_ROUNDS=1000000.
    std::env::var("TESSERA_STRESS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3000)
}

/// The mistake that this run shall make (`TESSERA_PLANT`): the first failed check then ends the process, for what is left of
/// the address space may keep other threads waiting for ever.
fn mistake() -> Option<&'static str> {
    let name = std::env::var("TESSERA_PLANT").ok()?;
    std::panic::set_hook(Box::new(|panic| {
        println!("found: {panic}");
        std::process::exit(1);
    }));
    Some(name.leak())
}

/// With one mistake planted, each in a process of its own: the stress must find it.
#[test]
fn planted_mistakes_are_found() {
    for mistake in ["gather-no-flush", "gather-flushes-self", "gather-frees-pages-first", "protect-no-flush"] {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "four_cpus_share_an_address_space", "--nocapture"]).env("TESSERA_PLANT", mistake);
        let run = again.output().unwrap();
        let out = String::from_utf8_lossy(&run.stdout);
        println!("{mistake}: {out}");
        assert!(run.status.code() == Some(1) && out.contains("found: "), "{mistake}: not found ({})", run.status);
    }
}

#[test]
fn four_cpus_share_an_address_space() {
    let (seed, mistake) = (run_seed(), mistake());
    let machine = Machine::new(8192);
    let before = machine.usage();
    let process = Process::seeded(machine, seed);
    machine.on_cpu(0, || process.space.mmap(MapRequest::fixed(SHARED, SHARED_PAGES * P, RW)).unwrap());
    thread::scope(|scope| {
        for cpu in 0..CPUS {
            let process = &process;
            scope.spawn(move || {
                let cpu_seed = u64::from(cpu) + 1;
                process.run_on(cpu, |user| {
                    let random = Random::new(seed.rotate_left(7) ^ cpu_seed);
                    let pages = [None; (CHUNK * CHUNKS) as usize];
                    let mut worker = Worker { process, user, cpu: u64::from(cpu), random, pages };
                    let mut rounds = || (0..rounds()).for_each(|_| worker.step());
                    shaken(seed, cpu_seed, || planted(mistake, &mut rounds));
                });
            });
        }
    });
    let counters = &machine.memory.counters;
    let total = |counter| counters.total(counter);
    assert!(total(Counter::FaultLocked) > 0 && total(Counter::Txn) > 0);
    for counter in Counter::ALL {
        println!("{:16} {}", counter.name(), total(*counter));
    }
    machine.on_cpu(0, || {
        drop(process);
        machine.drain();
    });
    // Callbacks that other CPUs have queued are theirs to run.
    for cpu in 1..CPUS {
        machine.on_cpu(cpu, || machine.drain());
    }
    let after = machine.usage();
    assert_eq!(after.owned, before.owned, "frames were lost");
    assert_eq!(after.available(), before.available());
}

/// Processes that live and die on all CPUs at once, each alone in its address space.
#[test]
fn processes_come_and_go() {
    let seed = run_seed();
    let machine = Machine::new(16384);
    let before = machine.usage();
    thread::scope(|scope| {
        for cpu in 0..CPUS {
            let rounds = move || {
                for round in 0..60 {
                    // On its own CPU: the caches of frames belong to one thread each.
                    let process = machine.on_cpu(cpu, || Process::new(machine));
                    process.run_on(cpu, |user| {
                        for n in 0..16 {
                            let addr = BASE + n * 300 * P;
                            process.space.mmap(MapRequest::fixed(addr, 2 * P, RW)).unwrap();
                            user.store(addr, round * n).unwrap();
                            assert_eq!(user.load(addr), Ok(round * n));
                        }
                        process.space.munmap(BASE + 300 * P, 900 * P).unwrap();
                        user.tick();
                    });
                    machine.on_cpu(cpu, || drop(process));
                }
            };
            scope.spawn(move || shaken(seed, cpu.into(), rounds));
        }
    });
    for cpu in 0..CPUS {
        machine.on_cpu(cpu, || machine.drain());
    }
    let after = machine.usage();
    assert_eq!(after.owned, before.owned, "frames were lost");
}
