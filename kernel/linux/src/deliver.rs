//! How a signal gets from its sender to the thread on which it acts.
//!
//! A blocked signal waits in its thread's pending set, or in the process's if it was sent to the process and all
//! threads block it; unblocking it acts. Sender and receiver meet without a common lock: the sender makes it pending
//! and then looks at the mask, the receiver changes the mask and then looks at the pending sets, all in one total
//! order (SeqCst), so one of them sees the other.

use sync::Arc;

use crate::process::{ExitStatus, Process};
use crate::report::{Cause, Report};
use crate::signal::{Effect, Handler, SIG_DFL, SIG_IGN, SignalSet};
use crate::system::System;
use crate::thread::Thread;

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
