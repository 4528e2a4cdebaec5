//! Every test inside the booted kernel, by name, on 1 to 64 CPUs: `cpus4::NAME`; on 2, 8 and 64 without firmware. Tests that must panic have boots
//! of their own: `panics::NAME`. With `--nocapture`, durations and logs of those that pass are shown too.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use qemu::registry::{Ends, guest_tests};
use qemu::{Built, Entry, Image};
use tests::guest::{self, SharedBoots, Show};

/// Machines: CPUs, and how they come to the kernel, which must not matter to any test.
const MACHINES: [(u32, Entry); 6] = [
    (1, Entry::Uefi),
    (2, Entry::Direct),
    (4, Entry::Uefi),
    (8, Entry::Direct),
    (32, Entry::Uefi),
    (64, Entry::Direct),
];

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
    for (cpus, entry) in MACHINES {
        let names = tests.iter().filter(|test| test.ends == Ends::Returning).map(|test| &test.name);
        // A boot runs what the filter lets through, and no more.
        let chosen = names.filter(|name| passes(arguments, &trial_name(cpus, name))).cloned().collect::<Vec<_>>();
        trials.extend(on(
            &image,
            (cpus, entry),
            chosen,
            if arguments.nocapture { Show::Everything } else { Show::Summary },
        ));
    }
    for test in tests.into_iter().filter(|test| test.ends == Ends::Panicking) {
        let image = image.clone();
        trials.push(Trial::test(format!("panics::{}", test.name), move || {
            guest::must_panic(&image, PANIC_CPUS, &test.name).map_err(|error| Failed::from(format!("{error:#}")))
        }));
    }
    Ok(trials)
}

/// The trials of machines with `cpus` CPUs.
fn on(image: &Built, (cpus, entry): (u32, Entry), names: Vec<String>, show: Show) -> Vec<Trial> {
    if names.is_empty() {
        return Vec::new();
    }
    let boots = Arc::new(SharedBoots::new(image.clone(), cpus, entry, names.clone(), show));
    let mut trials = Vec::new();
    for name in names {
        let boots = Arc::clone(&boots);
        trials.push(Trial::test(trial_name(cpus, &name), move || boots.outcome(&name).map_err(Failed::from)));
    }
    trials
        .push(Trial::test(format!("cpus{cpus}::the_boot_ends_well"), move || boots.ended_well().map_err(Failed::from)));
    trials
}

fn trial_name(cpus: u32, name: &str) -> String {
    format!("cpus{cpus}::{name}")
}

/// Whether the command line's filters let a name through, as libtest-mimic decides it.
fn passes(arguments: &Arguments, name: &str) -> bool {
    let matches = |filter: &String| if arguments.exact { name == filter } else { name.contains(filter.as_str()) };
    arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
}
