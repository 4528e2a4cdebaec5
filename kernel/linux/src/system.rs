//! [`System`]: what programs' calls need of the machine beyond [`sync::Platform`].
//!
//! The kernel implements it over its scheduler, its user-copy routines and its stream port; the tests implement it over
//! `mm`'s software machine. All functions are associated functions: this crate keeps no statics, and whatever is
//! machine-wide (the frames, the futex table, the process numbers) is reached through them.

use mm::Memory;
use sync::alloc::Arc;
use sync::{CpuSet, FutexTable, Platform, Waited};

use abi::Errno;

use crate::ids::Ids;
use crate::report::Report;
use crate::thread::Thread;

/// The integer registers of a program, as they are at the entry to a call and will be at the return from it.
///
/// At a call, `rax` holds the number and `rdi rsi rdx r10 r8 r9` the arguments (System V ABI for AMD64, appendix A.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the registers' own names")]
pub struct UserRegs {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    /// Base of the FS segment. Valid in the registers of a new thread; inside a call [`System::fs_base`] is the truth.
    pub fs_base: u64,
}

/// An output stream of programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What the auxiliary vector tells programs about the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserFacts {
    /// `AT_HWCAP`: EDX of CPUID leaf 1.
    pub hwcap: u64,
    /// `AT_HWCAP2`: bit 1 says that user mode may use RDFSBASE and its siblings.
    pub hwcap2: u64,
    /// `AT_MINSIGSTKSZ`: bytes that a signal frame with the extended CPU state needs.
    pub min_signal_stack: u64,
}

/// The machine and the kernel's thread half, as programs' calls see them.
pub trait System: Platform {
    /// What the scheduler keeps in each [`Thread`]: made by `Default` with the thread, filled by [`System::spawn`].
    type Task: Default + Send + Sync + 'static;

    /// The machine's frames, RCU domain, VMA locks and counters.
    fn memory() -> &'static Memory<Self>;

    /// The machine's one table of futex waiters.
    fn futexes() -> &'static FutexTable<Self>;

    /// The machine's process and thread numbers.
    fn ids() -> &'static Ids<Self>;

    /// Copies `dst.len()` bytes from `user` in the current address space.
    ///
    /// # Errors
    /// `EFAULT` if any of them is not a program's or cannot be read; `dst` is then unspecified.
    fn copy_in(dst: &mut [u8], user: u64) -> Result<(), Errno>;

    /// Copies `src` to `user` in the current address space.
    ///
    /// # Errors
    /// `EFAULT` if any byte of the destination is not a program's or cannot be written; a first part may have been.
    fn copy_out(user: u64, src: &[u8]) -> Result<(), Errno>;

    /// Loads the aligned `u32` at `user` in one access.
    ///
    /// # Errors
    /// `EFAULT`.
    fn load_u32(user: u64) -> Result<u32, Errno>;

    /// Stores `new` into the aligned `u32` at `user` if it holds `old`, as one locked access with full ordering, and
    /// returns what it held.
    ///
    /// # Errors
    /// `EFAULT`, also where the page cannot be written and the values differ.
    fn compare_exchange_u32(user: u64, old: u32, new: u32) -> Result<u32, Errno>;

    /// Writes all of `bytes` to a stream. Bytes of one call stay together.
    fn write_stream(stream: Stream, bytes: &[u8]);

    /// Reads what there is of the standard input, at least one byte; sleeps until there is. 0: the input has ended.
    ///
    /// # Errors
    /// `EINTR` if the thread was told to die.
    fn read_stdin(buffer: &mut [u8]) -> Result<usize, Errno>;

    /// Whether [`System::read_stdin`] would return at once.
    fn stdin_ready() -> bool;

    /// Sleeps until [`System::stdin_ready`], the deadline ([`Platform::now_ns`]'s clock), or the thread's death.
    fn wait_stdin(deadline_ns: Option<u64>) -> Waited;

    /// Starts a kernel thread that enters user mode with `regs` in the thread's process.
    ///
    /// The thread may have been killed already (its process may end while it is being made): then it goes straight to
    /// [`crate::thread_exit`].
    ///
    /// # Errors
    /// `ENOMEM` or `EAGAIN`; then nothing was started and the thread is not kept.
    fn spawn(thread: Arc<Thread<Self>>, regs: &UserRegs) -> Result<(), Errno>;

    /// Sets the calling thread's FS base, at once and for its later turns.
    fn set_fs_base(base: u64);

    /// The calling thread's FS base.
    fn fs_base() -> u64;

    /// Lets other threads of this CPU run first.
    fn yield_now();

    /// Moves `thread` to `cpus` (never empty, all online); returns when it no longer runs on another CPU, if it is
    /// the caller.
    fn set_affinity(thread: &Thread<Self>);

    /// The CPUs that run threads.
    fn online() -> CpuSet;

    /// Fills `buffer` with random bytes.
    fn random(buffer: &mut [u8]);

    /// Nanoseconds since 1970-01-01 00:00 UTC.
    fn realtime_ns() -> u64;

    /// What the auxiliary vector says about the CPUs.
    fn user_facts() -> UserFacts;

    /// Nanoseconds that `thread` has run, in user mode and in calls; `None` where the scheduler does not count them.
    fn cpu_time_ns(thread: &Thread<Self>) -> Option<u64> {
        let _ = thread;
        None
    }

    /// Says in the log that a program asked for a call that the kernel does not serve, **once per number per boot**
    /// (`crate::Seen` is made for that).
    fn log_call_unknown(number: u64, thread: &Thread<Self>);

    /// Says in the log how a signal ended a process. Callable with interrupts off.
    fn report(report: &Report);

    /// Makes `thread`, whose [`Thread::killed`] is now true, notice it soon: unparks it if it sleeps, interrupts its
    /// CPU if it is in user mode. The thread may not have been spawned yet, may be the caller, and may have ended.
    /// Callable with interrupts off.
    fn kill_kick(thread: &Thread<Self>);
}
