//! Calls about signals. What a signal does is in [`crate::signal`]; here are the arguments.

use core::marker::PhantomData;

use abi::flags::signal::{SIGKILL, SIGSTOP};
use abi::{Errno, nr};
use sync::{Interruptible, Waited};

use super::time::{Timespec, sleep};
use super::{Args, Caller, Entry};
use crate::deliver;
use crate::signal::{Action, AltStack, SIG_DFL, SIG_IGN, SIGNALS, SignalSet};
use crate::stack::USER_ID;
use crate::system::System;
use crate::usercopy;

pub(super) struct Calls<S>(PhantomData<S>);

impl<S: System> Calls<S> {
    pub(super) const LIST: &'static [Entry<S>] = &[
        (nr::rt_sigaction, rt_sigaction),
        (nr::rt_sigprocmask, rt_sigprocmask),
        (nr::rt_sigpending, rt_sigpending),
        (nr::rt_sigtimedwait, rt_sigtimedwait),
        (nr::rt_sigsuspend, rt_sigsuspend),
        (nr::pause, pause),
        (nr::sigaltstack, sigaltstack),
        (nr::kill, kill),
        (nr::tkill, tkill),
        (nr::tgkill, tgkill),
    ];
}

/// Bytes of the kernel's `sigset_t`, which programs pass along.
pub(super) const SET_SIZE: u64 = 8;

/// A signal number that an action can be set for.
fn checked_signal(number: u64) -> Result<u32, Errno> {
    match number as i32 {
        signal @ 1..=64 => Ok(signal as u32),
        _ => Err(Errno::EINVAL),
    }
}

/// A signal number that can be sent: 0 only asks whether one could.
fn checked_sent(number: u64) -> Result<Option<u32>, Errno> {
    match number as i32 {
        0 => Ok(None),
        signal if (1..=SIGNALS as i32).contains(&signal) => Ok(Some(signal as u32)),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn read_set<S: System>(address: u64) -> Result<SignalSet, Errno> {
    let [set] = usercopy::read_words::<S, 1>(address)?;
    Ok(SignalSet(set))
}

/// `rt_sigaction(signal, new, old, size)`.
fn rt_sigaction<S: System>(caller: &Caller<'_, S>, [number, new, old, size, ..]: Args) -> Result<u64, Errno> {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let action = match new {
        0 => None,
        _ => {
            let [handler, flags, restorer, mask] = usercopy::read_words::<S, 4>(new)?;
            Some(Action { handler, flags, restorer, mask: SignalSet(mask).blockable().0 })
        }
    };
    let number = checked_signal(number)?;
    if action.is_some() && (number == SIGKILL || number == SIGSTOP) {
        return Err(Errno::EINVAL);
    }
    let before = {
        let mut signals = caller.process().signals.lock();
        let before = signals.action(number);
        if let Some(action) = action {
            signals.set_action(number, action);
            // A pending signal that is now ignored is forgotten (POSIX).
            if matches!(action.handler, SIG_IGN | SIG_DFL) && signals.is_ignored(number) {
                signals.pending = signals.pending.minus(SignalSet::of(number));
            }
        }
        before
    };
    if old != 0 {
        usercopy::write_words::<S>(old, &[before.handler, before.flags, before.restorer, before.mask])?;
    }
    Ok(0)
}

const SIG_BLOCK: i32 = 0;
const SIG_UNBLOCK: i32 = 1;
const SIG_SETMASK: i32 = 2;

/// `rt_sigprocmask(how, set, old, size)`.
fn rt_sigprocmask<S: System>(caller: &Caller<'_, S>, [how, set, old, size, ..]: Args) -> Result<u64, Errno> {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let before = caller.thread.blocked();
    if set != 0 {
        let set = read_set::<S>(set)?;
        let mask = match how as i32 {
            SIG_BLOCK => before.or(set),
            SIG_UNBLOCK => before.minus(set),
            SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL),
        };
        deliver::set_mask(caller.thread, mask);
    }
    if old != 0 {
        usercopy::write_words::<S>(old, &[before.0])?;
    }
    Ok(0)
}

/// `rt_sigpending(set, size)`: a size below the set's is taken, as on Linux.
fn rt_sigpending<S: System>(caller: &Caller<'_, S>, [set, size, ..]: Args) -> Result<u64, Errno> {
    if size > SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let shared = caller.process().signals.lock().pending;
    let pending = caller.thread.pending().or(shared).and(caller.thread.blocked());
    S::copy_out(set, &pending.0.to_le_bytes()[..size as usize])?;
    Ok(0)
}

/// `si_code` of a signal that a program sent.
const SI_USER: u64 = 0;

/// `rt_sigtimedwait(set, info, timeout, size)`: takes a pending signal of the set, or sleeps until there is one.
fn rt_sigtimedwait<S: System>(caller: &Caller<'_, S>, [set, info, timeout, size, ..]: Args) -> Result<u64, Errno> {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let set = read_set::<S>(set)?.blockable();
    let deadline = match timeout {
        0 => None,
        _ => Some(S::now_ns().saturating_add(Timespec::read::<S>(timeout)?.checked_ns()?)),
    };
    let mut taken = None;
    let take = || {
        taken = deliver::take_pending(caller.thread, set);
        taken.is_some()
    };
    match caller.process().signal_sent.wait_until(take, deadline, Interruptible::Yes) {
        Waited::Interrupted => return Err(Errno::EINTR),
        Waited::TimedOut | Waited::Woken => {}
    }
    let number = taken.ok_or(Errno::EAGAIN)?;
    if info != 0 {
        // siginfo_t: number, errno, code, then the sender's process and user. All of them are of this process.
        let sender = u64::from(caller.process().id()) | USER_ID << 32;
        let mut words = [0; 16];
        words[0] = u64::from(number);
        words[1] = SI_USER;
        words[2] = sender;
        usercopy::write_words::<S>(info, &words)?;
    }
    Ok(u64::from(number))
}

/// `rt_sigsuspend(set, size)`: with another mask, sleeps until a signal is handled. None is, so it ends with the
/// process.
fn rt_sigsuspend<S: System>(caller: &Caller<'_, S>, [set, size, ..]: Args) -> Result<u64, Errno> {
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let set = read_set::<S>(set)?;
    let before = caller.thread.blocked();
    deliver::set_mask(caller.thread, set);
    let outcome = sleep::<S>(None);
    deliver::set_mask(caller.thread, before);
    outcome.and(Err(Errno::EINTR))
}

fn pause<S: System>(_: &Caller<'_, S>, _: Args) -> Result<u64, Errno> {
    sleep::<S>(None).and(Err(Errno::EINTR))
}

/// Least size of an alternate stack (`MINSIGSTKSZ`).
const MIN_ALT_STACK: u64 = 2048;

/// `sigaltstack(new, old)`: kept and validated; nothing runs there yet.
fn sigaltstack<S: System>(caller: &Caller<'_, S>, [new, old, ..]: Args) -> Result<u64, Errno> {
    let before = caller.thread.alt_stack();
    let is_on_it = before.holds(caller.regs.rsp);
    if new != 0 {
        // stack_t: base, flags (32 bits and padding), size.
        let [base, flags, size] = usercopy::read_words::<S, 3>(new)?;
        let flags = flags as u32;
        if is_on_it {
            return Err(Errno::EPERM);
        }
        let stack = match flags & !AltStack::AUTODISARM {
            AltStack::DISABLE => AltStack { flags, ..AltStack::NONE },
            0 | AltStack::ONSTACK if size < MIN_ALT_STACK => return Err(Errno::ENOMEM),
            0 | AltStack::ONSTACK => AltStack { base, flags, size },
            _ => return Err(Errno::EINVAL),
        };
        caller.thread.set_alt_stack(stack);
    }
    if old != 0 {
        let state = match before.size {
            0 => AltStack::DISABLE,
            _ if is_on_it => AltStack::ONSTACK,
            _ => 0,
        };
        let flags = state | before.flags & AltStack::AUTODISARM;
        usercopy::write_words::<S>(old, &[before.base, u64::from(flags), before.size])?;
    }
    Ok(0)
}

/// `kill(pid, signal)`: a process can reach itself only. Its number is its group's too.
fn kill<S: System>(caller: &Caller<'_, S>, [pid, number, ..]: Args) -> Result<u64, Errno> {
    let own = caller.process().id() as i32;
    let pid = pid as i32;
    if pid != 0 && pid != own && pid != -own {
        return Err(Errno::ESRCH);
    }
    if let Some(number) = checked_sent(number)? {
        deliver::send_to_process(caller.process(), number, caller.thread);
    }
    Ok(0)
}

/// `tkill(tid, signal)`.
fn tkill<S: System>(caller: &Caller<'_, S>, [tid, number, ..]: Args) -> Result<u64, Errno> {
    to_thread(caller, tid, number)
}

/// `tgkill(pid, tid, signal)`.
fn tgkill<S: System>(caller: &Caller<'_, S>, [pid, tid, number, ..]: Args) -> Result<u64, Errno> {
    if pid as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    if tid as i32 > 0 && pid as u32 != caller.process().id() {
        return Err(Errno::ESRCH);
    }
    to_thread(caller, tid, number)
}

fn to_thread<S: System>(caller: &Caller<'_, S>, tid: u64, number: u64) -> Result<u64, Errno> {
    if tid as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    let thread = caller.process().thread(tid as u32).ok_or(Errno::ESRCH)?;
    if let Some(number) = checked_sent(number)? {
        deliver::send_to_thread(&thread, number, caller.thread);
    }
    Ok(0)
}
