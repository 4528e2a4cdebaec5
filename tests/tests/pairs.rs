//! The hosted tests under the pairs of lock protocols that `cargo test` does not run them with anyway:
//! `hosted::rwsem+cycle::mm::stress` is the file `kernel/mm/tests/stress.rs`, `hosted::rwsem+cycle::linux::unit` the unit tests of
//! `linux`.

use std::process::ExitCode;
use std::sync::OnceLock;

use abi::Pair;
use anyhow::{Error, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use tests::pairs::{self, Built};
use tests::turn;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    match trials() {
        Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
        Err(error) => {
            eprintln!("the hosted tests cannot be listed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn trials() -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    let all = pairs::all()?;
    for pair in Pair::all().filter(|pair| *pair != Pair::DEFAULT) {
        for tests in &all {
            let (name, tests) = (format!("hosted::{pair}::{}", tests.name), tests.clone());
            trials.push(trial(name, move |built| built.check(&tests, pair)));
        }
    }
    for tests in all {
        let name = format!("hosted::no_such_pair::{}", tests.name);
        trials.push(trial(name, move |built| built.check_refusal(&tests)));
    }
    Ok(trials)
}

fn trial(name: String, check: impl FnOnce(&Built) -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || {
        // One at a time: each is several threads.
        let _turn = turn::take();
        built().and_then(check).map_err(|error| Failed::from(format!("{error:#}")))
    })
}

/// The tests, built once. A build that fails fails all of them.
fn built() -> Result<&'static Built> {
    static BUILT: OnceLock<Result<Built, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| Built::new().map_err(|error| format!("{error:#}")));
    built.as_ref().map_err(|error| Error::msg(error.clone()))
}
