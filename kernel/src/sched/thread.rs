//! [`Thread`]: one thread of the kernel, and the words by which it sleeps and wakes.
//!
//! | field | protected by |
//! |---|---|
//! | `state` | itself: the machine below |
//! | `cpu`, `affinity`, `fs_base` | atomics without order: hints, or written by the thread alone |
//! | `context`, `user`, `space` | the CPU that runs the thread or switches to or from it, interrupts off |
//! | `run_link` | the lock of the run queue that it stands in |
//! | `sleep` | the lock of the sleep list that it stands in (`sched::sleep`) |
//! | the memory itself | freed a grace period after the thread has left its stack (`sched::reap`) |
//!
//! ## Parking
//! ```text
//!            park                  finish_switch
//! RUNNING ----------> PARKING ---------------------> PARKED
//!    ^ ^                 | unpark                      | unpark
//!    | | park returns    v                             v
//!    | +------------- NOTIFIED <-----------------------+  this unparker puts it into a run queue
//!    +--unpark---------> ^
//! ```
//! A thread is in a run queue only with its context saved: whoever moves PARKED to NOTIFIED enqueues it, and PARKED
//! is only ever stored by `finish_switch`, which runs on the *next* thread's stack. An unpark that comes between
//! PARKING and PARKED leaves the word at NOTIFIED, and `finish_switch`, whose compare-and-swap then fails, enqueues
//! the thread itself. So each sleep is ended by exactly one side, none is lost, and no CPU ever runs a stack that
//! another still uses.

use core::cell::{Cell, UnsafeCell};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use mm::AddressSpace;
use sync::{Arc, CpuId, CpuSet, RcuHead, ThreadId};

use super::join::Join;
use super::runqueue;
use super::sleep::SleepLink;
use crate::arch::context::Context;
use crate::arch::fpu::XsaveArea;
use crate::platform::Machine;
use crate::stack::Stack;

/// Running or in a run queue, with no wake-up to consume.
const RUNNING: u8 = 0;
/// In [`super::park`], still on its own stack.
const PARKING: u8 = 1;
/// Asleep, its context saved.
const PARKED: u8 = 2;
/// Running or in a run queue; its next park returns at once.
const NOTIFIED: u8 = 3;

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
    state: AtomicU8,
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
    /// Whether it has an update transaction open. Its own.
    pub(super) in_transaction: Cell<bool>,
    pub(super) run_link: UnsafeCell<Option<NonNull<Thread>>>,
    pub(super) sleep: SleepLink,
    pub(super) start: UnsafeCell<Start>,
    /// `None`: an idle thread, on the stack that its CPU booted on.
    pub(super) stack: UnsafeCell<Option<Stack>>,
    pub(super) join: UnsafeCell<Option<Arc<Join>>>,
    pub(super) rcu: UnsafeCell<RcuHead>,
    /// For reports.
    pub(super) name: &'static str,
}

// SAFETY: the cells are handed from CPU to CPU with the thread itself, as the module's table says.
unsafe impl Send for Thread {}
// SAFETY: as above; shared access is to the atomics, and to cells under their lock.
unsafe impl Sync for Thread {}

/// What [`Thread::begin_park`] found.
#[derive(PartialEq, Eq)]
pub(super) enum BeginPark {
    /// Now PARKING: switch away.
    Sleep,
    /// A wake-up was there already and is now consumed.
    Notified,
}

/// Who has to put the thread into a run queue after a change of its state.
#[derive(PartialEq, Eq)]
pub(super) enum Enqueue {
    /// The caller.
    Caller,
    /// Nobody, or the other side.
    Other,
}

impl Thread {
    /// A thread that is not yet in any queue.
    pub(super) fn new(name: &'static str, affinity: CpuSet, start: Start, user: Option<User>) -> Thread {
        let fs_base = match &start {
            Start::User(regs) => regs.fs_base,
            Start::Kernel(..) | Start::Adopted => 0,
        };
        let space = user.as_ref().map(|user| NonNull::from(user.thread.process().space()));
        Thread {
            state: AtomicU8::new(RUNNING),
            cpu: AtomicU32::new(0),
            affinity: AtomicU64::new(affinity.0),
            fs_base: AtomicU64::new(fs_base),
            context: UnsafeCell::new(Context::NONE),
            user: UnsafeCell::new(user),
            space: Cell::new(space),
            in_transaction: Cell::new(false),
            run_link: UnsafeCell::new(None),
            sleep: SleepLink::new(),
            start: UnsafeCell::new(start),
            stack: UnsafeCell::new(None),
            join: UnsafeCell::new(None),
            rcu: UnsafeCell::new(RcuHead::new()),
            name,
        }
    }

    /// The name by which the portable kernel parks and unparks it.
    pub(super) fn id(&self) -> ThreadId {
        ThreadId(core::ptr::from_ref(self) as u64)
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

    /// RUNNING to PARKING, or NOTIFIED back to RUNNING. Called by the thread itself.
    pub(super) fn begin_park(&self) -> BeginPark {
        // Nothing is published by falling asleep itself: the context is, in `end_switch`.
        match self.state.compare_exchange(RUNNING, PARKING, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => BeginPark::Sleep,
            Err(found) => {
                debug_assert_eq!(found, NOTIFIED, "parked by somebody else");
                self.consume();
                BeginPark::Notified
            }
        }
    }

    /// NOTIFIED to RUNNING: what the unparker did before is now visible here.
    pub(super) fn consume(&self) {
        // Acquire, from the Release half of `notify`. A swap, not a store: an unpark that came since the last look is
        // consumed with the others, and so must be read.
        self.state.swap(RUNNING, Ordering::Acquire);
    }

    /// PARKING to PARKED, by `finish_switch` on the stack of the next thread.
    pub(super) fn end_switch(&self) -> Enqueue {
        // Release: whoever finds PARKED (by an Acquire swap) sees the saved context. If an unpark came first, this CPU
        // enqueues the thread, and the queue's lock carries the context to the CPU that takes it out.
        match self.state.compare_exchange(PARKING, PARKED, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => Enqueue::Other,
            Err(_) => Enqueue::Caller,
        }
    }

    /// Leaves a wake-up, and says whether this one ended a sleep.
    pub(super) fn notify(&self) -> Enqueue {
        // Release: the sleeper sees what led to the wake-up. Acquire: we see the context that `end_switch` published.
        match self.state.swap(NOTIFIED, Ordering::AcqRel) {
            PARKED => Enqueue::Caller,
            // RUNNING and NOTIFIED: it does not sleep. PARKING: the CPU that it leaves will find NOTIFIED.
            _ => Enqueue::Other,
        }
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
