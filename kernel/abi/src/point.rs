//! Schedule points: the places in the kernel where a race lives, by name, and what may be asked of them.
//!
//! `sync::point!` puts one into the code; a name that is missing here does not compile. What a boot does at them is a text
//! (`opt/tessera/points`), which the launcher and the kernel read by [`rules`]:
//!
//! ```text
//! seed=7;*=delay:50:1/16;fault-locked+after-mark=meet:2:1000
//! ```
//! Entries are parted by `;`; where two speak of one point, the later one counts.
//!
//! | entry | |
//! |---|---|
//! | `seed=N` | where every CPU's random numbers start |
//! | `NAMES=delay:US:1/N` | one passage in `N`, by chance, takes up to `US` microseconds longer |
//! | `NAMES=meet:COUNT:US` | a CPU stays until `COUNT` CPUs stand at any of these points, `US` microseconds at most |
//!
//! `NAMES` is one name, several joined by `+`, or `*` for all.

use core::fmt;

macro_rules! points {
    ($($name:literal: $about:literal,)+) => {
        /// Names of all points, and what is going on there; in the order of the kernel's rooms.
        const ALL: &[(&str, &str)] = &[$(($name, $about),)+];
    };
}

points! {
    "slot-stored": "a fault's address is in its slot, and its fence not yet passed",
    "slot-entered": "a fault has fenced and will look its VMA up",
    "slot-leaving": "a fault is about to clear its slot",
    "mark-read": "a fault has read a VMA's mark, and not yet whether the VMA is detached",
    "mark-clearing": "a fault has seen a mark's transaction ended and will set the mark to 0",
    "mark-taking": "a transaction has found a VMA unmarked and will mark it",
    "mark-stored": "a transaction has marked one VMA",
    "transaction-sleeping": "a transaction has said for whom it will sleep",
    "wounded": "a transaction has told another one to back off, and not yet looked whether that one sleeps",
    "vma-read-counted": "a fault is counted among a VMA's readers and will look at its mark",
    "vma-read-closed": "a transaction keeps new readers out of a VMA and will look for those inside",
    "settle-fencing": "a transaction has marked everything and will fence",
    "settle-scanning": "a settling transaction will look at one CPU's slot",
    "settle-waiting": "a settling transaction has found a fault inside",
    "cell-taken": "a transaction has its sequence cell",
    "cell-ending": "a transaction is about to unlock what it has marked",
    "cell-ended": "a transaction has ended and will look for sleepers",
    "space-joined": "a CPU is in the set of those that run an address space, and has not fenced",
    "space-leaving": "a CPU is about to leave the set of those that run an address space",
    "rcu-deferring": "an object will be queued for a grace period",
    "rcu-started": "a grace period has begun",
    "rcu-reporting": "a CPU is about to report a quiescent state",
    "rcu-completed": "a grace period is over",
    "rcu-waking": "a CPU has left idle and not fenced",
    "rcu-callback": "an object's grace period is over and it will be freed",
    "wait-entered": "a thread is in a wait queue and will look at its condition",
    "wait-parking": "a thread in a wait queue has found its condition false and will sleep",
    "wait-waking": "a waker has made the condition true and fenced, and will look at the queue",
    "lock-parking": "a thread is in the queue of a fair lock and will sleep",
    "lock-handing-over": "a fair lock's holder is about to hand it over",
    "futex-noted": "a futex waiter has counted the wakes so far and will check the word",
    "futex-checked": "a futex waiter has checked the word and will enter the queue",
    "futex-parking": "a futex waiter is in the queue and will sleep",
    "futex-waking": "a futex waker is about to take the queue's lock",
    "fault-found": "a fault has found its VMA and will ask for its lock",
    "fault-locked": "a fault holds its VMA's lock and will walk the tables",
    "fallback-settled": "a fault's own transaction has settled and will look its VMA up again",
    "before-table": "a page table is ready and will be linked",
    "leaf-linking": "a CPU has said that it shares a leaf table, and not yet linked it",
    "leaf-linked": "a CPU has linked a leaf table into its own tables",
    "sharers-noted": "a call has taken the first entry out of a leaf table, and others may follow",
    "before-install": "a page is ready and will be entered",
    "after-mark": "a call has marked every VMA that it changes",
    "before-publish": "a call is about to take the publication section",
    "table-unlinked": "inside the publication section: page tables have left the tree of tables",
    "after-publish": "a call's change is in the tree",
    "entries-taken": "the entries of an unmapped range are in the gather",
    "before-flush": "a call is about to start its TLB shootdown",
    "after-flush": "a shootdown has been acknowledged, and the frames are about to be freed",
    "tombstone-clearing": "a tombstone is about to leave the tree",
    "frame-freeing": "the last handle to a frame is about to give it back",
    "page-copying": "the kernel is about to write into a program's page through its own window",
    "user-copying": "the kernel is about to touch user memory",
    "root-loading": "a CPU has joined an address space and will load its root table",
    "ipi-sending": "an interrupt for other CPUs is about to be sent",
    "flush-acknowledging": "a CPU has flushed for another one and will say so",
    "park-saved": "a parking thread's context is saved, and its CPU not yet told",
    "park-notifying": "a thread is about to be woken",
    "thread-ending": "a thread is about to leave its CPU for good",
    "thread-reaping": "what is left of a thread is about to be freed",
}

/// Number of points.
pub const POINTS: usize = ALL.len();

/// Longest text that [`rules`] is given, in bytes.
pub const SPEC_MAX: usize = 2048;

/// Longest delay or wait at one point, in microseconds: a second.
pub const US_MAX: u32 = 1_000_000;

/// One schedule point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point(u8);

impl Point {
    /// The point called `name`.
    ///
    /// # Panics
    /// If there is none: in `sync::point!` the compiler says so.
    pub const fn named(name: &str) -> Point {
        match Point::find(name) {
            Some(point) => point,
            None => panic!("no schedule point of this name in abi::point"),
        }
    }

    /// The point called `name`, if there is one.
    pub const fn find(name: &str) -> Option<Point> {
        let mut index = 0;
        while index < POINTS {
            if same(ALL[index].0, name) {
                return Some(Point(index as u8));
            }
            index += 1;
        }
        None
    }

    /// All points.
    pub fn all() -> impl Iterator<Item = Point> {
        (0..POINTS).map(|index| Point(index as u8))
    }

    /// An index into tables of [`POINTS`] elements.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        ALL[self.index()].0
    }

    /// What is going on there.
    pub const fn about(self) -> &'static str {
        ALL[self.index()].1
    }
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

const _: () = assert!(POINTS <= u8::MAX as usize);

/// One entry of a text about points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule<'a> {
    /// Where random numbers start.
    Seed(u64),
    /// One passage in `one_in` takes up to `max_us` microseconds longer.
    Delay {
        /// Where.
        at: Names<'a>,
        /// At most so long; 1 to [`US_MAX`].
        max_us: u32,
        /// At least 1.
        one_in: u32,
    },
    /// A CPU stays until `count` CPUs stand at one of the points, `timeout_us` microseconds at most.
    Meet {
        /// Where.
        at: Names<'a>,
        /// At least 2.
        count: u32,
        /// At most so long; 1 to [`US_MAX`].
        timeout_us: u32,
    },
}

/// The points that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'a>(&'a str);

impl<'a> Names<'a> {
    fn parse(names: &'a str) -> Result<Names<'a>, Mistake> {
        if names != "*" && names.split('+').any(|name| Point::find(name).is_none()) {
            return Err(Mistake::UnknownPoint);
        }
        Ok(Names(names))
    }

    /// Each of them.
    pub fn points(self) -> impl Iterator<Item = Point> + 'a {
        Point::all().filter(move |point| self.0 == "*" || self.0.split('+').any(|name| name == point.name()))
    }
}

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// It is no `NAMES=WHAT`.
    NoRule,
    /// A name that no point has.
    UnknownPoint,
    /// What is asked for is neither a delay nor a meeting, or not written like one.
    UnknownAction,
    /// A number that is missing or out of bounds.
    BadNumber,
}

/// An entry that is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRule<'a> {
    /// As it was written.
    pub entry: &'a str,
    /// What is wrong with it.
    pub why: Mistake,
}

impl fmt::Display for BadRule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.why {
            Mistake::NoRule => "not of the form NAME=delay:US:1/N, NAME=meet:COUNT:US or seed=N",
            Mistake::UnknownPoint => "no schedule point of this name",
            Mistake::UnknownAction => "neither delay:US:1/N nor meet:COUNT:US",
            Mistake::BadNumber => "a number is missing or out of bounds",
        };
        write!(f, "{}: {why}", self.entry)
    }
}

/// The entries of `text`, in its order; empty ones are skipped.
pub fn rules(text: &str) -> impl Iterator<Item = Result<Rule<'_>, BadRule<'_>>> {
    let entries = text.split(';').map(str::trim).filter(|entry| !entry.is_empty());
    entries.map(|entry| rule(entry).map_err(|why| BadRule { entry, why }))
}

fn rule(entry: &str) -> Result<Rule<'_>, Mistake> {
    let (names, what) = entry.split_once('=').ok_or(Mistake::NoRule)?;
    if names == "seed" {
        return what.parse().map(Rule::Seed).map_err(|_| Mistake::BadNumber);
    }
    let at = Names::parse(names)?;
    let mut words = what.split(':');
    let rule = match words.next() {
        Some("delay") => {
            let max_us = number(words.next(), 1..=US_MAX)?;
            let one_in = words.next().and_then(|share| share.strip_prefix("1/"));
            Rule::Delay { at, max_us, one_in: number(one_in, 1..=u32::MAX)? }
        }
        Some("meet") => {
            let count = number(words.next(), 2..=crate::MAX_CPUS as u32)?;
            Rule::Meet { at, count, timeout_us: number(words.next(), 1..=US_MAX)? }
        }
        _ => return Err(Mistake::UnknownAction),
    };
    if words.next().is_some() { Err(Mistake::UnknownAction) } else { Ok(rule) }
}

fn number(word: Option<&str>, bounds: core::ops::RangeInclusive<u32>) -> Result<u32, Mistake> {
    let number = word.and_then(|word| word.parse().ok());
    number.filter(|number| bounds.contains(number)).ok_or(Mistake::BadNumber)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_can_be_written_in_a_rule() {
        for point in Point::all() {
            assert_eq!(Point::find(point.name()), Some(point), "the name is taken twice");
            assert!(point.name().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", point.name());
            assert!(!point.about().is_empty());
        }
        assert_eq!(Point::find("seed"), None);
        assert_eq!(Point::find("slot-store"), None);
    }

    #[test]
    fn rules_are_read_in_their_order() {
        let mut rules = rules(" seed=7;*=delay:50:1/16; ;fault-locked+after-mark=meet:2:1000;");
        assert_eq!(rules.next(), Some(Ok(Rule::Seed(7))));
        let Some(Ok(Rule::Delay { at, max_us: 50, one_in: 16 })) = rules.next() else { panic!("a delay") };
        assert_eq!(at.points().count(), POINTS);
        let Some(Ok(Rule::Meet { at, count: 2, timeout_us: 1000 })) = rules.next() else { panic!("a meeting") };
        let mut names = at.points().map(Point::name);
        assert_eq!((names.next(), names.next(), names.next()), (Some("fault-locked"), Some("after-mark"), None));
        assert_eq!(rules.next(), None);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, why) in [
            ("7", Mistake::NoRule),
            ("seed=x", Mistake::BadNumber),
            ("nowhere=delay:1:1/1", Mistake::UnknownPoint),
            ("fault-locked+=delay:1:1/1", Mistake::UnknownPoint),
            ("fault-locked=sleep:1", Mistake::UnknownAction),
            ("fault-locked=delay", Mistake::BadNumber),
            ("fault-locked=delay:0:1/1", Mistake::BadNumber),
            ("fault-locked=delay:1000001:1/1", Mistake::BadNumber),
            ("fault-locked=delay:1:2", Mistake::BadNumber),
            ("fault-locked=delay:1:1/0", Mistake::BadNumber),
            ("fault-locked=delay:1:1/1:1", Mistake::UnknownAction),
            ("fault-locked=meet:1:10", Mistake::BadNumber),
            ("fault-locked=meet:65:10", Mistake::BadNumber),
            ("fault-locked=meet:2", Mistake::BadNumber),
        ] {
            let bad = rules(text).next().and_then(Result::err);
            assert_eq!(bad, Some(BadRule { entry: text, why }));
        }
    }
}
