//! Which CPUs have the latest content of each cache line: what a coherent cache would have to fetch, counted.
//!
//! One word a line: the set of CPUs that have touched it since it was last written, the writer among them; 0 while
//! nobody has written it. A CPU outside a set that is not empty touches a line *that another CPU wrote since it last did*: a
//! shared read or a shared write. Written by all virtual CPUs at once; a word is one atomic.
//!
//! Lines are 64 bytes of physical memory. Tables appear when a line in their part of memory is first written.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes in a line, as a power of two.
const LINE_SHIFT: u32 = 6;

/// Lines that one table holds: 256 KiB of memory.
const TABLE_LINES: usize = 4096;

/// Physical memory that is looked at, in bytes: twice the largest machine, since QEMU numbers memory and ROMs together.
const MEMORY_BYTES: u64 = 128 << 30;

/// How a CPU met a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// It had the line's latest content, or nobody has written the line.
    Own,
    /// Another CPU has written it since.
    Shared,
}

/// What a CPU does to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

type Table = Box<[AtomicU64]>;

/// All lines of a machine.
pub(crate) struct Lines {
    tables: Box<[OnceLock<Table>]>,
}

impl Lines {
    pub(crate) fn new() -> Lines {
        let tables = MEMORY_BYTES >> LINE_SHIFT;
        Lines { tables: (0..tables / TABLE_LINES as u64).map(|_| OnceLock::new()).collect() }
    }

    /// CPU `cpu`, below 64, accesses `size` bytes at physical address `address`. Returns how many of the lines it shared.
    /// Whatever lies beyond the end of its page is not looked at: who knows where the next page is.
    pub(crate) fn access(&self, cpu: u32, access: Access, address: u64, size: u64) -> u64 {
        if address >= MEMORY_BYTES {
            return 0; // a device, or no memory at all
        }
        let page_end = (address & !(abi::PAGE_SIZE - 1)) + abi::PAGE_SIZE;
        let end = (address + size.max(1)).min(page_end);
        let lines = address >> LINE_SHIFT..=(end - 1) >> LINE_SHIFT;
        lines.filter(|&line| self.meet(cpu, access, line) == Met::Shared).count() as u64
    }

    fn meet(&self, cpu: u32, access: Access, line: u64) -> Met {
        let (table, index) = ((line / TABLE_LINES as u64) as usize, (line % TABLE_LINES as u64) as usize);
        let Some(table) = self.tables.get(table) else { return Met::Own };
        let own = 1 << cpu;
        // Relaxed throughout: the words say what happened, in some order of each line's own; nothing is published by them.
        let had = match access {
            Access::Read => {
                let Some(table) = table.get() else { return Met::Own }; // nobody has written there
                let had = table[index].load(Ordering::Relaxed);
                if had != 0 && had & own == 0 {
                    table[index].fetch_or(own, Ordering::Relaxed);
                }
                had
            }
            Access::Write => {
                let word = &table.get_or_init(|| (0..TABLE_LINES).map(|_| AtomicU64::new(0)).collect())[index];
                // A CPU that writes its own line over and over leaves the host's line alone.
                if word.load(Ordering::Relaxed) == own { own } else { word.swap(own, Ordering::Relaxed) }
            }
        };
        if had != 0 && had & own == 0 { Met::Shared } else { Met::Own }
    }
}

#[cfg(test)]
mod tests {
    use super::Access::{Read, Write};
    use super::*;

    #[test]
    fn what_nobody_wrote_is_nobodys() {
        let lines = Lines::new();
        assert_eq!(lines.access(0, Read, 0x1000, 8), 0);
        assert_eq!(lines.access(1, Read, 0x1000, 8), 0);
        assert_eq!(lines.access(1, Write, 0x1000, 8), 0, "the first writer takes it from nobody");
    }

    #[test]
    fn each_write_is_met_once_by_each_other_cpu() {
        let lines = Lines::new();
        lines.access(0, Write, 0x1000, 8);
        for cpu in [1, 63] {
            assert_eq!(lines.access(cpu, Read, 0x1038, 8), 1, "the same line");
            assert_eq!(lines.access(cpu, Read, 0x1000, 8), 0, "it has it now");
        }
        assert_eq!(lines.access(0, Read, 0x1000, 8), 0, "the writer has it all the time");
        assert_eq!(lines.access(0, Write, 0x1000, 8), 0, "others have only read it");
        assert_eq!(lines.access(1, Write, 0x1000, 8), 1, "written by CPU 0 since");
        assert_eq!(lines.access(1, Write, 0x1000, 8), 0);
        assert_eq!(lines.access(0, Read, 0x1000, 8), 1);
        assert_eq!(lines.access(63, Read, 0x1000, 8), 1);
        assert_eq!(lines.access(0, Read, 0x1040, 8), 0, "the next line is another one");
    }

    #[test]
    fn an_access_may_lie_across_two_lines() {
        let lines = Lines::new();
        lines.access(0, Write, 0x103c, 8);
        assert_eq!(lines.access(1, Read, 0x103f, 1), 1);
        assert_eq!(lines.access(1, Write, 0x103c, 8), 1, "the first is known to CPU 1, the second is not");
        assert_eq!(lines.access(0, Read, 0x1030, 32), 2);
    }

    #[test]
    fn beyond_the_page_and_beyond_memory_nothing_is_met() {
        let lines = Lines::new();
        lines.access(0, Write, 0x1ffc, 8);
        assert_eq!(lines.access(1, Read, 0x2000, 8), 0);
        assert_eq!(lines.access(1, Read, 0x1ff8, 8), 1);
        assert_eq!(lines.access(0, Write, MEMORY_BYTES, 8), 0);
        assert_eq!(lines.access(1, Read, MEMORY_BYTES, 8), 0);
        assert_eq!(lines.access(1, Write, u64::MAX - 0x1fff, 8), 0);
    }

    #[test]
    fn a_ping_pong_of_threads_is_counted_to_the_last_ball() {
        // Each CPU waits for its turn in one word, and hands the turn on in it.
        const ROUNDS: u64 = 1000;
        let lines = Lines::new();
        let turn = AtomicU64::new(0);
        let shared = std::thread::scope(|scope| {
            let player = |cpu: u32| {
                let (lines, turn) = (&lines, &turn);
                scope.spawn(move || {
                    let mut shared = 0;
                    for _ in 0..ROUNDS {
                        while turn.load(Ordering::Acquire) != u64::from(cpu) {
                            std::thread::yield_now();
                        }
                        shared += lines.access(cpu, Write, 0x4000, 8);
                        turn.store(u64::from(1 - cpu), Ordering::Release);
                    }
                    shared
                })
            };
            [player(0), player(1)].map(|player| player.join().unwrap())
        });
        assert_eq!(shared, [ROUNDS - 1, ROUNDS], "nobody wrote before the first");
    }
}
