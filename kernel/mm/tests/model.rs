//! Random calls and accesses against a plain model: for each page its rights, its flags and its contents.
//!
//! The model is so plain because mappings are always as few as they can be: neighbours that are alike are one. So it
//! predicts not only every answer, but every mapping's bounds.

use std::mem::ManuallyDrop;

use abi::flags::{madv, map};
use mm::{
    Access, Errno, FaultError, MapRequest, PAGE_SIZE, Rights, VmaFlags,
    testing::{Machine, Process, User},
};
use proptest::{prelude::*, test_runner::TestRunner};
use sync::testing::planted;

/// Pages that the calls work on: they lie across the end of a page table, and of a directory.
const PAGES: usize = 24;
const BASE: u64 = 0x10_4000_0000 - 12 * PAGE_SIZE;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Page {
    rights: Rights,
    flags: VmaFlags,
    word: u64,
}

#[derive(Clone, Debug)]
enum Op {
    Map { first: usize, pages: usize, prot: u32, flags: u32 },
    Unmap { first: usize, pages: usize },
    Protect { first: usize, pages: usize, prot: u32 },
    Advise { first: usize, pages: usize, advice: i32 },
    Store { cpu: usize, page: usize, word: u64 },
    Load { cpu: usize, page: usize },
    Fetch { cpu: usize, page: usize },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let range = || (0..PAGES).prop_flat_map(|first| (Just(first), 1..=(PAGES - first).min(10)));
    let page = || (0..2usize, 0..PAGES);
    let flags = prop_oneof![Just(map::FIXED), Just(map::FIXED_NOREPLACE), Just(map::FIXED | map::NORESERVE)];
    let advice =
        prop_oneof![3 => Just(madv::DONTNEED), 1 => Just(madv::FREE), 1 => Just(madv::RANDOM), 1 => Just(madv::NORMAL)];
    let op = prop_oneof![
        3 => (range(), 0..8u32, flags).prop_map(|((first, pages), prot, flags)| Op::Map { first, pages, prot, flags }),
        2 => range().prop_map(|(first, pages)| Op::Unmap { first, pages }),
        3 => (range(), 0..8u32).prop_map(|((first, pages), prot)| Op::Protect { first, pages, prot }),
        2 => (range(), advice).prop_map(|((first, pages), advice)| Op::Advise { first, pages, advice }),
        6 => (page(), 1..u64::MAX).prop_map(|((cpu, page), word)| Op::Store { cpu, page, word }),
        4 => page().prop_map(|(cpu, page)| Op::Load { cpu, page }),
        1 => page().prop_map(|(cpu, page)| Op::Fetch { cpu, page }),
    ];
    prop::collection::vec(op, 1..60)
}

fn addr(page: usize) -> u64 {
    BASE + page as u64 * PAGE_SIZE
}

fn len(pages: usize) -> u64 {
    pages as u64 * PAGE_SIZE
}

struct Model([Option<Page>; PAGES]);

impl Model {
    fn map(&mut self, first: usize, pages: usize, prot: u32, flags: u32) -> Result<u64, Errno> {
        let range = &mut self.0[first..first + pages];
        if flags & map::FIXED_NOREPLACE != 0 && range.iter().any(Option::is_some) {
            return Err(Errno::EEXIST);
        }
        let noreserve = if flags & map::NORESERVE != 0 { VmaFlags::NORESERVE } else { VmaFlags::empty() };
        range.fill(Some(Page { rights: Rights::from_prot(prot), flags: noreserve, word: 0 }));
        Ok(addr(first))
    }

    fn protect(&mut self, first: usize, pages: usize, prot: u32) -> Result<(), Errno> {
        for page in &mut self.0[first..first + pages] {
            page.as_mut().ok_or(Errno::ENOMEM)?.rights = Rights::from_prot(prot);
        }
        Ok(())
    }

    fn advise(&mut self, first: usize, pages: usize, advice: i32) -> Result<(), Errno> {
        let mut result = Ok(());
        for page in &mut self.0[first..first + pages] {
            match (page, advice) {
                (None, _) => result = Err(Errno::ENOMEM),
                (Some(page), madv::RANDOM) => page.flags.insert(VmaFlags::RANDOM),
                (Some(page), madv::NORMAL) => page.flags.remove(VmaFlags::RANDOM),
                (Some(page), _) => page.word = 0,
            }
        }
        result
    }

    fn access(&mut self, page: usize, access: Access) -> Result<&mut u64, FaultKind> {
        let page = self.0[page].as_mut().ok_or(FaultKind::NoMapping)?;
        if page.rights.allow(access) { Ok(&mut page.word) } else { Err(FaultKind::Denied) }
    }

    /// `(start, end, rights, flags)` of every mapping.
    fn mappings(&self) -> Vec<(u64, u64, Rights, VmaFlags)> {
        let mut runs: Vec<(u64, u64, Rights, VmaFlags)> = Vec::new();
        for (n, page) in self.0.iter().enumerate() {
            let Some(page) = page else { continue };
            match runs.last_mut() {
                Some((_, end, rights, flags)) if *end == addr(n) && (*rights, *flags) == (page.rights, page.flags) => {
                    *end = addr(n + 1);
                }
                _ => runs.push((addr(n), addr(n + 1), page.rights, page.flags)),
            }
        }
        runs
    }
}

#[derive(Debug, PartialEq)]
enum FaultKind {
    NoMapping,
    Denied,
}

fn kind<T>(result: Result<T, FaultError>) -> Result<T, FaultKind> {
    result.map_err(|error| match error {
        FaultError::NoMapping => FaultKind::NoMapping,
        FaultError::Denied { .. } => FaultKind::Denied,
        FaultError::OutOfMemory => panic!("the machine is large enough"),
    })
}

fn check(process: &Process, cpus: [&User<'_>; 2], model: &mut Model, op: &Op) -> Result<(), TestCaseError> {
    let space = &process.space;
    match *op {
        Op::Map { first, pages, prot, flags } => {
            let flags = flags | map::PRIVATE | map::ANONYMOUS;
            let answer = space.mmap(MapRequest { addr: addr(first), len: len(pages), prot, flags });
            prop_assert_eq!(answer, model.map(first, pages, prot, flags));
        }
        Op::Unmap { first, pages } => {
            prop_assert_eq!(space.munmap(addr(first), len(pages)), Ok(()));
            model.0[first..first + pages].fill(None);
        }
        Op::Protect { first, pages, prot } => {
            prop_assert_eq!(space.mprotect(addr(first), len(pages), prot), model.protect(first, pages, prot));
        }
        Op::Advise { first, pages, advice } => {
            prop_assert_eq!(space.madvise(addr(first), len(pages), advice), model.advise(first, pages, advice));
        }
        Op::Store { cpu, page, word } => {
            let expected = model.access(page, Access::Write).map(|old| *old = word);
            prop_assert_eq!(kind(cpus[cpu].store(addr(page) + 64, word)), expected);
        }
        Op::Load { cpu, page } => {
            let expected = model.access(page, Access::Read).map(|word| *word);
            prop_assert_eq!(kind(cpus[cpu].load(addr(page) + 64)), expected);
        }
        Op::Fetch { cpu, page } => {
            let expected = model.access(page, Access::Execute).map(|_| ());
            prop_assert_eq!(kind(cpus[cpu].fetch(addr(page) + 64)), expected);
        }
    }
    let mappings: Vec<_> = process.mappings().iter().map(|vma| (vma.start, vma.end, vma.rights, vma.flags)).collect();
    prop_assert_eq!(mappings, model.mappings());
    process.check_tlbs();
    Ok(())
}

/// A random program, played from its start to its end; `seed` is what its TLBs load by themselves.
fn play(machine: &'static Machine, ops: &[Op], seed: u64) -> Result<(), TestCaseError> {
    let before = machine.usage();
    // Not dropped if the test fails: nothing is known of it then.
    let process = ManuallyDrop::new(Process::seeded(machine, seed));
    // One thread plays both CPUs: an access by the one finds what calls on the other have left in its TLB.
    process.run_on(0, |zero| {
        process.run_on(1, |one| {
            let mut model = Model([None; PAGES]);
            for op in ops {
                check(&process, [zero, one], &mut model, op)?;
            }
            for page in 0..PAGES {
                check(&process, [zero, one], &mut model, &Op::Load { cpu: page % 2, page })?;
            }
            Ok::<(), TestCaseError>(())
        })
    })?;
    machine.on_cpu(0, || {
        drop(ManuallyDrop::into_inner(process));
        machine.drain();
    });
    prop_assert_eq!(machine.usage().owned, before.owned);
    Ok(())
}

#[test]
fn address_spaces_do_what_the_model_does() {
    let machine = Machine::new(2048);
    proptest!(ProptestConfig::with_cases(400), |(ops in ops(), seed: u64)| {
        play(machine, &ops, seed)?;
    });
}

/// The same with one mistake planted: random programs find each.
#[test]
fn planted_mistakes_are_found() {
    for mistake in [
        "gather-no-flush",
        "gather-flushes-self",
        "gather-frees-pages-first",
        "gather-frees-tables-first",
        "gather-keeps-uppers",
        "protect-no-flush",
    ] {
        let machine = Machine::new(2048);
        let config =
            ProptestConfig { max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::with_cases(400) };
        let found = TestRunner::new(config)
            .run(&(ops(), any::<u64>()), |(ops, seed)| planted(Some(mistake), || play(machine, &ops, seed)));
        println!("{mistake}: {found:?}");
        assert!(found.is_err(), "{mistake}: not found");
    }
}
