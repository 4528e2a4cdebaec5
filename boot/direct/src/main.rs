//! The firmware-less boot: QEMU enters here directly (`--firmware none`), and the kernel is entered as after UEFI.
//!
//! ```text
//! qboot.rom      puts ACPI tables and this loader's start_info into memory, enters by its PVH note (entry)
//! start_info     what QEMU handed over: the memory map, the kernel's ELF file, the root of the ACPI tables
//! memory         the map, and frames for what follows
//! image          the kernel's segments, at the addresses that it is linked for
//! handover       stack, window on physical memory, BootInfo: what the kernel's configuration asks for; and the jump
//! ```
//!
//! The kernel does not know the difference: this loader reads the same configuration from its ELF file that the
//! `bootloader` crate reads, and hands over the same [`bootloader_api::BootInfo`]. It saves the emulator the firmware,
//! which costs more instructions than everything that follows.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod handover;
#[cfg(target_os = "none")]
mod image;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod refusal;
#[cfg(target_os = "none")]
mod start_info;
#[cfg(target_os = "none")]
mod tables;

#[cfg(target_os = "none")]
use refusal::Refusal;

/// From the first line of Rust to the kernel.
#[cfg(target_os = "none")]
fn load(start_info: u64) -> Result<core::convert::Infallible, Refusal> {
    // SAFETY: the address is the one that the PVH entry was handed, and nothing has been written since.
    let given = unsafe { start_info::read(start_info) }?;
    let mut memory = memory::Memory::survey(given.memory_map, given.kernel)?;
    let mut tables = tables::Tables::active();
    let kernel = image::load(given.kernel, &mut memory, &mut tables)?;
    handover::enter(&kernel, given.root_pointer, memory, tables)
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is the host's shell of the loader: `cargo run -- --firmware none` boots by the real one");
    std::process::exit(2);
}
