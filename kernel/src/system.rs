//! [`linux::System`] for the machine: what programs' calls need of the scheduler, the user-copy routines and the
//! stream port.
//!
//! Nothing but hand-overs; what each does is written where it goes. The machine-wide tables of `linux` and `sync`
//! live here, because those crates have no statics.

use core::arch::x86_64::{__cpuid, __cpuid_count};

use abi::Errno;
use abi::wire::Kind;
use linux::{Ids, Report, Seen, Stream, System, Thread, UserFacts, UserRegs};
use mm::Memory;
use sync::{Arc, CpuSet, FutexTable, Interruptible, Platform, WaitQueue, Waited};

use crate::arch::uaccess;
use crate::memory;
use crate::platform::Machine;
use crate::stream::{self, InputState};
use crate::{clock, random, sched};

static FUTEXES: FutexTable<Machine> = FutexTable::new();
static IDS: Ids<Machine> = Ids::new();
static UNKNOWN_CALLS: Seen = Seen::new();

/// Threads that wait for standard input. Nobody wakes them: they look for themselves ([`STDIN_POLL_NS`]).
static STDIN: WaitQueue<Machine> = WaitQueue::new();

/// How long a reader that has got bytes stays for more, in nanoseconds.
const STDIN_PATIENCE_NS: u64 = 200_000;
/// How often a waiting reader looks at the port.
const STDIN_POLL_NS: u64 = 4_000_000;

impl System for Machine {
    type Task = sched::Task;

    fn memory() -> &'static Memory<Machine> {
        memory::memory()
    }

    fn futexes() -> &'static FutexTable<Machine> {
        &FUTEXES
    }

    fn ids() -> &'static Ids<Machine> {
        &IDS
    }

    fn copy_in(dst: &mut [u8], user: u64) -> Result<(), Errno> {
        uaccess::copy_in(dst, user)
    }

    fn copy_out(user: u64, src: &[u8]) -> Result<(), Errno> {
        uaccess::copy_out(user, src)
    }

    fn load_u32(user: u64) -> Result<u32, Errno> {
        uaccess::load_u32(user)
    }

    fn compare_exchange_u32(user: u64, old: u32, new: u32) -> Result<u32, Errno> {
        uaccess::compare_exchange_u32(user, old, new)
    }

    fn write_stream(stream: Stream, bytes: &[u8]) {
        let kind = match stream {
            Stream::Out => Kind::Stdout,
            Stream::Err => Kind::Stderr,
        };
        stream::send(kind, bytes);
    }

    fn read_stdin(buffer: &mut [u8]) -> Result<usize, Errno> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            // The state before the bytes: input that ends does so after its last byte.
            let state = stream::poll();
            match (stream::read(buffer), state) {
                (0, InputState::Ended) => return Ok(0),
                // Another reader was faster, or there is nothing yet.
                (0, _) => {}
                (count, _) => return Ok(count + read_what_follows(&mut buffer[count..])),
            }
            if Self::wait_stdin(None) == Waited::Interrupted {
                return Err(Errno::EINTR);
            }
        }
    }

    fn stdin_ready() -> bool {
        stream::poll() != InputState::Empty
    }

    fn wait_stdin(deadline_ns: Option<u64>) -> Waited {
        loop {
            // The port raises no interrupt: short sleeps, each with a look at the end.
            let next_look = Self::now_ns() + STDIN_POLL_NS;
            let until = deadline_ns.map_or(next_look, |deadline| deadline.min(next_look));
            match STDIN.wait_until(Self::stdin_ready, Some(until), Interruptible::Yes) {
                Waited::TimedOut if deadline_ns.is_none_or(|deadline| Self::now_ns() < deadline) => {}
                waited => return waited,
            }
        }
    }

    fn spawn(thread: Arc<Thread<Machine>>, regs: &UserRegs) -> Result<(), Errno> {
        sched::spawn_user(thread, regs)
    }

    fn set_fs_base(base: u64) {
        sched::set_fs_base(base);
    }

    fn fs_base() -> u64 {
        sched::fs_base()
    }

    fn yield_now() {
        sched::yield_now();
    }

    fn set_affinity(thread: &Thread<Machine>) {
        sched::set_affinity(thread);
    }

    fn online() -> CpuSet {
        sched::online()
    }

    fn random(buffer: &mut [u8]) {
        random::fill(buffer);
    }

    fn realtime_ns() -> u64 {
        clock::realtime_ns()
    }

    fn user_facts() -> UserFacts {
        // What a signal frame holds beside the extended registers on Linux: rt_sigframe and its alignment.
        const SIGNAL_FRAME: u64 = 936;
        UserFacts {
            hwcap: u64::from(__cpuid(1).edx),
            // FSGSBASE is off: the kernel keeps FS bases itself.
            hwcap2: 0,
            min_signal_stack: u64::from(__cpuid_count(0xd, 0).ebx) + SIGNAL_FRAME,
        }
    }

    fn cpu_time_ns(thread: &Thread<Machine>) -> Option<u64> {
        Some(thread.task.cpu_time_ns())
    }

    fn log_call_unknown(number: u64, thread: &Thread<Machine>) {
        if UNKNOWN_CALLS.first(number) {
            let name = abi::nr::name(number).unwrap_or("unnamed");
            log::warn!("tid {} asked for call {number} ({name}), which is not served", thread.tid());
        }
    }

    fn report(report: &Report) {
        sched::log(report);
    }

    fn kill_kick(thread: &Thread<Machine>) {
        sched::kick(thread);
    }
}

/// Fills `buffer` as long as input keeps coming. The port holds 16 bytes, and the host puts the next ones there a few
/// dozen microseconds after the last were taken: waiting for those at once saves a sleep for every 16 bytes.
fn read_what_follows(mut buffer: &mut [u8]) -> usize {
    let mut total = 0;
    let mut last_byte_ns = Machine::now_ns();
    while !buffer.is_empty() && Machine::now_ns() - last_byte_ns < STDIN_PATIENCE_NS {
        let count = stream::read(buffer);
        if count > 0 {
            last_byte_ns = Machine::now_ns();
            total += count;
            buffer = &mut buffer[count..];
        }
        Machine::relax();
    }
    total
}
