//! [`Platform`]: all that the portable kernel asks of the machine under it.
//!
//! `sync`, `mm` and `linux` name no CPU, trap frame, port or task. What they need comes through the associated
//! functions of one type parameter `P: Platform`, implemented by the kernel for the real machine and by
//! `sync::testing` for threads on the host that play CPUs.

use abi::Point;

use crate::order::Held;

/// Index of a CPU: `0..P::cpu_count()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuId(pub u32);

impl CpuId {
    /// As an index into per-CPU tables.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// As a set of one.
    pub const fn bit(self) -> CpuSet {
        CpuSet(1 << self.0)
    }
}

/// A set of CPUs: bit `n` is CPU `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuSet(pub u64);

impl CpuSet {
    /// No CPU.
    pub const EMPTY: CpuSet = CpuSet(0);

    /// The CPUs `0..count`.
    pub const fn first(count: usize) -> CpuSet {
        if count >= 64 { CpuSet(u64::MAX) } else { CpuSet((1 << count) - 1) }
    }

    /// Whether `cpu` is in the set.
    pub const fn contains(self, cpu: CpuId) -> bool {
        self.0 & cpu.bit().0 != 0
    }

    /// The set less `cpu`.
    pub const fn without(self, cpu: CpuId) -> CpuSet {
        CpuSet(self.0 & !cpu.bit().0)
    }

    /// Whether the set has no member.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, lowest first.
    pub fn iter(self) -> impl Iterator<Item = CpuId> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let cpu = rest.trailing_zeros();
            rest &= rest - 1;
            Some(CpuId(cpu))
        })
    }
}

/// A thread that can be parked and unparked. Only the platform knows what the number means; it is valid while the
/// thread lives, and whoever unparks a thread guarantees that (see `sync::wait`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId(pub u64);

/// Whether interrupts were on before [`Platform::interrupts_disable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum InterruptState {
    /// They were on, and restoring turns them on again.
    On,
    /// They were off already, and stay off.
    Off,
}

/// The two ends of an update transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionEdge {
    /// It is open from here on.
    Opened {
        /// Its mark, as one word: its name.
        mark: u64,
        /// Address of the update lock of the address space that it changes: its name in reports.
        space: u64,
    },
    /// It has ended.
    Ended,
}

/// What a TLB shootdown must remove from the TLBs of [`FlushRequest::cpus`].
#[derive(Clone, Copy, Debug)]
pub enum FlushScope<'a> {
    /// The translations of these pages (page-aligned addresses).
    Pages(&'a [u64]),
    /// Every translation of the address space, and all cached upper levels of its tables.
    All,
}

/// One TLB shootdown.
#[derive(Clone, Copy, Debug)]
pub struct FlushRequest<'a> {
    /// The address space: the physical address of its tree of tables, which no other has meanwhile.
    pub space: u64,
    /// CPUs that may hold the translations in question, the caller's own included or not.
    pub cpus: CpuSet,
    /// What to remove.
    pub scope: FlushScope<'a>,
}

/// The machine, as far as the portable kernel sees it.
///
/// The kernel is not preemptible: a thread in the kernel keeps its CPU until it parks, so [`Platform::cpu`] stays
/// true between two sleeps. Interrupt handlers do run in between, unless interrupts are off.
pub trait Platform: Sized + Send + Sync + 'static {
    /// The CPU that runs the caller.
    fn cpu() -> CpuId;

    /// Number of CPUs; fixed before the first `AddressSpace` is made.
    fn cpu_count() -> usize;

    /// Turns interrupts off on this CPU and says what they were.
    fn interrupts_disable() -> InterruptState;

    /// Undoes [`Platform::interrupts_disable`]. Calls nest like brackets.
    fn interrupts_restore(state: InterruptState);

    /// Called in every spin. Pauses the CPU, and **serves this CPU's pending TLB flush requests**, so that a spin with
    /// interrupts off never keeps another CPU's shootdown waiting (slot protocol, rule 6). In models: yields.
    fn relax();

    /// Nanoseconds since some fixed point, never going back on one CPU.
    fn now_ns() -> u64;

    /// The thread that runs the caller. Not to be called in interrupt context.
    fn current_thread() -> ThreadId;

    /// Puts the calling thread to sleep until it is unparked or `deadline_ns` ([`Platform::now_ns`]'s clock) passes.
    /// An unpark since the last return from `park` makes it return at once; it may also return for no reason.
    ///
    /// # Panics
    /// In debug builds, with interrupts off or in an RCU read section.
    fn park(deadline_ns: Option<u64>);

    /// Wakes `thread`, or makes its next [`Platform::park`] return at once. Callable with interrupts off and under spin
    /// locks. The caller guarantees that the thread has not ended.
    fn unpark(thread: ThreadId);

    /// Whether the calling thread has been told to die: interruptible waits then end early.
    fn interrupted() -> bool;

    /// Where physical address `phys` can be read and written by the kernel: the physical window.
    fn phys_to_virt(phys: u64) -> *mut u8;

    /// Removes translations from the TLBs of the requested CPUs, and returns when **all have acknowledged**.
    /// The caller has changed the tables before: the CPUs asked see that from their flush on. It holds no spin lock. Interrupts may be on or off; while waiting, own requests are served.
    /// Returns how many other CPUs were asked.
    fn shootdown(request: &FlushRequest<'_>) -> usize;

    /// Asks CPUs to pass a quiescent state soon (an interrupt that ends in `Rcu::quiescent` where that is legal).
    fn nudge(cpus: CpuSet);

    /// Begins to load the cache line at `pointer`; a hint.
    fn prefetch(pointer: *const u8) {
        let _ = pointer;
    }

    /// The calling thread has opened or ended an update transaction: for reports.
    fn transaction(edge: TransactionEdge) {
        let _ = edge;
    }

    /// Calls `f` with the record of what the running context (the thread, or the interrupt handler) holds: for the
    /// lock-order validator of debug builds. `None`: there is no such record, and nothing is checked.
    #[inline(always)]
    fn with_held<R>(f: impl FnOnce(&Held) -> R) -> Option<R> {
        let _ = f;
        None
    }

    /// Something that a report about a machine gone wrong should show happened on this CPU; [`abi::event::Kind`] says what
    /// the words mean. Callable anywhere, interrupt handlers included. Nothing by default.
    #[inline]
    fn event(kind: abi::event::Kind, a: u64, b: u64) {
        let _ = (kind, a, b);
    }

    /// Whether the machine shall make the mistake called `name`, on purpose, so that a test shows that it would see it. Asked
    /// beside [`crate::primitive::mutant`], where a test of the whole machine plants the mistakes that models plant, too.
    #[inline(always)]
    fn planted(name: &'static str) -> bool {
        let _ = name;
        false
    }

    /// The caller passes a schedule point ([`crate::point!`]). May take a while, but ends by itself, never sleeps, and
    /// serves TLB flush requests as [`Platform::relax`] does. Not called in builds without debug assertions.
    /// `detail` is what the point is about, such as a frame's physical address, for platforms that check something there; or 0.
    fn point(point: Point, detail: u64) {
        let _ = (point, detail);
    }
}
