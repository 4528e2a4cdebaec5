//! The lock protocols that a kernel can be booted with, named once: how faults lock VMAs, and how transactions do.

use core::fmt;

macro_rules! protocols {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $line:literal])+ $variant:ident = $text:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[doc = $line])+ $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The name on command lines and in reports.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }

            /// The protocol of this name.
            pub fn from_name(name: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|protocol| protocol.name() == name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

protocols! {
    /// How a page fault keeps its VMA as it is (`--vma-lock`).
    ReadProtocol {
        /// The address space's fair lock, for reading, over the whole fault: Linux before 6.4.
        Mm = "mm",
        /// A reader-writer lock in each VMA: Linux 6.4.
        Rwsem = "rwsem",
        /// A count of readers in each VMA, which writers freeze: Linux 6.15.
        Refcount = "refcount",
        /// The faulting address in the CPU's own slot.
        Slot = "slot",
        /// A table of readers that all VMAs share, beside a reader-writer lock in each: BRAVO.
        Bravo = "bravo",
    }
}

protocols! {
    /// How an update locks several VMAs (`--update`).
    UpdateProtocol {
        /// One fair lock for each address space: marking never meets another writer.
        Bulk = "bulk",
        /// No lock for all; an older transaction makes a younger one that is in its way back off.
        WoundWait = "wound-wait",
        /// No lock for all; who is about to sleep looks for a cycle, along the owners of what it waits for.
        Cycle = "cycle",
        /// As [`UpdateProtocol::Cycle`], but the search goes along published lists of held locks, as that of Linux's six locks.
        CycleHeld = "cycle-held",
    }
}

/// A read protocol and an update protocol that go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    read: ReadProtocol,
    update: UpdateProtocol,
}

/// Why two protocols do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPair {
    /// The update protocol that was asked for.
    pub update: UpdateProtocol,
}

impl fmt::Display for NoPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "under --vma-lock mm a fault holds the address space's one lock for reading, and updates under --update {} \
             take no such lock: only bulk does",
            self.update
        )
    }
}

impl Pair {
    /// What a kernel is booted with that is not told otherwise.
    pub const DEFAULT: Pair = Pair { read: ReadProtocol::Slot, update: UpdateProtocol::Bulk };

    /// The ten pairs of the four read protocols and the three update protocols.
    pub const TEN: [Pair; 10] = {
        use ReadProtocol::{Mm, Refcount, Rwsem, Slot};
        use UpdateProtocol::{Bulk, Cycle, WoundWait};
        [
            Pair { read: Mm, update: Bulk },
            Pair { read: Rwsem, update: Bulk },
            Pair { read: Refcount, update: Bulk },
            Pair { read: Slot, update: Bulk },
            Pair { read: Rwsem, update: WoundWait },
            Pair { read: Refcount, update: WoundWait },
            Pair { read: Slot, update: WoundWait },
            Pair { read: Rwsem, update: Cycle },
            Pair { read: Refcount, update: Cycle },
            Pair { read: Slot, update: Cycle },
        ]
    };

    /// The two together.
    ///
    /// # Errors
    /// [`NoPair`], which says why they do not go together.
    pub const fn new(read: ReadProtocol, update: UpdateProtocol) -> Result<Pair, NoPair> {
        match (read, update) {
            (ReadProtocol::Mm, UpdateProtocol::WoundWait | UpdateProtocol::Cycle | UpdateProtocol::CycleHeld) => {
                Err(NoPair { update })
            }
            _ => Ok(Pair { read, update }),
        }
    }

    /// All pairs that go together: the ten, and those of the further protocols.
    pub fn all() -> impl Iterator<Item = Pair> {
        let reads = ReadProtocol::ALL.iter().copied();
        reads.flat_map(|read| UpdateProtocol::ALL.iter().filter_map(move |&update| Pair::new(read, update).ok()))
    }

    /// How faults lock.
    pub const fn read(self) -> ReadProtocol {
        self.read
    }

    /// How updates lock.
    pub const fn update(self) -> UpdateProtocol {
        self.update
    }

    /// Whether an address space has at most one update transaction at a time: what it has found, no other changes.
    pub const fn has_one_writer(self) -> bool {
        matches!(self.update, UpdateProtocol::Bulk)
    }
}

/// As `slot+bulk`.
impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.read, self.update)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_protocols() {
        for &read in ReadProtocol::ALL {
            assert_eq!(ReadProtocol::from_name(read.name()), Some(read));
        }
        for &update in UpdateProtocol::ALL {
            assert_eq!(UpdateProtocol::from_name(update.name()), Some(update));
        }
        assert_eq!(UpdateProtocol::from_name("bulky"), None);
    }

    #[test]
    fn of_four_and_three_two_do_not_go_together() {
        let three = [UpdateProtocol::Bulk, UpdateProtocol::WoundWait, UpdateProtocol::Cycle];
        let four = [ReadProtocol::Mm, ReadProtocol::Rwsem, ReadProtocol::Refcount, ReadProtocol::Slot];
        let refused = four.iter().flat_map(|&read| three.map(|update| Pair::new(read, update)));
        assert_eq!(refused.filter(Result::is_err).count(), 2);
        assert!(Pair::TEN.iter().all(|pair| Pair::new(pair.read, pair.update) == Ok(*pair)));
        assert!(Pair::all().count() > Pair::TEN.len());
    }
}
