//! Schedule points in the guest: delays and meetings that the launcher asked for, to hit a race's window on purpose.
//!
//! Debug builds only; `sync::point!` leaves nothing in others. Without a request a point is one load and a branch. The request
//! is a text ([`abi::point::rules`]) that is read once, at boot, before other CPUs run.
//!
//! A **delay** is a spin. Whether one happens, and how long it is, comes from a generator of the CPU's own, so each CPU's
//! sequence is the same for the same seed and the same passages. A **meeting** holds CPUs until enough of them stand at its
//! points, or their patience (in the machine's own time) is over; then all go on at once.
//!
//! Points stand under spin locks and with interrupts off. All waiting here goes through `Platform::relax`, which serves
//! other CPUs' flush requests, so a shootdown waits for no meeting (but at
//! `flush-acknowledging`, where that is what was asked for); and every wait has an end, so a meeting that cannot
//! come about, because who should come spins on a lock held here, only costs its time. A point passed while this CPU
//! waits at another one (in an interrupt, or serving a flush) does nothing.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use abi::MAX_CPUS;
use abi::point::{POINTS, Point, Rule, SPEC_MAX, rules};
use sync::{CpuId, Platform};

use crate::arch::percpu;
use crate::fw_cfg;
use crate::platform::Machine;

/// Most meetings in one request.
const MEETINGS: usize = 8;

/// Whether anything was asked for. Written at boot, before other CPUs run.
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// What happens at one point. Written at boot, before other CPUs run; `one_in` and `meeting` both 0: nothing.
struct Plan {
    /// Longest delay.
    max_ns: AtomicU64,
    /// A delay at one passage in so many.
    one_in: AtomicU32,
    /// 1 and the index of its meeting.
    meeting: AtomicU32,
}

static PLANS: [Plan; POINTS] =
    [const { Plan { max_ns: AtomicU64::new(0), one_in: AtomicU32::new(0), meeting: AtomicU32::new(0) } }; POINTS];

/// Where CPUs wait for each other.
struct Meeting {
    count: AtomicU32,
    timeout_ns: AtomicU64,
    /// The CPUs that stand there: bit `n` is CPU `n`.
    present: AtomicU64,
    /// Meetings that came about; counting up lets everyone go.
    met: AtomicU64,
    /// CPUs that waited in vain.
    missed: AtomicU64,
}

static MEETING: [Meeting; MEETINGS] = [const {
    Meeting {
        count: AtomicU32::new(0),
        timeout_ns: AtomicU64::new(0),
        present: AtomicU64::new(0),
        met: AtomicU64::new(0),
        missed: AtomicU64::new(0),
    }
}; MEETINGS];

/// One CPU's part, touched by that CPU alone, hence Relaxed throughout.
#[repr(align(128))]
struct Own {
    /// State of its random numbers.
    random: AtomicU64,
    /// It waits at a point.
    busy: AtomicBool,
    /// Passages of points that something was asked for.
    passed: AtomicU64,
    /// Delays that it made.
    delays: AtomicU64,
}

static OWN: [Own; MAX_CPUS] = [const {
    Own {
        random: AtomicU64::new(0),
        busy: AtomicBool::new(false),
        passed: AtomicU64::new(0),
        delays: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// Why a request cannot be fulfilled.
#[derive(Debug)]
pub struct Refused;

/// Reads the launcher's request. At boot, when the clock runs and before other CPUs do.
///
/// # Errors
/// It is not understood; the log says why.
pub fn init() -> Result<(), Refused> {
    if fw_cfg::find(abi::fw_cfg::POINTS).is_none() {
        return Ok(());
    }
    let mut buffer = [0; SPEC_MAX];
    let text = fw_cfg::read_small(abi::fw_cfg::POINTS, &mut buffer);
    let Some(text) = text.and_then(|bytes| core::str::from_utf8(bytes).ok()) else {
        return refuse(format_args!("too long, or no text"));
    };
    let mut seed = 0;
    let mut meetings = 0;
    for rule in rules(text) {
        match rule {
            Ok(Rule::Seed(number)) => seed = number,
            Ok(Rule::Delay { at, max_us, one_in }) => {
                for plan in at.points().map(|point| &PLANS[point.index()]) {
                    plan.max_ns.store(u64::from(max_us) * 1000, Ordering::Relaxed);
                    plan.one_in.store(one_in, Ordering::Relaxed);
                    plan.meeting.store(0, Ordering::Relaxed);
                }
            }
            Ok(Rule::Meet { at, count, timeout_us }) => {
                let Some(meeting) = MEETING.get(meetings) else {
                    return refuse(format_args!("more than {MEETINGS} meetings"));
                };
                meetings += 1;
                meeting.count.store(count, Ordering::Relaxed);
                meeting.timeout_ns.store(u64::from(timeout_us) * 1000, Ordering::Relaxed);
                for plan in at.points().map(|point| &PLANS[point.index()]) {
                    plan.one_in.store(0, Ordering::Relaxed);
                    plan.meeting.store(meetings as u32, Ordering::Relaxed);
                }
            }
            Err(bad) => return refuse(format_args!("{bad}")),
        }
    }
    for (cpu, own) in OWN.iter().enumerate() {
        own.random.store(seed.wrapping_add(mixed(cpu as u64 + 1)), Ordering::Relaxed);
    }
    ACTIVE.store(true, Ordering::Relaxed);
    log::info!("schedule points: {text}");
    Ok(())
}

fn refuse(why: fmt::Arguments<'_>) -> Result<(), Refused> {
    log::error!("{}: {why}", abi::fw_cfg::POINTS);
    Err(Refused)
}

/// This CPU passes `point`.
#[inline]
pub fn pass(point: Point) {
    if ACTIVE.load(Ordering::Relaxed) {
        act(point);
    }
}

#[cold]
fn act(point: Point) {
    let plan = &PLANS[point.index()];
    let one_in = plan.one_in.load(Ordering::Relaxed);
    let meeting = plan.meeting.load(Ordering::Relaxed);
    if one_in == 0 && meeting == 0 {
        return;
    }
    // A thread in the kernel keeps its CPU, and an interrupt that comes in between leaves `busy` as it found it.
    let cpu = percpu::id();
    let own = &OWN[cpu.index()];
    if own.busy.load(Ordering::Relaxed) {
        return;
    }
    own.busy.store(true, Ordering::Relaxed);
    count(&own.passed);
    if one_in != 0 {
        delay(own, one_in, plan.max_ns.load(Ordering::Relaxed));
    }
    if let Some(meeting) = (meeting as usize).checked_sub(1) {
        meet(&MEETING[meeting], cpu);
    }
    own.busy.store(false, Ordering::Relaxed);
}

/// Adds one to a count of this CPU's own.
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// By chance, spins for a while.
fn delay(own: &Own, one_in: u32, max_ns: u64) {
    let state = own.random.load(Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
    own.random.store(state, Ordering::Relaxed);
    let chance = mixed(state);
    if !(chance >> 32).is_multiple_of(u64::from(one_in)) {
        return;
    }
    count(&own.delays);
    let end_ns = Machine::now_ns() + mixed(chance) % max_ns + 1;
    while Machine::now_ns() < end_ns {
        Machine::relax();
    }
}

/// Waits until enough CPUs stand at the meeting.
fn meet(meeting: &Meeting, cpu: CpuId) {
    // Before our bit is there for others to count: whoever ends the meeting that we are part of counts after this look.
    let before = meeting.met.load(Ordering::Relaxed);
    // SeqCst, all of it: simple to believe, and nobody measures a kernel that waits on purpose.
    let present = meeting.present.fetch_or(cpu.bit().0, Ordering::SeqCst) | cpu.bit().0;
    if present.count_ones() >= meeting.count.load(Ordering::Relaxed) {
        meeting.present.fetch_and(!present, Ordering::SeqCst);
        meeting.met.fetch_add(1, Ordering::SeqCst);
        return;
    }
    let end_ns = Machine::now_ns() + meeting.timeout_ns.load(Ordering::Relaxed);
    while meeting.met.load(Ordering::SeqCst) == before {
        if Machine::now_ns() >= end_ns {
            meeting.missed.fetch_add(1, Ordering::Relaxed);
            break;
        }
        Machine::relax();
    }
    // Mostly it is gone already. It is not if we came while a meeting was ending, and left with that one.
    meeting.present.fetch_and(!cpu.bit().0, Ordering::SeqCst);
}

/// Says in the log what happened at points, if anything was asked for.
pub fn report() {
    if !ACTIVE.load(Ordering::Relaxed) {
        return;
    }
    let sum = |field: fn(&Own) -> &AtomicU64| OWN.iter().map(|own| field(own).load(Ordering::Relaxed)).sum::<u64>();
    let (passed, delays) = (sum(|own| &own.passed), sum(|own| &own.delays));
    let met: u64 = MEETING.iter().map(|meeting| meeting.met.load(Ordering::Relaxed)).sum();
    let missed: u64 = MEETING.iter().map(|meeting| meeting.missed.load(Ordering::Relaxed)).sum();
    log::info!("schedule points: {passed} passed, {delays} delays, {met} meetings, {missed} waits in vain");
}

/// SplitMix64's output function: every bit of the result hangs on every bit of `value`.
fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
