//! [`Held`]: one context's record of what it holds and waits for, and the checks on it.
//!
//! The numbers lie in [`abi::lock::HeldStack`], which tools decode from outside. Beside it lie the places in the source once
//! more, as references: those another context may read, and never finds half of one and half of another.

use core::panic::Location;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering, compiler_fence};

use abi::lock::{Class, Context, HeldStack, Kind, MAX_HELD, Nests, Place, Wait, Where};

use super::violation::{Entries, Fault, Site, Violation};

/// How many VMA write locks of one transaction have a record each; the others share the last one.
const MARKS_SHOWN: usize = 4;

/// What one context holds and waits for.
#[derive(Debug)]
#[repr(C)]
pub struct Held {
    /// First, so that its address is the record's.
    stack: HeldStack,
    /// Where each entry was taken.
    sites: [SiteWord; MAX_HELD],
    /// Where the wait began.
    wait_site: SiteWord,
    /// When the wait began that was reported last ([`super::waits`]).
    told_ns: AtomicU64,
}

/// A [`Site`] or nothing, in one word.
#[derive(Debug)]
struct SiteWord(AtomicPtr<Location<'static>>);

impl SiteWord {
    const fn new() -> SiteWord {
        SiteWord(AtomicPtr::new(ptr::null_mut()))
    }

    fn set(&self, site: Option<Site>) {
        let pointer = site.map_or(ptr::null(), ptr::from_ref);
        self.0.store(pointer.cast_mut(), Ordering::Relaxed);
    }

    fn get(&self) -> Option<Site> {
        // SAFETY: null, or made by `set` from a reference that lives for ever to what is never written.
        unsafe { self.0.load(Ordering::Relaxed).as_ref() }
    }
}

/// What a context waited for, to be put back when a wait inside that wait is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waited {
    what: Wait,
    place: Option<Place>,
    site: Option<Site>,
}

impl Held {
    /// Of a context that holds nothing.
    pub const fn new(context: Context) -> Held {
        Held {
            stack: HeldStack::new(context),
            sites: [const { SiteWord::new() }; MAX_HELD],
            wait_site: SiteWord::new(),
            told_ns: AtomicU64::new(0),
        }
    }

    /// The part that tools decode: where they find it.
    pub fn stack(&self) -> &HeldStack {
        &self.stack
    }

    /// Forgets everything, a violation included: for tests that go on after one.
    pub fn reset(&self) {
        self.stack.depth.store(0, Ordering::Relaxed);
        self.stack.wait.store(Wait::Nothing as u32, Ordering::Relaxed);
        self.stack.broken.store(0, Ordering::Relaxed);
    }

    /// Checks no more: what the context says it holds is no longer true.
    pub fn give_up(&self) {
        self.stack.broken.store(1, Ordering::Relaxed);
    }

    /// Whether it checks no more.
    pub fn is_broken(&self) -> bool {
        self.stack.broken.load(Ordering::Relaxed) != 0
    }

    fn in_interrupt(&self) -> bool {
        self.stack.context.load(Ordering::Relaxed) == Context::Interrupt as u32
    }

    fn depth(&self) -> usize {
        (self.stack.depth.load(Ordering::Relaxed) as usize).min(MAX_HELD)
    }

    fn entry(&self, index: usize) -> Option<(Place, Option<Site>)> {
        Some((self.stack.held[index].get()?, self.sites[index].get()))
    }

    /// What it holds, outermost first.
    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = (Place, Option<Site>)> {
        (0..self.depth()).filter_map(|index| self.entry(index))
    }

    /// What it waits for, if for anything.
    pub(super) fn wait(&self) -> Option<(Wait, Place, Option<Site>)> {
        let what = Wait::from_word(self.stack.wait.load(Ordering::Relaxed))?;
        if what == Wait::Nothing {
            return None;
        }
        Some((what, self.stack.waiting.get()?, self.wait_site.get()))
    }

    /// Whether the wait that began at `since_ns` has not been reported yet; from now on it has.
    pub(super) fn tell_once(&self, since_ns: u64) -> bool {
        self.told_ns.swap(since_ns, Ordering::Relaxed) != since_ns
    }

    fn fail(&self, fault: Fault, place: Option<Place>, site: Site) -> ! {
        let held: Entries = core::array::from_fn(|index| if index < self.depth() { self.entry(index) } else { None });
        // First: what the panic itself takes is not checked.
        self.give_up();
        panic!("{}", Violation { fault, place, site, interrupt: self.in_interrupt(), held })
    }

    /// See [`super::before`].
    pub(super) fn check_taking(&self, class: Class, address: u64, site: Site) {
        if self.is_broken() {
            return;
        }
        let wanted = || Some(super::place(class, abi::lock::Mode::Write, address, &super::NO_RANGE, site));
        if class.place() == Where::Threads && self.in_interrupt() {
            self.fail(Fault::InInterrupt, wanted(), site);
        }
        if class.kind() == Kind::Section {
            return;
        }
        for index in (0..self.depth()).rev() {
            let held = self.stack.held[index].class.load(Ordering::Relaxed);
            // The usual case, decided by one comparison.
            if held < class as u32 && class.kind() == Kind::Spins {
                continue;
            }
            let Some((place, _)) = self.entry(index) else { continue };
            if let Some(fault) = conflict(&place, class, address) {
                self.fail(fault(index), wanted(), site);
            }
        }
    }

    /// See [`super::may_sleep`].
    pub(super) fn check_sleeping(&self, site: Site) {
        if self.is_broken() {
            return;
        }
        if self.in_interrupt() {
            self.fail(Fault::SleepsInInterrupt, None, site);
        }
        if let Some(index) = self.last(|place| place.class.kind() != Kind::Sleeps) {
            self.fail(Fault::SleepsHolding(index), None, site);
        }
    }

    /// See [`super::may_touch_user`].
    pub(super) fn check_user_memory(&self, site: Site) {
        if self.is_broken() {
            return;
        }
        if self.in_interrupt() {
            self.fail(Fault::SleepsInInterrupt, None, site);
        }
        // A page fault may take the update lock, and with it whatever comes after.
        if let Some(index) = self.last(|place| place.class >= Class::Update) {
            self.fail(Fault::UserMemory(index), None, site);
        }
    }

    /// See [`super::nothing_held`].
    pub(super) fn check_empty(&self, site: Site) {
        if !self.is_broken() && self.depth() > 0 {
            self.fail(Fault::Left, None, site);
        }
    }

    fn last(&self, wanted: impl Fn(&Place) -> bool) -> Option<usize> {
        (0..self.depth()).rev().find(|&index| self.entry(index).is_some_and(|(place, _)| wanted(&place)))
    }

    /// See [`super::acquired`].
    pub(super) fn push(&self, place: &Place, site: Site) {
        if self.is_broken() || place.class == Class::VmaWrite && self.share(place) {
            return;
        }
        let depth = self.depth();
        if depth == MAX_HELD {
            self.fail(Fault::TooMany, Some(*place), site);
        }
        self.stack.held[depth].set(place);
        self.sites[depth].set(Some(site));
        keep_order();
        self.stack.depth.store(depth as u32 + 1, Ordering::Relaxed);
    }

    /// Adds a VMA write lock to the last record of its transaction, if that has enough of them.
    fn share(&self, place: &Place) -> bool {
        let same = |held: &Place| held.class == Class::VmaWrite && held.address == place.address;
        if self.entries().filter(|(held, _)| same(held)).count() < MARKS_SHOWN {
            return false;
        }
        let Some(index) = self.last(same) else { return false };
        let entry = &self.stack.held[index];
        entry.start.store(entry.start.load(Ordering::Relaxed).min(place.start), Ordering::Relaxed);
        entry.end.store(entry.end.load(Ordering::Relaxed).max(place.end), Ordering::Relaxed);
        entry.count.store(entry.count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        true
    }

    /// See [`super::released`].
    pub(super) fn remove(&self, class: Class, address: u64, site: Site) {
        if self.is_broken() {
            return;
        }
        match self.last(|place| place.class == class && place.address == address) {
            Some(index) => self.take_out(index),
            None => {
                let place = super::place(class, abi::lock::Mode::Write, address, &super::NO_RANGE, site);
                self.fail(Fault::NotHeld, Some(place), site)
            }
        }
    }

    /// Removes every entry of `class` at `address`.
    pub(super) fn remove_all(&self, class: Class, address: u64) {
        while !self.is_broken()
            && let Some(index) = self.last(|place| place.class == class && place.address == address)
        {
            self.take_out(index);
        }
    }

    fn take_out(&self, index: usize) {
        let depth = self.depth();
        for above in index + 1..depth {
            if let Some(place) = self.stack.held[above].get() {
                self.stack.held[above - 1].set(&place);
            }
            self.sites[above - 1].set(self.sites[above].get());
        }
        keep_order();
        self.stack.depth.store(depth as u32 - 1, Ordering::Relaxed);
    }

    /// The context begins to wait; returns what it waited for before.
    pub(super) fn begin_wait(&self, what: Wait, place: &Place, site: Site) -> Waited {
        let before = match self.wait() {
            Some((what, place, site)) => Waited { what, place: Some(place), site },
            None => Waited { what: Wait::Nothing, place: None, site: None },
        };
        self.set_wait(what, Some(place), Some(site));
        before
    }

    /// The context's wait is over, and the one around it goes on.
    pub(super) fn end_wait(&self, before: &Waited) {
        self.set_wait(before.what, before.place.as_ref(), before.site);
    }

    fn set_wait(&self, what: Wait, place: Option<&Place>, site: Option<Site>) {
        self.stack.wait.store(Wait::Nothing as u32, Ordering::Relaxed);
        keep_order();
        if let Some(place) = place {
            self.stack.waiting.set(place);
        }
        self.wait_site.set(site);
        keep_order();
        self.stack.wait.store(what as u32, Ordering::Relaxed);
    }
}

/// Between two stores that a reader must see in this order who looks from outside at a CPU that has stopped anywhere: the CPU's
/// stores have taken effect in program order, and the compiler must keep it. Nothing between running CPUs rests on it.
fn keep_order() {
    compiler_fence(Ordering::SeqCst);
}

/// What forbids taking the lock of `class` at `address` by a context that holds `held`, if anything does.
fn conflict(held: &Place, class: Class, address: u64) -> Option<fn(usize) -> Fault> {
    if held.class.kind() == Kind::Section || held.class < class {
        return None;
    }
    if held.class > class {
        return Some(Fault::Inversion);
    }
    // A transaction's marks all have its own name.
    if held.address == address && class != Class::VmaWrite {
        return Some(Fault::Twice);
    }
    match class.nests() {
        Nests::Freely => None,
        Nests::LowerFirst if held.address < address => None,
        Nests::LowerFirst | Nests::Never => Some(Fault::Inversion),
    }
}
