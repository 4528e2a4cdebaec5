//! `futex(2)`: Linux's operations, decoded for [`sync::FutexTable`].
//!
//! A futex is known by its address space and address. No memory is shared between address spaces yet, so the private
//! flag makes one difference only: without it, Linux looks the page up, and an unmapped address is an error.
//! Priority inheritance does not exist here: those operations fail with `ENOSYS`.

use core::marker::PhantomData;

use abi::flags::futex as op;
use abi::{Errno, nr};
use sync::FutexKey;

use super::time::{Timespec, deadline_at};
use super::{Args, Caller, Entry};
use crate::system::System;
use crate::usercopy;

pub(super) struct Calls<S>(PhantomData<S>);

impl<S: System> Calls<S> {
    pub(super) const LIST: &'static [Entry<S>] = &[(nr::futex, futex)];
}

/// `futex(address, operation, value, timeout or second value, second address, third value)`.
fn futex<S: System>(
    caller: &Caller<'_, S>,
    [address, operation, value, fourth, address2, value3]: Args,
) -> Result<u64, Errno> {
    let (operation, value, value3) = (operation as u32, value as u32, value3 as u32);
    let command = operation & !(op::PRIVATE_FLAG | op::CLOCK_REALTIME);
    let word = Word { space: caller.process().space().id(), private: operation & op::PRIVATE_FLAG != 0 };
    let deadline = match command {
        op::WAIT | op::WAIT_BITSET if fourth != 0 => Some(deadline::<S>(operation, fourth)?),
        _ => None,
    };
    if operation & op::CLOCK_REALTIME != 0 && command != op::WAIT_BITSET {
        return Err(Errno::ENOSYS);
    }
    match command {
        op::WAIT => wait::<S>(word, address, value, deadline, op::BITSET_MATCH_ANY),
        op::WAIT_BITSET => wait::<S>(word, address, value, deadline, value3),
        op::WAKE => wake::<S>(word, address, value, op::BITSET_MATCH_ANY),
        op::WAKE_BITSET => wake::<S>(word, address, value, value3),
        op::REQUEUE => requeue::<S>(word, [address, address2], [value, fourth as u32], None),
        op::CMP_REQUEUE => requeue::<S>(word, [address, address2], [value, fourth as u32], Some(value3)),
        op::WAKE_OP => wake_op::<S>(word, [address, address2], [value, fourth as u32], value3),
        _ => Err(Errno::ENOSYS),
    }
}

/// What makes an address a key.
#[derive(Clone, Copy)]
struct Word {
    space: u64,
    private: bool,
}

impl Word {
    /// The key of `address`, after Linux's checks of it (`get_futex_key`).
    fn key<S: System>(self, address: u64) -> Result<FutexKey, Errno> {
        if !address.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        usercopy::check_range(address, 4)?;
        if !self.private {
            S::load_u32(address)?;
        }
        Ok(FutexKey { space: self.space, addr: address })
    }
}

/// The deadline on [`sync::Platform::now_ns`]'s clock: `WAIT` is given a duration, `WAIT_BITSET` a point in time on
/// one of two clocks.
fn deadline<S: System>(operation: u32, timeout: u64) -> Result<u64, Errno> {
    let timeout = Timespec::read::<S>(timeout)?.checked_ns()?;
    Ok(if operation & !(op::PRIVATE_FLAG | op::CLOCK_REALTIME) == op::WAIT {
        S::now_ns().saturating_add(timeout)
    } else if operation & op::CLOCK_REALTIME != 0 {
        deadline_at::<S>(timeout, S::realtime_ns())
    } else {
        timeout
    })
}

fn wait<S: System>(word: Word, address: u64, value: u32, deadline: Option<u64>, bitset: u32) -> Result<u64, Errno> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let key = word.key::<S>(address)?;
    S::futexes().wait(key, bitset, deadline, || Ok(S::load_u32(address)? == value))?;
    Ok(0)
}

/// Linux wakes one even if asked for none: it counts after waking.
fn wake_count(count: u32) -> usize {
    (count as i32).max(1) as usize
}

fn wake<S: System>(word: Word, address: u64, count: u32, bitset: u32) -> Result<u64, Errno> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let key = word.key::<S>(address)?;
    Ok(S::futexes().wake(key, wake_count(count), bitset) as u64)
}

/// Wakes and moves waiters; with `expected`, only if the first word holds that.
///
/// Linux compares under its table's locks. Here the comparison comes first: a thread that begins to wait in between may
/// be moved too, which it sees as a spurious wake-up later, and those are allowed at any time.
fn requeue<S: System>(word: Word, addresses: [u64; 2], counts: [u32; 2], expected: Option<u32>) -> Result<u64, Errno> {
    let [wake, shift] = counts.map(|count| usize::try_from(count as i32).map_err(|_| Errno::EINVAL));
    let (wake, shift) = (wake?, shift?);
    let (from, to) = (word.key::<S>(addresses[0])?, word.key::<S>(addresses[1])?);
    if let Some(expected) = expected
        && S::load_u32(addresses[0])? != expected
    {
        return Err(Errno::EAGAIN);
    }
    Ok(S::futexes().requeue(from, to, wake, shift) as u64)
}

/// `FUTEX_WAKE_OP`: changes the second word atomically, wakes waiters of the first, and those of the second if its old
/// value compares as asked. `encoded` is operation:4, comparison:4, operand:12, comparand:12 (`futex(2)`).
fn wake_op<S: System>(word: Word, addresses: [u64; 2], counts: [u32; 2], encoded: u32) -> Result<u64, Errno> {
    let (first, second) = (word.key::<S>(addresses[0])?, word.key::<S>(addresses[1])?);
    let sign_extend = |bits: u32| ((bits << 20) as i32) >> 20;
    let (operation, comparison) = (encoded >> 28, encoded >> 24 & 15);
    let (mut operand, comparand) = (sign_extend(encoded >> 12 & 0xfff), sign_extend(encoded & 0xfff));
    const OPERAND_IS_SHIFT: u32 = 8;
    if operation & OPERAND_IS_SHIFT != 0 {
        operand = 1i32.wrapping_shl(operand as u32);
    }
    let change: fn(u32, u32) -> u32 = match operation & !OPERAND_IS_SHIFT {
        0 => |_, operand| operand,
        1 => u32::wrapping_add,
        2 => |old, operand| old | operand,
        3 => |old, operand| old & !operand,
        4 => |old, operand| old ^ operand,
        _ => return Err(Errno::ENOSYS),
    };
    let compare: fn(&i32, &i32) -> bool = match comparison {
        0 => i32::eq,
        1 => i32::ne,
        2 => i32::lt,
        3 => i32::le,
        4 => i32::gt,
        5 => i32::ge,
        _ => return Err(Errno::ENOSYS),
    };

    let mut old = S::load_u32(addresses[1])?;
    loop {
        let found = S::compare_exchange_u32(addresses[1], old, change(old, operand as u32))?;
        if found == old {
            break;
        }
        old = found;
    }
    let mut woken = S::futexes().wake(first, wake_count(counts[0]), op::BITSET_MATCH_ANY);
    if compare(&(old as i32), &comparand) {
        woken += S::futexes().wake(second, wake_count(counts[1]), op::BITSET_MATCH_ANY);
    }
    Ok(woken as u64)
}
