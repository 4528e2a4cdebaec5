//! Signals without handlers: what is sent, blocked, ignored or deadly.
//!
//! Actions, masks and alternate stacks are kept and validated as on Linux, and a signal whose default action ends the
//! process ends it. **Handlers do not run yet**: a signal that has one ends the process as if it had none, and the
//! report says so. Stopping and continuing are not there either: such signals are accepted and dropped.
//!
//! What they are, here; how they are sent: `deliver`.

use alloc::boxed::Box;

use abi::flags::signal::*;
use sync::alloc::{AllocError, try_box_slice};

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
    pub(crate) fn effect(&self, signal: u32) -> Effect {
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

/// What an unblocked signal leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It is dropped.
    Nothing,
    /// Its process ends.
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
