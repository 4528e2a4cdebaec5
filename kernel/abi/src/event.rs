//! Events of the per-CPU rings: fixed-size binary records that the kernel writes and the host's report decodes.
//!
//! A CPU writes its own ring only. What `a` and `b` mean is said at each kind; a kind that ends something carries how it ended.

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal, $a:literal, $b:literal;)+) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Kind { $($(#[doc = $doc])+ $variant = $number,)+ }

        impl Kind {
            /// All kinds, in the order of their numbers.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant,)+];

            /// The name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$variant => $name,)+ }
            }

            /// The names of a record's two words in reports; empty: the word means nothing.
            pub const fn words(self) -> [&'static str; 2] {
                match self { $(Kind::$variant => [$a, $b],)+ }
            }

            /// The kind of a number out of a ring.
            pub const fn from_number(number: u16) -> Option<Kind> {
                Some(match number { $($number => Kind::$variant,)+ _ => return None })
            }
        }
    };
}

kinds! {
    /// A page fault is taken: the address, and the access (0 read, 1 write, 2 execute).
    FaultBegin = 1, "fault", "at", "access";
    /// It has ended: the address, and the [`crate::Counter`] by whose name it ended; [`FAULT_REFUSED`]: not served.
    FaultEnd = 2, "fault end", "at", "how";
    /// A transaction marks a VMA: its first address and its end.
    Mark = 3, "mark", "from", "to";
    /// A transaction begins to wait for the faults inside what it marked: its cell and sequence as one mark word.
    SettleBegin = 4, "settle", "mark", "";
    /// Nobody is inside any more: the mark, and how many CPUs it waited for.
    SettleEnd = 5, "settle end", "mark", "waited";
    /// An update transaction is open: its mark word, and its address space.
    TransactionBegin = 6, "transaction", "mark", "space";
    /// It has ended; all that it marked is unlocked.
    TransactionEnd = 7, "transaction end", "mark", "space";
    /// It starts again from its beginning.
    TransactionRestart = 8, "transaction restart", "mark", "space";
    /// A TLB shootdown starts: the set of CPUs asked, and how many pages (`u64::MAX`: everything).
    ShootdownBegin = 9, "shootdown", "cpus", "pages";
    /// All have acknowledged: the set of CPUs asked.
    ShootdownEnd = 10, "shootdown end", "cpus", "";
    /// This CPU served a flush for another one: that one's number.
    FlushServed = 11, "flush served", "for", "";
    /// This CPU begins a grace period: its number.
    GraceBegin = 12, "grace period", "number", "";
    /// This CPU completed a grace period: its number.
    GraceEnd = 13, "grace period end", "number", "";
    /// The CPU runs another thread: the numbers of the old and of the new one.
    Switch = 14, "switch", "from", "to";
    /// A system call: its number and first argument.
    CallEnter = 15, "call", "number", "first";
    /// It returns: its number and result.
    CallExit = 16, "call end", "number", "result";
    /// The thread goes to sleep: its deadline in nanoseconds (`u64::MAX`: none).
    Park = 17, "park", "deadline", "";
    /// A thread is woken: its id.
    Unpark = 18, "unpark", "thread", "";
    /// The kernel begins to die.
    Panic = 19, "panic", "", "";
    /// A transaction goes to sleep until another one ends that is in its way: both marks.
    TransactionSleep = 20, "transaction sleeps", "mark", "for";
    /// A transaction tells another one to back off: that one's mark, and its own.
    Wound = 21, "wound", "victim", "by";
}

/// [`Kind::FaultEnd`]'s second word when no mapping or no right serves the fault.
pub const FAULT_REFUSED: u64 = u64::MAX;

/// One event, as it lies in a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    /// When: nanoseconds on the kernel's clock.
    pub time_ns: u64,
    /// First word; [`Kind::words`] names it.
    pub a: u64,
    /// Second word.
    pub b: u64,
    /// A [`Kind`]'s number; 0: nothing has been written here yet.
    pub kind: u16,
    /// The CPU that wrote it.
    pub cpu: u16,
    /// Low bits of the number of the thread that ran there.
    pub thread: u32,
}

/// Size of a record in bytes.
pub const RECORD_BYTES: usize = 32;

const _: () = assert!(size_of::<Record>() == RECORD_BYTES);

impl Record {
    /// The record in these bytes of the machine's memory.
    pub fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Record {
        let word = |at: usize| bytes[at..at + 8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        let last = word(24);
        Record {
            time_ns: word(0),
            a: word(8),
            b: word(16),
            kind: last as u16,
            cpu: (last >> 16) as u16,
            thread: (last >> 32) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_their_numbers() {
        for (index, &kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(Kind::from_number(kind as u16), Some(kind));
            assert_eq!(kind as usize, index + 1, "in order, without gaps");
            assert!(!kind.name().is_empty());
        }
        assert_eq!(Kind::from_number(0), None, "a ring begins as zeros");
        assert_eq!(Kind::from_number(Kind::ALL.len() as u16 + 1), None);
    }

    #[test]
    fn records_are_read_off_little_endian_bytes() {
        let bytes: [u8; RECORD_BYTES] = core::array::from_fn(|index| index as u8 + 1);
        let record = Record::from_bytes(&bytes);
        assert_eq!(record.time_ns, 0x0807_0605_0403_0201);
        assert_eq!(record.a, 0x100f_0e0d_0c0b_0a09);
        assert_eq!(record.b, 0x1817_1615_1413_1211);
        assert_eq!((record.kind, record.cpu, record.thread), (0x1a19, 0x1c1b, 0x201f_1e1d));
    }
}
