//! The end of a program: every mapping goes, in one transaction.
//!
//! All VMAs are marked and settled together, leave the tree in one publication, and one shootdown is for all their pages. The
//! transaction goes before all others and allocates nothing, so it always finishes: whoever else is at work in the address
//! space (a report, later another process) waits, or finds nothing any more.
//!
//! Called by `linux` for a program's last thread. An address space that is dropped without it gives everything back as well.

use abi::{PAGE_SIZE, USER_END};
use sync::{Abort, Platform, Priority, Txn};

use crate::{
    addr::PageRange, edit::Item, gather::Gather, paging::Unlinked, space::AddressSpace, tree::Reserve, vma::Kind,
};

impl<P: Platform> AddressSpace<P> {
    /// Takes all mappings away, and gives their pages back. May sleep; the caller holds no lock and has no transaction open.
    pub fn exit(&self) {
        let memory = self.memory;
        let done =
            sync::update_as(Priority::First, &self.update, &memory.locks, &self.counters, |txn| self.exit_in(txn));
        debug_assert_eq!(done, Ok(()), "nothing in it can fail");
    }

    fn exit_in(&self, txn: &mut Txn<'_, P>) -> Result<(), Abort> {
        let everything = PageRange::new(PAGE_SIZE, USER_END).expect("user memory is pages");
        let mut next = 0;
        loop {
            let guard = self.memory.rcu.read();
            let Some(item) = self.tree.next(&guard, next) else { break };
            // SAFETY: found under `guard`.
            let vma = unsafe { item.value.get() };
            if vma.kind() == Kind::Tombstone {
                return Err(txn.wait_for(vma.lock()));
            }
            txn.mark(vma.lock(), vma.range())?;
            next = item.end;
        }
        let settled = txn.settle()?;
        let mut unlinked = Unlinked::new(self.memory.frames);
        {
            let guard = self.memory.rcu.read();
            let mut section = self.tree.publish();
            // SAFETY: in the tree, and the section keeps it there.
            let lock = |item: Item| unsafe { item.value.get() }.lock();
            // What came after we had passed must be marked too.
            if !section.overlapping(0..USER_END).all(|item| txn.has_marked(lock(item))) {
                return Err(Abort::Again);
            }
            section.overlapping(0..USER_END).for_each(|item| txn.detach(&settled, lock(item)));
            // From the root as it is now; `guard` keeps what it leads to.
            let gone = self.tree.overlapping(&guard, 0..USER_END);
            let none = section.replace(0..USER_END, &[], &mut Reserve::new());
            none.expect("an empty tree has no nodes");
            self.unlink_tables(&section, everything, &mut unlinked);
            drop(section);
            for item in gone {
                // SAFETY: detached and out of the tree, just now; each comes once.
                unsafe { item.value.free_after_grace(&self.memory.rcu) };
            }
        }
        let mut gather = Gather::new(self);
        gather.take_tables(&mut unlinked);
        gather.finish();
        Ok(())
    }
}
