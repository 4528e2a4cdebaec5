//! Running a loom model: every interleaving, and every value that the memory model lets a load return.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sync::CpuId;
use sync::testing::on_cpu;

/// Explores `model`, with at most `preemptions` involuntary switches in one execution, and says how many executions there
/// were. `LOOM_MAX_PREEMPTIONS` in the environment takes the place of the bound.
pub(crate) fn explore(name: &str, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let executions = Arc::new(AtomicUsize::new(0));
    let count = executions.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = 2_000;
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!("{name}: {} executions", executions.load(Ordering::Relaxed));
}

/// Starts a thread that plays `cpu`.
pub(crate) fn spawn<T: 'static>(cpu: u32, body: impl FnOnce() -> T + 'static) -> loom::thread::JoinHandle<T> {
    loom::thread::spawn(move || on_cpu(CpuId(cpu), body))
}
