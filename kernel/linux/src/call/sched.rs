//! Calls about CPUs: which ones a thread may use, which one it is on, and barriers across them.

use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use abi::{Errno, nr};
use sync::CpuSet;
use sync::alloc::Arc;

use super::{Args, Caller, Entry};
use crate::system::System;
use crate::thread::Thread;
use crate::usercopy;

pub(super) struct Calls<S>(PhantomData<S>);

impl<S: System> Calls<S> {
    pub(super) const LIST: &'static [Entry<S>] = &[
        (nr::sched_yield, sched_yield),
        (nr::sched_getaffinity, sched_getaffinity),
        (nr::sched_setaffinity, sched_setaffinity),
        (nr::getcpu, getcpu),
        (nr::membarrier, membarrier),
    ];
}

/// Bytes of the kernel's CPU masks: one word for [`abi::MAX_CPUS`].
const MASK_BYTES: u64 = 8;

fn sched_yield<S: System>(_: &Caller<'_, S>, _: Args) -> Result<u64, Errno> {
    S::yield_now();
    Ok(0)
}

/// The thread that a call's `pid` argument names: 0 is the caller; others are only found in the caller's process.
fn named<S: System>(caller: &Caller<'_, S>, pid: u64) -> Result<Arc<Thread<S>>, Errno> {
    match pid as i32 {
        0 => Ok(caller.thread.clone()),
        tid if tid > 0 => caller.process().thread(tid as u32).ok_or(Errno::ESRCH),
        _ => Err(Errno::ESRCH),
    }
}

/// `sched_getaffinity(pid, len, mask)`: returns the bytes written.
fn sched_getaffinity<S: System>(caller: &Caller<'_, S>, [pid, len, mask, ..]: Args) -> Result<u64, Errno> {
    let len = u64::from(len as u32);
    if len * 8 < S::cpu_count() as u64 || len % 8 != 0 {
        return Err(Errno::EINVAL);
    }
    let set = named(caller, pid)?.affinity();
    let bytes = len.min(MASK_BYTES);
    S::copy_out(mask, &set.0.to_le_bytes()[..bytes as usize])?;
    Ok(bytes)
}

/// `sched_setaffinity(pid, len, mask)`: CPUs that are not online are dropped from the mask.
fn sched_setaffinity<S: System>(caller: &Caller<'_, S>, [pid, len, mask, ..]: Args) -> Result<u64, Errno> {
    let bytes = u64::from(len as u32).min(MASK_BYTES) as usize;
    let mut word = [0; MASK_BYTES as usize];
    S::copy_in(&mut word[..bytes], mask)?;
    let thread = named(caller, pid)?;
    let set = CpuSet(u64::from_le_bytes(word) & S::online().0);
    if set.is_empty() {
        return Err(Errno::EINVAL);
    }
    thread.set_affinity(set);
    Ok(0)
}

/// `getcpu(cpu, node)`: there is one node.
fn getcpu<S: System>(_: &Caller<'_, S>, [cpu, node, ..]: Args) -> Result<u64, Errno> {
    if cpu != 0 {
        usercopy::write_u32::<S>(cpu, S::cpu().0)?;
    }
    if node != 0 {
        usercopy::write_u32::<S>(node, 0)?;
    }
    Ok(0)
}

const MEMBARRIER_QUERY: i32 = 0;
const MEMBARRIER_GLOBAL: i32 = 1;
const MEMBARRIER_PRIVATE_EXPEDITED: i32 = 1 << 3;
const MEMBARRIER_REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;

/// `membarrier(cmd, flags)`: a grace period is a barrier on every CPU, because every quiescent state has one.
fn membarrier<S: System>(caller: &Caller<'_, S>, [command, flags, ..]: Args) -> Result<u64, Errno> {
    if flags as u32 != 0 {
        return Err(Errno::EINVAL);
    }
    let registered = &caller.process().barriers_registered;
    match command as i32 {
        MEMBARRIER_QUERY => {
            let served = MEMBARRIER_GLOBAL | MEMBARRIER_PRIVATE_EXPEDITED | MEMBARRIER_REGISTER_PRIVATE_EXPEDITED;
            return Ok(served as u64);
        }
        MEMBARRIER_GLOBAL => S::memory().rcu.synchronize(),
        MEMBARRIER_REGISTER_PRIVATE_EXPEDITED => {
            // Relaxed: it is a permission, and orders nothing.
            registered.fetch_or(MEMBARRIER_PRIVATE_EXPEDITED as u32, Ordering::Relaxed);
        }
        MEMBARRIER_PRIVATE_EXPEDITED => {
            if registered.load(Ordering::Relaxed) & MEMBARRIER_PRIVATE_EXPEDITED as u32 == 0 {
                return Err(Errno::EPERM);
            }
            S::memory().rcu.synchronize();
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
