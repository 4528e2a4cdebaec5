//! The kernel's entry: boots, then does what the launcher asked for.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
kernel::entry_point!(kernel::init::main);

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is the host's shell of the kernel: boot the real one with `cargo run` in the workspace root");
    std::process::exit(2);
}
