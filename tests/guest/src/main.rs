//! Tests inside the booted kernel: what only a real MMU, real interrupts and real CPUs can show.
//!
//! | module | what it tests |
//! |---|---|
//! | `locks` | locks under torture |
//! | `machine` | all CPUs run, interrupts between them, the clock |
//! | `protection` | W^X, NX, SMEP, SMAP, guard pages |
//! | `threads` | parking, sleeping, moving, fairness |
//! | `waiting` | wait queues and futexes under storms |
//! | `grace` | RCU across CPUs |
//! | `torture` | RCU under torture, and broken ones that must not stand it |
//! | `transactions` | the classic lists for locks, over transactions of all CPUs |
//! | `tlb` | shootdowns leave no stale translation |
//! | `uaccess` | bad user addresses give `EFAULT` |
//! | `memory` | one address space changed by all CPUs; failing allocations; the heap |
//! | `order` | the lock order is checked; waits that last too long are drawn |
//! | `ending` | the end of a transaction, instruction by instruction |
//! | `programs` | machine code in user mode: extended registers, flags, exceptions, kills |
//!
//! Each test leaves every frame as it found it: `kernel::ktest` checks that after each. The names of the tests are
//! read out of this image by the host harness (`tests`), which boots it with several numbers of CPUs.
//! Without debug checks only `ending` is there, which counts instructions.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod ending;
#[cfg(all(target_os = "none", debug_assertions))]
mod grace;
#[cfg(all(target_os = "none", debug_assertions))]
mod locks;
#[cfg(all(target_os = "none", debug_assertions))]
mod machine;
#[cfg(all(target_os = "none", debug_assertions))]
mod memory;
#[cfg(all(target_os = "none", debug_assertions))]
mod order;
#[cfg(all(target_os = "none", debug_assertions))]
mod programs;
#[cfg(all(target_os = "none", debug_assertions))]
mod protection;
#[cfg(all(target_os = "none", debug_assertions))]
mod threads;
#[cfg(all(target_os = "none", debug_assertions))]
mod tlb;
#[cfg(all(target_os = "none", debug_assertions))]
mod torture;
#[cfg(all(target_os = "none", debug_assertions))]
mod transactions;
#[cfg(all(target_os = "none", debug_assertions))]
mod uaccess;
#[cfg(all(target_os = "none", debug_assertions))]
mod waiting;

#[cfg(target_os = "none")]
kernel::entry_point!(kernel::init::main);

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("these tests run inside the booted kernel: `cargo test` in the workspace root boots them");
    std::process::exit(2);
}
