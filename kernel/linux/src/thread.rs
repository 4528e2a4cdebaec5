//! [`Thread`]: one thread of a program, as its calls know it.
//!
//! The kernel's scheduler keeps an `Arc` of it beside its own thread, and its own data in [`Thread::task`]. The
//! process's table holds another until [`thread_exit`](crate::thread_exit()), so a thread found there may be told to
//! die, never freed under the finder.
//!
//! Fields that only the thread itself changes are atomics with relaxed accesses: others may look (for reports), and
//! nothing is published through them. What two threads may change together is behind a spin lock.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::Errno;
use sync::alloc::{AllocError, Arc};
use sync::{Class, CpuSet, SpinLock, spin_lock};

use crate::process::Process;
use crate::signal::{AltStack, SignalSet};
use crate::system::System;

/// Bytes of a thread's name with its final NUL: Linux's `TASK_COMM_LEN`.
pub const NAME_LEN: usize = 16;

/// One thread of a program.
pub struct Thread<S: System> {
    tid: u32,
    process: Arc<Process<S>>,
    /// The scheduler's own data.
    pub task: S::Task,
    /// Told to die. Set once, never cleared.
    killed: AtomicBool,
    /// Where to store 0 and wake one futex waiter at the end; 0: nowhere. Own thread only.
    clear_child_tid: AtomicU64,
    /// Head of the user-mode list of robust futexes that the thread holds; 0: none. Own thread only.
    robust_list: AtomicU64,
    /// Blocked signals. Changed by the thread itself; read by senders.
    blocked: AtomicU64,
    /// Signals sent to this thread that it blocks. Changed by senders and by the thread.
    pending: AtomicU64,
    /// CPUs that it may run on, as last set.
    affinity: AtomicU64,
    alt_stack: SpinLock<S, AltStack>,
    name: SpinLock<S, [u8; NAME_LEN]>,
}

impl<S: System> Thread<S> {
    /// A thread of `process` with number `tid`, which it gives back when it is dropped, unless it is the process's own.
    pub(crate) fn new(tid: u32, process: Arc<Process<S>>, like: Option<&Thread<S>>) -> Result<Arc<Self>, AllocError> {
        // A failed `try_new` drops what it was given, so the number is given back in that case too.
        Arc::try_new(Thread {
            tid,
            process,
            task: S::Task::default(),
            killed: AtomicBool::new(false),
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            blocked: AtomicU64::new(like.map_or(0, |parent| parent.blocked().0)),
            pending: AtomicU64::new(0),
            affinity: AtomicU64::new(like.map_or(S::online(), |parent| parent.affinity()).0),
            // A thread that shares its maker's memory starts without an alternate stack (sigaltstack(2), notes).
            alt_stack: spin_lock(Class::ThreadAltStack, AltStack::NONE),
            name: spin_lock(Class::ThreadName, like.map_or([0; NAME_LEN], |parent| parent.name())),
        })
    }

    /// The thread's number, unique in the machine while the thread lives.
    pub fn tid(&self) -> u32 {
        self.tid
    }

    /// The process that it belongs to.
    pub fn process(&self) -> &Arc<Process<S>> {
        &self.process
    }

    /// Whether it was told to die: it must not go back to user mode, and its waits end early.
    /// This is what [`sync::Platform::interrupted`] answers for a thread of a program.
    pub fn killed(&self) -> bool {
        // Acquire pairs with `kill`: whoever sees it also sees why (the process's status).
        self.killed.load(Ordering::Acquire)
    }

    /// Tells the thread to die, and makes it notice.
    pub(crate) fn kill(&self) {
        self.mark_killed();
        S::kill_kick(self);
    }

    /// Tells the calling thread to die: the call that it is in will not return to user mode.
    pub(crate) fn mark_killed(&self) {
        self.killed.store(true, Ordering::Release);
    }

    /// The CPUs that it may run on.
    pub fn affinity(&self) -> CpuSet {
        CpuSet(self.affinity.load(Ordering::Relaxed))
    }

    /// Moves it to `cpus`, which holds an online CPU and no other.
    pub fn set_affinity(&self, cpus: CpuSet) {
        self.affinity.store(cpus.0, Ordering::Relaxed);
        S::set_affinity(self);
    }

    /// Its name (`PR_SET_NAME`), filled up with NULs.
    pub fn name(&self) -> [u8; NAME_LEN] {
        *self.name.lock()
    }

    pub(crate) fn set_name(&self, name: [u8; NAME_LEN]) {
        *self.name.lock() = name;
    }

    pub(crate) fn clear_child_tid(&self) -> u64 {
        self.clear_child_tid.load(Ordering::Relaxed)
    }

    pub(crate) fn set_clear_child_tid(&self, address: u64) {
        self.clear_child_tid.store(address, Ordering::Relaxed);
    }

    pub(crate) fn robust_list(&self) -> u64 {
        self.robust_list.load(Ordering::Relaxed)
    }

    pub(crate) fn set_robust_list(&self, head: u64) {
        self.robust_list.store(head, Ordering::Relaxed);
    }

    /// The signals that it blocks.
    pub(crate) fn blocked(&self) -> SignalSet {
        // SeqCst with `add_pending`: either the sender sees the signal unblocked, or the thread, which looks for
        // pending signals after it has unblocked, sees it pending.
        SignalSet(self.blocked.load(Ordering::SeqCst))
    }

    pub(crate) fn set_blocked(&self, set: SignalSet) {
        self.blocked.store(set.blockable().0, Ordering::SeqCst);
    }

    /// Signals sent to this very thread that wait to be unblocked.
    pub(crate) fn pending(&self) -> SignalSet {
        SignalSet(self.pending.load(Ordering::SeqCst))
    }

    pub(crate) fn add_pending(&self, set: SignalSet) {
        self.pending.fetch_or(set.0, Ordering::SeqCst);
    }

    /// Removes `set`, and says which of it was pending.
    pub(crate) fn take_pending(&self, set: SignalSet) -> SignalSet {
        SignalSet(self.pending.fetch_and(!set.0, Ordering::SeqCst) & set.0)
    }

    pub(crate) fn alt_stack(&self) -> AltStack {
        *self.alt_stack.lock()
    }

    pub(crate) fn set_alt_stack(&self, stack: AltStack) {
        *self.alt_stack.lock() = stack;
    }
}

impl<S: System> Drop for Thread<S> {
    fn drop(&mut self) {
        // The first thread's number is the process's, which keeps it until the process itself is gone.
        if self.tid != self.process.id() {
            S::ids().give_back(self.tid);
        }
    }
}

/// Makes a further thread for `maker`'s process: with its own number, its maker's signal mask, CPUs and name.
///
/// # Errors
/// `EAGAIN` without a free number, `ENOMEM`.
pub(crate) fn make_sibling<S: System>(maker: &Thread<S>) -> Result<Arc<Thread<S>>, Errno> {
    let tid = S::ids().take()?;
    // From here on the number belongs to the thread: `Drop` gives it back, also if the allocation fails.
    Thread::new(tid, maker.process.clone(), Some(maker)).map_err(Errno::from)
}
