//! Every test inside the booted kernel, by name, on 1 to 64 CPUs: `cpus4::NAME`; on 2, 8 and 64 without firmware. Tests that must panic have boots
//! of their own: `panics::NAME`. With `--nocapture`, durations and logs of those that pass are shown too.
//!
//! Tests that change or touch an address space (`ktest! { pairs fn ... }`) run under the other pairs of lock protocols as well:
//! `rwsem+cycle::cpus4::NAME`. With `--ignored`, what is left over runs, too: every test on every machine under every pair.
//! Tests that count instructions (`ktest! { counted fn ... }`) run on one CPU with counted time: `counted::NAME`.

use std::process::ExitCode;
use std::sync::Arc;

use abi::{Pair, ReadProtocol, UpdateProtocol};
use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use qemu::registry::{Ends, GuestTest, On, guest_tests};
use qemu::{Built, Entry, Image, Time};
use tests::guest::{self, Kind, SharedBoots, Show};

/// Machines: CPUs, and how they come to the kernel, which must not matter to any test.
const MACHINES: [(u32, Entry); 6] = [
    (1, Entry::Uefi),
    (2, Entry::Direct),
    (4, Entry::Uefi),
    (8, Entry::Direct),
    (32, Entry::Uefi),
    (64, Entry::Direct),
];

/// Machines under other pairs than the default: without firmware, which does not know them.
const OTHER_MACHINES: [u32; 3] = [1, 4, 8];

/// The one on which pairs outside [`Pair::TEN`] run, if they do.
const FURTHER_MACHINE: u32 = 4;

/// CPUs of the machines on which tests panic: the others must be stopped.
const PANIC_CPUS: u32 = 4;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    match trials(&arguments) {
        Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
        Err(error) => {
            eprintln!("the guest tests cannot be built: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn trials(arguments: &Arguments) -> Result<Vec<Trial>> {
    let image = qemu::kernel_image(Image::Guest)?;
    let tests = guest_tests(&image.elf)?;
    let mut trials = Vec::new();
    let show = if arguments.nocapture { Show::Everything } else { Show::Summary };
    for kind in kinds() {
        for when in [When::Always, When::OnDemand] {
            let names = tests.iter().filter(|test| test.ends == Ends::Returning && due(kind, test) == Some(when));
            // A boot runs what the command line lets through, and no more.
            let chosen = names.map(|test| test.name.clone()).filter(|name| passes(arguments, when, kind, name));
            let chosen: Vec<String> = chosen.collect();
            if !chosen.is_empty() {
                trials.extend(on(image_for(kind, &image)?, kind, when, chosen, show));
            }
        }
    }
    for test in tests.into_iter().filter(|test| test.ends == Ends::Panicking) {
        let image = image.clone();
        trials.push(Trial::test(format!("panics::{}", test.name), move || {
            guest::must_panic(&image, PANIC_CPUS, &test.name).map_err(|error| Failed::from(format!("{error:#}")))
        }));
    }
    Ok(trials)
}

/// When tests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    /// With `--ignored` or `--include-ignored`; only then are they listed, too.
    OnDemand,
}

/// All kinds of machines.
fn kinds() -> Vec<Kind> {
    let mut kinds = Vec::new();
    for pair in Pair::all() {
        for (cpus, entry) in MACHINES {
            let entry = if pair == Pair::DEFAULT { entry } else { Entry::Direct };
            kinds.push(Kind { cpus, entry, pair, time: Time::Host });
        }
    }
    kinds.push(Kind { cpus: 1, entry: Entry::Direct, pair: Pair::DEFAULT, time: Time::Counted });
    kinds
}

/// When a test runs on machines of this kind; `None`: never.
fn due(Kind { cpus, pair, time, .. }: Kind, test: &GuestTest) -> Option<When> {
    if (time == Time::Counted) != (test.on == On::CountedTime) {
        return None;
    }
    use {ReadProtocol::Bravo, UpdateProtocol::*};
    let further = matches!((pair.read(), pair.update()), (Bravo, Bulk | WoundWait) | (ReadProtocol::Slot, CycleHeld));
    let machine = (Pair::TEN.contains(&pair) && OTHER_MACHINES.contains(&cpus)) || (further && cpus == FURTHER_MACHINE);
    let always = pair == Pair::DEFAULT || (machine && test.on == On::EachPair);
    Some(if always { When::Always } else { When::OnDemand })
}

/// What machines of this kind boot. Where instructions are counted, without debug checks: the records that the lock-order
/// validator keeps of marked VMAs, a bounded number of them, are forgotten one by one.
fn image_for(kind: Kind, checked: &Built) -> Result<Built> {
    match kind.time {
        Time::Host => Ok(checked.clone()),
        Time::Counted => qemu::kernel_image(Image::GuestRelease),
    }
}

/// The trials of machines of one kind.
fn on(image: Built, kind: Kind, when: When, names: Vec<String>, show: Show) -> Vec<Trial> {
    let boots = Arc::new(SharedBoots::new(image, kind, names.clone(), show));
    let trial = |name: &str, check: Box<dyn FnOnce() -> Result<(), String> + Send>| {
        let trial = Trial::test(trial_name(kind, name), move || check().map_err(Failed::from));
        trial.with_ignored_flag(when == When::OnDemand)
    };
    let mut trials = Vec::new();
    for name in names {
        let boots = Arc::clone(&boots);
        trials.push(trial(&name.clone(), Box::new(move || boots.outcome(&name))));
    }
    trials.push(trial("the_boot_ends_well", Box::new(move || boots.ended_well())));
    trials
}

fn trial_name(kind: Kind, name: &str) -> String {
    format!("{}::{name}", kind.prefix())
}

/// Whether the command line lets a test through, as libtest-mimic decides it.
fn passes(arguments: &Arguments, when: When, kind: Kind, name: &str) -> bool {
    let asked_for = match when {
        When::Always => !arguments.ignored,
        When::OnDemand => arguments.ignored || arguments.include_ignored,
    };
    let name = trial_name(kind, name);
    let matches = |filter: &String| if arguments.exact { name == *filter } else { name.contains(filter.as_str()) };
    asked_for && arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
}
