//! The kernel's reports after a run: counters of each CPU, and the account of page frames.
//!
//! Decoded from `abi::wire` payloads by `session`, printed by the launcher, compared by tests.

use std::fmt::Write as _;

use abi::Counter;
use abi::counter::COUNTERS;

/// Counters of each CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    per_cpu: Vec<[u64; COUNTERS]>,
}

impl Stats {
    /// Decodes the payload of a `Stats` frame, or of several put together: none while bytes are missing.
    ///
    /// # Errors
    /// The payload counts other counters than this launcher does, or is too long.
    pub fn decode(payload: &[u8]) -> Result<Option<Stats>, String> {
        let Some((cpus, rest)) = payload.split_first_chunk::<4>() else { return Ok(None) };
        let Some((counters, values)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let (cpus, counters) = (u32::from_le_bytes(*cpus) as usize, u32::from_le_bytes(*counters) as usize);
        if counters != COUNTERS || cpus > abi::MAX_CPUS {
            return Err(format!("statistics of {cpus} CPUs with {counters} counters each, expected {COUNTERS}"));
        }
        let whole = cpus * counters * 8;
        if values.len() < whole {
            return Ok(None);
        }
        if values.len() > whole {
            return Err(format!("statistics of {} bytes, expected {whole}", values.len()));
        }
        let mut numbers = values.chunks_exact(8).map(|eight| eight.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)));
        let per_cpu = (0..cpus).map(|_| std::array::from_fn(|_| numbers.next().unwrap_or(0))).collect();
        Ok(Some(Stats { per_cpu }))
    }

    /// Number of CPUs that counted.
    pub fn cpus(&self) -> usize {
        self.per_cpu.len()
    }

    /// One counter of one CPU; 0 for a CPU that the machine does not have.
    pub fn get(&self, cpu: usize, counter: Counter) -> u64 {
        self.per_cpu.get(cpu).map_or(0, |counters| counters[counter as usize])
    }

    /// One counter, over all CPUs.
    pub fn total(&self, counter: Counter) -> u64 {
        (0..self.cpus()).map(|cpu| self.get(cpu, counter)).sum()
    }

    /// A table with one row a counter and one column a CPU, eight CPUs abreast, and the total.
    pub fn table(&self) -> String {
        const ABREAST: usize = 8;
        let mut text = String::new();
        let cpus: Vec<usize> = (0..self.cpus()).collect();
        let blocks: Vec<&[usize]> = cpus.chunks(ABREAST).collect();
        for (index, block) in blocks.iter().enumerate() {
            let last = index + 1 == blocks.len();
            let mut line = format!("{:<15}", "counter");
            for cpu in *block {
                let _ = write!(line, " {:>10}", format!("cpu {cpu}"));
            }
            if last {
                let _ = write!(line, " {:>12}", "total");
            }
            text += &line;
            text.push('\n');
            for &counter in Counter::ALL {
                let _ = write!(text, "{:<15}", counter.name());
                for &cpu in *block {
                    let _ = write!(text, " {:>10}", self.get(cpu, counter));
                }
                if last {
                    let _ = write!(text, " {:>12}", self.total(counter));
                }
                text.push('\n');
            }
            if !last {
                text.push('\n');
            }
        }
        text
    }
}

/// Frames of one owner before the program started and after it had gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerFrames {
    /// Who holds the frames, in the kernel's words.
    pub owner: String,
    /// Frames before.
    pub before: u64,
    /// Frames after.
    pub after: u64,
}

/// The account of page frames: one row an owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameAccount {
    /// The rows, in the kernel's order.
    pub owners: Vec<OwnerFrames>,
}

impl FrameAccount {
    /// Decodes the text of a `Frames` frame: `name before after`, one line an owner. Names may contain spaces.
    ///
    /// # Errors
    /// A line that is not of this form.
    pub fn decode(payload: &[u8]) -> Result<FrameAccount, String> {
        let text = String::from_utf8_lossy(payload);
        let owners = text.lines().filter(|line| !line.trim().is_empty()).map(|line| {
            let bad = || format!("frame account line {line:?}");
            let mut words = line.rsplitn(3, ' ');
            let after = words.next().and_then(|word| word.parse().ok()).ok_or_else(bad)?;
            let before = words.next().and_then(|word| word.parse().ok()).ok_or_else(bad)?;
            let owner = words.next().ok_or_else(bad)?.trim().to_owned();
            Ok(OwnerFrames { owner, before, after })
        });
        Ok(FrameAccount { owners: owners.collect::<Result<_, String>>()? })
    }

    /// Owners that hold another number of frames than before.
    pub fn changed(&self) -> impl Iterator<Item = &OwnerFrames> {
        self.owners.iter().filter(|owner| owner.before != owner.after)
    }

    /// One line that says whether every frame came back.
    pub fn summary(&self) -> String {
        let total: u64 = self.owners.iter().map(|owner| owner.after).sum();
        let changed: Vec<String> =
            self.changed().map(|owner| format!("{} {} -> {}", owner.owner, owner.before, owner.after)).collect();
        if changed.is_empty() {
            format!("{total} frames accounted for: every owner holds what it held before the program")
        } else {
            format!("{total} frames accounted for; changed: {}", changed.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(cpus: u32) -> Vec<u8> {
        let mut bytes = cpus.to_le_bytes().to_vec();
        bytes.extend_from_slice(&(COUNTERS as u32).to_le_bytes());
        for cpu in 0..u64::from(cpus) {
            for counter in 0..COUNTERS as u64 {
                bytes.extend_from_slice(&(cpu * 1000 + counter).to_le_bytes());
            }
        }
        bytes
    }

    #[test]
    fn counters_keep_their_places() {
        let stats = Stats::decode(&payload(3)).unwrap().unwrap();
        assert_eq!(stats.cpus(), 3);
        assert_eq!(stats.get(2, Counter::FaultLocked), 2000 + Counter::FaultLocked as u64);
        assert_eq!(stats.total(Counter::FaultLocked), 3000 + 3 * Counter::FaultLocked as u64);
        assert_eq!(stats.get(3, Counter::Fault), 0);
    }

    #[test]
    fn parts_wait_for_the_rest_and_too_much_is_refused() {
        let whole = payload(2);
        for end in 0..whole.len() {
            assert_eq!(Stats::decode(&whole[..end]), Ok(None), "{end}");
        }
        let mut long = whole.clone();
        long.push(0);
        assert!(Stats::decode(&long).is_err());
        let mut other = whole;
        other[4] += 1;
        assert!(Stats::decode(&other).is_err());
    }

    #[test]
    fn the_table_names_every_counter_and_cpu() {
        let table = Stats::decode(&payload(10)).unwrap().unwrap().table();
        for counter in Counter::ALL {
            assert_eq!(table.lines().filter(|line| line.split(' ').next() == Some(counter.name())).count(), 2);
        }
        for cpu in 0..10 {
            assert!(table.contains(&format!("cpu {cpu}")));
        }
        assert_eq!(table.matches("total").count(), 1);
        let widths: std::collections::BTreeSet<usize> =
            table.lines().filter(|line| !line.is_empty()).map(str::len).collect();
        assert_eq!(widths.len(), 2, "the lines of a block are of one width");
    }

    #[test]
    fn frames_are_accounted_for_by_owner() {
        let same = FrameAccount::decode(b"anon 0 0\npage table 12 12\n").unwrap();
        assert_eq!(same.changed().count(), 0);
        assert!(same.summary().starts_with("12 frames accounted for: every owner"));
        let leak = FrameAccount::decode(b"anon 0 3\npage table 12 12\n").unwrap();
        assert_eq!(leak.summary(), "15 frames accounted for; changed: anon 0 -> 3");
        assert!(FrameAccount::decode(b"anon three").is_err());
    }
}
