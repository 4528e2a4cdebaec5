//! Reads the kernel's counters as files, and holds them to what it does itself: `vmstat PAGES`. For Tessera only: Linux has no
//! `/proc/self/vmstat`.
//!
//! Prints one line about what it touched and what the kernel counted for that, and then all of `/proc/self/vmstat`.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::Relaxed;

use user::region::{Place, Region, Rights};
use user::{must, wrong};

/// A file, and room for all of it that has been touched.
struct Counters {
    file: File,
    text: Vec<u8>,
    len: usize,
}

impl Counters {
    fn open(path: &str) -> Counters {
        let file = File::open(path).unwrap_or_else(|error| wrong(format_args!("{path} cannot be opened: {error}")));
        for how in [OpenOptions::new().write(true), OpenOptions::new().append(true)] {
            let refused = how.open(path).err().and_then(|error| error.raw_os_error());
            must!(refused == Some(libc::EACCES), "{path} can be opened for writing, or: {refused:?}");
        }
        Counters { file, text: vec![1; 16 << 10], len: 0 }
    }

    /// Makes one system call, and touches no memory that was not touched before.
    fn look(&mut self) {
        self.len = match self.file.read_at(&mut self.text, 0) {
            Ok(len) => len,
            Err(error) => wrong(format_args!("it cannot be read: {error}")),
        };
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.text[..self.len]).unwrap_or_else(|error| wrong(format_args!("not text: {error}")))
    }

    fn value(&self, name: &str) -> u64 {
        let line = self.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let number = line.and_then(|rest| rest.split(' ').next()?.parse().ok());
        number.unwrap_or_else(|| wrong(format_args!("no {name} in {}", self.text())))
    }
}

fn main() {
    let pages = user::number(1, 64) as usize;
    let mut own = Counters::open("/proc/self/vmstat");
    let mut all = Counters::open("/proc/vmstat");
    let mut before = [0; NAMES.len()];
    let mut all_before = before;
    let mut after = before;
    let mut all_after = before;
    let mut look = |mine: &mut [u64; NAMES.len()], everybodys: &mut [u64; NAMES.len()]| {
        own.look();
        all.look();
        for (place, name) in NAMES.iter().enumerate() {
            (mine[place], everybodys[place]) = (own.value(name), all.value(name));
        }
    };

    // Once for nothing: whatever the looking itself touches has been touched then.
    look(&mut before, &mut all_before);
    look(&mut before, &mut all_before);
    let region = Region::map(Place::Anywhere, pages, Rights::ReadWrite);
    let region = region.unwrap_or_else(|errno| wrong(format_args!("mmap: {errno}")));
    for page in 0..pages {
        region.word(page, 0).store(1, Relaxed);
    }
    look(&mut after, &mut all_after);

    let rise = |place: usize| (after[place] - before[place], all_after[place] - all_before[place]);
    let [faults, locked, fallbacks, transactions] = [0, 1, 2, 3].map(rise);
    println!("touched={pages} faults={} all={} transactions={}", faults.0, faults.1, transactions.0);
    must!(faults.0 == pages as u64, "{pages} pages touched, {} faults counted", faults.0);
    must!(locked.0 + fallbacks.0 == pages as u64, "{} and {} of them served", locked.0, fallbacks.0);
    must!(transactions.0 == 1 + fallbacks.0, "{} transactions for one mmap", transactions.0);
    // It is the only program, so what rises in the machine's sum is its own.
    must!(
        faults.0 == faults.1 && transactions.0 == transactions.1,
        "the sum rose by {} and {}",
        faults.1,
        transactions.1
    );

    // The ordinary way, in pieces and with `fstat`.
    let text = std::fs::read_to_string("/proc/self/vmstat");
    print!("{}", text.unwrap_or_else(|error| wrong(format_args!("it cannot be read whole: {error}"))));
}

const NAMES: [&str; 4] = ["fault", "fault_locked", "fault_fallback", "txn"];
