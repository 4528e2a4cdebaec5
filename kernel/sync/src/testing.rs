//! A [`Platform`] made of host threads, for the tests of this crate and of those above it.
//!
//! A thread plays a CPU while it is inside [`on_cpu`]; interrupts are a flag of the thread; parking is real. In one test
//! world two threads must not play the same CPU at the same time, unless all but one sleep. The physical window is the
//! identity: a "physical address" is an address of host memory. What only some tests have (a software TLB, say) they
//! install by [`set_hooks`].
//!
//! In models the same functions stand on loom's or shuttle's threads; time stands still but for sleeps, each of which ends at
//! its deadline unless it is ended before.

use core::cell::Cell;

use crate::order::{Context, Held};
use crate::{CpuId, CpuSet, FlushRequest, InterruptState, Platform, Point, ThreadId};

mod plant;
mod point;
#[cfg(shuttle)]
mod schedules;

#[cfg(shuttle)]
pub use self::schedules::{explore, spawn};
pub use plant::{is_planted, planted};
pub use point::{at_point, at_spin, run_seed, shaken};

/// How many CPUs [`Host`] has.
#[cfg(not(any(loom, shuttle)))]
pub const HOST_CPUS: usize = 8;
/// How many CPUs [`Host`] has.
#[cfg(any(loom, shuttle))]
pub const HOST_CPUS: usize = crate::primitive::MAX_CPUS;

/// The platform of host tests.
#[derive(Debug)]
pub struct Host;

/// What a test world adds to [`Host`]. The functions find their world by their arguments or by thread-locals.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// [`Platform::shootdown`].
    pub shootdown: fn(&FlushRequest<'_>) -> usize,
    /// Called in every [`Platform::relax`].
    pub relax: fn(),
    /// [`Platform::nudge`].
    pub nudge: fn(CpuSet),
    /// [`Platform::point`], before anything else happens there.
    pub point: fn(Point, u64),
}

impl Hooks {
    /// Nothing more than [`Host`] itself does.
    pub const NONE: Hooks = Hooks { shootdown: |_| 0, relax: || {}, nudge: |_| {}, point: |_, _| {} };
}

static HOOKS: std::sync::OnceLock<Hooks> = std::sync::OnceLock::new();

/// Installs a world's hooks, for the whole process. The first call wins.
pub fn set_hooks(hooks: Hooks) {
    HOOKS.get_or_init(|| hooks);
}

fn hooks() -> Hooks {
    HOOKS.get().copied().unwrap_or(Hooks::NONE)
}

std::thread_local! {
    /// Allocations that this thread may still make before they fail.
    static ALLOCATIONS_LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Runs `body`; in it, on this thread, the first `successes` allocations through `sync::alloc` succeed and all later ones
/// fail. Returns what `body` returns, and whether any allocation failed.
pub fn fail_allocation_after<R>(successes: u64, body: impl FnOnce() -> R) -> (R, bool) {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            ALLOCATIONS_LEFT.set(None);
            FAILED.set(false);
        }
    }
    let _reset = Reset;
    ALLOCATIONS_LEFT.set(Some(successes));
    FAILED.set(false);
    let result = body();
    (result, FAILED.get())
}

std::thread_local! {
    static FAILED: Cell<bool> = const { Cell::new(false) };
}

/// Asked by `sync::alloc` before each allocation.
pub(crate) fn allocation_allowed() -> bool {
    match ALLOCATIONS_LEFT.get() {
        None => true,
        Some(0) => {
            FAILED.set(true);
            false
        }
        Some(left) => {
            ALLOCATIONS_LEFT.set(Some(left - 1));
            true
        }
    }
}

/// Plays CPU `cpu` while `body` runs.
pub fn on_cpu<R>(cpu: CpuId, body: impl FnOnce() -> R) -> R {
    struct Back(u32);
    impl Drop for Back {
        fn drop(&mut self) {
            host::with(|thread| thread.cpu.set(self.0));
        }
    }
    assert!(cpu.index() < HOST_CPUS, "Host has {HOST_CPUS} CPUs");
    let _back = Back(host::with(|thread| thread.cpu.replace(cpu.0)));
    body()
}

std::thread_local! {
    /// What this thread holds, and what it holds while it plays an interrupt handler.
    static HELD: [Held; 2] = const { [Held::new(Context::Thread), Held::new(Context::Interrupt)] };
    static IN_INTERRUPT: Cell<bool> = const { Cell::new(false) };
    static UNCHECKED: Cell<bool> = const { Cell::new(false) };
}

/// While this lives, the lock-order validator does not look at this thread: for a test in which one thread plays two CPUs
/// at a time.
pub struct Unchecked(());

/// Begins such a stretch, with nothing held.
pub fn unchecked() -> Unchecked {
    UNCHECKED.set(true);
    Unchecked(())
}

impl Drop for Unchecked {
    fn drop(&mut self) {
        UNCHECKED.set(false);
    }
}

/// Runs `body` as an interrupt handler of the CPU that this thread plays.
pub fn in_interrupt<R>(body: impl FnOnce() -> R) -> R {
    struct Back(bool, InterruptState);
    impl Drop for Back {
        fn drop(&mut self) {
            IN_INTERRUPT.set(self.0);
            Host::interrupts_restore(self.1);
        }
    }
    let off = Host::interrupts_disable();
    let _back = Back(IN_INTERRUPT.replace(true), off);
    body()
}

/// Sets the clock of the calling thread, which stands still in models: transactions that it begins are as old as that.
#[cfg(any(loom, shuttle))]
pub fn set_clock(now_ns: u64) {
    host::set_clock(now_ns);
}

/// Tells `thread` to die: its interruptible waits end. Told to itself, it ends the next one.
pub fn interrupt(thread: ThreadId) {
    host::interrupt(thread);
}

/// Whether interrupts are on, on the CPU that this thread plays.
pub fn interrupts_on() -> bool {
    host::with(|thread| thread.interrupts.get())
}

/// A host thread's side of the platform.
struct Local {
    cpu: Cell<u32>,
    interrupts: Cell<bool>,
    id: u64,
}

impl Platform for Host {
    fn cpu() -> CpuId {
        CpuId(host::with(|thread| thread.cpu.get()))
    }

    fn cpu_count() -> usize {
        HOST_CPUS
    }

    fn interrupts_disable() -> InterruptState {
        if host::with(|thread| thread.interrupts.replace(false)) { InterruptState::On } else { InterruptState::Off }
    }

    fn interrupts_restore(state: InterruptState) {
        if state == InterruptState::On {
            host::with(|thread| thread.interrupts.set(true));
        }
    }

    fn relax() {
        point::spin();
        (hooks().relax)();
        host::yield_now();
    }

    fn now_ns() -> u64 {
        host::now_ns()
    }

    fn current_thread() -> ThreadId {
        ThreadId(host::with(|thread| thread.id))
    }

    fn park(deadline_ns: Option<u64>) {
        assert!(interrupts_on(), "a thread sleeps with interrupts off");
        host::park(deadline_ns);
    }

    fn unpark(thread: ThreadId) {
        host::unpark(thread);
    }

    fn interrupted() -> bool {
        host::interrupted()
    }

    /// A panic drops guards in any order: while it does, nothing is checked, and what the thread held is forgotten.
    fn with_held<R>(f: impl FnOnce(&Held) -> R) -> Option<R> {
        if !crate::order::CHECKED || UNCHECKED.get() {
            return None;
        }
        let with = |held: &[Held; 2]| {
            let held = &held[usize::from(IN_INTERRUPT.get())];
            if std::thread::panicking() {
                held.give_up();
                return None;
            }
            if held.is_broken() {
                held.reset();
            }
            Some(f(held))
        };
        // None as well when the thread is past the end of its locals.
        HELD.try_with(with).ok().flatten()
    }

    fn phys_to_virt(phys: u64) -> *mut u8 {
        core::ptr::with_exposed_provenance_mut(phys as usize)
    }

    fn shootdown(request: &FlushRequest<'_>) -> usize {
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        (hooks().shootdown)(request)
    }

    fn nudge(cpus: CpuSet) {
        (hooks().nudge)(cpus);
    }

    fn point(point: Point, detail: u64) {
        (hooks().point)(point, detail);
        point::pass(point);
    }
}

#[cfg(not(any(loom, shuttle)))]
mod host {
    use core::cell::Cell;
    use std::collections::HashMap;
    use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
    use std::time::{Duration, Instant};

    use super::{Local, ThreadId};

    #[derive(Default)]
    struct Parker {
        state: Mutex<State>,
        unparked: Condvar,
    }

    #[derive(Default)]
    struct State {
        token: bool,
        interrupted: bool,
    }

    impl Parker {
        fn lock(&self) -> MutexGuard<'_, State> {
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    static PARKERS: LazyLock<Mutex<HashMap<u64, Arc<Parker>>>> = LazyLock::new(Mutex::default);

    fn parkers() -> MutexGuard<'static, HashMap<u64, Arc<Parker>>> {
        PARKERS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    struct Registered {
        local: Local,
        parker: Arc<Parker>,
    }

    impl Drop for Registered {
        fn drop(&mut self) {
            parkers().remove(&self.local.id);
        }
    }

    std::thread_local! {
        static THREAD: Registered = {
            static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
            let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let parker = Arc::<Parker>::default();
            parkers().insert(id, parker.clone());
            Registered { local: Local { cpu: Cell::new(0), interrupts: Cell::new(true), id }, parker }
        };
    }

    pub(super) fn with<R>(f: impl FnOnce(&Local) -> R) -> R {
        THREAD.with(|thread| f(&thread.local))
    }

    fn parker(thread: ThreadId) -> Arc<Parker> {
        parkers().get(&thread.0).cloned().expect("a thread was unparked after its end")
    }

    pub(super) fn interrupt(thread: ThreadId) {
        parker(thread).lock().interrupted = true;
        unpark(thread);
    }

    pub(super) fn interrupted() -> bool {
        THREAD.with(|thread| thread.parker.lock().interrupted)
    }

    pub(super) fn yield_now() {
        std::thread::yield_now();
    }

    pub(super) fn now_ns() -> u64 {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }

    pub(super) fn park(deadline_ns: Option<u64>) {
        THREAD.with(|thread| {
            let mut state = thread.parker.lock();
            while !core::mem::take(&mut state.token) {
                let Some(deadline) = deadline_ns else {
                    state = thread.parker.unparked.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                };
                let left = deadline.saturating_sub(now_ns());
                if left == 0 {
                    return;
                }
                let wait = thread.parker.unparked.wait_timeout(state, Duration::from_nanos(left));
                state = wait.unwrap_or_else(PoisonError::into_inner).0;
            }
        });
    }

    pub(super) fn unpark(thread: ThreadId) {
        let parker = parker(thread);
        parker.lock().token = true;
        parker.unparked.notify_one();
    }
}

#[cfg(any(loom, shuttle))]
mod host {
    use core::cell::Cell;
    use std::collections::HashMap;
    use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

    #[cfg(loom)]
    use loom as explorer;
    #[cfg(shuttle)]
    use shuttle as explorer;

    use super::{Local, ThreadId};

    /// Nothing here is explored: the explorer runs one thread at a time, and switches only at its own operations.
    struct Parker {
        thread: explorer::thread::Thread,
        token: Mutex<bool>,
        interrupted: Mutex<bool>,
    }

    fn flag(flag: &Mutex<bool>) -> MutexGuard<'_, bool> {
        flag.lock().unwrap_or_else(PoisonError::into_inner)
    }

    static PARKERS: LazyLock<Mutex<HashMap<u64, Arc<Parker>>>> = LazyLock::new(Mutex::default);

    fn parkers() -> MutexGuard<'static, HashMap<u64, Arc<Parker>>> {
        PARKERS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    struct Registered {
        local: Local,
        parker: Arc<Parker>,
        /// Each thread's own clock: it moves by sleeping.
        now: Cell<u64>,
    }

    impl Drop for Registered {
        fn drop(&mut self) {
            parkers().remove(&self.local.id);
        }
    }

    explorer::thread_local! {
        static THREAD: Registered = {
            static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
            let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let parker = Arc::new(Parker {
                thread: explorer::thread::current(),
                token: Mutex::new(false),
                interrupted: Mutex::new(false),
            });
            parkers().insert(id, parker.clone());
            Registered {
                local: Local { cpu: Cell::new(0), interrupts: Cell::new(true), id },
                parker,
                now: Cell::new(0),
            }
        };
    }

    #[cfg(shuttle)]
    std::thread_local! {
        /// Who makes a machine before the model begins.
        static OUTSIDE: Local = const { Local { cpu: Cell::new(0), interrupts: Cell::new(true), id: 0 } };
    }

    pub(super) fn with<R>(f: impl FnOnce(&Local) -> R) -> R {
        #[cfg(shuttle)]
        if shuttle::current::try_get_current_task().is_none() {
            return OUTSIDE.with(f);
        }
        THREAD.with(|thread| f(&thread.local))
    }

    fn parker(thread: ThreadId) -> Arc<Parker> {
        parkers().get(&thread.0).cloned().expect("a thread was unparked after its end")
    }

    pub(super) fn interrupt(thread: ThreadId) {
        *flag(&parker(thread).interrupted) = true;
        unpark(thread);
    }

    pub(super) fn interrupted() -> bool {
        THREAD.with(|thread| *flag(&thread.parker.interrupted))
    }

    pub(super) fn yield_now() {
        explorer::thread::yield_now();
    }

    pub(super) fn now_ns() -> u64 {
        THREAD.with(|thread| thread.now.get())
    }

    pub(super) fn set_clock(now_ns: u64) {
        THREAD.with(|thread| thread.now.set(now_ns));
    }

    pub(super) fn park(deadline_ns: Option<u64>) {
        let parker = THREAD.with(|thread| thread.parker.clone());
        if let Some(deadline) = deadline_ns {
            // Others run, or not, before the deadline.
            explorer::thread::yield_now();
            if !core::mem::take(&mut *flag(&parker.token)) {
                THREAD.with(|thread| thread.now.set(thread.now.get().max(deadline)));
            }
            return;
        }
        while !core::mem::take(&mut *flag(&parker.token)) {
            explorer::thread::park();
        }
    }

    pub(super) fn unpark(thread: ThreadId) {
        let parker = parker(thread);
        *flag(&parker.token) = true;
        parker.thread.unpark();
    }
}
