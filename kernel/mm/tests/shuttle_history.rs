//! Whole memory calls, loads and stores on three CPUs, recorded: is there an order of steps that explains every history?
//!
//! What is promised, and the search, is `history`. Each schedule has another program, drawn from the scheduler's own source of
//! chance, so that a printed schedule tells the program, too; a few programs are written out, for what chance meets seldom.
#![cfg(shuttle)]

mod history;
mod three_cpus;

use std::ops::Range;
use std::sync::Arc;

use abi::Pair;
use abi::flags::{madv, map, prot};
use history::{Answer, Op, PAGES, Recorder, Rights, State, is_explained};
use mm::{
    Errno, FaultError, MapRequest, PAGE_SIZE,
    testing::{Machine, Process, User},
};
use shuttle::rand::{Rng, thread_rng};
use sync::testing::explore;
use three_cpus::CPUS;

const P: u64 = PAGE_SIZE;
/// The second page is the last one below the end of a page table.
const BASE: u64 = 0x10_4000_0000 - 2 * P;
const RW: Rights = Rights::ReadWrite;

fn prot(rights: Rights) -> u32 {
    match rights {
        Rights::Read => prot::READ,
        Rights::ReadWrite => prot::READ | prot::WRITE,
    }
}

/// Address and length.
fn span(pages: &Range<usize>) -> (u64, u64) {
    (BASE + pages.start as u64 * P, pages.len() as u64 * P)
}

fn of_call(done: Result<(), Errno>) -> Answer {
    match done {
        Ok(()) => Answer::Done,
        Err(Errno::EEXIST) => Answer::Taken,
        Err(Errno::ENOMEM) => Answer::Hole,
        Err(errno) => panic!("nothing here may be answered by {errno:?}"),
    }
}

fn of_access(done: Result<Answer, FaultError>) -> Answer {
    done.unwrap_or_else(|error| match error {
        FaultError::NoMapping => Answer::Hole,
        FaultError::Denied { .. } => Answer::Denied,
        FaultError::OutOfMemory => panic!("the machine is large enough"),
    })
}

fn carry_out(process: &Process, user: &User<'_>, op: &Op) -> Answer {
    let space = &process.space;
    let fixed = |pages, rights| {
        let (addr, len) = span(pages);
        MapRequest::fixed(addr, len, prot(rights))
    };
    match op {
        Op::Map(pages, rights) => of_call(space.mmap(fixed(pages, *rights)).map(drop)),
        Op::Claim(pages, rights) => {
            let request = fixed(pages, *rights);
            let flags = request.flags | map::FIXED_NOREPLACE;
            of_call(space.mmap(MapRequest { flags, ..request }).map(drop))
        }
        Op::Unmap(pages) => {
            let (addr, len) = span(pages);
            of_call(space.munmap(addr, len))
        }
        Op::Protect(pages, rights) => {
            let (addr, len) = span(pages);
            of_call(space.mprotect(addr, len, prot(*rights)))
        }
        Op::Empty(pages) => {
            let (addr, len) = span(pages);
            of_call(space.madvise(addr, len, madv::DONTNEED))
        }
        Op::Load(page) => of_access(user.load(span(&(*page..page + 1)).0).map(Answer::Word)),
        Op::Store(page, word) => of_access(user.store(span(&(*page..page + 1)).0, *word).map(|()| Answer::Done)),
    }
}

/// The pages at the beginning, and what each CPU does.
#[derive(Clone, Debug)]
struct Program {
    state: State,
    parts: [Vec<Op>; CPUS as usize],
}

/// One execution of `program`.
fn check(machine: &'static Machine, program: Program) {
    let Program { state, parts } = program.clone();
    let prepare = |process: &Process, user: &User<'_>| {
        for (page, (rights, word)) in state.into_iter().enumerate().filter_map(|(page, at)| Some((page, at?))) {
            let pages = page..page + 1;
            let ops = [Op::Map(pages.clone(), RW), Op::Store(page, word), Op::Protect(pages, rights)];
            ops.iter().for_each(|op| assert_eq!(carry_out(process, user, op), Answer::Done));
        }
    };
    let recorder = Arc::new(Recorder::new());
    let parts = parts.map(|ops| {
        let recorder = recorder.clone();
        move |process: &Process, user: &User<'_>| {
            let mut calls = Vec::new();
            ops.into_iter().for_each(|op| recorder.call(&mut calls, op, |op| carry_out(process, user, op)));
            calls
        }
    });
    let history = three_cpus::play(machine, prepare, parts);
    let shown = || {
        history.iter().enumerate().flat_map(|(cpu, calls)| calls.iter().map(move |call| format!("{cpu}: {call:?}\n")))
    };
    assert!(
        is_explained(&history, state),
        "no order of steps explains this, from {state:?} on:\n{}",
        shown().collect::<String>()
    );
}

/// Under each pair of protocols, what `draw` draws.
fn check_under_all(schedules: usize, draw: fn() -> Program) {
    for pair in Pair::all() {
        println!("{pair}");
        // Outside the model: it is as it was after each schedule.
        let machine = Machine::with_pair(1024, pair);
        explore(schedules, move || check(machine, draw()));
    }
}

/// A program drawn by the scheduler's chance.
fn any() -> Program {
    let mut chance = thread_rng();
    let mut rights = || if chance.gen_ratio(1, 4) { Rights::Read } else { RW };
    let mut state = [(); PAGES].map(|()| Some((rights(), 0)));
    for (page, at) in state.iter_mut().enumerate() {
        *at = at.map(|(rights, _)| (rights, 10 + page as u64)).filter(|_| thread_rng().gen_ratio(3, 4));
    }
    let mut word = 100;
    let mut op = || {
        let mut chance = thread_rng();
        let page = chance.gen_range(0..PAGES);
        let start = chance.gen_range(0..PAGES - 1);
        let pages = start..chance.gen_range(start + 1..=PAGES);
        let rights = if chance.r#gen() { Rights::Read } else { RW };
        word += 1;
        match chance.gen_range(0..12) {
            0 => Op::Map(pages, rights),
            1..=2 => Op::Claim(pages, rights),
            3..=4 => Op::Unmap(pages),
            5..=6 => Op::Protect(pages, rights),
            7 => Op::Empty(pages),
            8..=9 => Op::Load(page),
            _ => Op::Store(page, word),
        }
    };
    let parts = [(); CPUS as usize].map(|()| (0..thread_rng().gen_range(2..=3)).map(|_| op()).collect());
    Program { state, parts }
}

/// Whatever chance draws.
#[test]
fn any_programs() {
    check_under_all(6_000, any);
}

/// Two CPUs claim pages of one hole: one of them wins, and what is stored there stays.
#[test]
fn two_claims_of_one_hole() {
    check_under_all(400, || Program {
        state: [None; PAGES],
        parts: [
            vec![Op::Claim(0..2, RW), Op::Store(1, 1), Op::Load(1)],
            vec![Op::Claim(1..3, RW), Op::Store(1, 2), Op::Load(1)],
            vec![Op::Load(1), Op::Load(1)],
        ],
    });
}

/// A hole is claimed that another CPU's unmapping covers: it was free all the time.
#[test]
fn claiming_a_hole_beside_unmapping() {
    check_under_all(400, || Program {
        state: [Some((RW, 10)), None, None, None],
        parts: [vec![Op::Unmap(0..3)], vec![Op::Claim(1..2, RW), Op::Load(0)], vec![Op::Load(0), Op::Load(1)]],
    });
}

/// A CPU that is told that a mapping is there tells others nothing that its mapping has not kept yet.
#[test]
fn claiming_a_hole_beside_replacing() {
    check_under_all(400, || Program {
        state: [Some((RW, 10)), None, None, None],
        parts: [vec![Op::Map(0..2, RW)], vec![Op::Claim(1..2, RW), Op::Load(0)], vec![Op::Load(0), Op::Store(0, 1)]],
    });
}

/// A hole that is to be emptied stays one, though another CPU's unmapping covers it.
#[test]
fn emptying_a_hole_beside_unmapping() {
    check_under_all(400, || Program {
        state: [Some((RW, 10)), None, Some((RW, 12)), None],
        parts: [vec![Op::Unmap(0..2)], vec![Op::Empty(1..3), Op::Load(2)], vec![Op::Load(2), Op::Store(2, 1)]],
    });
}
