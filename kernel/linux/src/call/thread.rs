//! Calls that make, name and end threads.
//!
//! New threads share everything with their maker. A `clone` that asks for a new process fails with `ENOSYS`: there is
//! no `fork` yet.

use core::marker::PhantomData;

use abi::flags::clone as flag;
use abi::{Errno, PAGE_SIZE, USER_END, nr};

use super::{Args, Caller, Entry};
use crate::process::ExitStatus;
use crate::system::{System, UserRegs};
use crate::thread::{NAME_LEN, make_sibling};
use crate::usercopy;

pub(super) struct Calls<S>(PhantomData<S>);

impl<S: System> Calls<S> {
    pub(super) const LIST: &'static [Entry<S>] = &[
        (nr::clone, clone),
        (nr::clone3, clone3),
        (nr::exit, exit),
        (nr::exit_group, exit_group),
        (nr::gettid, gettid),
        (nr::getpid, getpid),
        (nr::getppid, getppid),
        (nr::set_tid_address, set_tid_address),
        (nr::set_robust_list, set_robust_list),
        (nr::get_robust_list, get_robust_list),
        (nr::arch_prctl, arch_prctl),
        (nr::prctl, prctl),
        (nr::rseq, rseq),
    ];
}

/// What both forms of `clone` come down to.
#[derive(Clone, Copy, Debug, Default)]
struct Request {
    flags: u64,
    /// Stack pointer of the new thread; 0: its maker's.
    sp: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
}

/// Flags that ask for what does not exist here: other namespaces, tracing, file descriptors for processes.
const NOT_THERE: u64 = flag::PIDFD
    | flag::PTRACE
    | flag::NEWNS
    | 0x0080_0000 // CLONE_UNTRACED
    | 0x0200_0000 // CLONE_NEWCGROUP
    | 0x0400_0000 // CLONE_NEWUTS
    | 0x0800_0000 // CLONE_NEWIPC
    | 0x1000_0000 // CLONE_NEWUSER
    | 0x2000_0000 // CLONE_NEWPID
    | 0x4000_0000; // CLONE_NEWNET

/// What a thread of the same process must share with its maker here. Linux would allow separate descriptors.
const SHARED: u64 = flag::VM | flag::SIGHAND | flag::THREAD | flag::FILES;

/// `clone(flags, sp, parent_tid, child_tid, tls)`, in x86_64's order. The low byte is a signal for a new process.
fn clone<S: System>(caller: &Caller<'_, S>, [flags, sp, parent_tid, child_tid, tls, _]: Args) -> Result<u64, Errno> {
    // Linux looks at the low 32 bits.
    let flags = u64::from(flags as u32) & !0xff;
    create(caller, Request { flags, sp, parent_tid, child_tid, tls })
}

/// Words of `struct clone_args` that this kernel knows: Linux's third version of it.
const CLONE_ARGS_WORDS: usize = 11;
/// Bytes of its first version: the least that a program may pass.
const CLONE_ARGS_SIZE_MIN: u64 = 64;

/// `clone3(args, size)`.
fn clone3<S: System>(caller: &Caller<'_, S>, [args, size, ..]: Args) -> Result<u64, Errno> {
    if size > PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < CLONE_ARGS_SIZE_MIN {
        return Err(Errno::EINVAL);
    }
    let words = read_extensible::<S>(args, size)?;
    let [flags, _pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, _cgroup] =
        words;
    if (set_tid == 0) != (set_tid_size == 0) {
        return Err(Errno::EINVAL);
    }
    // CLONE_CLEAR_SIGHAND and CLONE_INTO_CGROUP are known, and make no sense for a thread.
    const LEGACY: u64 = 0xffff_ffff;
    if flags & !(LEGACY | 0x3_0000_0000) != 0
        || flags & (flag::DETACHED | 0xff) & !0x80 != 0
        || exit_signal & !0xff != 0
    {
        return Err(Errno::EINVAL);
    }
    if flags & (flag::THREAD | flag::PARENT) != 0 && exit_signal != 0 {
        return Err(Errno::EINVAL);
    }
    let sp = match (stack, stack_size) {
        (0, 0) => 0,
        (0, _) | (_, 0) => return Err(Errno::EINVAL),
        _ => {
            usercopy::check_range(stack, stack_size).map_err(|_| Errno::EINVAL)?;
            stack + stack_size
        }
    };
    if set_tid != 0 {
        return Err(Errno::EPERM); // choosing thread numbers needs a privilege
    }
    create(caller, Request { flags, sp, parent_tid, child_tid, tls })
}

/// Reads a structure that may be longer than the kernel's: what is beyond must be zero (`copy_struct_from_user`).
fn read_extensible<S: System>(address: u64, size: u64) -> Result<[u64; CLONE_ARGS_WORDS], Errno> {
    let mut words = [0; CLONE_ARGS_WORDS];
    let mut offset = 0;
    while offset < size {
        let len = (size - offset).min(8) as usize;
        let mut bytes = [0; 8];
        S::copy_in(&mut bytes[..len], address.checked_add(offset).ok_or(Errno::EFAULT)?)?;
        let word = u64::from_le_bytes(bytes);
        match words.get_mut((offset / 8) as usize) {
            Some(place) => *place = word,
            None if word != 0 => return Err(Errno::E2BIG),
            None => {}
        }
        offset += 8;
    }
    Ok(words)
}

/// Makes and starts a thread, or refuses.
fn create<S: System>(caller: &Caller<'_, S>, request: Request) -> Result<u64, Errno> {
    let has = |bits| request.flags & bits == bits;
    // Contradictions first, as in Linux's `copy_process`.
    if has(flag::NEWNS | flag::FS)
        || (has(flag::THREAD) && !has(flag::SIGHAND))
        || (has(flag::SIGHAND) && !has(flag::VM))
    {
        return Err(Errno::EINVAL);
    }
    if request.flags & NOT_THERE != 0 || !has(SHARED) || request.flags >> 32 != 0 {
        return Err(Errno::ENOSYS);
    }
    if has(flag::SETTLS) && request.tls >= USER_END {
        return Err(Errno::EPERM);
    }

    let thread = make_sibling(caller.thread)?;
    if has(flag::CHILD_CLEARTID) {
        thread.set_clear_child_tid(request.child_tid);
    }
    let tid = thread.tid();
    let mut regs = UserRegs { rax: 0, fs_base: S::fs_base(), ..*caller.regs };
    if request.sp != 0 {
        regs.rsp = request.sp;
    }
    if has(flag::SETTLS) {
        regs.fs_base = request.tls;
    }

    let process = caller.process();
    process.add(thread.clone())?;
    // Both before the thread runs, because it may look; bad addresses are ignored, as on Linux.
    if has(flag::PARENT_SETTID) {
        let _ = usercopy::write_u32::<S>(request.parent_tid, tid);
    }
    if has(flag::CHILD_SETTID) {
        let _ = usercopy::write_u32::<S>(request.child_tid, tid);
    }
    if let Err(errno) = S::spawn(thread.clone(), &regs) {
        // It was never the last: its maker is still here.
        process.remove(&thread);
        return Err(errno);
    }
    Ok(u64::from(tid))
}

/// `exit(code)`: this thread only; the last one to leave ends the process.
fn exit<S: System>(caller: &Caller<'_, S>, [code, ..]: Args) -> Result<u64, Errno> {
    caller.process().thread_leaves(caller.thread, code as i32);
    caller.thread.mark_killed();
    Ok(0)
}

fn exit_group<S: System>(caller: &Caller<'_, S>, [code, ..]: Args) -> Result<u64, Errno> {
    // If the process is ending already, its threads have been told.
    caller.process().end(ExitStatus::Exited(code as i32));
    caller.thread.mark_killed();
    Ok(0)
}

fn gettid<S: System>(caller: &Caller<'_, S>, _: Args) -> Result<u64, Errno> {
    Ok(u64::from(caller.thread.tid()))
}

fn getpid<S: System>(caller: &Caller<'_, S>, _: Args) -> Result<u64, Errno> {
    Ok(u64::from(caller.process().id()))
}

/// Programs are started by the kernel itself, whose number is 0.
fn getppid<S: System>(_: &Caller<'_, S>, _: Args) -> Result<u64, Errno> {
    Ok(0)
}

fn set_tid_address<S: System>(caller: &Caller<'_, S>, [address, ..]: Args) -> Result<u64, Errno> {
    caller.thread.set_clear_child_tid(address);
    Ok(u64::from(caller.thread.tid()))
}

/// Bytes of `struct robust_list_head`.
const ROBUST_HEAD_SIZE: u64 = 24;

fn set_robust_list<S: System>(caller: &Caller<'_, S>, [head, len, ..]: Args) -> Result<u64, Errno> {
    if len != ROBUST_HEAD_SIZE {
        return Err(Errno::EINVAL);
    }
    caller.thread.set_robust_list(head);
    Ok(0)
}

/// `get_robust_list(pid, head, len)`.
fn get_robust_list<S: System>(caller: &Caller<'_, S>, [pid, head, len, ..]: Args) -> Result<u64, Errno> {
    let list = match pid as u32 {
        0 => caller.thread.robust_list(),
        tid => caller.process().thread(tid).ok_or(Errno::ESRCH)?.robust_list(),
    };
    usercopy::write_words::<S>(len, &[ROBUST_HEAD_SIZE])?;
    usercopy::write_words::<S>(head, &[list])?;
    Ok(0)
}

const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;

/// `arch_prctl(code, address)`: FS only; the kernel keeps GS for itself.
fn arch_prctl<S: System>(_: &Caller<'_, S>, [code, address, ..]: Args) -> Result<u64, Errno> {
    match code {
        ARCH_SET_FS if address >= USER_END => Err(Errno::EPERM),
        ARCH_SET_FS => {
            S::set_fs_base(address);
            Ok(0)
        }
        ARCH_GET_FS => usercopy::write_words::<S>(address, &[S::fs_base()]).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

const PR_GET_DUMPABLE: u64 = 3;
const PR_SET_NAME: u64 = 15;
const PR_GET_NAME: u64 = 16;

fn prctl<S: System>(caller: &Caller<'_, S>, [option, argument, ..]: Args) -> Result<u64, Errno> {
    match u64::from(option as u32) {
        PR_SET_NAME => {
            let mut name = [0; NAME_LEN];
            // A longer name is cut.
            let len = usercopy::read_string::<S>(argument, &mut name[..NAME_LEN - 1])?.unwrap_or(NAME_LEN - 1);
            name[len..].fill(0);
            caller.thread.set_name(name);
            Ok(0)
        }
        PR_GET_NAME => S::copy_out(argument, &caller.thread.name()).map(|()| 0),
        PR_GET_DUMPABLE => Ok(1),
        _ => Err(Errno::EINVAL),
    }
}

/// Restartable sequences are not there. glibc tries them in every thread and does without, so this is not counted as an
/// unknown call.
fn rseq<S: System>(_: &Caller<'_, S>, _: Args) -> Result<u64, Errno> {
    Err(Errno::ENOSYS)
}
