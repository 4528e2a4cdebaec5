//! What a violation of the lock order says: both locks, both places in the source, and everything that the context holds.

use core::fmt;

use abi::lock::{Class, MAX_HELD, Mode, Place};

/// A place in the source.
pub(super) type Site = &'static core::panic::Location<'static>;

/// What a context holds, outermost first.
pub(super) type Entries = [Option<(Place, Option<Site>)>; MAX_HELD];

/// What is wrong. Numbers are places in the held stack.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// The lock comes before the one held.
    Inversion(usize),
    /// The context holds that very lock.
    Twice(usize),
    /// The lock is not for interrupt handlers.
    InInterrupt,
    /// It sleeps in an interrupt handler.
    SleepsInInterrupt,
    /// It sleeps, or waits for other CPUs, where nobody may.
    SleepsHolding(usize),
    /// It touches user memory, where a fault could wait for what it holds.
    UserMemory(usize),
    /// It gives back what it does not hold.
    NotHeld,
    /// It holds something at its end.
    Left,
    /// It holds more than the record has room for.
    TooMany,
}

/// The text of the panic.
pub(super) struct Violation {
    pub(super) fault: Fault,
    /// The lock that is wanted or given back.
    pub(super) place: Option<Place>,
    pub(super) site: Site,
    pub(super) interrupt: bool,
    pub(super) held: Entries,
}

/// A lock as reports name it.
pub(super) struct Named<'a>(pub(super) &'a Place);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { class, address, start, end, count, .. } = *self.0;
        let name = class.name();
        match class {
            Class::VmaWrite if count > 1 => {
                write!(f, "{count} {name}s in {start:#x}..{end:#x} of transaction {address:#x}")
            }
            Class::VmaWrite => write!(f, "{name} {start:#x}..{end:#x} of transaction {address:#x}"),
            // Under the read protocols whose lock lies in the VMA.
            Class::VmaRead if start == end => write!(f, "{name} in the VMA's lock {address:#x}"),
            Class::VmaRead => write!(f, "{name} of the fault at {start:#x} (slot {address:#x})"),
            Class::RcuRead => f.write_str(name),
            Class::None => write!(f, "{address:#x}"),
            _ => write!(f, "{name} {address:#x}"),
        }?;
        if self.0.mode == Mode::Read && class != Class::VmaRead && class != Class::RcuRead {
            f.write_str(" (read)")?;
        }
        Ok(())
    }
}

/// A lock and where it was taken.
pub(super) struct Taken(pub(super) Place, pub(super) Option<Site>);

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Named(&self.0))?;
        match self.1 {
            Some(site) => write!(f, ", taken at {}:{}", site.file(), site.line()),
            None => Ok(()),
        }
    }
}

impl Violation {
    fn held_at(&self, index: usize) -> Option<(Place, Option<Site>)> {
        self.held.get(index).copied().flatten()
    }

    /// The line that names both.
    fn headline(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let here = format_args!("{}:{}", self.site.file(), self.site.line());
        let (what, index) = match self.fault {
            Fault::Inversion(index) => ("lock order: wrong order", index),
            Fault::Twice(index) => ("lock order: taken twice by one context", index),
            Fault::SleepsHolding(index) => ("lock order: sleep where nobody may sleep", index),
            Fault::UserMemory(index) => ("lock order: user memory touched where a fault could wait for itself", index),
            Fault::InInterrupt => {
                f.write_str("lock order: not for interrupt handlers")?;
                return self.wanted(f, here);
            }
            Fault::SleepsInInterrupt => return write!(f, "lock order: sleep in an interrupt handler, at {here}"),
            Fault::NotHeld => {
                f.write_str("lock order: given back, but not held")?;
                return self.wanted(f, here);
            }
            Fault::Left => return write!(f, "lock order: something is still held at the end, at {here}"),
            Fault::TooMany => {
                f.write_str("lock order: more locks than the record has room for")?;
                return self.wanted(f, here);
            }
        };
        f.write_str(what)?;
        self.wanted(f, here)?;
        match self.held_at(index) {
            Some((place, site)) => write!(f, ", while it holds {}", Taken(place, site)),
            None => Ok(()),
        }
    }

    fn wanted(&self, f: &mut fmt::Formatter<'_>, here: fmt::Arguments<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, ": {} at {here}", Named(place)),
            None => write!(f, ": at {here}"),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.headline(f)?;
        let who = if self.interrupt { "interrupt handler" } else { "thread" };
        write!(f, "\n  the {who} holds, outermost first:")?;
        let mut none = true;
        for (place, site) in self.held.iter().flatten() {
            none = false;
            write!(f, "\n    {}", Taken(*place, *site))?;
        }
        if none { f.write_str(" nothing") } else { Ok(()) }
    }
}
