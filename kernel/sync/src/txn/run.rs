//! Running a transaction: its body, again where it must, and what happens when two transactions meet.
//!
//! A body meets another running transaction's mark (or its tombstone) and stops with [`Abort::Wait`]. The loop here then
//! sleeps until that one has ended, **with its own marks kept**, and runs the body again from its start: it looks everything
//! up once more, and finds what it has marked already still its own. Or the update protocol says that it must back off:
//! its own transaction ends with nothing published, so all its marks lapse at once, it sleeps on the one that was in its
//! way, and begins a new transaction of the **same age**.
//!
//! | | [`bulk`](abi::UpdateProtocol::Bulk) | [`wound_wait`] | [`cycle`], [`cycle_held`] |
//! |---|---|---|---|
//! | before the first body | takes the address space's lock | nothing | nothing |
//! | meets a mark | never | wounds its owner if that one is younger; sleeps | looks for a circle of sleepers; sleeps |
//! | backs off | never | when wounded, at its next sleep | when chosen to break a circle |
//!
//! **Nobody starves.** Ages are the times at which calls began, kept over restarts, so every call becomes the oldest in its
//! turn. The oldest is never wounded and never chosen, and a VMA that it waits for is taken by no other before
//! it ([`VmaLock`](crate::VmaLock)'s heir). A transaction whose body is run again and again becomes the heir of the whole address space: younger ones run no body before it has ended.

use core::panic::Location;

use abi::event::Kind;
use abi::{Counter, Errno, Extreme, UpdateProtocol};

use super::{Abort, Txn, UpdateLock, cycle, cycle_held, wound_wait};
use crate::{Counters, Mark, Platform, TransactionEdge, VmaLocks};

/// Who goes first where two transactions meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// The one whose call began earlier.
    Age,
    /// This one, before all that are not of this kind: for what must not be kept waiting and marks everything, such as the
    /// end of a program.
    First,
}

/// Runs `body` as a transaction on `space`, again from its start as often as it must be, and ends the transaction in every
/// case. May sleep: the caller holds no spin lock, is in no RCU read section and no fault section, and has no other
/// transaction open. The body, too, has left them when it returns.
///
/// # Errors
/// What the body says. It has published nothing then.
///
/// # Panics
/// In debug builds, if the lock order forbids a transaction here.
#[track_caller]
pub fn update<P: Platform, T>(
    space: &UpdateLock<P>,
    locks: &VmaLocks<P>,
    counters: &Counters<P>,
    body: impl FnMut(&mut Txn<'_, P>) -> Result<T, Abort>,
) -> Result<T, Errno> {
    update_as(Priority::Age, space, locks, counters, body)
}

/// As [`update`], with a say in who goes first.
///
/// # Errors
/// As [`update`].
///
/// # Panics
/// As [`update`].
#[track_caller]
pub fn update_as<P: Platform, T>(
    priority: Priority,
    space: &UpdateLock<P>,
    locks: &VmaLocks<P>,
    counters: &Counters<P>,
    mut body: impl FnMut(&mut Txn<'_, P>) -> Result<T, Abort>,
) -> Result<T, Errno> {
    // No closure: the lock's taker is our caller.
    let writer = if locks.pair().has_one_writer() { Some(space.write()) } else { None };
    if let Some(since_ns) = writer.as_ref().and_then(|writer| writer.waited_since_ns()) {
        counters.took(Extreme::UpdateWait, since_ns, Location::caller());
    }
    let age = match priority {
        Priority::First => 0,
        // Nobody asks.
        Priority::Age if locks.pair().has_one_writer() => 0,
        Priority::Age => P::now_ns().max(1),
    };
    loop {
        let mut txn = Txn::begin(space, locks, counters, age);
        let mark = txn.own_mark().word();
        P::event(Kind::TransactionBegin, mark, space.name());
        P::transaction(TransactionEdge::Opened { mark, space: space.name() });
        let ending = run(&mut txn, &mut body);
        drop(txn);
        P::event(Kind::TransactionEnd, mark, space.name());
        P::transaction(TransactionEdge::Ended);
        match ending {
            Ok(value) => return Ok(value),
            Err(Stop::Errno(errno)) => return Err(errno),
            Err(Stop::BackOff(contended)) => {
                counters.bump(Counter::Restart);
                P::event(Kind::TransactionRestart, mark, space.name());
                let since_ns = P::now_ns();
                locks.wait_for_end(contended, 0);
                counters.took(Extreme::TxnWait, since_ns, Location::caller());
            }
        }
    }
}

/// How much trouble a body has, of [`AGAIN`] and [`WAIT`], before no younger transaction may begin to change the address space.
/// To sleep is the usual way of things, once for each VMA in use: it takes many to make one believe that the VMAs are replaced as
/// fast as it looks.
const PATIENCE: u32 = 64;
/// The tree had changed since the body looked.
const AGAIN: u32 = 16;
/// Somebody was in the way, and has ended.
const WAIT: u32 = 1;

/// Why a transaction ends without its body's value.
enum Stop {
    Errno(Errno),
    /// It must begin again, when this one has ended.
    BackOff(Mark),
}

/// Runs the body until it has a value, an error, or must back off.
#[track_caller]
fn run<P: Platform, T>(
    txn: &mut Txn<'_, P>,
    body: &mut impl FnMut(&mut Txn<'_, P>) -> Result<T, Abort>,
) -> Result<T, Stop> {
    let many = !txn.locks.pair().has_one_writer();
    let mut tried = 0;
    loop {
        while many && let Some(older) = txn.space.heir.0.before(txn.own_mark(), &txn.locks.cells) {
            sleep(txn, older)?;
        }
        match body(txn) {
            Ok(value) => return Ok(value),
            Err(Abort::Errno(errno)) => return Err(Stop::Errno(errno)),
            Err(Abort::Again) => {
                txn.counters.bump(Counter::TxnAgain);
                tried += AGAIN;
            }
            Err(Abort::NoMemory) => return Err(Stop::Errno(Errno::ENOMEM)),
            Err(Abort::Wait(theirs)) => {
                sleep(txn, theirs)?;
                tried += WAIT;
            }
        }
        if many && tried >= PATIENCE {
            // If an older one is there already, it goes first, above.
            txn.space.heir.0.enter(txn.own_mark(), &txn.locks.cells);
        }
    }
}

/// Sleeps until the transaction of `theirs` has ended, or says that this one must back off.
#[track_caller]
fn sleep<P: Platform>(txn: &Txn<'_, P>, theirs: Mark) -> Result<(), Stop> {
    debug_assert!(theirs != txn.own_mark(), "a transaction waits for itself");
    txn.counters.bump(Counter::TxnWait);
    let (locks, counters) = (txn.locks, txn.counters);
    let must_back_off = || {
        if txn.cell.is_wounded() {
            return true;
        }
        match locks.pair().update() {
            UpdateProtocol::Bulk => unreachable!("under bulk nobody else has marked anything"),
            UpdateProtocol::WoundWait => {
                wound_wait::before_sleep(&locks.cells, txn.own_mark(), theirs, counters);
                false
            }
            UpdateProtocol::Cycle => cycle::before_sleep(&locks.cells, txn.own_mark(), counters),
            UpdateProtocol::CycleHeld => cycle_held::before_sleep(&locks.cells, txn.own_mark(), counters),
        }
    };
    P::event(Kind::TransactionSleep, txn.own_mark().word(), theirs.word());
    let since_ns = P::now_ns();
    let backs_off = txn.cell.sleep_for(theirs, txn.contended(theirs), must_back_off);
    counters.took(Extreme::TxnWait, since_ns, Location::caller());
    if backs_off { Err(Stop::BackOff(theirs)) } else { Ok(()) }
}
