//! What happened last: the per-CPU event rings (`abi::event`, `abi::report::Ring`), read, merged and put into words.

use std::mem::offset_of;

use abi::Counter;
use abi::event::{FAULT_REFUSED, Kind, RECORD_BYTES, Record};
use abi::report::{RING_RECORDS, Ring};

use crate::peek::Memory;

/// Events shown of all CPUs together.
const LAST: usize = 40;

/// Events shown of each CPU at least: one that has hung for long has none among the last of all.
const LAST_OF_EACH: usize = 4;

/// The records of the ring at `address`, oldest first. `None`: not readable. Records that were being written are left out.
pub fn read(memory: &mut impl Memory, address: u64) -> Option<Vec<Record>> {
    let head = memory.word(address.checked_add(offset_of!(Ring, head) as u64)?)?;
    let bytes = memory.read(address.checked_add(offset_of!(Ring, records) as u64)?, RING_RECORDS * RECORD_BYTES)?;
    let (slots, _) = bytes.as_chunks::<RECORD_BYTES>();
    let count = head.min(RING_RECORDS as u64);
    let order = (head - count..head).map(|number| &slots[(number % RING_RECORDS as u64) as usize]);
    Some(order.map(Record::from_bytes).filter(|record| record.kind != 0).collect())
}

/// The last records of all rings, and of each, by time.
pub fn last(rings: &[Vec<Record>]) -> Vec<Record> {
    let mut all: Vec<(Record, bool)> = Vec::new();
    for ring in rings {
        let own = ring.len().saturating_sub(LAST_OF_EACH);
        // More than LAST of one ring are never shown.
        let from = ring.len().saturating_sub(LAST);
        all.extend(ring.iter().enumerate().skip(from).map(|(index, record)| (*record, index >= own)));
    }
    all.sort_by_key(|(record, _)| record.time_ns);
    let old = all.len().saturating_sub(LAST);
    let kept = all.iter().enumerate().filter(|(index, (_, own))| *index >= old || *own);
    kept.map(|(_, (record, _))| *record).collect()
}

/// A record in words: `12.345678901 cpu1 tid 7  fault at 0x7f00 (write)`.
pub fn line(record: &Record) -> String {
    let (seconds, rest) = (record.time_ns / 1_000_000_000, record.time_ns % 1_000_000_000);
    let who = if record.thread == 0 { "kernel".to_owned() } else { format!("tid {}", record.thread) };
    format!("{seconds:5}.{rest:09} cpu{:<2} {who:8} {}", record.cpu, what(record))
}

/// What happened.
fn what(record: &Record) -> String {
    let Some(kind) = Kind::from_number(record.kind) else { return format!("unknown event {}", record.kind) };
    let (name, a, b) = (kind.name(), record.a, record.b);
    match kind {
        Kind::FaultBegin => {
            format!("{name} at {a:#x} ({})", ["read", "write", "execute"].get(b as usize).unwrap_or(&"?"))
        }
        Kind::FaultEnd if b == FAULT_REFUSED => format!("{name} at {a:#x}: refused"),
        Kind::FaultEnd => {
            let counter = usize::try_from(b).ok().and_then(|index| Counter::ALL.get(index));
            format!("{name} at {a:#x}: {}", counter.map_or("?", |counter| counter.name()))
        }
        Kind::Mark => format!("{name} VMA {a:#x}..{b:#x}"),
        Kind::SettleBegin => format!("{name} {}", mark(a)),
        Kind::SettleEnd => format!("{name} {}, waited for {b} CPUs", mark(a)),
        Kind::TransactionBegin | Kind::TransactionEnd | Kind::TransactionRestart => {
            format!("{name} {}, update lock {b:#x}", mark(a))
        }
        Kind::TransactionSleep => format!("{name} {} for {}", mark(a), mark(b)),
        Kind::Wound => format!("{name} of {} by {}", mark(a), mark(b)),
        Kind::ShootdownBegin if b == u64::MAX => format!("{name} of everything on CPUs {}", cpus(a)),
        Kind::ShootdownBegin => format!("{name} of {b} pages on CPUs {}", cpus(a)),
        Kind::ShootdownEnd => format!("{name} on CPUs {}", cpus(a)),
        Kind::FlushServed => format!("{name} for CPU {a}"),
        Kind::Switch => format!("{name} from {} to {}", thread(a), thread(b)),
        Kind::CallEnter => format!("{name} {}({b:#x}, ...)", call(a)),
        Kind::CallExit if (b as i64) < 0 && (b as i64) > -4096 => format!("{name} {}: error {}", call(a), -(b as i64)),
        Kind::CallExit => format!("{name} {}: {b:#x}", call(a)),
        Kind::Park if a == u64::MAX => name.to_owned(),
        Kind::Park => format!("{name} until {}.{:09}", a / 1_000_000_000, a % 1_000_000_000),
        Kind::Unpark => format!("{name} {}", thread(a)),
        Kind::GraceBegin | Kind::GraceEnd => format!("{name} {a}"),
        Kind::Panic => name.to_owned(),
    }
}

/// A transaction's mark: its cell and its sequence.
pub fn mark(word: u64) -> String {
    format!("{}:{}", word >> 48, word & ((1 << 48) - 1))
}

fn thread(tid: u64) -> String {
    if tid == 0 { "the kernel's own".into() } else { format!("tid {tid}") }
}

fn call(number: u64) -> String {
    abi::nr::name(number).map_or(format!("number {number}"), str::to_owned)
}

/// The members of a set of CPUs.
fn cpus(set: u64) -> String {
    let members: Vec<String> = (0..64).filter(|cpu| set >> cpu & 1 == 1).map(|cpu: u32| cpu.to_string()).collect();
    members.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peek::fake::Fake;

    const RING: u64 = 0xffff_ffff_8010_0000;
    const RECORDS: u64 = RING + offset_of!(Ring, records) as u64;

    fn record(time_ns: u64, kind: Kind, cpu: u16) -> Record {
        Record { time_ns, a: 0x1000, b: 1, kind: kind as u16, cpu, thread: 7 }
    }

    fn put(memory: &mut Fake, slot: u64, record: &Record) {
        let at = RECORDS + slot * RECORD_BYTES as u64;
        memory.put_word(at, record.time_ns);
        memory.put_word(at + 8, record.a);
        memory.put_word(at + 16, record.b);
        let last = u64::from(record.kind) | u64::from(record.cpu) << 16 | u64::from(record.thread) << 32;
        memory.put_word(at + 24, last);
    }

    fn empty() -> Fake {
        let mut memory = Fake::default();
        memory.put(RING, &[0; size_of::<Ring>()]);
        memory
    }

    #[test]
    fn a_ring_is_read_from_its_oldest_record_on() {
        let mut memory = empty();
        let head = RING_RECORDS as u64 + 2;
        memory.put_word(RING, head);
        for number in 2..head {
            put(&mut memory, number % RING_RECORDS as u64, &record(number, Kind::Switch, 1));
        }
        let times: Vec<u64> = read(&mut memory, RING).unwrap().iter().map(|record| record.time_ns).collect();
        assert_eq!(times, (2..head).collect::<Vec<_>>());
    }

    #[test]
    fn half_a_record_is_left_out_and_half_a_ring_is_none() {
        let mut memory = empty();
        memory.put_word(RING, 2);
        put(&mut memory, 0, &Record { kind: 0, ..record(1, Kind::Mark, 0) });
        put(&mut memory, 1, &record(2, Kind::Mark, 0));
        assert_eq!(read(&mut memory, RING).unwrap(), [record(2, Kind::Mark, 0)]);
        memory.forget(RECORDS + 5000);
        assert_eq!(read(&mut memory, RING), None);
        assert_eq!(read(&mut memory, u64::MAX - 3), None);
        assert_eq!(read(&mut Fake::default(), RING), None);
    }

    #[test]
    fn the_last_of_all_come_by_time_and_each_cpu_has_some() {
        let busy: Vec<Record> = (1000..2000).map(|time| record(time, Kind::FaultBegin, 0)).collect();
        let hung: Vec<Record> = (1..100).map(|time| record(time, Kind::Park, 1)).collect();
        let last = last(&[busy, hung, Vec::new()]);
        assert_eq!(last.len(), LAST + LAST_OF_EACH);
        assert!(last.is_sorted_by_key(|record| record.time_ns));
        assert_eq!(last.iter().filter(|record| record.cpu == 1).count(), LAST_OF_EACH);
        assert_eq!(last.last().unwrap().time_ns, 1999);
    }

    #[test]
    fn records_are_put_into_words() {
        let fault = record(12_345_678_901, Kind::FaultBegin, 3);
        assert_eq!(line(&fault), "   12.345678901 cpu3  tid 7    fault at 0x1000 (write)");
        let of = |kind, a, b| what(&Record { a, b, ..record(0, kind, 0) });
        assert_eq!(of(Kind::FaultEnd, 0x1000, Counter::FaultLocked as u64), "fault end at 0x1000: fault_locked");
        assert_eq!(of(Kind::FaultEnd, 0x1000, FAULT_REFUSED), "fault end at 0x1000: refused");
        assert_eq!(of(Kind::FaultEnd, 0x1000, 999), "fault end at 0x1000: ?");
        assert_eq!(of(Kind::TransactionBegin, 3 << 48 | 17, 0xab), "transaction 3:17, update lock 0xab");
        assert_eq!(of(Kind::ShootdownBegin, 0b1010, u64::MAX), "shootdown of everything on CPUs 1 3");
        assert_eq!(of(Kind::CallExit, abi::nr::munmap, (-22i64) as u64), "call end munmap: error 22");
        assert_eq!(of(Kind::CallEnter, 9999, 5), "call number 9999(0x5, ...)");
        assert_eq!(what(&Record { kind: 999, ..fault }), "unknown event 999");
        for &kind in Kind::ALL {
            // No word of a record makes it panic.
            assert!(of(kind, u64::MAX, u64::MAX).starts_with(kind.name()), "{kind:?}");
        }
    }
}
