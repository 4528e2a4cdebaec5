//! `tessera`: what `cargo run` at the root starts. Everything is in the library, where the tests can reach it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(qemu::launch::main(std::env::args_os()))
}
