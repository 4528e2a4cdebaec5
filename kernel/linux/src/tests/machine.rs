//! [`System`] for [`Host`]: user memory is reached through the page tables, streams are buffers, and a thread of a
//! program runs on whichever host thread a test puts it.

use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::collections::{HashMap, VecDeque};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use abi::{Errno, PAGE_SIZE, USER_END};
use mm::testing::Machine;
use mm::{Access, AddressSpace, Memory};
use sync::alloc::Arc;
use sync::testing::{Host, interrupt};
use sync::{CpuSet, FutexTable, InterruptGuard, Interruptible, Platform, ThreadId, WaitQueue, Waited};

use crate::{Ids, Report, Stream, System, Thread, UserFacts, UserRegs};

static MACHINE: LazyLock<&'static Machine> = LazyLock::new(|| Machine::new(1 << 14));
static FUTEXES: FutexTable<Host> = FutexTable::new();
static IDS: Ids<Host> = Ids::new();
static WORLDS: LazyLock<Mutex<HashMap<u32, std::sync::Arc<World>>>> = LazyLock::new(Mutex::default);

std::thread_local! {
    static CURRENT: RefCell<Option<Arc<Thread<Host>>>> = const { RefCell::new(None) };
    static FS_BASE: Cell<u64> = const { Cell::new(0) };
}

/// Locks, also after another test has failed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The machine that all tests share.
pub(crate) fn machine() -> &'static Machine {
    *MACHINE
}

/// What the outside sees of one process.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) out: Mutex<Vec<u8>>,
    pub(crate) err: Mutex<Vec<u8>>,
    /// How often a stream was written to.
    pub(crate) writes: AtomicU32,
    input: Mutex<Input>,
    pub(crate) reports: Mutex<Vec<String>>,
    pub(crate) unknown: Mutex<Vec<u64>>,
    /// Threads that the process has asked for.
    pub(crate) spawned: Mutex<Vec<(Arc<Thread<Host>>, UserRegs)>>,
    pub(crate) refuse_spawn: AtomicBool,
}

#[derive(Default)]
struct Input {
    bytes: VecDeque<u8>,
    ended: bool,
}

static INPUT_CAME: WaitQueue<Host> = WaitQueue::new();

impl World {
    pub(crate) fn of(process: u32) -> std::sync::Arc<World> {
        lock(&WORLDS).entry(process).or_default().clone()
    }

    pub(crate) fn forget(process: u32) {
        lock(&WORLDS).remove(&process);
    }

    /// Bytes for the standard input.
    pub(crate) fn type_in(&self, bytes: &[u8]) {
        lock(&self.input).bytes.extend(bytes);
        INPUT_CAME.wake_all();
    }

    pub(crate) fn end_input(&self) {
        lock(&self.input).ended = true;
        INPUT_CAME.wake_all();
    }
}

fn current() -> Arc<Thread<Host>> {
    CURRENT.with_borrow(|current| current.clone()).expect("inside Program::run")
}

fn world() -> std::sync::Arc<World> {
    World::of(current().process().id())
}

/// The scheduler's part of a thread: the host thread that runs it.
#[derive(Default)]
pub struct Task {
    host: Mutex<Option<ThreadId>>,
}

/// Runs `thread` on `cpu`, on the calling host thread, while `body` does. Told to die, it ends the host thread's waits.
/// May be nested, with another CPU.
pub(crate) fn run<R>(thread: &Arc<Thread<Host>>, cpu: u32, body: impl FnOnce() -> R) -> R {
    struct Detach(Arc<Thread<Host>>, Option<Arc<Thread<Host>>>);
    impl Drop for Detach {
        fn drop(&mut self) {
            *lock(&self.0.task.host) = None;
            CURRENT.set(self.1.take());
            self.0.process().space().leave();
        }
    }
    machine().on_cpu(cpu, || {
        thread.process().space().join();
        let before = CURRENT.replace(Some(thread.clone()));
        *lock(&thread.task.host) = Some(Host::current_thread());
        let _detach = Detach(thread.clone(), before);
        if thread.killed() {
            Host::kill_kick(thread);
        }
        body()
    })
}

/// The pieces of a range that lie within one page each: user address, offset, length.
fn pieces(user: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = user + done as u64;
        let piece = ((PAGE_SIZE - at % PAGE_SIZE) as usize).min(len - done);
        let found = (piece > 0).then_some((at, done, piece));
        done += piece;
        found
    })
}

fn check(user: u64, len: usize) -> Result<(), Errno> {
    user.checked_add(len as u64).filter(|&end| end <= USER_END).map(|_| ()).ok_or(Errno::EFAULT)
}

/// Where `user` lies in host memory, after a fault for `access`. Nobody unmaps meanwhile.
fn reach(space: &AddressSpace<Host>, user: u64, access: Access) -> Result<*mut u8, Errno> {
    let _off = InterruptGuard::<Host>::new();
    space.fault(user, access).map_err(|_| Errno::EFAULT)?;
    // SAFETY: the address space is alive, and tests do not unmap what they access at the same time.
    let phys = unsafe { mm::paging::translate::<Host>(space.root(), user) };
    Ok(Host::phys_to_virt(phys.expect("the fault was served")))
}

fn word(user: u64, access: Access) -> Result<&'static AtomicU32, Errno> {
    assert!(user.is_multiple_of(4), "callers check the alignment");
    check(user, 4)?;
    let pointer = reach(current().process().space(), user, access)?.cast::<AtomicU32>();
    // SAFETY: aligned memory of the machine, which lives for ever; programs' words are only accessed atomically or by
    // their one owner.
    Ok(unsafe { &*pointer })
}

impl System for Host {
    type Task = Task;

    fn memory() -> &'static Memory<Host> {
        machine().memory
    }

    fn futexes() -> &'static FutexTable<Host> {
        &FUTEXES
    }

    fn ids() -> &'static Ids<Host> {
        &IDS
    }

    fn copy_in(dst: &mut [u8], user: u64) -> Result<(), Errno> {
        check(user, dst.len())?;
        for (at, offset, len) in pieces(user, dst.len()) {
            let from = reach(current().process().space(), at, Access::Read)?;
            // SAFETY: within one page, which is mapped, and no program thread writes it now.
            unsafe { from.copy_to_nonoverlapping(dst[offset..offset + len].as_mut_ptr(), len) };
        }
        Ok(())
    }

    fn copy_out(user: u64, src: &[u8]) -> Result<(), Errno> {
        check(user, src.len())?;
        for (at, offset, len) in pieces(user, src.len()) {
            let to = reach(current().process().space(), at, Access::Write)?;
            // A word that others may be looking at is stored as one.
            if len == 4 && at.is_multiple_of(4) {
                let value = u32::from_le_bytes(src[offset..offset + 4].try_into().expect("4 bytes"));
                word(at, Access::Write)?.store(value, Ordering::SeqCst);
                continue;
            }
            // SAFETY: within one page, which is mapped, and no other program thread accesses these bytes now.
            unsafe { to.copy_from_nonoverlapping(src[offset..offset + len].as_ptr(), len) };
        }
        Ok(())
    }

    fn load_u32(user: u64) -> Result<u32, Errno> {
        Ok(word(user, Access::Read)?.load(Ordering::SeqCst))
    }

    fn compare_exchange_u32(user: u64, old: u32, new: u32) -> Result<u32, Errno> {
        let exchanged = word(user, Access::Write)?.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst);
        Ok(exchanged.unwrap_or_else(|found| found))
    }

    fn write_stream(stream: Stream, bytes: &[u8]) {
        let world = world();
        world.writes.fetch_add(1, Ordering::Relaxed);
        let buffer = match stream {
            Stream::Out => &world.out,
            Stream::Err => &world.err,
        };
        lock(buffer).extend_from_slice(bytes);
    }

    fn read_stdin(buffer: &mut [u8]) -> Result<usize, Errno> {
        loop {
            {
                let world = world();
                let mut input = lock(&world.input);
                if !input.bytes.is_empty() || input.ended {
                    let count = buffer.len().min(input.bytes.len());
                    input.bytes.drain(..count).zip(buffer).for_each(|(byte, place)| *place = byte);
                    return Ok(count);
                }
            }
            if Self::wait_stdin(None) == Waited::Interrupted {
                return Err(Errno::EINTR);
            }
        }
    }

    fn stdin_ready() -> bool {
        let world = world();
        let input = lock(&world.input);
        !input.bytes.is_empty() || input.ended
    }

    fn wait_stdin(deadline_ns: Option<u64>) -> Waited {
        INPUT_CAME.wait_until(Self::stdin_ready, deadline_ns, Interruptible::Yes)
    }

    fn spawn(thread: Arc<Thread<Host>>, regs: &UserRegs) -> Result<(), Errno> {
        let world = World::of(thread.process().id());
        if world.refuse_spawn.load(Ordering::Relaxed) {
            return Err(Errno::EAGAIN);
        }
        lock(&world.spawned).push((thread, *regs));
        Ok(())
    }

    fn set_fs_base(base: u64) {
        FS_BASE.set(base);
    }

    fn fs_base() -> u64 {
        FS_BASE.get()
    }

    fn yield_now() {
        std::thread::yield_now();
    }

    fn set_affinity(_: &Thread<Host>) {}

    fn online() -> CpuSet {
        CpuSet::first(Host::cpu_count())
    }

    fn random(buffer: &mut [u8]) {
        buffer.fill(0x5a);
    }

    fn realtime_ns() -> u64 {
        // Some time in 2026, so that the two clocks cannot be confused.
        1_790_000_000_000_000_000 + Self::now_ns()
    }

    fn user_facts() -> UserFacts {
        UserFacts { hwcap: 1, hwcap2: 2, min_signal_stack: 2048 }
    }

    fn cpu_time_ns(_: &Thread<Host>) -> Option<u64> {
        Some(1_500_000_000)
    }

    fn log_call_unknown(number: u64, thread: &Thread<Host>) {
        lock(&World::of(thread.process().id()).unknown).push(number);
    }

    fn report(report: &Report) {
        lock(&World::of(report.pid).reports).push(report.to_string());
    }

    fn kill_kick(thread: &Thread<Host>) {
        if let Some(host) = *lock(&thread.task.host) {
            interrupt(host);
        }
    }
}
