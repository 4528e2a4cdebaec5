//! Tests inside the booted kernel: what only a real MMU, real interrupts and real CPUs can show.
//!
//! | module | what it tests |
//! |---|---|
//! | `machine` | all CPUs run, interrupts between them, the clock |
//! | `protection` | W^X, NX, SMEP, SMAP, guard pages |
//! | `threads` | parking, sleeping, moving, fairness |
//! | `waiting` | wait queues and futexes under storms |
//! | `grace` | RCU across CPUs |
//! | `tlb` | shootdowns leave no stale translation |
//! | `uaccess` | bad user addresses give `EFAULT` |
//! | `memory` | one address space changed by all CPUs; failing allocations; the heap |
//! | `order` | the lock order is checked; waits that last too long are drawn |
//! | `programs` | machine code in user mode: extended registers, flags, exceptions, kills |
//!
//! Each test leaves every frame as it found it: `kernel::ktest` checks that after each. The names of the tests are
//! read out of this image by the host harness (`tests`), which boots it with several numbers of CPUs.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod grace;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod order;
#[cfg(target_os = "none")]
mod programs;
#[cfg(target_os = "none")]
mod protection;
#[cfg(target_os = "none")]
mod threads;
#[cfg(target_os = "none")]
mod tlb;
#[cfg(target_os = "none")]
mod uaccess;
#[cfg(target_os = "none")]
mod waiting;

#[cfg(target_os = "none")]
kernel::entry_point!(kernel::init::main);

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("these tests run inside the booted kernel: `cargo test` in the workspace root boots them");
    std::process::exit(2);
}
