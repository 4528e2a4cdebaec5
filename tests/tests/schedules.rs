//! Loom's exhaustive schedules of the shipped synchronisation code, and the mutants that they must catch.
//!
//! `sync::loom_x::test` runs a model on the code as it is. `mutant::NAME` weakens one ordering or fence, and passes when
//! the model that is listed for it fails. (That the list is complete is a unit test of each crate.)

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
        let name = format!("mutant::{}::{}", mutant.caught_by.package, mutant.name);
        trials.push(trial(name, move || schedules::check_mutant(&mutant)));
    }
    for model in models {
        let Model { package, file, test } = &model;
        trials.push(trial(format!("{package}::{file}::{test}"), move || schedules::check(&model)));
    }
    Ok(trials)
}

fn trial(name: String, check: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || check().map_err(|error| Failed::from(format!("{error:#}"))))
}
