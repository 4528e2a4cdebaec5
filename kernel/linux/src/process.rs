//! [`Process`]: an address space and the threads in it, with what they share: descriptors, signal actions, limits,
//! and one end.
//!
//! A process ends when its last thread has left user mode for good. The first cause of an end (a call of `exit_group`,
//! a fatal signal) fixes the status and tells every thread to die; later causes change nothing. Threads that are being
//! made while that happens are refused, because entering the table and fixing the status happen under one lock.
//!
//! | field | protected by |
//! |---|---|
//! | `members` | its spin lock; held for one table operation, never around a call of the system or user memory |
//! | `files`, `signals`, `limits` | their own spin locks |
//! | `finished` | set once, by the last thread, after the memory is gone |
//!
//! The table is sorted by number, so that a walk over all threads can let go of the lock between two of them.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use mm::AddressSpace;
use sync::alloc::{Arc, try_push};
use sync::{Class, Interruptible, SpinLock, WaitQueue, spin_lock};

use crate::files::Files;
use crate::limits::Limits;
use crate::signal::Signals;
use crate::system::System;
use crate::thread::Thread;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// By `exit` or `exit_group`, with this code (of which Linux passes on the low 8 bits).
    Exited(i32),
    /// By this signal.
    Signalled(u32),
}

/// One process.
pub struct Process<S: System> {
    id: u32,
    space: AddressSpace<S>,
    members: SpinLock<S, Members<S>>,
    pub(crate) files: SpinLock<S, Files<S>>,
    pub(crate) signals: SpinLock<S, Signals>,
    /// Threads that wait for a signal to become pending.
    pub(crate) signal_sent: WaitQueue<S>,
    pub(crate) limits: SpinLock<S, Limits>,
    /// Which kinds of `membarrier(2)` it has registered for.
    pub(crate) barriers_registered: AtomicU32,
    /// CPU time of the threads that have ended.
    ended_cpu_ns: AtomicU64,
    finished: AtomicBool,
    exited: WaitQueue<S>,
}

struct Members<S: System> {
    /// Living threads, by rising number.
    threads: Vec<Arc<Thread<S>>>,
    /// Once set, all threads are dying and no thread may be added.
    status: Option<ExitStatus>,
    /// What the first thread passed to `exit`: the status if every thread leaves that way.
    leader_code: i32,
}

impl<S: System> Process<S> {
    /// A process without threads, in `space`, with a number of its own.
    ///
    /// # Errors
    /// `EAGAIN` without a free number, `ENOMEM`.
    pub(crate) fn new(space: AddressSpace<S>) -> Result<Arc<Self>, Errno> {
        let files = Files::new()?;
        let signals = Signals::new()?;
        let limits = Limits::new()?;
        let id = S::ids().take()?;
        // From here on the number belongs to the process: `Drop` gives it back, also if the allocation fails.
        Ok(Arc::try_new(Process {
            id,
            space,
            members: spin_lock(Class::ProcessMembers, Members { threads: Vec::new(), status: None, leader_code: 0 }),
            files: spin_lock(Class::ProcessFiles, files),
            signals: spin_lock(Class::ProcessSignals, signals),
            signal_sent: WaitQueue::new(),
            limits: spin_lock(Class::ProcessLimits, limits),
            barriers_registered: AtomicU32::new(0),
            ended_cpu_ns: AtomicU64::new(0),
            finished: AtomicBool::new(false),
            exited: WaitQueue::new(),
        })?)
    }

    /// The process's number, which is its first thread's too.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Its memory.
    pub fn space(&self) -> &AddressSpace<S> {
        &self.space
    }

    /// Sleeps until the last thread has ended, and says how the process ended. Its memory goes with the last `Arc` of
    /// it, which may be the caller's.
    pub fn wait_exit(&self) -> ExitStatus {
        // Acquire pairs with `finish`.
        let finished = || self.finished.load(Ordering::Acquire);
        self.exited.wait_until(finished, None, Interruptible::No);
        let members = self.members.lock();
        members.status.unwrap_or(ExitStatus::Exited(members.leader_code))
    }

    /// How the process ends, once that is fixed.
    pub fn status(&self) -> Option<ExitStatus> {
        self.members.lock().status
    }

    /// Number of living threads.
    pub fn thread_count(&self) -> usize {
        self.members.lock().threads.len()
    }

    /// Nanoseconds that its threads have run, ended ones included; `None` where the scheduler does not count them.
    pub fn cpu_time_ns(&self) -> Option<u64> {
        let mut total = self.ended_cpu_ns.load(Ordering::Relaxed);
        let mut seen = 0;
        while let Some(thread) = self.thread_after(seen) {
            seen = thread.tid();
            total += S::cpu_time_ns(&thread)?;
        }
        Some(total)
    }

    /// Enters `thread` into the table.
    ///
    /// # Errors
    /// `EINTR` if the process is ending, `ENOMEM`.
    pub(crate) fn add(&self, thread: Arc<Thread<S>>) -> Result<(), Errno> {
        let mut members = self.members.lock();
        if members.status.is_some() {
            return Err(Errno::EINTR);
        }
        let tid = thread.tid();
        let place = members.threads.partition_point(|other| other.tid() < tid);
        try_push(&mut members.threads, thread)?;
        // Numbers rise, so this moves something only after they have wrapped around.
        members.threads[place..].rotate_right(1);
        Ok(())
    }

    /// Removes `thread` from the table and says whether it was the last.
    pub(crate) fn remove(&self, thread: &Thread<S>) -> bool {
        // Relaxed: a sum for reports.
        self.ended_cpu_ns.fetch_add(S::cpu_time_ns(thread).unwrap_or(0), Ordering::Relaxed);
        let (removed, last) = {
            let mut members = self.members.lock();
            let place = members.threads.binary_search_by_key(&thread.tid(), |other| other.tid());
            let removed = place.ok().map(|place| members.threads.remove(place));
            (removed, members.threads.is_empty())
        };
        // The table's reference is dropped here, outside the lock.
        removed.is_some() && last
    }

    /// The living thread with number `tid`.
    pub(crate) fn thread(&self, tid: u32) -> Option<Arc<Thread<S>>> {
        let members = self.members.lock();
        let place = members.threads.binary_search_by_key(&tid, |other| other.tid()).ok()?;
        Some(members.threads[place].clone())
    }

    /// The living thread with the lowest number above `tid`: the step of a walk that holds no lock between steps.
    pub(crate) fn thread_after(&self, tid: u32) -> Option<Arc<Thread<S>>> {
        let members = self.members.lock();
        let place = members.threads.partition_point(|other| other.tid() <= tid);
        members.threads.get(place).cloned()
    }

    /// Fixes the status, unless it is fixed already, and tells every thread to die. Returns whether this call fixed it.
    ///
    /// Callable with interrupts off. The caller's own thread is told too: it must not go back to user mode.
    pub(crate) fn end(&self, status: ExitStatus) -> bool {
        {
            let mut members = self.members.lock();
            if members.status.is_some() {
                return false;
            }
            members.status = Some(status);
        }
        let mut reached = 0;
        while let Some(thread) = self.thread_after(reached) {
            reached = thread.tid();
            thread.kill();
        }
        true
    }

    /// Notes the code with which one thread leaves by `exit`; the first thread's counts if no other cause comes.
    pub(crate) fn thread_leaves(&self, thread: &Thread<S>, code: i32) {
        if thread.tid() == self.id {
            self.members.lock().leader_code = code;
        }
    }

    /// The last thread has left: tells whoever waits.
    pub(crate) fn finish(&self) {
        // Release: who sees it also sees the status.
        self.finished.store(true, Ordering::Release);
        self.exited.wake_all();
    }
}

impl<S: System> Drop for Process<S> {
    fn drop(&mut self) {
        S::ids().give_back(self.id);
    }
}
