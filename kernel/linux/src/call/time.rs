//! Clocks and sleeps.
//!
//! Two clocks: [`sync::Platform::now_ns`] stands for all monotonic ones, [`System::realtime_ns`] for all that count
//! from 1970. The second never jumps, because nobody can set it, so a sleep until a point on it is a sleep until a
//! point on the first.

use core::marker::PhantomData;

use abi::{Errno, nr};
use sync::{Interruptible, WaitQueue, Waited};

use super::{Args, Caller, Entry};
use crate::system::System;
use crate::usercopy;

pub(super) struct Calls<S>(PhantomData<S>);

impl<S: System> Calls<S> {
    pub(super) const LIST: &'static [Entry<S>] = &[
        (nr::clock_gettime, clock_gettime),
        (nr::clock_getres, clock_getres),
        (nr::clock_nanosleep, clock_nanosleep),
        (nr::nanosleep, nanosleep),
        (nr::gettimeofday, gettimeofday),
        (nr::time, time),
    ];
}

const NS_PER_SEC: u64 = 1_000_000_000;

/// `struct timespec`, as a program gave it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timespec {
    sec: i64,
    nsec: i64,
}

impl Timespec {
    pub(super) fn read<S: System>(address: u64) -> Result<Timespec, Errno> {
        let [sec, nsec] = usercopy::read_words::<S, 2>(address)?;
        Ok(Timespec { sec: sec as i64, nsec: nsec as i64 })
    }

    /// As nanoseconds; more than fit count as for ever.
    ///
    /// # Errors
    /// `EINVAL` if it is negative or its nanoseconds are a second or more.
    pub(super) fn checked_ns(self) -> Result<u64, Errno> {
        let sec = u64::try_from(self.sec).map_err(|_| Errno::EINVAL)?;
        let nsec = u64::try_from(self.nsec).ok().filter(|&nsec| nsec < NS_PER_SEC).ok_or(Errno::EINVAL)?;
        Ok(sec.saturating_mul(NS_PER_SEC).saturating_add(nsec))
    }
}

/// `ns` as `struct timespec`'s words.
pub(super) fn timespec_words(ns: u64) -> [u64; 2] {
    [ns / NS_PER_SEC, ns % NS_PER_SEC]
}

/// The point on [`sync::Platform::now_ns`]'s clock where a clock that now shows `clock_now` will show `at`.
pub(super) fn deadline_at<S: System>(at: u64, clock_now: u64) -> u64 {
    S::now_ns().saturating_add(at.saturating_sub(clock_now))
}

/// The clocks that exist (`clock_gettime(2)`), by what they show.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clock {
    Realtime,
    Monotonic,
    ProcessTime,
    ThreadTime,
}

/// Whether a clock can be slept on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sleeps {
    Yes,
    No,
}

fn clock(id: u64) -> Result<(Clock, Sleeps), Errno> {
    Ok(match id as i32 {
        0 | 11 => (Clock::Realtime, Sleeps::Yes), // CLOCK_REALTIME, CLOCK_TAI (whose offset from UTC is not known here)
        1 | 7 => (Clock::Monotonic, Sleeps::Yes), // CLOCK_MONOTONIC, CLOCK_BOOTTIME
        2 => (Clock::ProcessTime, Sleeps::No),
        3 => (Clock::ThreadTime, Sleeps::No),
        4 | 6 => (Clock::Monotonic, Sleeps::No), // CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE
        5 => (Clock::Realtime, Sleeps::No),      // CLOCK_REALTIME_COARSE
        _ => return Err(Errno::EINVAL),
    })
}

fn read_clock<S: System>(caller: &Caller<'_, S>, clock: Clock) -> Result<u64, Errno> {
    match clock {
        Clock::Realtime => Ok(S::realtime_ns()),
        Clock::Monotonic => Ok(S::now_ns()),
        Clock::ThreadTime => S::cpu_time_ns(caller.thread).ok_or(Errno::EINVAL),
        Clock::ProcessTime => caller.process().cpu_time_ns().ok_or(Errno::EINVAL),
    }
}

fn clock_gettime<S: System>(caller: &Caller<'_, S>, [id, address, ..]: Args) -> Result<u64, Errno> {
    let now = read_clock(caller, clock(id)?.0)?;
    usercopy::write_words::<S>(address, &timespec_words(now)).map(|()| 0)
}

/// Every clock counts nanoseconds.
fn clock_getres<S: System>(_: &Caller<'_, S>, [id, address, ..]: Args) -> Result<u64, Errno> {
    clock(id)?;
    if address != 0 {
        usercopy::write_words::<S>(address, &timespec_words(1))?;
    }
    Ok(0)
}

const TIMER_ABSTIME: u64 = 1;

/// `clock_nanosleep(clock, flags, request, remaining)`.
fn clock_nanosleep<S: System>(caller: &Caller<'_, S>, [id, flags, request, remaining, ..]: Args) -> Result<u64, Errno> {
    let (clock, sleeps) = clock(id)?;
    match (clock, sleeps) {
        (Clock::ThreadTime, _) => return Err(Errno::EINVAL),
        (_, Sleeps::No) => return Err(Errno::EOPNOTSUPP),
        _ => {}
    }
    let time = Timespec::read::<S>(request)?.checked_ns()?;
    if flags & TIMER_ABSTIME != 0 {
        sleep_until::<S>(deadline_at::<S>(time, read_clock(caller, clock)?))
    } else {
        sleep_for::<S>(time, remaining)
    }
}

fn nanosleep<S: System>(_: &Caller<'_, S>, [request, remaining, ..]: Args) -> Result<u64, Errno> {
    sleep_for::<S>(Timespec::read::<S>(request)?.checked_ns()?, remaining)
}

/// Sleeps for a time; if that ends early, the rest of it goes to `remaining` (0: nowhere).
fn sleep_for<S: System>(duration: u64, remaining: u64) -> Result<u64, Errno> {
    let deadline = S::now_ns().saturating_add(duration);
    let outcome = sleep_until::<S>(deadline);
    if outcome == Err(Errno::EINTR) && remaining != 0 {
        let rest = deadline.saturating_sub(S::now_ns());
        usercopy::write_words::<S>(remaining, &timespec_words(rest))?;
    }
    outcome
}

/// Sleeps until `deadline` on [`sync::Platform::now_ns`]'s clock.
///
/// # Errors
/// `EINTR` if the thread was told to die first.
fn sleep_until<S: System>(deadline: u64) -> Result<u64, Errno> {
    sleep::<S>(Some(deadline))?;
    Ok(0)
}

/// Sleeps until the deadline, if there is one, or the thread's death: a wait for nothing.
///
/// # Errors
/// `EINTR` if the thread was told to die first.
pub(super) fn sleep<S: System>(deadline: Option<u64>) -> Result<(), Errno> {
    match WaitQueue::<S>::new().wait_until(|| false, deadline, Interruptible::Yes) {
        Waited::Interrupted => Err(Errno::EINTR),
        Waited::Woken | Waited::TimedOut => Ok(()),
    }
}

/// `gettimeofday(time, zone)`: the time zone is UTC.
fn gettimeofday<S: System>(_: &Caller<'_, S>, [address, zone, ..]: Args) -> Result<u64, Errno> {
    if address != 0 {
        let [sec, nsec] = timespec_words(S::realtime_ns());
        usercopy::write_words::<S>(address, &[sec, nsec / 1000])?;
    }
    if zone != 0 {
        usercopy::write_words::<S>(zone, &[0])?;
    }
    Ok(0)
}

fn time<S: System>(_: &Caller<'_, S>, [address, ..]: Args) -> Result<u64, Errno> {
    let seconds = S::realtime_ns() / NS_PER_SEC;
    if address != 0 {
        usercopy::write_words::<S>(address, &[seconds])?;
    }
    Ok(seconds)
}
