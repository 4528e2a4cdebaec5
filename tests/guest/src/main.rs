//! Tests inside the booted kernel.
#![cfg_attr(target_os = "none", no_std, no_main)]
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("these tests run inside the booted kernel: `cargo test` in the workspace root boots them");
    std::process::exit(2);
}
