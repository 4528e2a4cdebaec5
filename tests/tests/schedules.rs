//! Loom's exhaustive schedules of the shipped synchronisation code, shuttle's random ones of that and of whole memory calls, and
//! the mutants that they must catch.
//!
//! `sync::loom_x::test` and `mm::shuttle_x::test` run a model on the code as it is. `mutant::loom::sync::NAME` weakens one
//! ordering, fence or step, and passes when the model that is listed for it fails. (That loom's list is complete is a unit
//! test.)

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use tests::schedules::{self, Model};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    match trials() {
        Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
        Err(error) => {
            eprintln!("the schedules cannot be listed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn trials() -> Result<Vec<Trial>> {
    let models = schedules::models()?;
    let mutants = schedules::mutants(&models)?;
    let mut trials = Vec::new();
    for mutant in mutants {
        let Model { explorer, package, .. } = &mutant.caught_by;
        let name = format!("mutant::{}::{package}::{}", explorer.name(), mutant.name);
        trials.push(trial(name, move || schedules::check_mutant(&mutant)));
    }
    for model in models {
        let Model { package, file, test, .. } = &model;
        trials.push(trial(format!("{package}::{file}::{test}"), move || schedules::check(&model)));
    }
    Ok(trials)
}

fn trial(name: String, check: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || check().map_err(|error| Failed::from(format!("{error:#}"))))
}
