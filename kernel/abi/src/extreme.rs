//! The holds and waits of which reports show the longest, named once.

macro_rules! extremes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// A kind of hold or wait. Each address space keeps the longest of each kind, and the place in the source where it began.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Extreme { $($(#[doc = $doc])+ $variant,)+ }

        impl Extreme {
            /// All kinds, in the order of reports.
            pub const ALL: &'static [Extreme] = &[$(Extreme::$variant,)+];

            /// The name in reports and files.
            pub const fn name(self) -> &'static str {
                match self { $(Extreme::$variant => $name,)+ }
            }
        }
    };
}

extremes! {
    /// A transaction, from its first mark to its end. Site: the call that began it.
    TxnHold = "txn_hold",
    /// A publication section of an address space's tree: a spin lock, interrupts off.
    PublishHold = "publish_hold",
    /// A fault's sleep until the transaction ended that had marked its VMA, or until it got a lock that such a call held.
    FaultWait = "fault_wait",
    /// A transaction's sleep until another one ended that had marked a VMA in its way.
    TxnWait = "txn_wait",
    /// A call's sleep until it got the address space's update lock (`bulk`).
    UpdateWait = "update_wait",
    /// A transaction's spin until the faults had ended that were inside what it marked.
    SettleWait = "settle_wait",
}

/// Number of kinds.
pub const EXTREMES: usize = Extreme::ALL.len();
