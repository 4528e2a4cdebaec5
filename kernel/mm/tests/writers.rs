//! Several CPUs change one address space at once, in each other's way: what must hold whatever the order of their calls.
//!
//! [`stress`](../stress.rs) gives each CPU pages of its own. Here calls overlap: they fight for one range, claim the same
//! holes, grow and shrink the one heap, take page tables away that a neighbour is filling. Nobody can say beforehand what
//! a call will find; but `mmap` and `munmap` happen as a whole, in some order, and `mprotect` and `madvise` do for each
//! mapping. Each test checks what follows from that, the software TLBs check every frame that is freed, and at the end every
//! frame must be back.
//!
//! `TESSERA_SEED` repeats a run as far as the host's scheduler lets it, `TESSERA_STRESS_ROUNDS` makes it longer.

use std::{
    mem::ManuallyDrop,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use abi::{
    Counter, Errno,
    flags::{madv, map, prot},
};
use mm::{
    FaultError, MapRequest, PAGE_SIZE,
    testing::{Machine, Process, User},
};
use sync::testing::{run_seed, shaken};

mod random;

use random::Random;

const RW: u32 = prot::READ | prot::WRITE;
const CPUS: u64 = 4;
const P: u64 = PAGE_SIZE;
/// What one page table maps.
const TABLE: u64 = 512 * P;
/// A few pages below the end of a page table, and of a directory.
const BASE: u64 = 0x10_4000_0000 - 6 * P;

/// One CPU of the program.
struct Worker<'a> {
    process: &'a Process,
    user: &'a User<'a>,
    cpu: u64,
    random: Random,
    meeting: &'a Meeting,
}

impl Worker<'_> {
    /// Waits for the other CPUs. What is done between two meetings is done by all of them before anybody goes on.
    fn meet(&self) {
        // A CPU that waits is in no read section.
        self.user.tick();
        self.meeting.wait();
    }

    /// Meets the others; then one CPU alone runs `check`.
    fn meet_and_check(&self, check: impl FnOnce()) {
        self.meet();
        if self.cpu == 0 {
            check();
            self.process.check_tlbs();
        }
        self.meet();
    }
}

/// Runs `part` on all CPUs of a new program, after `prepare` on one of them; then every frame must be back.
fn play(prepare: impl FnOnce(&Process), part: impl Fn(&mut Worker<'_>) + Sync) {
    let seed = run_seed();
    let machine = Machine::new(16384);
    let before = machine.usage();
    // Not dropped if the test fails: nothing is known of it then.
    let process = machine.on_cpu(0, || ManuallyDrop::new(Process::seeded(machine, seed)));
    machine.on_cpu(0, || prepare(&process));
    let meeting = Meeting::new();
    thread::scope(|scope| {
        for cpu in 0..CPUS {
            let (process, part, meeting) = (&*process, &part, &meeting);
            scope.spawn(move || {
                let _left = Left(meeting);
                process.run_on(cpu as u32, |user| {
                    let random = Random::new(seed.rotate_left(9) ^ cpu);
                    let mut worker = Worker { process, user, cpu, random, meeting };
                    shaken(seed, cpu + 1, || part(&mut worker));
                });
            });
        }
    });
    for counter in Counter::ALL {
        println!("{:16} {}", counter.name(), machine.memory.counters.total(*counter));
    }
    process.check_tlbs();
    machine.on_cpu(0, || {
        drop(ManuallyDrop::into_inner(process));
        machine.drain();
    });
    // Callbacks that other CPUs have queued are theirs to run.
    (1..CPUS).for_each(|cpu| machine.on_cpu(cpu as u32, || machine.drain()));
    let after = machine.usage();
    assert_eq!(after.owned, before.owned, "frames were lost");
    assert_eq!(after.available(), before.available());
}

/// Where all CPUs of a program meet: a barrier that a failed CPU ends for all, instead of leaving them there.
struct Meeting {
    /// CPUs that have arrived so far, in all meetings; none once a CPU has failed.
    arrived: Mutex<Option<u64>>,
    all_there: Condvar,
}

impl Meeting {
    fn new() -> Meeting {
        Meeting { arrived: Mutex::new(Some(0)), all_there: Condvar::new() }
    }

    fn arrived(&self) -> MutexGuard<'_, Option<u64>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        let mut arrived = self.arrived();
        let own = arrived.map_or(0, |before| before + 1);
        *arrived = arrived.map(|_| own);
        self.all_there.notify_all();
        let last = own.next_multiple_of(CPUS);
        while arrived.is_some_and(|arrived| arrived < last) {
            arrived = self.all_there.wait(arrived).unwrap_or_else(PoisonError::into_inner);
        }
        assert!(arrived.is_some(), "another CPU has failed");
    }
}

/// A CPU leaves the program: if it fails, nobody waits for it.
struct Left<'a>(&'a Meeting);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            *self.0.arrived() = None;
            self.0.all_there.notify_all();
        }
    }
}

/// `usual`, or what a soak asks for.
fn rounds(usual: u64) -> u64 {
    std::env::var("TESSERA_STRESS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(usual)
}

/// A word that somebody left at `addr`, or that nobody has written yet: each CPU writes only the address itself.
fn check_word(user: &User<'_>, addr: u64) {
    match user.load(addr) {
        Ok(word) => assert!(word == 0 || word == addr, "{word:#x} at {addr:#x}: somebody else's memory"),
        Err(error) => assert_ne!(error, FaultError::OutOfMemory, "the machine is large enough"),
    }
}

/// Everything at once on a few pages: calls overlap in every way, and faults come between.
#[test]
fn overlapping_calls_of_all_kinds() {
    const PAGES: u64 = 24;
    play(
        |_| {},
        |worker| {
            let Worker { process: Process { space, .. }, user, .. } = *worker;
            for round in 0..rounds(2000) {
                let first = worker.random.below(PAGES);
                let (at, len) = (BASE + first * P, (1 + worker.random.below(PAGES - first)) * P);
                match worker.random.below(10) {
                    0 | 1 => assert_eq!(space.mmap(MapRequest::fixed(at, len, RW)), Ok(at)),
                    2 => {
                        let populated = map::FIXED | map::PRIVATE | map::ANONYMOUS | map::POPULATE;
                        let request = MapRequest { addr: at, len, prot: RW, flags: populated };
                        assert_eq!(space.mmap(request), Ok(at));
                    }
                    3 | 4 => assert_eq!(space.munmap(at, len), Ok(())),
                    5 => {
                        let rights = worker.random.one_of(&[prot::NONE, prot::READ, RW]);
                        let done = space.mprotect(at, len, rights);
                        assert!(matches!(done, Ok(()) | Err(Errno::ENOMEM)), "{done:?}");
                    }
                    6 => {
                        let done = space.madvise(at, len, worker.random.one_of(&[madv::DONTNEED, madv::RANDOM]));
                        assert!(matches!(done, Ok(()) | Err(Errno::ENOMEM)), "{done:?}");
                    }
                    _ => {
                        // Denied, or not there: anything but somebody else's word.
                        let own = at + 8 * worker.cpu;
                        let _ = user.store(own, own);
                        (0..CPUS).for_each(|cpu| check_word(user, at + 8 * cpu));
                    }
                }
                user.tick();
                if round % 100 == 99 {
                    worker.meet_and_check(|| well_formed(worker.process));
                }
            }
        },
    );
}

/// Mappings are in order, do not overlap, and hold whole pages; and the tree counts them right.
fn well_formed(process: &Process) {
    let all = process.mappings();
    for vma in &all {
        assert!(vma.start < vma.end && vma.start % P == 0 && vma.end % P == 0, "{vma:?}");
    }
    for pair in all.windows(2) {
        assert!(pair[0].end <= pair[1].start, "{:?} overlaps {:?}", pair[0], pair[1]);
    }
    assert_eq!(all.len(), process.space.mapping_count());
}

/// All CPUs call for exactly the same range at the same time. Whoever comes last, all its pages must be there, or none; and
/// alike, if nobody but `mmap` changed rights.
#[test]
fn calls_happen_as_a_whole() {
    const PAGES: u64 = 12;
    const LEN: u64 = PAGES * P;
    play(
        |_| {},
        |worker| {
            let Worker { process: Process { space, .. }, user, .. } = *worker;
            for round in 0..rounds(400) {
                let protects = round % 2 == 1;
                // In pieces, so that there is much to mark, on both sides of a page table's end.
                worker.meet_and_check(|| {
                    space.munmap(BASE, LEN).unwrap();
                    for page in 0..PAGES {
                        let rights = [RW, prot::READ][page as usize % 2];
                        space.mmap(MapRequest::fixed(BASE + page * P, P, rights)).unwrap();
                    }
                });
                match worker.random.below(5) {
                    0 => assert_eq!(space.munmap(BASE, LEN), Ok(())),
                    1..=3 if protects => {
                        let done = space.mprotect(BASE, LEN, worker.random.one_of(&[prot::NONE, prot::READ, RW]));
                        assert!(matches!(done, Ok(()) | Err(Errno::ENOMEM)), "{done:?}");
                    }
                    _ => {
                        let rights = worker.random.one_of(&[prot::READ, RW]);
                        assert_eq!(space.mmap(MapRequest::fixed(BASE, LEN, rights)), Ok(BASE));
                    }
                }
                let own = BASE + worker.random.below(PAGES) * P + 8 * worker.cpu;
                let _ = user.store(own, own);
                check_word(user, own);
                worker.meet_and_check(|| {
                    well_formed(worker.process);
                    let all = worker.process.mappings();
                    let covered: u64 = all.iter().map(|vma| vma.end - vma.start).sum();
                    assert!(covered == 0 || covered == LEN, "half a call: {all:?}");
                    let alike = all.windows(2).all(|pair| pair[0].rights == pair[1].rights);
                    assert!(alike || protects, "half a call: {all:?}");
                });
            }
        },
    );
}

/// All CPUs claim the same few holes (`MAP_FIXED_NOREPLACE`). A claim that succeeds is theirs alone: it is empty, keeps what
/// they write, and its page table, which it shares with its neighbours or has for itself, is there as long as it is.
#[test]
fn a_claimed_hole_is_nobody_elses() {
    const SLOTS: u64 = 6;
    // Two at each end of a page table: one table goes and comes with each pair. They differ in length.
    fn slot(n: u64) -> (u64, u64) {
        (BASE + n / 2 * TABLE + n % 2 * 3 * P, (1 + n % 3) * P)
    }
    static OWNERS: [AtomicU64; SLOTS as usize] = [const { AtomicU64::new(0) }; SLOTS as usize];
    play(
        |_| {},
        |worker| {
            let Worker { process: Process { space, .. }, user, cpu, .. } = *worker;
            for round in 0..rounds(3000) {
                let n = worker.random.below(SLOTS);
                let (at, len) = slot(n);
                let flags = map::FIXED_NOREPLACE | map::PRIVATE | map::ANONYMOUS;
                match space.mmap(MapRequest { addr: at, len, prot: RW, flags }) {
                    Err(error) => assert_eq!(error, Errno::EEXIST),
                    Ok(got) => {
                        assert_eq!(got, at);
                        // Relaxed: a count that must never be more than one.
                        assert_eq!(OWNERS[n as usize].fetch_add(1, Ordering::Relaxed), 0, "{at:#x} has two owners");
                        let word = round << 8 | cpu << 1 | 1;
                        for page in (at..at + len).step_by(P as usize) {
                            assert_eq!(user.load(page), Ok(0), "a claimed hole is empty");
                            user.store(page + 16, word).unwrap();
                        }
                        if worker.random.below(2) == 0 {
                            space.mprotect(at, len, prot::READ).unwrap();
                            assert!(matches!(user.store(at, 1), Err(FaultError::Denied { .. })));
                        }
                        for page in (at..at + len).step_by(P as usize) {
                            assert_eq!(user.load(page + 16), Ok(word));
                        }
                        OWNERS[n as usize].fetch_sub(1, Ordering::Relaxed);
                        space.munmap(at, len).unwrap();
                    }
                }
                user.tick();
            }
        },
    );
}

/// What an allocator does, on all CPUs: maps wherever there is room, keeps some, gives parts back. Nobody is given what
/// another one has.
#[test]
fn nobody_is_given_what_another_has() {
    /// Pages of one CPU, and the word in each.
    struct Piece {
        at: u64,
        pages: u64,
        word: u64,
    }
    play(
        |_| {},
        |worker| {
            let Worker { process: Process { space, .. }, user, cpu, .. } = *worker;
            let mut pieces: Vec<Piece> = Vec::new();
            for round in 0..rounds(1500) {
                if pieces.len() < 8 && worker.random.below(2) == 0 {
                    let pages = 1 + worker.random.below(6);
                    let at = space.mmap(MapRequest::anonymous(pages * P, RW)).unwrap();
                    let word = round << 8 | cpu << 1 | 1;
                    for page in 0..pages {
                        assert_eq!(user.load(at + page * P), Ok(0), "fresh memory is empty");
                        user.store(at + page * P, word).unwrap();
                    }
                    pieces.push(Piece { at, pages, word });
                } else if !pieces.is_empty() {
                    let place = worker.random.below(pieces.len() as u64) as usize;
                    let Piece { at, pages, word } = pieces[place];
                    for page in 0..pages {
                        assert_eq!(user.load(at + page * P), Ok(word), "CPU {cpu} at {:#x}", at + page * P);
                    }
                    match worker.random.below(4) {
                        0 if pages > 1 => {
                            // The front goes; what is left has a new neighbour.
                            space.munmap(at, P).unwrap();
                            pieces[place] = Piece { at: at + P, pages: pages - 1, word };
                        }
                        1 => {
                            space.mprotect(at, pages * P, prot::READ).unwrap();
                            assert!(matches!(user.store(at, 1), Err(FaultError::Denied { .. })));
                            space.mprotect(at, pages * P, RW).unwrap();
                        }
                        2 => {
                            space.madvise(at, pages * P, madv::DONTNEED).unwrap();
                            assert_eq!(user.load(at), Ok(0), "emptied memory");
                            (0..pages).for_each(|page| user.store(at + page * P, word).unwrap());
                        }
                        _ => {
                            space.munmap(at, pages * P).unwrap();
                            pieces.swap_remove(place);
                        }
                    }
                }
                user.tick();
            }
            for Piece { at, pages, .. } in pieces {
                space.munmap(at, pages * P).unwrap();
            }
            worker.meet_and_check(|| assert_eq!(worker.process.mappings(), []));
        },
    );
}

/// All CPUs move the one program break up and down, touch the heap, and map and unmap right above it.
#[test]
fn the_break_is_moved_by_all() {
    const HEAP: u64 = 0x20_0000_0000 - 4 * P;
    const MOST: u64 = 12;
    play(
        |process| process.space.set_brk_start(HEAP),
        |worker| {
            let Worker { process: Process { space, .. }, user, cpu, .. } = *worker;
            for round in 0..rounds(2000) {
                match worker.random.below(6) {
                    0..=2 => {
                        let wanted = HEAP + worker.random.below(MOST * P);
                        let now = space.brk(wanted);
                        assert!((HEAP..HEAP + MOST * P).contains(&now), "a break at {now:#x}");
                    }
                    3 => {
                        // In the heap's way, or refused: with a page between them the break can end anywhere.
                        let at = HEAP + (2 + worker.random.below(MOST)) * P;
                        let flags = map::FIXED_NOREPLACE | map::PRIVATE | map::ANONYMOUS;
                        // Not writable: so it never becomes one with the heap, and is told apart below.
                        match space.mmap(MapRequest { addr: at, len: P, prot: prot::READ, flags }) {
                            Ok(_) => {
                                assert_eq!(user.load(at), Ok(0), "a claimed hole is empty");
                                space.munmap(at, P).unwrap();
                            }
                            Err(error) => assert_eq!(error, Errno::EEXIST),
                        }
                    }
                    _ => {
                        let own = HEAP + worker.random.below(MOST) * P + 8 * cpu;
                        let _ = user.store(own, own);
                        check_word(user, own);
                    }
                }
                user.tick();
                if round % 50 == 49 {
                    worker.meet_and_check(|| {
                        well_formed(worker.process);
                        let end = space.brk(0);
                        let heap: u64 = worker.process.mappings().iter().map(|vma| vma.end - vma.start).sum();
                        assert_eq!(heap, end.next_multiple_of(P) - HEAP, "the heap is what lies below the break");
                    });
                }
            }
            worker.meet_and_check(|| {
                assert_eq!(space.brk(HEAP), HEAP);
                assert_eq!(worker.process.mappings(), []);
            });
        },
    );
}

/// Rings: each CPU changes the rights of its own pages and its neighbour's in one call, so that each meets two others and
/// all of them can wait for each other in a circle. Everybody's last call is seen.
#[test]
fn circles_of_calls_are_resolved() {
    const PIECE: u64 = 3;
    play(
        |process| {
            for cpu in 0..CPUS {
                // Rights that differ keep them apart.
                let rights = [RW, prot::READ][cpu as usize % 2];
                process.space.mmap(MapRequest::fixed(BASE + cpu * PIECE * P, PIECE * P, rights)).unwrap();
            }
        },
        |worker| {
            let Worker { process: Process { space, .. }, user, cpu, .. } = *worker;
            // All but the last: two neighbours. The last: everything, and thus both ends of the ring.
            let (first, pieces) = if cpu + 1 < CPUS { (cpu, 2) } else { (0, CPUS) };
            let (at, len) = (BASE + first * PIECE * P, pieces * PIECE * P);
            for round in 0..rounds(600) {
                let rights = [RW, prot::READ, prot::NONE][(round + cpu) as usize % 3];
                assert_eq!(space.mprotect(at, len, rights), Ok(()), "it is always mapped");
                assert_eq!(space.madvise(at, len, madv::DONTNEED), Ok(()));
                check_word(user, at + 8 * cpu);
                let _ = user.store(at + 8 * cpu, at + 8 * cpu);
                user.tick();
                if round % 20 == 19 {
                    worker.meet();
                    // Each alone, in an order that chance decides; the last one's rights are on all that it changed.
                    assert_eq!(space.mprotect(at, len, rights), Ok(()));
                    worker.meet_and_check(|| {
                        well_formed(worker.process);
                        let covered: u64 = worker.process.mappings().iter().map(|vma| vma.end - vma.start).sum();
                        assert_eq!(covered, CPUS * PIECE * P);
                        assert!(worker.process.mappings().len() <= CPUS as usize, "pieces of calls");
                    });
                }
            }
        },
    );
}

/// One CPU empties the whole address space again and again (`exit`), while the others map, fault, and cut mappings. Each end
/// finishes, and after it nothing of what was there before is found; what the others have at that time they may lose.
#[test]
fn the_end_of_everything_always_finishes() {
    play(
        |_| {},
        |worker| {
            let Worker { process: Process { space, .. }, user, cpu, .. } = *worker;
            for round in 0..rounds(120) {
                if cpu == 0 {
                    for piece in 0..20 {
                        // Alternating rights: mappings that do not become one.
                        let rights = if piece % 2 == 0 { RW } else { prot::READ };
                        space.mmap(MapRequest::fixed(2 * BASE + piece * P, P, rights)).unwrap();
                    }
                    let _ = user.store(2 * BASE, round);
                    space.exit();
                    assert_eq!(user.load(2 * BASE), Err(FaultError::NoMapping), "round {round}");
                } else {
                    for _ in 0..8 {
                        let at = BASE + worker.random.below(40) * P;
                        match worker.random.below(4) {
                            0 => drop(space.munmap(at, 3 * P)),
                            1 => drop(space.mprotect(at, 2 * P, prot::READ)),
                            _ => {
                                space.mmap(MapRequest::fixed(at, 4 * P, RW)).unwrap();
                                // It may be gone already.
                                let _ = user.store(at + P, 1);
                            }
                        }
                        user.tick();
                    }
                }
                user.tick();
            }
            worker.meet();
            if cpu == 0 {
                space.exit();
                assert_eq!(worker.process.mappings(), []);
            }
            worker.meet();
        },
    );
}
