//! The counters that every report shows, named once.

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// One counter. Each CPU counts for itself; reports show each CPU and the total.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter { $($(#[doc = $doc])+ $variant,)+ }

        impl Counter {
            /// All counters, in the order of reports.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)+];

            /// The name in reports and files.
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name,)+ }
            }
        }
    };
}

counters! {
    /// Page faults taken, however they ended.
    Fault = "fault",
    /// Faults served on the fast path, under a VMA read lock.
    FaultLocked = "fault_locked",
    /// Fast-path look-ups that found no VMA, or one already detached.
    FaultMiss = "fault_miss",
    /// Fast-path look-ups that found a VMA marked by a running transaction.
    FaultAbort = "fault_abort",
    /// Faults that slept until a transaction ended.
    FaultWait = "fault_wait",
    /// Fast paths started again after such a sleep.
    FaultRetry = "fault_retry",
    /// Faults that became a small transaction of their own.
    FaultFallback = "fault_fallback",
    /// Faults that found their page already present: another CPU was first.
    FaultSpurious = "fault_spurious",
    /// Update transactions begun.
    Txn = "txn",
    /// VMAs marked by transactions.
    VmaMarked = "vma_marked",
    /// Ended marks that a reader set back to 0.
    MarkCleared = "mark_cleared",
    /// CPUs that a settling writer had to wait for.
    SettleWait = "settle_wait",
    /// Sleeps of a transaction until another one ended that had marked a VMA in its way.
    TxnWait = "txn_wait",
    /// Bodies of transactions run again with their marks kept, because the tree had changed meanwhile.
    TxnAgain = "txn_again",
    /// Publications in an address space's tree.
    Publish = "publish",
    /// Nanoseconds for which they held the tree's publication section.
    PublishNs = "publish_ns",
    /// Transactions told to back off by an older one (`wound-wait`).
    Wound = "wound",
    /// Transactions that gave up all marks and began again: wounded, or chosen to break a cycle.
    Restart = "restart",
    /// Cycles of waiting transactions found (`cycle`).
    Cycle = "cycle",
    /// TLB shootdowns started, with at least one other CPU asked.
    Shootdown = "shootdown",
    /// TLB flush requests served for another CPU.
    IpiFlush = "ipi_flush",
    /// Grace periods that this CPU completed.
    RcuGp = "rcu_gp",
    /// Thread switches.
    Switch = "switch",
    /// System calls entered.
    Call = "call",
    /// System calls that the kernel does not know.
    CallUnknown = "call_unknown",
}

/// Number of counters.
pub const COUNTERS: usize = Counter::ALL.len();
