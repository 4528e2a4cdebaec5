//! What a seed stands for: the work, the machine and the delays of one run of a soak.
//!
//! Everything here is a pure function of the seed and of what the person fixed on the command line, so a seed alone
//! brings a run back. Every draw is made whether its result is used or not: fixing the number of CPUs leaves the work
//! and the memory as they were.

use abi::Pair;
use abi::point::Point;

use crate::draws::Draws;
use crate::machine::{Entry, Time};
use crate::soak::work::Work;

/// The seed of run `run` (from 0 on) of a soak with `seed`. The first run's is the soak's own, so that a soak of one run
/// repeats the run whose seed it is given; the others' are the numbers of [`Draws`] from there.
pub fn run_seed(seed: u64, run: u64) -> u64 {
    run.checked_sub(1).map_or(seed, |place| Draws::at(seed, place))
}

/// What is not left to the seed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// Number of CPUs.
    pub cpus: Option<u32>,
    /// Memory in MiB.
    pub mem_mib: Option<u32>,
    /// What the machine starts with.
    pub entry: Option<Entry>,
    /// What its time is.
    pub time: Option<Time>,
    /// How its address spaces are locked.
    pub pair: Option<Pair>,
    /// Part of the names of the only kinds of work.
    pub only: Option<String>,
}

/// One run of a soak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What it follows from.
    pub seed: u64,
    /// What the machine does.
    pub work: Work,
    /// How its address spaces are locked.
    pub pair: Pair,
    /// Its CPUs.
    pub cpus: u32,
    /// Its memory in MiB.
    pub mem_mib: u32,
    /// What it starts with.
    pub entry: Entry,
    /// What its time is.
    pub time: Time,
    /// What happens at the kernel's schedule points, as [`abi::point::rules`] reads it.
    pub points: Option<String>,
    /// Seed of the delays with which CPUs and threads start, if they are to be late.
    pub start_delays: Option<u64>,
}

/// Numbers of CPUs; those that find most with least time on a small host come most often.
const CPUS: [u32; 12] = [1, 2, 2, 3, 4, 4, 4, 4, 8, 8, 16, 32];

/// MiB of memory.
const MEM_MIB: [u32; 5] = [128, 192, 256, 512, 768];

/// The run that `seed` stands for. `tests` are the names of the guest tests that return.
///
/// # Errors
/// There is no work of a kind that `fixed` asks for: the names of all kinds.
pub fn choose(seed: u64, fixed: &Fixed, tests: &[String]) -> Result<Choice, Vec<&'static str>> {
    let mut draws = Draws::new(seed);
    let rare = draws.within(0..=39) == 0;
    let cpus = *draws.one_of(&CPUS);
    let cpus = fixed.cpus.unwrap_or(if rare { 64 } else { cpus });
    let mem_mib = fixed.mem_mib.unwrap_or(*draws.one_of(&MEM_MIB)).max(least_mib(cpus, fixed));
    let late = draws.within(0..=3) > 0;
    // 0 would mean none to the kernel.
    let delays = draws.next() | 1;
    // The loader's way takes longer, and changes little.
    let entry = if draws.within(0..=3) == 0 { Entry::Uefi } else { Entry::Direct };
    let counted = draws.within(0..=5) == 0;
    // CPUs take turns in one thread then: many of them are slow, and the firmware is slower.
    let time = fixed.time.unwrap_or(if counted && cpus <= MOST_COUNTED { Time::Counted } else { Time::Host });
    let entry = fixed.entry.unwrap_or(if time == Time::Counted { Entry::Direct } else { entry });
    let points = points(&mut Draws::new(draws.next()));
    // From a stream of its own: the rest of a seed means what it meant before there were pairs.
    let pair = *Draws::new(!seed).one_of(&Pair::all().collect::<Vec<_>>());
    let pair = fixed.pair.unwrap_or(pair);
    let work = Work::choose(&mut draws, fixed.only.as_deref(), cpus, mem_mib, tests)?;
    Ok(Choice { seed, work, pair, cpus, mem_mib, entry, time, points, start_delays: late.then_some(delays) })
}

/// What happens at schedule points: nothing in a third of the runs; short delays anywhere, long ones in a few places, or
/// meetings of two places.
fn points(draws: &mut Draws) -> Option<String> {
    let seed = draws.next();
    let all: Vec<_> = Point::all().map(Point::name).collect();
    let rule = match draws.within(0..=8) {
        0..=2 => return None,
        3..=5 => {
            // Passages are many: longer ones must be rarer.
            let (us, one_in) = *draws.one_of(&[(5, 4), (20, 16), (50, 32), (200, 128), (1000, 1024)]);
            format!("*=delay:{us}:1/{one_in}")
        }
        6 | 7 => {
            let names: Vec<&str> = (0..draws.within(1..=4)).map(|_| *draws.one_of(&all)).collect();
            let (us, one_in) = *draws.one_of(&[(20, 2), (100, 8), (500, 32)]);
            format!("{}=delay:{us}:1/{one_in}", names.join("+"))
        }
        _ => {
            let (one, other) = (*draws.one_of(&all), *draws.one_of(&all));
            format!("{one}+{other}=meet:2:{}", draws.within(10..=100))
        }
    };
    Some(format!("seed={seed};{rule}"))
}

/// Most CPUs of a machine with counted time, unless the person says otherwise.
const MOST_COUNTED: u32 = 4;

/// What programs with two threads a CPU need on many CPUs; what the person fixed stays as it is.
fn least_mib(cpus: u32, fixed: &Fixed) -> u32 {
    if fixed.mem_mib.is_some() { 0 } else { 96 + 8 * cpus }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::soak::work::KINDS;

    fn tests() -> Vec<String> {
        ["memory::a", "memory::b", "threads::c", "tlb::d"].map(String::from).to_vec()
    }

    fn chosen(seed: u64, fixed: &Fixed) -> Choice {
        choose(seed, fixed, &tests()).unwrap()
    }

    #[test]
    fn the_first_run_of_a_soak_is_its_seed() {
        assert_eq!(run_seed(17, 0), 17);
        assert_eq!(run_seed(17, 1), Draws::at(17, 0));
        let seeds: BTreeSet<u64> = (0..1000).map(|run| run_seed(17, run)).collect();
        assert_eq!(seeds.len(), 1000);
    }

    #[test]
    fn a_seed_always_means_the_same() {
        for run in 0..500 {
            let seed = run_seed(3, run);
            assert_eq!(chosen(seed, &Fixed::default()), chosen(seed, &Fixed::default()));
        }
    }

    #[test]
    fn a_thousand_runs_do_everything() {
        let all: Vec<Choice> = (0..1000).map(|run| chosen(run_seed(5, run), &Fixed::default())).collect();
        let kinds: BTreeSet<&str> = all.iter().map(|choice| choice.work.kind()).collect();
        assert_eq!(kinds, KINDS.iter().copied().collect());
        let cpus: BTreeSet<u32> = all.iter().map(|choice| choice.cpus).collect();
        assert_eq!(cpus, CPUS.into_iter().chain([64]).collect());
        assert!(Pair::all().all(|pair| all.iter().any(|choice| choice.pair == pair)));
        assert!(all.iter().any(|choice| choice.start_delays.is_none()));
        assert!(all.iter().filter(|choice| choice.start_delays.is_some()).count() > 500);
        assert!(all.iter().all(|choice| (128..=1024).contains(&choice.mem_mib)));
        assert!(all.iter().all(|choice| choice.start_delays != Some(0)));
        assert!(all.iter().any(|choice| choice.entry == Entry::Uefi) && all.iter().any(|c| c.entry == Entry::Direct));
        assert!(all.iter().any(|choice| choice.time == Time::Counted));
        assert!(all.iter().all(|choice| choice.time == Time::Host || choice.cpus <= MOST_COUNTED));
        let points: Vec<&str> = all.iter().filter_map(|choice| choice.points.as_deref()).collect();
        assert!(points.len() > 500);
        for (what, text) in [("everywhere", ";*=delay:"), ("somewhere", "+"), ("meetings", "=meet:2:")] {
            assert!(points.iter().any(|rules| rules.contains(text)), "no delays {what}");
        }
        for rules in points {
            assert!(
                abi::point::rules(rules).all(|rule| rule.is_ok()) && rules.len() <= abi::point::SPEC_MAX,
                "{rules}"
            );
        }
    }

    #[test]
    fn what_is_fixed_stays_fixed_and_leaves_the_rest_alone() {
        for run in 0..100 {
            let seed = run_seed(9, run);
            let free = chosen(seed, &Fixed::default());
            let pair = Pair::TEN[5];
            let fixed = Fixed { cpus: Some(4), mem_mib: Some(300), pair: Some(pair), ..Fixed::default() };
            let fixed = chosen(seed, &fixed);
            assert_eq!((fixed.cpus, fixed.mem_mib, fixed.pair), (4, 300, pair));
            assert_eq!((fixed.start_delays, fixed.work.kind()), (free.start_delays, free.work.kind()));
            assert_eq!(fixed.points, free.points);
        }
    }

    #[test]
    fn only_asks_for_kinds_by_name() {
        for run in 0..100 {
            let only = |name: &str| Fixed { only: Some(name.into()), ..Fixed::default() };
            assert!(chosen(run_seed(1, run), &only("churn")).work.kind().starts_with("churn"));
            assert_eq!(chosen(run_seed(1, run), &only("guest")).work.kind(), "guest tests");
            assert_eq!(choose(run, &only("nothing"), &tests()), Err(KINDS.to_vec()));
        }
    }
}
