//! Signals without handlers: what is sent, blocked, ignored or deadly.
//!
//! Actions, masks and alternate stacks are kept and validated as on Linux, and a signal whose default action ends the
//! process ends it. **Handlers do not run yet**: a signal that has one ends the process as if it had none, and the
//! report says so. Stopping and continuing are not there either: such signals are accepted and dropped.
//!
//! A blocked signal waits in its thread's pending set, or in the process's if it was sent to the process and all
//! threads block it; unblocking it acts. Sender and receiver meet without a common lock: the sender makes it pending
//! and then looks at the mask, the receiver changes the mask and then looks at the pending sets, all in one total
//! order (SeqCst), so one of them sees the other.

use alloc::boxed::Box;

use abi::flags::signal::*;
use sync::alloc::{AllocError, Arc, try_box_slice};

use crate::process::{ExitStatus, Process};
use crate::report::{Cause, Report};
use crate::system::System;
use crate::thread::Thread;

/// Highest signal number; the lowest is 1.
pub(crate) const SIGNALS: u32 = 64;

/// A set of signals: bit `n - 1` is signal `n`, as in the kernel's `sigset_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SignalSet(pub(crate) u64);

impl SignalSet {
    pub(crate) const fn of(signal: u32) -> SignalSet {
        SignalSet(1 << (signal - 1))
    }

    pub(crate) const fn contains(self, signal: u32) -> bool {
        self.0 & SignalSet::of(signal).0 != 0
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn minus(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 & !other.0)
    }

    pub(crate) const fn and(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 & other.0)
    }

    pub(crate) const fn or(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 | other.0)
    }

    /// Less the two that nobody can block.
    pub(crate) const fn blockable(self) -> SignalSet {
        self.minus(SignalSet::of(SIGKILL)).minus(SignalSet::of(SIGSTOP))
    }

    /// The member with the lowest number.
    pub(crate) const fn lowest(self) -> Option<u32> {
        if self.0 == 0 { None } else { Some(self.0.trailing_zeros() + 1) }
    }
}

/// `SIG_DFL` in [`Action::handler`].
pub(crate) const SIG_DFL: u64 = 0;
/// `SIG_IGN` in [`Action::handler`].
pub(crate) const SIG_IGN: u64 = 1;

/// What a process does about one signal: the kernel's `struct sigaction`, field for field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Action {
    pub(crate) handler: u64,
    pub(crate) flags: u64,
    pub(crate) restorer: u64,
    pub(crate) mask: u64,
}

/// What a process's threads share about signals.
pub(crate) struct Signals {
    /// Entry `n - 1` is about signal `n`.
    actions: Box<[Action]>,
    /// Sent to the process while all its threads blocked them.
    pub(crate) pending: SignalSet,
}

impl Signals {
    /// All actions default.
    pub(crate) fn new() -> Result<Self, AllocError> {
        let actions = try_box_slice(SIGNALS as usize, |_| Action::default())?;
        Ok(Signals { actions, pending: SignalSet::default() })
    }

    pub(crate) fn action(&self, signal: u32) -> Action {
        self.actions[signal as usize - 1]
    }

    pub(crate) fn set_action(&mut self, signal: u32, action: Action) {
        self.actions[signal as usize - 1] = action;
    }

    /// What an unblocked `signal` leads to.
    fn effect(&self, signal: u32) -> Effect {
        match self.action(signal).handler {
            // Neither can be ignored or caught.
            _ if signal == SIGKILL => Effect::End(Handler::None),
            _ if signal == SIGSTOP => Effect::Nothing,
            SIG_IGN => Effect::Nothing,
            SIG_DFL if is_ignored_by_default(signal) => Effect::Nothing,
            SIG_DFL => Effect::End(Handler::None),
            _ => Effect::End(Handler::Set),
        }
    }

    /// Whether sending `signal` does nothing at all, not even while it is blocked: Linux drops what would be ignored
    /// unless it is blocked (`sig_ignored`).
    pub(crate) fn is_ignored(&self, signal: u32) -> bool {
        matches!(self.effect(signal), Effect::Nothing)
    }
}

/// Whether the process had installed a handler for the signal that ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// The default action was in force.
    None,
    /// There is one, but handlers do not run yet.
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Nothing,
    End(Handler),
}

/// A thread's alternate signal stack, `struct sigaltstack` field for field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AltStack {
    pub(crate) base: u64,
    pub(crate) flags: u32,
    pub(crate) size: u64,
}

impl AltStack {
    /// `ss_flags`: none is set.
    pub(crate) const DISABLE: u32 = 2;
    /// `ss_flags`: the thread is on it.
    pub(crate) const ONSTACK: u32 = 1;
    /// `ss_flags`: disarm when a handler starts.
    pub(crate) const AUTODISARM: u32 = 1 << 31;

    pub(crate) const NONE: AltStack = AltStack { base: 0, flags: AltStack::DISABLE, size: 0 };

    /// Whether a thread with stack pointer `sp` is on it (Linux's `on_sig_stack`).
    pub(crate) fn holds(&self, sp: u64) -> bool {
        self.flags & AltStack::AUTODISARM == 0 && sp > self.base && sp - self.base <= self.size
    }
}

/// Signals whose default action is to do nothing, here including those that stop or continue a process.
fn is_ignored_by_default(signal: u32) -> bool {
    matches!(signal, SIGCHLD | SIGURG | SIGWINCH | SIGCONT | SIGSTOP | SIGTSTP | SIGTTIN | SIGTTOU)
}

/// The name of a signal, for reports.
pub(crate) fn name(signal: u32) -> &'static str {
    const NAMES: [&str; 32] = [
        "signal 0",
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    NAMES.get(signal as usize).copied().unwrap_or("a real-time signal")
}

/// Sends `signal` (1..=64) to one thread. `sender` names who asked, for the report.
pub(crate) fn send_to_thread<S: System>(thread: &Arc<Thread<S>>, signal: u32, sender: &Thread<S>) {
    let set = SignalSet::of(signal);
    let process = thread.process();
    if thread.blocked().contains(signal) {
        thread.add_pending(set);
        process.signal_sent.wake_all();
        // It may have been unblocked since: then whoever takes it out of the set first acts.
        if thread.blocked().contains(signal) || thread.take_pending(set).is_empty() {
            return;
        }
    }
    act(process, thread, signal, sender);
}

/// Sends `signal` (1..=64) to a process: to any thread that does not block it.
pub(crate) fn send_to_process<S: System>(process: &Arc<Process<S>>, signal: u32, sender: &Thread<S>) {
    if let Some(thread) = unblocking_thread(process, signal) {
        return act(process, &thread, signal, sender);
    }
    let set = SignalSet::of(signal);
    {
        let mut signals = process.signals.lock();
        signals.pending = signals.pending.or(set);
    }
    process.signal_sent.wake_all();
    if let Some(thread) = unblocking_thread(process, signal) {
        let taken = {
            let mut signals = process.signals.lock();
            let had = signals.pending.contains(signal);
            signals.pending = signals.pending.minus(set);
            had
        };
        if taken {
            act(process, &thread, signal, sender);
        }
    }
}

/// Changes the calling thread's mask, and acts on what that unblocks.
pub(crate) fn set_mask<S: System>(thread: &Arc<Thread<S>>, mask: SignalSet) {
    thread.set_blocked(mask);
    let process = thread.process();
    let open = SignalSet(!thread.blocked().0);
    while let Some(signal) = take_pending(thread, open) {
        act(process, thread, signal, thread);
    }
}

/// Takes the lowest signal of `set` that is pending for the thread or for its process.
pub(crate) fn take_pending<S: System>(thread: &Thread<S>, set: SignalSet) -> Option<u32> {
    if let Some(signal) = thread.pending().and(set).lowest()
        && !thread.take_pending(SignalSet::of(signal)).is_empty()
    {
        return Some(signal);
    }
    let mut signals = thread.process().signals.lock();
    let signal = signals.pending.and(set).lowest()?;
    signals.pending = signals.pending.minus(SignalSet::of(signal));
    Some(signal)
}

/// A living thread that does not block `signal`.
fn unblocking_thread<S: System>(process: &Process<S>, signal: u32) -> Option<Arc<Thread<S>>> {
    let mut seen = 0;
    while let Some(thread) = process.thread_after(seen) {
        if !thread.blocked().contains(signal) {
            return Some(thread);
        }
        seen = thread.tid();
    }
    None
}

/// Does what an unblocked signal leads to.
fn act<S: System>(process: &Process<S>, thread: &Thread<S>, signal: u32, sender: &Thread<S>) {
    let effect = process.signals.lock().effect(signal);
    if let Effect::End(handler) = effect {
        let cause = Cause::Sent { pid: sender.process().id(), tid: sender.tid() };
        end(thread, Report { pid: process.id(), tid: thread.tid(), signal, cause, handler });
    }
}

/// Ends the thread's process by the report's signal, and logs the report if this is what fixed the process's end.
pub(crate) fn end<S: System>(thread: &Thread<S>, report: Report) {
    if thread.process().end(ExitStatus::Signalled(report.signal)) {
        S::report(&report);
    }
}

/// Whether the thread's process has a handler for `signal`.
pub(crate) fn handler_of<S: System>(thread: &Thread<S>, signal: u32) -> Handler {
    match thread.process().signals.lock().action(signal).handler {
        SIG_DFL | SIG_IGN => Handler::None,
        _ => Handler::Set,
    }
}
