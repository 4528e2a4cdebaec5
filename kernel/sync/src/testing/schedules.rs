//! Running a shuttle model: many schedules, some by chance at each step, some by few changes of priority at chosen steps (PCT).
//!
//! A model that fails prints its schedule. The seed is fixed, so that a run is the same everywhere; `TESSERA_SEED` takes its
//! place, and `TESSERA_SCHEDULES` that of the number of schedules.

use std::println;
use std::string::String;
use std::sync::Arc;

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

use super::on_cpu;
use crate::CpuId;

/// Changes of priority in a schedule of the second kind: how many steps must come in the wrong order for a mistake to show.
const DEPTH: usize = 3;

/// Runs `model` in `schedules` schedules of each kind.
///
/// # Panics
/// If the model does, or its threads wait for each other, or it does not end.
pub fn explore(schedules: usize, model: impl Fn() + Send + Sync + 'static) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text: String| text.parse().ok());
    let seed = number("TESSERA_SEED").unwrap_or(1);
    let schedules = number("TESSERA_SCHEDULES").map_or(schedules, |number| number as usize);
    let model = Arc::new(model);
    println!("TESSERA_SEED={seed} TESSERA_SCHEDULES={schedules}");
    run(RandomScheduler::new_from_seed(seed, schedules), model.clone());
    run(PctScheduler::new_from_seed(seed, DEPTH, schedules), model);
}

fn run(scheduler: impl Scheduler + 'static, model: Arc<impl Fn() + Send + Sync + 'static>) {
    let mut config = Config::new();
    config.silence_warnings = true;
    config.stack_size = 1 << 20;
    config.max_steps = MaxSteps::FailAfter(1_000_000);
    Runner::new(scheduler, config).run(move || model());
}

/// Starts a thread that plays `cpu`.
pub fn spawn<T: 'static>(cpu: u32, body: impl FnOnce() -> T + Send + 'static) -> shuttle::thread::JoinHandle<T>
where
    T: Send,
{
    shuttle::thread::spawn(move || on_cpu(CpuId(cpu), body))
}
