//! The machine: everything that knows it runs on an x86_64 computer.
#![cfg_attr(target_os = "none", no_std)]
