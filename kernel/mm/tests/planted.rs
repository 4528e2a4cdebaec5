//! Mistakes around TLBs, planted one by one: a short program that comes by each must fail with it, and pass without.
//!
//! Each `mutant("name")` of this crate's sources has its program here, or a model in `shuttle.list`. Random programs (`model`) and stress find most of them, too.

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::mpsc::channel,
    thread,
};

use abi::{
    ReadProtocol,
    flags::{madv, prot},
};
use mm::{
    MapRequest, Owner, PAGE_SIZE,
    testing::{Machine, Process, User, chosen_pair},
};
use sync::{
    CpuId,
    testing::{at_point, is_planted, on_cpu, planted},
};

const RW: u32 = prot::READ | prot::WRITE;
const BASE: u64 = 0x10_0000_0000;
const P: u64 = PAGE_SIZE;
/// What a page table spans.
const TABLE: u64 = 512 * P;

/// A program on CPUs 0 and 1, both played by one thread.
type Program = fn(&Process, [&User<'_>; 2]);

const PROGRAMS: [(&str, Program); 12] = [
    ("gather-no-flush", unmap_touched),
    ("gather-flushes-self", unmap_touched),
    ("gather-frees-pages-first", unmap_touched),
    ("gather-forgets-pages", empty_many),
    ("gather-keeps-uppers", unmap_empty_tables),
    ("gather-frees-tables-first", unmap_empty_tables),
    ("gather-no-grace", unmap_beside_a_walker),
    ("protect-no-flush", take_rights),
    ("protect-no-flush", take_all_rights),
    ("link-before-sharer", unmap_beside_a_first_touch),
    ("gather-asks-too-early", first_touch_beside_an_unmapping),
    ("unlink-keeps-links", unmap_and_wait),
];

/// Those that can run: under `mm` no fault runs beside a call, so no program can stop one in the middle of the other.
fn programs() -> impl Iterator<Item = (&'static str, Program)> {
    let apart = chosen_pair().read() == ReadProtocol::Mm;
    PROGRAMS
        .into_iter()
        .filter(move |(name, _)| !apart || !["link-before-sharer", "gather-asks-too-early"].contains(name))
}

fn map(process: &Process, pages: u64) {
    process.space.mmap(MapRequest::fixed(BASE, pages * P, RW)).unwrap();
}

/// Both CPUs know a page that goes.
fn unmap_touched(process: &Process, cpus: [&User<'_>; 2]) {
    map(process, 4);
    cpus.iter().for_each(|user| user.store(BASE, 1).unwrap());
    process.space.munmap(BASE, P).unwrap();
    process.check_tlbs();
    assert!(cpus[1].store(BASE, 2).is_err(), "unmapped memory can be written");
}

/// More pages go than one flush can list.
fn empty_many(process: &Process, cpus: [&User<'_>; 2]) {
    map(process, 100);
    (0..100).for_each(|n| cpus[1].store(BASE + n * P, 1).unwrap());
    process.space.madvise(BASE, 100 * P, madv::DONTNEED).unwrap();
    (0..100).for_each(|n| assert_eq!(cpus[1].load(BASE + n * P), Ok(0), "page {n} was emptied"));
}

/// The pages are gone already when their table goes: what CPUs still know of it are upper levels alone.
fn unmap_empty_tables(process: &Process, cpus: [&User<'_>; 2]) {
    map(process, 2 * TABLE / P);
    cpus.iter().for_each(|user| user.store(BASE + TABLE, 1).unwrap());
    process.space.madvise(BASE, 2 * TABLE, madv::DONTNEED).unwrap();
    process.space.munmap(BASE, 2 * TABLE).unwrap();
    process.check_tlbs();
}

/// Another CPU is in a read section, as a walk over a hole is: tables that have left the tree stay.
fn unmap_beside_a_walker(process: &Process, cpus: [&User<'_>; 2]) {
    let tables = || process.space.memory().frames.usage().owned_by(Owner::PageTable);
    map(process, TABLE / P);
    cpus[0].store(BASE, 1).unwrap();
    let before = tables();
    let rcu = &process.space.memory().rcu;
    let (inside, here) = channel();
    let (release, go) = channel::<()>();
    // `release` moves in, so that a failed check lets the walker go.
    thread::scope(move |scope| {
        scope.spawn(move || {
            on_cpu(CpuId(2), || {
                rcu.idle_exit();
                let walker = rcu.read();
                inside.send(()).unwrap();
                let _ = go.recv();
                drop(walker);
                rcu.idle_enter();
            });
        });
        here.recv().unwrap();
        process.space.munmap(BASE, TABLE).unwrap();
        assert_eq!(tables(), before, "a table was freed under a reader");
        drop(release);
    });
}

/// A CPU that could write may only read.
fn take_rights(process: &Process, cpus: [&User<'_>; 2]) {
    map(process, 4);
    cpus[1].store(BASE, 1).unwrap();
    process.space.mprotect(BASE, P, prot::READ).unwrap();
    assert!(cpus[1].store(BASE, 2).is_err(), "read-only memory can be written");
    assert_eq!(cpus[1].load(BASE), Ok(1));
}

/// A CPU that could read may do nothing.
fn take_all_rights(process: &Process, cpus: [&User<'_>; 2]) {
    map(process, 4);
    cpus[1].store(BASE, 1).unwrap();
    process.space.mprotect(BASE, P, prot::NONE).unwrap();
    assert!(cpus[1].load(BASE).is_err(), "memory without rights can be read");
}

/// Runs `call` on CPU 2, with the mistake `name` if this thread makes it, stops it at `point`, and meanwhile runs `then` here.
fn stopped(
    process: &Process,
    (name, point): (&'static str, &'static str),
    call: impl FnOnce(&User<'_>) + Send,
    then: impl FnOnce(),
) {
    let mistake = is_planted(name).then_some(name);
    let (reached, here) = channel();
    let (release, go) = channel::<()>();
    // `release` moves in, so that a failed check lets the call go on.
    thread::scope(move |scope| {
        scope.spawn(move || {
            let stop = move || {
                reached.send(()).unwrap();
                let _ = go.recv();
            };
            process.run_on(2, |user| planted(mistake, || at_point(point, stop, || call(user))));
        });
        here.recv().unwrap();
        then();
        drop(release);
    });
}

/// Two neighbours that share a leaf table, two pages each. CPU 0 knows the first.
fn map_neighbours(process: &Process, cpus: [&User<'_>; 2]) {
    map(process, 2);
    process.space.mmap(MapRequest::fixed(BASE + 2 * P, 2 * P, RW | prot::EXEC)).unwrap();
    (0..2).for_each(|n| cpus[0].store(BASE + n * P, 1).unwrap());
}

/// A CPU's first touch of one mapping gives its processor all of the leaf table, and with it the other mapping, which goes.
fn unmap_beside_a_first_touch(process: &Process, cpus: [&User<'_>; 2]) {
    map_neighbours(process, cpus);
    let touch = |user: &User<'_>| user.store(BASE + 2 * P, 1).unwrap();
    stopped(process, ("link-before-sharer", "leaf-linked"), touch, || {
        assert!(process.preload(2, BASE));
        process.space.munmap(BASE, 2 * P).unwrap();
    });
}

/// The same, in the middle of the call: one page is out, the other is not.
fn first_touch_beside_an_unmapping(process: &Process, cpus: [&User<'_>; 2]) {
    map_neighbours(process, cpus);
    let unmap = |_: &User<'_>| process.space.munmap(BASE, 2 * P).unwrap();
    stopped(process, ("gather-asks-too-early", "sharers-noted"), unmap, || {
        cpus[1].store(BASE + 2 * P, 1).unwrap();
        assert!(process.preload(1, BASE + P));
    });
    process.check_tlbs();
}

/// A leaf table goes, and the processors walk on.
fn unmap_and_wait(process: &Process, cpus: [&User<'_>; 2]) {
    map(process, 4);
    cpus.iter().for_each(|user| user.store(BASE, 1).unwrap());
    process.space.munmap(BASE, 4 * P).unwrap();
    let rcu = &process.space.memory().rcu;
    on_cpu(CpuId(0), || rcu.idle_enter());
    rcu.barrier();
    on_cpu(CpuId(0), || rcu.idle_exit());
    (0..2).for_each(|cpu| assert!(!process.preload(cpu, BASE)));
}

/// Runs `program` with `mistake`; whether it was found.
fn found(mistake: Option<&'static str>, program: Program) -> bool {
    let machine = Machine::new(2048);
    // Never dropped: nothing is known of it after a mistake.
    let process = Box::leak(Box::new(Process::new(machine)));
    let run = || process.run_on(0, |zero| process.run_on(1, |one| planted(mistake, || program(process, [zero, one]))));
    catch_unwind(AssertUnwindSafe(run)).is_err()
}

#[test]
fn programs_pass_without_a_mistake() {
    for (name, program) in programs() {
        assert!(!found(None, program), "the program for {name}");
    }
}

#[test]
fn every_planted_mistake_is_found() {
    for (name, program) in programs() {
        assert!(found(Some(name), program), "{name} was not found");
    }
}

#[test]
fn every_mistake_in_the_sources_has_a_program() {
    let mut names = BTreeSet::new();
    let mut files = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        names.extend(text.split("mutant(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
    }
    // A mistake that shows only beside another CPU's call has a shuttle model instead.
    let list = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shuttle.list")).unwrap();
    let modelled: BTreeSet<String> =
        list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    let programs: BTreeSet<String> = PROGRAMS.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(programs.difference(&names).next(), None, "programs of mistakes that are nowhere");
    let lost: Vec<_> = names.difference(&programs).filter(|name| !modelled.contains(*name)).collect();
    assert!(lost.is_empty(), "nothing looks for {lost:?}");
}
