//! The answers of the memory calls, right and wrong ones: one line a call. The lines are the same on Linux.
//!
//! Addresses are printed as page numbers relative to a free stretch of address space, so that they do not depend on
//! where the kernel puts things. Left out: what Linux decides by privilege (addresses below `vm.mmap_min_addr`), files,
//! shared mappings.

use user::raw::{self, Answer};

const PAGE: usize = 4096;
/// Pages in the stretch that the calls play in.
const SPAN: usize = 64;
/// One past the highest address that a program may map.
const END: usize = 0x7fff_ffff_f000;
const KERNEL: usize = 0xffff_8000_0000_0000;

const NONE: i32 = libc::PROT_NONE;
const R: i32 = libc::PROT_READ;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
const FIXED: i32 = PRIVATE | libc::MAP_FIXED;
const NOREPLACE: i32 = PRIVATE | libc::MAP_FIXED_NOREPLACE;

/// A free stretch of address space; calls that change mappings stay inside it, or are such that they must fail.
struct Table {
    base: usize,
}

fn main() {
    let table = Table { base: free_stretch() };
    table.mmap();
    table.munmap();
    table.mprotect();
    table.madvise();
    table.holes();
    table.brk();
}

impl Table {
    fn mmap(&self) {
        let at = |page| self.at(page);
        self.show_mmap("length 0", 0, 0, RW, PRIVATE);
        self.show_mmap("length too large", 0, usize::MAX - PAGE + 2, RW, PRIVATE);
        self.show_mmap("length of all addresses", 0, 1 << 47, RW, PRIVATE);
        self.show_mmap("neither private nor shared", 0, PAGE, RW, libc::MAP_ANONYMOUS);
        self.show_mmap("no file", 0, PAGE, RW, libc::MAP_PRIVATE);
        self.show_mmap("fixed, not a page's start", at(0) + 1, PAGE, RW, FIXED);
        self.show_mmap("fixed, past the end", END, PAGE, RW, FIXED);
        self.show_mmap("fixed, over the end", END - PAGE, 2 * PAGE, RW, FIXED);
        self.show_mmap("fixed, in the kernel", KERNEL, PAGE, RW, FIXED);
        self.show_mmap("fixed, wrapping", usize::MAX - PAGE + 1, PAGE, RW, FIXED);
        self.show_mmap("no-replace, not a page's start", at(0) + 1, PAGE, RW, NOREPLACE);
        self.show_mmap("no-replace, past the end", END, PAGE, RW, NOREPLACE);
        self.show_mmap("no-replace, free", at(0), 4 * PAGE, RW, NOREPLACE);
        self.show_mmap("no-replace, taken", at(0), 4 * PAGE, RW, NOREPLACE);
        self.show_mmap("no-replace, last page taken", at(3), 2 * PAGE, RW, NOREPLACE);
        self.show_mmap("no-replace, just after", at(4), PAGE, RW, NOREPLACE);
        self.show_mmap("fixed, over both", at(3), 2 * PAGE, R, FIXED);
        self.show_mmap("fixed, length rounded up", at(8), 1, RW, FIXED);
        self.show_mmap("no-replace, the rounded page", at(8), PAGE, RW, NOREPLACE);
        self.show_mmap("hint, free", at(16), PAGE, RW, PRIVATE);
        self.show_mmap("hint, not a page's start", at(20) + 123, PAGE, RW, PRIVATE);
        self.show_mmap("hint, no rights", at(24), PAGE, NONE, PRIVATE | libc::MAP_NORESERVE);
        self.show_mmap("stack flag", at(26), PAGE, RW, FIXED | libc::MAP_STACK);
        self.clear();
    }

    fn munmap(&self) {
        let at = |page| self.at(page);
        self.map(0, 8, RW);
        self.show("munmap: length 0", libc::SYS_munmap, [at(0), 0, 0]);
        self.show("munmap: not a page's start", libc::SYS_munmap, [at(0) + 8, PAGE, 0]);
        self.show("munmap: wrapping", libc::SYS_munmap, [at(0), usize::MAX - PAGE + 1, 0]);
        self.show("munmap: over the end", libc::SYS_munmap, [END - PAGE, 2 * PAGE, 0]);
        self.show("munmap: in the kernel", libc::SYS_munmap, [KERNEL, PAGE, 0]);
        self.show("munmap: length rounded up", libc::SYS_munmap, [at(7), 1, 0]);
        self.show("munmap: in the middle", libc::SYS_munmap, [at(3), 2 * PAGE, 0]);
        self.show("munmap: a hole", libc::SYS_munmap, [at(3), 2 * PAGE, 0]);
        self.show("munmap: pieces and holes", libc::SYS_munmap, [at(2), 5 * PAGE, 0]);
        self.state("after munmap", 9);
        self.clear();
    }

    fn mprotect(&self) {
        let at = |page| self.at(page);
        let (r, rw) = (R as usize, RW as usize);
        self.map(0, 8, RW);
        self.show("mprotect: length 0", libc::SYS_mprotect, [at(0), 0, r]);
        self.show("mprotect: not a page's start", libc::SYS_mprotect, [at(0) + 8, PAGE, r]);
        self.show("mprotect: length 0, not a page's start", libc::SYS_mprotect, [at(0) + 8, 0, r]);
        self.show("mprotect: wrapping", libc::SYS_mprotect, [at(0), usize::MAX - PAGE + 1, r]);
        self.show("mprotect: rounds up to 0", libc::SYS_mprotect, [at(0), usize::MAX, r]);
        self.show("mprotect: unknown rights", libc::SYS_mprotect, [at(0), PAGE, 0x100]);
        self.show("mprotect: grows both ways", libc::SYS_mprotect, [at(0), PAGE, 0x0300_0000]);
        self.show("mprotect: grows down, but it does not", libc::SYS_mprotect, [at(0), PAGE, 0x0100_0000 | r]);
        self.show("mprotect: in the kernel", libc::SYS_mprotect, [KERNEL, PAGE, r]);
        self.show("mprotect: a hole", libc::SYS_mprotect, [at(10), PAGE, r]);
        self.show("mprotect: begins in a hole", libc::SYS_mprotect, [at(0) - PAGE, 2 * PAGE, r]);
        self.show("mprotect: one page", libc::SYS_mprotect, [at(2), PAGE, r]);
        self.show("mprotect: the same again", libc::SYS_mprotect, [at(2), PAGE, r]);
        self.show("mprotect: no rights", libc::SYS_mprotect, [at(4), 2 * PAGE, 0]);
        self.show("mprotect: length rounded up", libc::SYS_mprotect, [at(7), 1, r]);
        self.state("after mprotect", 9);
        self.show("mprotect: back to one", libc::SYS_mprotect, [at(0), 8 * PAGE, rw]);
        self.state("after mprotect", 9);
        self.clear();
    }

    fn madvise(&self) {
        let at = |page| self.at(page);
        let drop = libc::MADV_DONTNEED as usize;
        self.map(0, 4, RW);
        self.show("madvise: length 0", libc::SYS_madvise, [at(0), 0, drop]);
        self.show("madvise: not a page's start", libc::SYS_madvise, [at(0) + 8, PAGE, drop]);
        self.show("madvise: unknown advice", libc::SYS_madvise, [at(0), PAGE, 12345]);
        self.show("madvise: unknown advice, length 0", libc::SYS_madvise, [at(0), 0, 12345]);
        self.show("madvise: wrapping", libc::SYS_madvise, [at(0), usize::MAX - PAGE + 1, drop]);
        self.show("madvise: rounds up to 0", libc::SYS_madvise, [at(0), usize::MAX, drop]);
        self.show("madvise: a hole", libc::SYS_madvise, [at(10), PAGE, drop]);
        self.show("madvise: ends in a hole", libc::SYS_madvise, [at(3), 2 * PAGE, drop]);
        self.show("madvise: pages", libc::SYS_madvise, [at(0), 4 * PAGE, drop]);
        self.show("madvise: normal", libc::SYS_madvise, [at(0), 4 * PAGE, libc::MADV_NORMAL as usize]);
        self.clear();
    }

    /// What happens to contents and rights where calls cut and join.
    fn holes(&self) {
        let at = |page| self.at(page);
        self.map(0, 6, RW);
        self.poke(0, 6);
        self.show("fixed over the middle", libc::SYS_munmap, [at(2), PAGE, 0]);
        self.map(2, 1, RW);
        println!("  contents: {}", self.contents(6));
        self.show("drop two pages", libc::SYS_madvise, [at(3), 2 * PAGE, libc::MADV_DONTNEED as usize]);
        println!("  contents: {}", self.contents(6));
        self.show("read-only and back", libc::SYS_mprotect, [at(0), 6 * PAGE, R as usize]);
        println!("  contents: {}", self.contents(6));
        self.show("no rights and back", libc::SYS_mprotect, [at(0), 6 * PAGE, 0]);
        self.state("without rights", 7);
        self.show("no rights and back", libc::SYS_mprotect, [at(0), 6 * PAGE, RW as usize]);
        println!("  contents: {}", self.contents(6));
        self.map(0, 6, R);
        println!("  contents after replacing all: {}", self.contents(6));
        self.clear();
    }

    fn brk(&self) {
        let brk = |to: usize| {
            // SAFETY: the break grows and shrinks above what the C library uses of it.
            unsafe { raw::call(libc::SYS_brk, [to, 0, 0, 0, 0, 0]) }.unwrap_or(0)
        };
        let start = brk(0);
        println!("brk: asked twice, the same: {}", brk(0) == start);
        println!("brk: up by 3 pages and a bit: {}", brk(start + 3 * PAGE + 10) == start + 3 * PAGE + 10);
        println!("brk: readable {}", raw::readable((start + 3 * PAGE) & !3));
        println!("brk: down again: {}", brk(start) == start);
        println!("brk: the page after is gone: {}", !raw::readable((start + 2 * PAGE) & !3));
        println!("brk: below its start refused: {}", brk(PAGE) == start);
        println!("brk: into the kernel refused: {}", brk(KERNEL) == start);
        println!("brk: too far refused: {}", brk(END) == start);
    }

    /// Address of a page of the stretch.
    fn at(&self, page: usize) -> usize {
        self.base + page * PAGE
    }

    /// Makes a call with three arguments, and prints the answer.
    fn show(&self, what: &str, number: i64, args: [usize; 3]) {
        // SAFETY: the table's calls stay inside the stretch, or must fail.
        let answer = unsafe { raw::call(number, [args[0], args[1], args[2], 0, 0, 0]) };
        println!("{what}: {}", self.text(answer));
    }

    fn show_mmap(&self, what: &str, address: usize, len: usize, rights: i32, flags: i32) {
        let args = [address, len, rights as usize, flags as usize, usize::MAX, 0];
        // SAFETY: the table's calls stay inside the stretch, or must fail.
        println!("mmap: {what}: {}", self.text(unsafe { raw::call(libc::SYS_mmap, args) }));
    }

    fn text(&self, answer: Answer) -> String {
        match answer {
            Ok(value) if (self.base..self.base + SPAN * PAGE).contains(&value) => {
                format!("page {}", (value - self.base) / PAGE)
            }
            Ok(0) => "0".into(),
            Ok(_) => "another place".into(),
            Err(errno) => errno.to_string(),
        }
    }

    /// Maps pages of the stretch, over whatever is there.
    fn map(&self, first: usize, pages: usize, rights: i32) {
        let args = [self.at(first), pages * PAGE, rights as usize, FIXED as usize, usize::MAX, 0];
        // SAFETY: inside the stretch.
        if let Err(errno) = unsafe { raw::call(libc::SYS_mmap, args) } {
            user::wrong(format_args!("mmap failed: {errno}"));
        }
    }

    /// Frees the whole stretch.
    fn clear(&self) {
        // SAFETY: only the stretch.
        if let Err(errno) = unsafe { raw::call(libc::SYS_munmap, [self.base, SPAN * PAGE, 0, 0, 0, 0]) } {
            user::wrong(format_args!("munmap failed: {errno}"));
        }
    }

    /// Prints each page's rights as the kernel enforces them: `w` writable, `r` readable, `-` neither. Overwrites the
    /// last bytes of writable pages.
    fn state(&self, when: &str, pages: usize) {
        let letters: String = (0..pages)
            .map(|page| {
                let last = std::ptr::NonNull::new((self.at(page + 1) - 16) as *mut u8);
                // SAFETY: the stretch is this table's.
                let writable = last.is_some_and(|last| unsafe { raw::writable(last) });
                match (writable, raw::readable(self.at(page))) {
                    (true, _) => 'w',
                    (false, true) => 'r',
                    (false, false) => '-',
                }
            })
            .collect();
        println!("  {when}: {letters}");
    }

    /// Writes each page's number plus one into its first byte.
    fn poke(&self, first: usize, pages: usize) {
        for page in first..first + pages {
            // SAFETY: mapped writable by the caller, and the table's own.
            unsafe { (self.at(page) as *mut u8).write_volatile(page as u8 + 1) };
        }
    }

    /// The first byte of each page.
    fn contents(&self, pages: usize) -> String {
        let bytes: Vec<String> = (0..pages)
            // SAFETY: mapped readable by the caller.
            .map(|page| unsafe { (self.at(page) as *const u8).read_volatile() }.to_string())
            .collect();
        bytes.join(" ")
    }
}

/// Finds a stretch that is free, with room to either side: far below where the kernel places mappings by itself.
fn free_stretch() -> usize {
    let base = 0x1000_0000_0000;
    let args = [base - SPAN * PAGE, 3 * SPAN * PAGE, NONE as usize, NOREPLACE as usize, usize::MAX, 0];
    // SAFETY: replaces nothing.
    if let Err(errno) = unsafe { raw::call(libc::SYS_mmap, args) } {
        user::wrong(format_args!("the stretch is not free: {errno}"));
    }
    // SAFETY: just mapped, and unused.
    if let Err(errno) = unsafe { raw::call(libc::SYS_munmap, [args[0], args[1], 0, 0, 0, 0]) } {
        user::wrong(format_args!("munmap failed: {errno}"));
    }
    base
}
