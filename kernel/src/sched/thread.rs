//! [`Thread`]: one thread of the kernel, and the words by which it sleeps and wakes.
//!
//! | field | protected by |
//! |---|---|
//! | `parking` | itself: see [`sync::park`] |
//! | `cpu`, `affinity`, `fs_base` | atomics without order: hints, or written by the thread alone |
//! | `report` | atomics without order, written by the thread alone |
//! | `context`, `user`, `space` | the CPU that runs the thread or switches to or from it, interrupts off |
//! | `run_link` | the lock of the run queue that it stands in |
//! | `sleep` | the lock of the sleep list that it stands in (`sched::sleep`) |
//! | the memory itself | freed a grace period after the thread has left its stack (`sched::reap`) |
//!
//! How a thread falls asleep and wakes without losing a wake-up, and without ever running on two CPUs, is
//! [`sync::park`]'s business, where loom explores it.

use core::cell::{Cell, UnsafeCell};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::report::ThreadBox;
use mm::AddressSpace;
#[cfg(debug_assertions)]
use sync::order::{Context as HeldContext, Held};
use sync::park::ParkWord;
use sync::{Arc, CpuId, CpuSet, RcuHead, ThreadId};

#[cfg(debug_assertions)]
use super::contexts::ContextLink;
use super::join::Join;
use super::runqueue;
use super::sleep::SleepLink;
use crate::arch::context::Context;
use crate::arch::fpu::XsaveArea;
use crate::platform::Machine;
use crate::stack::Stack;

/// What a new thread does first.
#[derive(Clone, Copy)]
pub(super) enum Start {
    /// Call a kernel function.
    Kernel(fn(u64), u64),
    /// Enter user mode with these registers.
    User(linux::UserRegs),
    /// Nothing: this CPU's idle thread adopts the boot context.
    Adopted,
}

/// What only user threads have.
pub(super) struct User {
    /// The program's thread. Dropped by the thread itself before its last switch, off its address space.
    pub(super) thread: Arc<linux::Thread<Machine>>,
    /// The extended registers while the thread does not run.
    extended: UnsafeCell<XsaveArea>,
}

impl User {
    pub(super) fn new(thread: Arc<linux::Thread<Machine>>, extended: XsaveArea) -> User {
        User { thread, extended: UnsafeCell::new(extended) }
    }

    /// Saves the CPU's extended registers.
    ///
    /// # Safety
    /// Interrupts are off, and they are this thread's, which runs here.
    pub(super) unsafe fn save_extended(&self) {
        // SAFETY: only the CPU that runs or switches the thread touches the area.
        unsafe { &mut *self.extended.get() }.save();
    }

    /// Loads them into the CPU.
    ///
    /// # Safety
    /// Interrupts are off, and this CPU is switching to the thread.
    pub(super) unsafe fn restore_extended(&self) {
        // SAFETY: as above.
        unsafe { &*self.extended.get() }.restore();
    }
}

/// One thread. Made by `sched::spawn`, freed by RCU after its end; everything else holds plain pointers.
pub(super) struct Thread {
    /// Sleeping and waking.
    pub(super) parking: ParkWord,
    /// The CPU that runs it or ran it last, or whose queue it stands in.
    pub(super) cpu: AtomicU32,
    pub(super) affinity: AtomicU64,
    /// User's `fs` base: the kernel is its only writer (`CR4.FSGSBASE` is off).
    pub(super) fs_base: AtomicU64,
    pub(super) context: UnsafeCell<Context>,
    pub(super) user: UnsafeCell<Option<User>>,
    /// The address space that it runs in; `None`: the kernel's own tables. Alive while it stands here: it is the
    /// program's, or borrowed by `sched::with_space`.
    pub(super) space: Cell<Option<NonNull<AddressSpace<Machine>>>>,
    /// What reports say about it. Its own.
    pub(super) report: ThreadBox,
    pub(super) run_link: UnsafeCell<Option<NonNull<Thread>>>,
    pub(super) sleep: SleepLink,
    pub(super) start: UnsafeCell<Start>,
    /// `None`: an idle thread, on the stack that its CPU booted on.
    pub(super) stack: UnsafeCell<Option<Stack>>,
    pub(super) join: UnsafeCell<Option<Arc<Join>>>,
    pub(super) rcu: UnsafeCell<RcuHead>,
    /// What it holds, for the lock-order validator. Its own; read by the watchdog and by reports.
    #[cfg(debug_assertions)]
    pub(super) held: Held,
    /// Its place in the watchdog's list, under that list's lock.
    #[cfg(debug_assertions)]
    pub(super) contexts: ContextLink,
    /// For reports.
    pub(super) name: &'static str,
}

// SAFETY: the cells are handed from CPU to CPU with the thread itself, as the module's table says.
unsafe impl Send for Thread {}
// SAFETY: as above; shared access is to the atomics, and to cells under their lock.
unsafe impl Sync for Thread {}

impl Thread {
    /// A thread that is not yet in any queue.
    pub(super) fn new(name: &'static str, affinity: CpuSet, start: Start, user: Option<User>) -> Thread {
        let fs_base = match &start {
            Start::User(regs) => regs.fs_base,
            Start::Kernel(..) | Start::Adopted => 0,
        };
        let report = ThreadBox::new();
        report.name.store(name.as_ptr().addr() as u64, Ordering::Relaxed);
        report.name_len.store(name.len() as u64, Ordering::Relaxed);
        if let Some(user) = &user {
            report.tid.store(user.thread.tid().into(), Ordering::Relaxed);
            report.pid.store(user.thread.process().id().into(), Ordering::Relaxed);
        }
        let space = user.as_ref().map(|user| NonNull::from(user.thread.process().space()));
        Thread {
            parking: ParkWord::new(),
            cpu: AtomicU32::new(0),
            affinity: AtomicU64::new(affinity.0),
            fs_base: AtomicU64::new(fs_base),
            context: UnsafeCell::new(Context::NONE),
            user: UnsafeCell::new(user),
            space: Cell::new(space),
            report,
            run_link: UnsafeCell::new(None),
            sleep: SleepLink::new(),
            start: UnsafeCell::new(start),
            stack: UnsafeCell::new(None),
            join: UnsafeCell::new(None),
            rcu: UnsafeCell::new(RcuHead::new()),
            #[cfg(debug_assertions)]
            held: Held::new(HeldContext::Thread),
            #[cfg(debug_assertions)]
            contexts: ContextLink::new(),
            name,
        }
    }

    /// The name by which the portable kernel parks and unparks it.
    pub(super) fn id(&self) -> ThreadId {
        ThreadId(core::ptr::from_ref(self) as u64)
    }

    /// Its number in reports: a program's thread's tid, 0 for the kernel's own.
    pub(super) fn number(&self) -> u64 {
        self.report.tid.load(Ordering::Relaxed)
    }

    /// The thread of an id.
    ///
    /// # Safety
    /// The thread lives as long as the result is used.
    pub(super) unsafe fn from_id<'a>(id: ThreadId) -> &'a Thread {
        // SAFETY: an id is the address of a thread (`id`), and the caller guarantees that it lives.
        unsafe { &*(id.0 as *const Thread) }
    }

    /// The CPU that runs it or ran it last.
    pub(super) fn last_cpu(&self) -> CpuId {
        CpuId(self.cpu.load(Ordering::Relaxed))
    }

    /// The CPUs that it may run on: at least one that runs threads.
    pub(super) fn affinity(&self) -> CpuSet {
        let online = runqueue::online();
        let wanted = CpuSet(self.affinity.load(Ordering::Relaxed) & online.0);
        // An affinity without any CPU of ours is refused where programs set it; a thread must run somewhere all the
        // same.
        if wanted.is_empty() { online } else { wanted }
    }

    /// The program's thread, for a user thread that has not begun to exit.
    ///
    /// # Safety
    /// Called by the thread itself, or by its CPU with interrupts off.
    pub(super) unsafe fn user(&self) -> Option<&User> {
        // SAFETY: only the thread itself takes it out, and it is the caller, or does not run.
        unsafe { &*self.user.get() }.as_ref()
    }
}
