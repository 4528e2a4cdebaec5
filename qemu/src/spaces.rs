//! What was counted in each address space, and the longest holds and waits with their sites.
//!
//! The kernel sends text: for the whole machine, then for each address space, a heading, and below it the lines that programs
//! read in `/proc/vmstat` and `/proc/self/vmstat`. Decoded here, printed by the launcher, compared by tests.

use std::fmt::Write as _;

use abi::counter::COUNTERS;
use abi::extreme::EXTREMES;
use abi::{Counter, Extreme};

/// How long something was held or waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Longest {
    /// Nanoseconds.
    pub ns: u64,
    /// Where in the kernel's source it began: `file:line`.
    pub site: String,
}

/// Counts over all CPUs, and the longest holds and waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    counts: [u64; COUNTERS],
    longest: [Option<Longest>; EXTREMES],
}

impl Counted {
    /// Reads the lines of a `vmstat` file: `name value`, and `longest_KIND_ns value site`.
    ///
    /// # Errors
    /// A line that is neither, or a counter that is missing.
    pub fn parse(text: &str) -> Result<Counted, String> {
        let mut counts = [None; COUNTERS];
        let mut longest = [const { None }; EXTREMES];
        for line in text.lines() {
            let bad = || format!("counter line {line:?}");
            let mut words = line.splitn(3, ' ');
            let (name, value) = (words.next().unwrap_or_default(), words.next().ok_or_else(bad)?);
            let value: u64 = value.parse().map_err(|_| bad())?;
            let kind = name.strip_prefix("longest_").and_then(|name| name.strip_suffix("_ns"));
            if let Some(kind) = kind.and_then(|kind| Extreme::ALL.iter().find(|known| known.name() == kind)) {
                let site = words.next().ok_or_else(bad)?.to_owned();
                longest[*kind as usize] = Some(Longest { ns: value, site });
            } else {
                let known = Counter::ALL.iter().find(|counter| counter.name() == name).ok_or_else(bad)?;
                counts[*known as usize] = Some(value);
            }
        }
        let missing = Counter::ALL.iter().find(|&&counter| counts[counter as usize].is_none());
        match missing {
            Some(counter) => Err(format!("no counter {} in {text:?}", counter.name())),
            None => Ok(Counted { counts: counts.map(Option::unwrap_or_default), longest }),
        }
    }

    /// A count.
    pub fn get(&self, counter: Counter) -> u64 {
        self.counts[counter as usize]
    }

    /// The longest hold or wait of a kind, if there was one.
    pub fn longest(&self, kind: Extreme) -> Option<&Longest> {
        self.longest[kind as usize].as_ref()
    }
}

/// One address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// Its number.
    pub id: u64,
    /// The number of the process in it; 0 if there was none.
    pub process: u32,
    /// The program's name.
    pub name: String,
    /// What was counted there.
    pub counted: Counted,
}

impl Space {
    /// Whose it is, in a few words.
    pub fn title(&self) -> String {
        if self.process == 0 { format!("space {}", self.id) } else { format!("{} {}", self.name, self.process) }
    }
}

/// The machine and the address spaces that the kernel still knew at its end: those that were there, and the last that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spaces {
    /// The sum of everything.
    pub machine: Counted,
    /// By rising number.
    pub spaces: Vec<Space>,
}

impl Spaces {
    /// Decodes the payloads of all `Spaces` frames, put together.
    ///
    /// # Errors
    /// Text of another form.
    pub fn decode(payload: &[u8]) -> Result<Spaces, String> {
        let text = String::from_utf8_lossy(payload);
        let rest = text.strip_prefix("machine\n").ok_or("no counters of the machine")?;
        let mut blocks = rest.split("\nspace ");
        let machine = Counted::parse(blocks.next().unwrap_or_default())?;
        let spaces = blocks.map(|block| {
            let bad = || format!("address space {block:?}");
            let (heading, lines) = block.split_once('\n').ok_or_else(bad)?;
            let mut words = heading.splitn(3, ' ');
            let id = words.next().and_then(|word| word.parse().ok()).ok_or_else(bad)?;
            let process = words.next().and_then(|word| word.parse().ok()).ok_or_else(bad)?;
            let name = words.next().ok_or_else(bad)?.to_owned();
            Ok(Space { id, process, name, counted: Counted::parse(lines)? })
        });
        Ok(Spaces { machine, spaces: spaces.collect::<Result<_, String>>()? })
    }

    /// Two tables: the counts of each address space, without counters that are 0 in all; and the longest holds and waits.
    pub fn table(&self) -> String {
        let mut text = String::new();
        if !self.spaces.is_empty() {
            let titles: Vec<String> = self.spaces.iter().map(Space::title).collect();
            let width = |title: &String| title.chars().count().max(10);
            text += &format!("{:<15}", "address space");
            for title in &titles {
                let _ = write!(text, " {title:>width$}", width = width(title));
            }
            text.push('\n');
            for &counter in Counter::ALL {
                if self.spaces.iter().all(|space| space.counted.get(counter) == 0) {
                    continue;
                }
                text += &format!("{:<15}", counter.name());
                for (space, title) in self.spaces.iter().zip(&titles) {
                    let _ = write!(text, " {:>width$}", space.counted.get(counter), width = width(title));
                }
                text.push('\n');
            }
        }
        let mut lines = String::new();
        for &kind in Extreme::ALL {
            let mut line = |title: &str, Longest { ns, site }: &Longest| {
                let _ = writeln!(lines, "{:<15} {ns:>10}  {title}: {site}", kind.name());
            };
            for space in &self.spaces {
                if let Some(longest) = space.counted.longest(kind) {
                    line(&space.title(), longest);
                }
            }
            // Of an address space that ended too long ago to be named.
            let total = self.machine.longest(kind);
            if let Some(longest) =
                total.filter(|_| self.spaces.iter().all(|space| space.counted.longest(kind) != total))
            {
                line("another", longest);
            }
        }
        if !lines.is_empty() {
            let _ = write!(text, "\n{:<15} {:>10}  where\n{lines}", "longest", "ns");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in which each counter has `base` more than its place, and one extreme.
    fn file(base: u64) -> String {
        let mut text = String::new();
        for &counter in Counter::ALL {
            let _ = writeln!(text, "{} {}", counter.name(), base + counter as u64);
        }
        text + "longest_txn_hold_ns 1234 kernel/mm/src/unmap.rs:48\n"
    }

    fn payload() -> String {
        format!("machine\n{}space 3 7 a space program\n{}space 4 0 \n{}", file(100), file(0), file(50))
    }

    #[test]
    fn address_spaces_keep_their_names_and_counts() {
        let spaces = Spaces::decode(payload().as_bytes()).unwrap();
        assert_eq!(spaces.machine.get(Counter::Fault), 100);
        let seen: Vec<_> = spaces.spaces.iter().map(|space| (space.id, space.process, space.title())).collect();
        assert_eq!(seen, [(3, 7, "a space program 7".to_owned()), (4, 0, "space 4".to_owned())]);
        assert_eq!(spaces.spaces[1].counted.get(Counter::Txn), 50 + Counter::Txn as u64);
        let longest = spaces.spaces[0].counted.longest(Extreme::TxnHold).unwrap();
        assert_eq!((longest.ns, longest.site.as_str()), (1234, "kernel/mm/src/unmap.rs:48"));
        assert_eq!(spaces.machine.longest(Extreme::FaultWait), None);
    }

    /// The README's tables have a row for each counter and each kind, and no other.
    #[test]
    fn the_readme_names_what_is_counted() {
        let readme = include_str!("../../README.md");
        let section =
            readme.split("\n## ").find(|section| section.starts_with("What is counted\n")).expect("a section");
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        let first_cells = rows.filter_map(|line| line.split('|').nth(1));
        let named: Vec<&str> = first_cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        let counters = Counter::ALL.iter().map(|counter| counter.name());
        let mut known: Vec<&str> = counters.chain(Extreme::ALL.iter().map(|kind| kind.name())).collect();
        let mut named_sorted = named.clone();
        named_sorted.sort_unstable();
        known.sort_unstable();
        assert_eq!(named_sorted, known);
    }

    #[test]
    fn what_is_cut_or_unknown_is_refused() {
        let whole = payload();
        assert!(Spaces::decode(b"").is_err());
        assert!(Spaces::decode(&whole.as_bytes()[..whole.len() / 2]).is_err());
        assert!(Counted::parse(&format!("{}nothing_known 3\n", file(0))).is_err());
        assert!(Counted::parse(&file(0).replace("fault_miss", "fault")).is_err());
        assert!(Counted::parse(&format!("{}longest_txn_wait_ns 12\n", file(0))).is_err());
        assert!(Counted::parse(&file(0)).is_ok());
    }

    #[test]
    fn the_table_shows_every_address_space_and_site() {
        let text = Spaces::decode(payload().as_bytes()).unwrap().table();
        let heading = text.lines().next().unwrap();
        assert!(heading.contains("a space program 7") && heading.contains("space 4"), "{text}");
        assert!(text.lines().any(|line| line.split_whitespace().eq(["fault_locked", "1", "51"])), "{text}");
        // Of no address space: all are 0 but in the second.
        assert!(text.lines().any(|line| line.split_whitespace().eq(["fault", "0", "50"])), "{text}");
        assert_eq!(text.matches("kernel/mm/src/unmap.rs:48").count(), 2, "{text}");
        // One that is none of these address spaces' is shown all the same.
        let longer = payload().replacen("1234 kernel/mm/src/unmap.rs:48", "5678 kernel/mm/src/map.rs:1", 1);
        let text = Spaces::decode(longer.as_bytes()).unwrap().table();
        assert!(text.lines().any(|line| line.ends_with("5678  another: kernel/mm/src/map.rs:1")), "{text}");
    }
}
