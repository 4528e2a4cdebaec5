//! The waits-for graph: who waits for whom, found in the contexts' records, and whether that is a cycle.
//!
//! Nothing is kept for it while all goes well: locks do not know their holders. Whoever wants to know who holds a lock looks
//! through all contexts for one that says so. Contexts run meanwhile, so what is found is a hint; of contexts that have
//! waited long, which is what this is for, it is true. A cycle is looked at twice: only a deadlock stands still.

use core::fmt;

use abi::lock::{Class, Kind, Place, Wait};

use super::held::Held;
use super::violation::{Named, Site};
use crate::{CpuId, CpuSet};

/// Most contexts in one graph.
const MAX_NODES: usize = 32;

/// One context, as the graph shows it.
pub struct Seen<'a> {
    /// Its record.
    pub held: &'a Held,
    /// How reports call it.
    pub name: &'a dyn fmt::Display,
    /// The CPU that runs it now, if one does.
    pub cpu: Option<CpuId>,
}

/// All contexts of the machine.
pub trait Contexts {
    /// Calls `visit` with each, which then lives at least until the call to `each` returns.
    fn each(&self, visit: &mut dyn FnMut(&Seen<'_>));
}

/// Whether the context waits, for something that the kernel alone brings about, since more than `limit_ns`; true once for
/// each wait.
pub fn overdue(held: &Held, now_ns: u64, limit_ns: u64) -> bool {
    let Some((what, place, _)) = held.wait() else { return false };
    what.is_watched() && now_ns.saturating_sub(place.since_ns) > limit_ns && held.tell_once(place.since_ns)
}

/// The part of the graph that can be reached from one context, as text.
pub struct Graph<'a, C> {
    /// All contexts.
    pub contexts: &'a C,
    /// The one that has waited for too long.
    pub from: &'a Held,
    /// The time.
    pub now_ns: u64,
}

/// The contexts found so far, by the addresses of their records, and who waits for whom.
struct Nodes {
    address: [usize; MAX_NODES],
    /// Bit `j` of `waits_for[i]`: the `i`th waits for the `j`th.
    waits_for: [u32; MAX_NODES],
    /// Since when each waits.
    since_ns: [u64; MAX_NODES],
    count: usize,
}

/// A path along edges that ends where it begins.
struct Cycle {
    nodes: [usize; MAX_NODES + 1],
    len: usize,
}

impl Cycle {
    fn nodes(&self) -> &[usize] {
        &self.nodes[..self.len]
    }
}

impl Nodes {
    /// The number of `held`, which is new if there is room.
    fn number(&mut self, held: &Held) -> Option<usize> {
        let address = core::ptr::from_ref(held).addr();
        if let Some(found) = self.address[..self.count].iter().position(|&other| other == address) {
            return Some(found);
        }
        if self.count == MAX_NODES {
            return None;
        }
        self.address[self.count] = address;
        self.count += 1;
        Some(self.count - 1)
    }

    /// What can be reached from each, in one step or more (Warshall).
    fn reachable(&self) -> [u32; MAX_NODES] {
        let mut reach = self.waits_for;
        for via in 0..self.count {
            for from in 0..self.count {
                if reach[from] & 1 << via != 0 {
                    reach[from] |= reach[via];
                }
            }
        }
        reach
    }

    /// A cycle, its first node again at the end.
    fn cycle(&self) -> Option<Cycle> {
        let reach = self.reachable();
        let first = (0..self.count).find(|&node| reach[node] & 1 << node != 0)?;
        let mut cycle = Cycle { nodes: [first; MAX_NODES + 1], len: 0 };
        let mut node = first;
        // No node comes twice: each step is to the nearest of those that lead back, and at most all are passed.
        let mut passed = 0u32;
        loop {
            cycle.nodes[cycle.len] = node;
            cycle.len += 1;
            passed |= 1 << node;
            let back = |&next: &usize| {
                self.waits_for[node] & 1 << next != 0
                    && (next == first || passed & 1 << next == 0 && reach[next] & 1 << first != 0)
            };
            let next = if back(&first) { Some(first) } else { (0..self.count).find(back) };
            match next {
                Some(next) if next != first => node = next,
                _ => {
                    cycle.len += 1; // its place holds `first` from the start
                    return Some(cycle);
                }
            }
        }
    }
}

/// Whether `seen` is (one of those) that a wait for `what` at `place` waits for, and what it holds that says so.
fn awaited(what: Wait, place: &Place, seen: &Seen<'_>) -> Option<Option<(Place, Option<Site>)>> {
    let holds = |class: Class, address: Option<u64>| {
        let held =
            seen.held.entries().find(|(held, _)| held.class == class && address.is_none_or(|it| it == held.address));
        held.map(Some)
    };
    match what {
        Wait::Nothing | Wait::Event => None,
        Wait::Lock => holds(place.class, Some(place.address)),
        Wait::TransactionEnd => holds(Class::Transaction, Some(place.address)),
        Wait::Cell => holds(Class::Transaction, None),
        Wait::FaultEnd => holds(Class::VmaRead, Some(place.address)),
        Wait::GracePeriod | Wait::Shootdown => {
            let asked = CpuSet(place.address);
            let runs = seen.cpu.is_some_and(|cpu| asked.contains(cpu));
            // One that is about to sleep keeps no CPU waiting.
            let stays = seen.held.wait().is_none_or(|(what, place, _)| spins(what, &place));
            (runs && stays).then_some(None)
        }
    }
}

/// Whether a wait keeps its CPU.
fn spins(what: Wait, place: &Place) -> bool {
    match what {
        Wait::Nothing | Wait::FaultEnd | Wait::Shootdown => true,
        Wait::Lock => place.class.kind() == Kind::Spins,
        Wait::Event | Wait::TransactionEnd | Wait::Cell | Wait::GracePeriod => false,
    }
}

impl<C: Contexts> Graph<'_, C> {
    /// Calls `visit` with the context whose record lies at `address`.
    fn with(&self, address: usize, mut visit: impl FnMut(&Seen<'_>)) {
        self.contexts.each(&mut |seen| {
            if core::ptr::from_ref(seen.held).addr() == address {
                visit(seen);
            }
        });
    }

    fn ms_since(&self, since_ns: u64) -> u64 {
        self.now_ns.saturating_sub(since_ns) / 1_000_000
    }

    /// What one context waits for.
    fn write_wait(&self, f: &mut fmt::Formatter<'_>, seen: &Seen<'_>) -> fmt::Result {
        write!(f, "\n  {}", seen.name)?;
        let Some((what, place, site)) = seen.held.wait() else {
            return match seen.cpu {
                Some(cpu) => write!(f, " runs on CPU {}", cpu.0),
                None => f.write_str(" waits for nothing that it names"),
            };
        };
        match what {
            Wait::Nothing => Ok(()),
            Wait::Event => f.write_str(" sleeps until something happens"),
            Wait::Lock if place.class.kind() == Kind::Spins => write!(f, " spins for {}", Named(&place)),
            Wait::Lock => write!(f, " sleeps for {}", Named(&place)),
            Wait::TransactionEnd if place.start != place.end => write!(
                f,
                " sleeps until transaction {:#x} ends, which has locked the VMA of {:#x}",
                place.address, place.start
            ),
            Wait::TransactionEnd => write!(f, " sleeps until transaction {:#x} ends", place.address),
            Wait::Cell => f.write_str(" sleeps until a transaction ends and leaves its cell"),
            Wait::FaultEnd if place.start == place.end => {
                write!(f, " spins until the faults end that hold the VMA's lock {:#x}", place.address)
            }
            Wait::FaultEnd => {
                write!(f, " spins until the fault at {:#x} ends (slot {:#x})", place.start, place.address)
            }
            Wait::GracePeriod => write!(f, " sleeps until CPUs {:#x} have passed a quiescent state", place.address),
            Wait::Shootdown => write!(f, " spins until CPUs {:#x} have flushed their TLBs", place.address),
        }?;
        write!(f, ", for {} ms", self.ms_since(place.since_ns))?;
        write_site(f, ", at", site)
    }

    /// Whom one context waits for; enters them as nodes.
    fn write_holders(
        &self,
        f: &mut fmt::Formatter<'_>,
        nodes: &mut Nodes,
        node: usize,
        seen: &Seen<'_>,
    ) -> fmt::Result {
        let Some((what, place, _)) = seen.held.wait() else { return Ok(()) };
        nodes.since_ns[node] = place.since_ns;
        let mut result = Ok(());
        let mut none = true;
        self.contexts.each(&mut |other| {
            let Some(how) = awaited(what, &place, other) else { return };
            none = false;
            if let Some(number) = nodes.number(other.held) {
                nodes.waits_for[node] |= 1 << number;
            }
            if result.is_ok() {
                result = self.write_holder(f, other, how);
            }
        });
        result?;
        // Between the two looks it may have been given back.
        if none && what.is_watched() { f.write_str("\n    held by nobody now") } else { Ok(()) }
    }

    /// A cycle of edges that are all still there. Each was found at another moment; those that are found once more, by
    /// waits that have not ended meanwhile, all stood at the same time: since the first look nobody on it has moved.
    fn standing_cycle(&self, nodes: &mut Nodes) -> Option<Cycle> {
        loop {
            let cycle = nodes.cycle()?;
            let gone = cycle.nodes().windows(2).find(|edge| !self.stands(nodes, edge[0], edge[1]));
            let Some(&[from, to]) = gone else { return Some(cycle) };
            nodes.waits_for[from] &= !(1 << to);
        }
    }

    /// Whether one context still waits, in the same wait, for another.
    fn stands(&self, nodes: &Nodes, from: usize, to: usize) -> bool {
        let mut stands = false;
        self.with(nodes.address[from], |waiter| {
            let Some((what, place, _)) = waiter.held.wait() else { return };
            if place.since_ns == nodes.since_ns[from] {
                self.with(nodes.address[to], |holder| stands = awaited(what, &place, holder).is_some());
            }
        });
        stands
    }

    fn write_holder(
        &self,
        f: &mut fmt::Formatter<'_>,
        holder: &Seen<'_>,
        how: Option<(Place, Option<Site>)>,
    ) -> fmt::Result {
        let Some((place, site)) = how else { return write!(f, "\n    one of them runs {}", holder.name) };
        write!(f, "\n    {} is held by {}", Named(&place), holder.name)?;
        if place.since_ns != 0 {
            write!(f, ", for {} ms", self.ms_since(place.since_ns))?;
        }
        write_site(f, ", taken at", site)
    }
}

fn write_site(f: &mut fmt::Formatter<'_>, how: &str, site: Option<Site>) -> fmt::Result {
    match site {
        Some(site) => write!(f, "{how} {}:{}", site.file(), site.line()),
        None => Ok(()),
    }
}

impl<C: Contexts> fmt::Display for Graph<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a wait lasts too long:")?;
        let mut nodes =
            Nodes { address: [0; MAX_NODES], waits_for: [0; MAX_NODES], since_ns: [0; MAX_NODES], count: 0 };
        nodes.number(self.from);
        let mut node = 0;
        // Grows while it is walked: breadth first.
        while node < nodes.count {
            let mut result = Ok(());
            self.with(nodes.address[node], |seen| {
                result = self.write_wait(f, seen).and_then(|()| self.write_holders(f, &mut nodes, node, seen));
            });
            result?;
            node += 1;
        }
        let Some(cycle) = self.standing_cycle(&mut nodes) else { return f.write_str("\n  no cycle") };
        let mut before = "\n  a cycle: ";
        for &node in cycle.nodes() {
            let mut result = Ok(());
            self.with(nodes.address[node], |seen| result = write!(f, "{before}{}", seen.name));
            result?;
            before = " -> ";
        }
        Ok(())
    }
}
