//! One execution of a shuttle model: an address space, three CPUs that do something in it, and every frame back at its end.

use std::sync::Arc;

use mm::testing::{Machine, Process, User};

pub(crate) const CPUS: u32 = 3;

/// Plays `parts`, one on each CPU, after `prepare` on CPU 0; then no TLB may know too much, and every frame must be back. What the
/// parts return, in order.
pub(crate) fn play<T: Send + 'static, F>(
    machine: &'static Machine,
    prepare: impl FnOnce(&Process, &User<'_>),
    parts: [F; CPUS as usize],
) -> Vec<T>
where
    F: FnOnce(&Process, &User<'_>) -> T + Send + 'static,
{
    let before = machine.usage();
    let process = Arc::new(machine.on_cpu(0, || Process::new(machine)));
    process.run_on(0, |user| prepare(&process, user));
    let threads: Vec<_> = (0..CPUS)
        .zip(parts)
        .map(|(cpu, part)| {
            let process = process.clone();
            shuttle::thread::spawn(move || process.run_on(cpu, |user| part(&process, user)))
        })
        .collect();
    let returned = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    process.check_tlbs();
    let Ok(process) = Arc::try_unwrap(process) else { panic!("all threads have ended") };
    machine.on_cpu(0, || {
        drop(process);
        machine.drain();
    });
    (1..CPUS).for_each(|cpu| machine.on_cpu(cpu, || machine.drain()));
    assert_eq!(machine.usage().owned, before.owned, "frames were lost");
    returned
}
