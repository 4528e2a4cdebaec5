//! The lock order, written once, and the records by which a debug kernel says what each context holds and waits for.
//!
//! **The order** is that of [`Class`]'s variants: whoever holds a lock may take those further down only. Two of one class
//! are never held together, but for classes that [`Class::nests`]. `sync::order` checks all of it in debug builds, at each
//! lock that is taken; nothing of it is left in other builds.
//!
//! **The records.** Each *context* (a thread; a CPU in an interrupt handler) has one [`HeldStack`]: what it holds, outermost
//! first, and what it waits for now. Contexts write their own, without locks, by plain (Relaxed) stores: an entry first, then
//! the depth that shows it; the place waited for first, then the reason. Whoever reads the stack of a context that is
//! stopped (a crash report) reads the truth, but that a lock just being taken out may show twice; whoever reads one that runs reads a hint.
//!
//! All are `#[repr(C)]`, integers only, little-endian, without padding: a tool outside reads [`HELD_STACK_BYTES`] bytes at a
//! stack's address and decodes them by [`HeldStack::decode`]. Addresses in them (of locks, of source file names) are the
//! kernel's. Each CPU has two stacks to look at: its running thread's, and its interrupt handlers'. The black box
//! holds both addresses for each CPU; 0 in builds without debug assertions. A file's name is `file_len` bytes of UTF-8 at `file`, in the kernel's read-only data, hence in its ELF file too.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What a context does while it waits for a lock of a class, and what it may do while it holds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Waiters sleep, and holders may.
    Sleeps,
    /// Waiters spin; interrupts are off while it is held; holders neither sleep nor wait for another CPU.
    Spins,
    /// Not a lock but a stretch of code in which nobody may sleep. It has no place in the order: it begins and ends anywhere.
    Section,
}

/// Where a lock may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// By threads only.
    Threads,
    /// In interrupt handlers too.
    Anywhere,
}

/// Whether a context may hold two locks of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nests {
    /// Never.
    Never,
    /// Yes, the one with the lower address first.
    LowerFirst,
    /// Yes: something else orders them, or they belong together.
    Freely,
}

macro_rules! classes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $kind:ident, $place:ident, $nests:ident;)+) => {
        /// The kinds of locks, **in the order in which they are taken**.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Class {
            /// In records: no lock. Never taken.
            None = 0,
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Class {
            /// All of them, in order.
            pub const ALL: &'static [Class] = &[$(Class::$variant,)+];

            /// The name in reports.
            pub const fn name(self) -> &'static str {
                match self { Class::None => "nothing", $(Class::$variant => $name,)+ }
            }

            /// Whether it sleeps, spins, or is a section.
            pub const fn kind(self) -> Kind {
                match self { Class::None => Kind::Section, $(Class::$variant => Kind::$kind,)+ }
            }

            /// Where it may be taken.
            pub const fn place(self) -> Where {
                match self { Class::None => Where::Anywhere, $(Class::$variant => Where::$place,)+ }
            }

            /// Whether two of it may be held.
            pub const fn nests(self) -> Nests {
                match self { Class::None => Nests::Freely, $(Class::$variant => Nests::$nests,)+ }
            }
        }
    };
}

classes! {
    /// Sleeping locks that only tests take.
    Planted = "planted lock", Sleeps, Threads, Freely;
    /// The update lock of an address space (`sync::UpdateLock`). Address: the lock's.
    Update = "update lock", Sleeps, Threads, Never;
    /// An open update transaction. Address: the transaction's mark.
    Transaction = "transaction", Sleeps, Threads, Never;
    /// A VMA marked by an open transaction: its write lock. Address: the mark; range: the VMA's.
    VmaWrite = "VMA write lock", Sleeps, Threads, Freely;
    /// The threads of a process and its exit status.
    ProcessMembers = "process members", Spins, Threads, Never;
    /// A process's open files.
    ProcessFiles = "process files", Spins, Threads, Never;
    /// Where the reader of an open file stands.
    FileReader = "open file", Spins, Threads, Never;
    /// A process's signal handlers.
    ProcessSignals = "process signals", Spins, Threads, Never;
    /// A process's resource limits.
    ProcessLimits = "process limits", Spins, Threads, Never;
    /// A thread's alternate signal stack.
    ThreadAltStack = "thread's signal stack", Spins, Threads, Never;
    /// A thread's name.
    ThreadName = "thread's name", Spins, Threads, Never;
    /// The identifiers of processes and threads.
    Ids = "identifiers", Spins, Threads, Never;
    /// A fault's section in its CPU's slot: the VMA read lock. Address: the slot; range: the faulting page.
    VmaRead = "VMA read lock", Spins, Threads, Never;
    /// An RCU read section. Address: its CPU's count of them.
    RcuRead = "RCU read section", Section, Anywhere, Freely;
    /// The publication section of an address space's tree (`mm::tree`).
    Publication = "publication section", Spins, Threads, Never;
    /// The state of a fair lock.
    FairLock = "fair lock's queue", Spins, Threads, Never;
    /// The waiters of a wait queue.
    WaitQueue = "wait queue", Spins, Anywhere, Never;
    /// The locks that a transaction holds, listed for others (`cycle-held`).
    HeldLocks = "list of held locks", Spins, Threads, Never;
    /// A bucket of the futex table: of two, the lower first.
    FutexBucket = "futex bucket", Spins, Threads, LowerFirst;
    /// The list of all address spaces' counters.
    Tallies = "list of counters", Spins, Threads, Never;
    /// The longest holds and waits of an address space.
    Extremes = "longest holds and waits", Spins, Threads, Never;
    /// The free kernel stacks.
    StackPool = "kernel stacks", Spins, Anywhere, Never;
    /// The kernel's own page tables.
    KernelTables = "kernel page tables", Spins, Anywhere, Never;
    /// A CPU's queue of RCU callbacks.
    RcuQueue = "RCU queue", Spins, Anywhere, Never;
    /// The heap's shared list of one size.
    HeapList = "heap list", Spins, Anywhere, Never;
    /// The heap's region.
    HeapRegion = "heap region", Spins, Anywhere, Never;
    /// The buddy allocator of page frames.
    Buddy = "buddy allocator", Spins, Anywhere, Never;
    /// A CPU's list of sleepers with a deadline.
    SleepList = "sleep list", Spins, Anywhere, Never;
    /// A CPU's run queue.
    RunQueue = "run queue", Spins, Anywhere, Never;
    /// The random number generator.
    Random = "random numbers", Spins, Anywhere, Never;
    /// The fw_cfg device.
    FwCfg = "fw_cfg device", Spins, Anywhere, Never;
    /// What comes in by the stream port.
    StreamIn = "stream input", Spins, Anywhere, Never;
    /// What goes out by the stream port.
    StreamOut = "stream output", Spins, Anywhere, Never;
    /// Spin locks that only tests and planted disasters take.
    PlantedSpin = "planted spin lock", Spins, Anywhere, Freely;
    /// The list of all contexts, which the watchdog walks.
    Contexts = "list of contexts", Spins, Anywhere, Never;
    /// The console.
    Console = "console", Spins, Anywhere, Never;
}

impl Class {
    /// The class of a record's word.
    pub fn from_word(word: u32) -> Option<Class> {
        if word == 0 {
            return Some(Class::None);
        }
        // Numbered from 1, in order.
        Class::ALL.get(word as usize - 1).copied()
    }
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// Alone.
    Write = 0,
    /// Together with other readers.
    Read = 1,
}

/// What a context waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Wait {
    /// For nothing: it runs, or could.
    Nothing = 0,
    /// It sleeps until a condition holds that programs or devices make true. Not watched. Place: [`Class::None`], the wait queue.
    Event = 1,
    /// For a lock of the place's class, asleep or spinning as that class does.
    Lock = 2,
    /// It sleeps until a transaction ends. Place: [`Class::Transaction`], the mark, and the range waited for.
    TransactionEnd = 3,
    /// It sleeps until some transaction ends and leaves it its cell.
    Cell = 4,
    /// It spins until a fault ends that holds a VMA read lock. Place: [`Class::VmaRead`], the slot, the page.
    FaultEnd = 5,
    /// It sleeps until a grace period has passed. Place: [`Class::RcuRead`]; the address is the set of CPUs that had not
    /// reported when it last looked.
    GracePeriod = 6,
    /// It spins until other CPUs have flushed their TLBs. Place: [`Class::None`]; the address is the set of CPUs asked.
    Shootdown = 7,
}

impl Wait {
    /// The reason of a record's word.
    pub fn from_word(word: u32) -> Option<Wait> {
        use Wait::{Cell, Event, FaultEnd, GracePeriod, Lock, Nothing, Shootdown, TransactionEnd};
        let all = [Nothing, Event, Lock, TransactionEnd, Cell, FaultEnd, GracePeriod, Shootdown];
        all.into_iter().find(|&wait| wait as u32 == word)
    }

    /// Whether the kernel alone ends such a wait, so that one that lasts is a fault of the kernel.
    pub const fn is_watched(self) -> bool {
        !matches!(self, Wait::Nothing | Wait::Event)
    }
}

/// What kind of context a stack belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Context {
    /// A thread (a CPU's idle thread and its boot included).
    Thread = 0,
    /// Interrupt handlers of a CPU.
    Interrupt = 1,
}

/// Most locks that a context holds at a time. VMA write locks beyond a few share a record ([`Place::count`]).
pub const MAX_HELD: usize = 16;

/// A lock, and where in the source it was taken. 64 bytes.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Entry {
    /// [`Class`].
    pub class: AtomicU32,
    /// [`Mode`].
    pub mode: AtomicU32,
    /// Which lock of its class; see there.
    pub address: AtomicU64,
    /// User addresses that it covers, where it covers any: from here ...
    pub start: AtomicU64,
    /// ... to before here.
    pub end: AtomicU64,
    /// Source file of the caller that took it: address of the name ...
    pub file: AtomicU64,
    /// ... its length in bytes ...
    pub file_len: AtomicU32,
    /// ... and the line.
    pub line: AtomicU32,
    /// Since when, in nanoseconds of the kernel's clock; 0 for locks held (not waited for) that spin.
    pub since_ns: AtomicU64,
    /// How many locks the record stands for: more than 1 only for VMA write locks of one transaction, whose hull is
    /// `start..end`.
    pub count: AtomicU32,
    /// Nothing.
    pub reserved: AtomicU32,
}

/// What a context holds and waits for.
#[derive(Debug)]
#[repr(C)]
pub struct HeldStack {
    /// How many of `held` count: the first ones.
    pub depth: AtomicU32,
    /// [`Context`].
    pub context: AtomicU32,
    /// [`Wait`].
    pub wait: AtomicU32,
    /// 1: a violation was found in this context, and it checks no more.
    pub broken: AtomicU32,
    /// What it waits for, if `wait` is not [`Wait::Nothing`].
    pub waiting: Entry,
    /// What it holds, in the order of taking.
    pub held: [Entry; MAX_HELD],
}

/// Size of a [`HeldStack`].
pub const HELD_STACK_BYTES: usize = size_of::<HeldStack>();

const ENTRY_BYTES: usize = size_of::<Entry>();
const HEADER_BYTES: usize = HELD_STACK_BYTES - (MAX_HELD + 1) * ENTRY_BYTES;

const _: () = assert!(ENTRY_BYTES == 64 && HEADER_BYTES == 16);

/// An [`Entry`], read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// What kind of lock.
    pub class: Class,
    /// How it is held or wanted.
    pub mode: Mode,
    /// Which lock.
    pub address: u64,
    /// User addresses that it covers: `start..end`, empty if none.
    pub start: u64,
    /// See `start`.
    pub end: u64,
    /// Address of the source file's name.
    pub file: u64,
    /// Its length in bytes.
    pub file_len: u32,
    /// The line.
    pub line: u32,
    /// Since when; 0: not noted.
    pub since_ns: u64,
    /// How many locks it stands for.
    pub count: u32,
}

/// A [`HeldStack`], read.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Whose it is.
    pub context: Context,
    /// What the context waits for.
    pub wait: Wait,
    /// The place waited for; none if it waits for nothing.
    pub waiting: Option<Place>,
    places: [Option<Place>; MAX_HELD],
}

impl Held {
    /// What it holds, outermost first.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().flatten()
    }
}

impl Entry {
    /// Nothing.
    pub const fn new() -> Entry {
        Entry {
            class: AtomicU32::new(0),
            mode: AtomicU32::new(0),
            address: AtomicU64::new(0),
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
            file: AtomicU64::new(0),
            file_len: AtomicU32::new(0),
            line: AtomicU32::new(0),
            since_ns: AtomicU64::new(0),
            count: AtomicU32::new(0),
            reserved: AtomicU32::new(0),
        }
    }

    /// Writes `place` into it. The caller is the context that it belongs to.
    pub fn set(&self, place: &Place) {
        self.class.store(place.class as u32, Ordering::Relaxed);
        self.mode.store(place.mode as u32, Ordering::Relaxed);
        self.address.store(place.address, Ordering::Relaxed);
        self.start.store(place.start, Ordering::Relaxed);
        self.end.store(place.end, Ordering::Relaxed);
        self.file.store(place.file, Ordering::Relaxed);
        self.file_len.store(place.file_len, Ordering::Relaxed);
        self.line.store(place.line, Ordering::Relaxed);
        self.since_ns.store(place.since_ns, Ordering::Relaxed);
        self.count.store(place.count, Ordering::Relaxed);
    }

    /// Reads it. `None`: no class that is known.
    pub fn get(&self) -> Option<Place> {
        let class = Class::from_word(self.class.load(Ordering::Relaxed))?;
        let mode = if self.mode.load(Ordering::Relaxed) == Mode::Read as u32 { Mode::Read } else { Mode::Write };
        Some(Place {
            class,
            mode,
            address: self.address.load(Ordering::Relaxed),
            start: self.start.load(Ordering::Relaxed),
            end: self.end.load(Ordering::Relaxed),
            file: self.file.load(Ordering::Relaxed),
            file_len: self.file_len.load(Ordering::Relaxed),
            line: self.line.load(Ordering::Relaxed),
            since_ns: self.since_ns.load(Ordering::Relaxed),
            count: self.count.load(Ordering::Relaxed),
        })
    }

    /// Decodes [`Entry`]'s bytes, in the order of its fields.
    fn decode(bytes: &[u8]) -> Option<Entry> {
        let entry = Entry::new();
        entry.class.store(word32(bytes, 0)?, Ordering::Relaxed);
        entry.mode.store(word32(bytes, 4)?, Ordering::Relaxed);
        entry.address.store(word64(bytes, 8)?, Ordering::Relaxed);
        entry.start.store(word64(bytes, 16)?, Ordering::Relaxed);
        entry.end.store(word64(bytes, 24)?, Ordering::Relaxed);
        entry.file.store(word64(bytes, 32)?, Ordering::Relaxed);
        entry.file_len.store(word32(bytes, 40)?, Ordering::Relaxed);
        entry.line.store(word32(bytes, 44)?, Ordering::Relaxed);
        entry.since_ns.store(word64(bytes, 48)?, Ordering::Relaxed);
        entry.count.store(word32(bytes, 56)?, Ordering::Relaxed);
        Some(entry)
    }
}

impl HeldStack {
    /// The stack of a context that holds nothing.
    pub const fn new(context: Context) -> HeldStack {
        HeldStack {
            depth: AtomicU32::new(0),
            context: AtomicU32::new(context as u32),
            wait: AtomicU32::new(Wait::Nothing as u32),
            broken: AtomicU32::new(0),
            waiting: Entry::new(),
            held: [const { Entry::new() }; MAX_HELD],
        }
    }

    /// Reads all of it.
    pub fn read(&self) -> Held {
        let interrupt = self.context.load(Ordering::Relaxed) == Context::Interrupt as u32;
        let wait = Wait::from_word(self.wait.load(Ordering::Relaxed)).unwrap_or(Wait::Nothing);
        let depth = (self.depth.load(Ordering::Relaxed) as usize).min(MAX_HELD);
        let mut places = [None; MAX_HELD];
        for (place, entry) in places.iter_mut().zip(&self.held[..depth]) {
            *place = entry.get();
        }
        Held {
            context: if interrupt { Context::Interrupt } else { Context::Thread },
            wait,
            waiting: (wait != Wait::Nothing).then(|| self.waiting.get()).flatten(),
            places,
        }
    }

    /// Decodes the bytes of one, as read out of the kernel's memory. `None`: too few, or not those of a stack.
    pub fn decode(bytes: &[u8]) -> Option<Held> {
        let depth = word32(bytes, 0)?;
        let wait = Wait::from_word(word32(bytes, 8)?)?;
        if depth as usize > MAX_HELD || word32(bytes, 4)? > Context::Interrupt as u32 {
            return None;
        }
        let entry = |index: usize| Entry::decode(bytes.get(HEADER_BYTES + index * ENTRY_BYTES..)?);
        let mut stack = HeldStack::new(Context::Thread);
        stack.depth.store(depth, Ordering::Relaxed);
        stack.context.store(word32(bytes, 4)?, Ordering::Relaxed);
        stack.wait.store(wait as u32, Ordering::Relaxed);
        stack.waiting = entry(0)?;
        for (index, place) in stack.held.iter_mut().enumerate() {
            *place = entry(index + 1)?;
        }
        Some(stack.read())
    }
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn word64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(class: Class, address: u64) -> Place {
        Place {
            class,
            mode: Mode::Read,
            address,
            start: 0x1000,
            end: 0x3000,
            file: 0xffff_ffff_8000_1234,
            file_len: 17,
            line: 42,
            since_ns: 1_000_000,
            count: 3,
        }
    }

    /// The bytes of a stack in memory: its fields in order.
    fn bytes_of(stack: &HeldStack) -> std::vec::Vec<u8> {
        let mut bytes = std::vec::Vec::new();
        for word in [&stack.depth, &stack.context, &stack.wait, &stack.broken] {
            bytes.extend(word.load(Ordering::Relaxed).to_le_bytes());
        }
        for entry in core::iter::once(&stack.waiting).chain(&stack.held) {
            let small = |word: &AtomicU32| word.load(Ordering::Relaxed).to_le_bytes();
            let large = |word: &AtomicU64| word.load(Ordering::Relaxed).to_le_bytes();
            bytes.extend([small(&entry.class), small(&entry.mode)].concat());
            bytes.extend([large(&entry.address), large(&entry.start), large(&entry.end), large(&entry.file)].concat());
            bytes.extend([small(&entry.file_len), small(&entry.line)].concat());
            bytes.extend(large(&entry.since_ns));
            bytes.extend([small(&entry.count), small(&entry.reserved)].concat());
        }
        assert_eq!(bytes.len(), HELD_STACK_BYTES);
        bytes
    }

    #[test]
    fn what_a_context_wrote_is_what_a_tool_reads() {
        let stack = HeldStack::new(Context::Interrupt);
        stack.held[0].set(&place(Class::Update, 0x1000));
        stack.held[1].set(&place(Class::VmaWrite, 7));
        stack.held[2].set(&place(Class::Buddy, 8));
        stack.depth.store(2, Ordering::Relaxed);
        stack.waiting.set(&place(Class::RunQueue, 9));
        stack.wait.store(Wait::Lock as u32, Ordering::Relaxed);
        let held = HeldStack::decode(&bytes_of(&stack)).expect("a stack");
        assert_eq!(held.context, Context::Interrupt);
        assert_eq!(held.wait, Wait::Lock);
        assert_eq!(held.waiting, Some(place(Class::RunQueue, 9)));
        let places: std::vec::Vec<Place> = held.places().copied().collect();
        assert_eq!(places, [place(Class::Update, 0x1000), place(Class::VmaWrite, 7)]);
    }

    #[test]
    fn bytes_that_are_no_stack_are_refused() {
        let stack = HeldStack::new(Context::Thread);
        let bytes = bytes_of(&stack);
        assert!(HeldStack::decode(&bytes).is_some());
        assert!(HeldStack::decode(&bytes[..HELD_STACK_BYTES - 9]).is_none());
        stack.depth.store(MAX_HELD as u32 + 1, Ordering::Relaxed);
        assert!(HeldStack::decode(&bytes_of(&stack)).is_none());
    }

    #[test]
    fn classes_have_names_of_their_own() {
        for (index, class) in Class::ALL.iter().enumerate() {
            assert_eq!(Class::from_word(*class as u32), Some(*class));
            assert!(Class::ALL[..index].iter().all(|before| before < class && before.name() != class.name()));
        }
    }
}
