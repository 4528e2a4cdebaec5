//! Tests inside the booted kernel.
//!
//! [`ktest!`](macro@crate::ktest) puts a record for each test into the link section `ktests`; the linker's `__start_`
//! and `__stop_` symbols make a table of them, so a test is registered by being written. The launcher reads the same
//! table out of the image to know their names.
//!
//! [`run_requested`] runs them one after another on the main thread. A failed assertion is a kernel panic: it ends
//! the boot, and the launcher counts it for the test that had begun. A test that **should** panic needs a boot of its
//! own and runs only when asked for by name. After each test every frame must be back where it was before.

use core::fmt::{self, Write};

use abi::exit::{CHECK_FAILED, DONE};
use abi::fw_cfg as names;
use abi::wire::Kind;
use sync::{CpuId, Platform};

use crate::memory::memory;
use crate::platform::Machine;
use crate::sched::{self, KernelThread};
use crate::stream::{self, Text};
use crate::{accounts, fw_cfg};

/// How a test is meant to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Expect {
    /// It returns.
    Return = 0,
    /// It panics.
    Panic = 1,
}

/// On which machines a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum On {
    /// All sizes, with the default lock protocols: it depends on none.
    AnyMachine = 0,
    /// Under each pair of lock protocols, too: it changes or touches an address space.
    EachPair = 1,
    /// Only where time is counted: it counts instructions. It runs only when asked for by name.
    CountedTime = 2,
}

/// One test, as it lies in the link section: five words.
#[repr(C)]
pub struct Record {
    name: *const u8,
    name_len: usize,
    run: fn(),
    expect: Expect,
    /// For the harness above all, which reads it out of the image.
    on: On,
}

// SAFETY: never written, and the name is a literal.
unsafe impl Sync for Record {}

impl Record {
    /// The record of `run`.
    pub const fn new(name: &'static str, run: fn(), expect: Expect, on: On) -> Record {
        Record { name: name.as_ptr(), name_len: name.len(), run, expect, on }
    }

    fn name(&self) -> &'static str {
        // SAFETY: made from a string literal by `new`.
        let bytes = unsafe { core::slice::from_raw_parts(self.name, self.name_len) };
        // SAFETY: as above.
        unsafe { core::str::from_utf8_unchecked(bytes) }
    }
}

/// Registers a test: `ktest! { fn name() { ... } }`; `ktest! { panics fn name() { ... } }`, if it must panic;
/// `ktest! { pairs fn name() { ... } }`, if it is to run under each pair of lock protocols; or `ktest! { counted fn name() { ... } }`,
/// if it counts instructions ([`On`]).
///
/// Its name in reports is the module's path below the crate, and the function's.
#[macro_export]
macro_rules! ktest {
    ($(#[$meta:meta])* fn $name:ident() $body:block) => {
        $crate::ktest!(@record $(#[$meta])* $name $body Return AnyMachine);
    };
    ($(#[$meta:meta])* counted fn $name:ident() $body:block) => {
        $crate::ktest!(@record $(#[$meta])* $name $body Return CountedTime);
    };
    ($(#[$meta:meta])* pairs fn $name:ident() $body:block) => {
        $crate::ktest!(@record $(#[$meta])* $name $body Return EachPair);
    };
    ($(#[$meta:meta])* panics fn $name:ident() $body:block) => {
        $crate::ktest!(@record $(#[$meta])* $name $body Panic AnyMachine);
    };
    (@record $(#[$meta:meta])* $name:ident $body:block $expect:ident $on:ident) => {
        $(#[$meta])*
        fn $name() $body

        const _: () = {
            #[used]
            // SAFETY: the section holds records only, and nothing else in the kernel is named like it.
            #[unsafe(link_section = "ktests")]
            static RECORD: $crate::ktest::Record = $crate::ktest::Record::new(
                concat!(module_path!(), "::", stringify!($name)),
                $name,
                $crate::ktest::Expect::$expect,
                $crate::ktest::On::$on,
            );
        };
    };
}

/// All tests that were linked in.
fn records() -> &'static [Record] {
    // So that the section, and with it the linker's symbols, exists in an image without tests; it is never in the
    // table.
    #[used]
    // SAFETY: as in `ktest!`: an array of no records.
    #[unsafe(link_section = "ktests")]
    static NONE: [Record; 0] = [];

    unsafe extern "C" {
        /// The section's first byte. (Words, so that the symbol has the records' alignment.)
        static __start_ktests: u64;
        /// One past its last byte.
        static __stop_ktests: u64;
    }
    let start = &raw const __start_ktests;
    let bytes = (&raw const __stop_ktests).addr() - start.addr();
    // SAFETY: the linker's bounds of a section that holds whole records only; they are never written.
    unsafe { core::slice::from_raw_parts(start.cast::<Record>(), bytes / size_of::<Record>()) }
}

/// A test's name without the crate's.
fn short(name: &str) -> &str {
    name.split_once("::").map_or(name, |(_, rest)| rest)
}

/// Runs the tests that the launcher asked for: those named, or all that are meant to return wherever they run. Returns the exit value.
pub fn run_requested() -> u8 {
    let requested = match fw_cfg::read(names::TESTS) {
        Ok(requested) => requested,
        Err(error) => {
            log::error!("the list of tests could not be read: {error:?}");
            return CHECK_FAILED;
        }
    };
    let chosen = |record: &&Record| match &requested {
        None => record.expect == Expect::Return && record.on != On::CountedTime,
        Some(list) => list.split(|&byte| byte == 0).any(|name| name == short(record.name()).as_bytes()),
    };
    let (mut passed, mut failed) = (0u32, 0u32);
    // What the first use of things keeps for good (caches, tables) is not a test's leak.
    accounts::settle();
    for record in records().iter().filter(chosen) {
        if run(record) { passed += 1 } else { failed += 1 }
    }
    stream::send_frame(Kind::TestsDone, &[&passed.to_le_bytes(), &failed.to_le_bytes()]);
    log::info!("{passed} guest tests passed, {failed} failed");
    if failed == 0 { DONE } else { CHECK_FAILED }
}

/// Runs one test and says whether it passed. One that panics does not come back.
fn run(record: &Record) -> bool {
    let name = short(record.name());
    stream::send(Kind::TestBegin, name.as_bytes());
    log::info!("test {name}");
    let before = memory().frames.usage();
    let begin_ns = Machine::now_ns();
    (record.run)();
    let took_ns = Machine::now_ns() - begin_ns;
    accounts::settle();
    let after = memory().frames.usage();
    let mut passed = record.expect == Expect::Return;
    if !passed {
        note(format_args!("it returned, but should have panicked"));
    }
    if !accounts::same_frames(&before, &after) {
        accounts::report_difference(&before, &after);
        note(format_args!("frames are missing or too many: see the console"));
        passed = false;
    }
    stream::send_frame(Kind::TestEnd, &[&[u8::from(passed)], &took_ns.to_le_bytes(), name.as_bytes()]);
    passed
}

/// A line for the report of the running test.
pub fn note(line: fmt::Arguments<'_>) {
    let mut text = Text::new();
    let _ = text.write_fmt(line);
    stream::send(Kind::Log, text.bytes());
}

/// Starts a kernel thread that calls `function(argument)` on `cpu`.
///
/// # Panics
/// Without memory: a test that cannot begin has failed.
pub fn spawn_on(cpu: CpuId, function: fn(u64), argument: u64) -> KernelThread {
    sched::spawn_kernel("test", cpu.bit(), function, argument).expect("memory for a test thread")
}

/// What each CPU does of work that is `total` for all of them, but no more than `most`: where every step of one CPU is
/// a step for the others too, the same work on each would be too much on 64, which the host emulates in turn.
pub fn share(total: u64, most: u64) -> u64 {
    (total / Machine::cpu_count() as u64).clamp(1, most)
}

/// Calls `function(cpu)` on every CPU at once and waits until all have returned.
pub fn on_all_cpus(function: fn(u64)) {
    let mut threads: [Option<KernelThread>; abi::MAX_CPUS] = [const { None }; abi::MAX_CPUS];
    for (index, place) in threads.iter_mut().enumerate().take(Machine::cpu_count()) {
        *place = Some(spawn_on(CpuId(index as u32), function, index as u64));
    }
    threads.into_iter().flatten().for_each(KernelThread::join);
}
