//! Program files for tests: put together byte by byte, or made by the host's C compiler.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// One program header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) vaddr: u64,
    pub(crate) filesz: u64,
    pub(crate) memsz: u64,
    pub(crate) align: u64,
}

/// An ELF file with any headers, right or wrong, and `len` bytes.
#[derive(Clone, Debug)]
pub(crate) struct Builder {
    pub(crate) movable: bool,
    pub(crate) entry: u64,
    pub(crate) loads: Vec<Load>,
    pub(crate) len: usize,
}

impl Default for Builder {
    fn default() -> Self {
        Builder { movable: false, entry: 0, loads: Vec::new(), len: 0x2000 }
    }
}

impl Builder {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        file.extend_from_slice(&(if self.movable { 3u16 } else { 2 }).to_le_bytes());
        file.extend_from_slice(&62u16.to_le_bytes()); // x86_64
        file.extend_from_slice(&1u32.to_le_bytes());
        file.extend_from_slice(&self.entry.to_le_bytes());
        file.extend_from_slice(&64u64.to_le_bytes()); // program headers follow
        file.extend_from_slice(&0u64.to_le_bytes());
        file.extend_from_slice(&0u32.to_le_bytes());
        for half in [64, 56, self.loads.len() as u16, 0, 0, 0] {
            file.extend_from_slice(&half.to_le_bytes());
        }
        for load in &self.loads {
            file.extend_from_slice(&load.kind.to_le_bytes());
            file.extend_from_slice(&load.flags.to_le_bytes());
            for word in [load.offset, load.vaddr, 0, load.filesz, load.memsz, load.align] {
                file.extend_from_slice(&word.to_le_bytes());
            }
        }
        // The rest is not zero, so that a byte in the wrong place shows.
        while file.len() < self.len {
            file.push(file.len() as u8 | 1);
        }
        file
    }
}

/// Compiles `source` with the host's `gcc`; `None`, with a note, if there is none or it cannot link this way.
pub(crate) fn compile(name: &str, source: &str, flags: &[&str]) -> Option<Vec<u8>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let unique = format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let input = std::env::temp_dir().join(format!("{unique}.c"));
    let output = input.with_extension("elf");
    std::fs::write(&input, source).expect("the temporary directory can be written");
    let status = Command::new("gcc").args(flags).arg("-O1").arg("-o").arg(&output).arg(&input).status();
    let file = match status {
        Ok(status) if status.success() => Some(std::fs::read(&output).expect("gcc wrote its output")),
        other => {
            eprintln!("skipped: gcc {flags:?} says {other:?}");
            None
        }
    };
    let _ = std::fs::remove_file(&input);
    let _ = std::fs::remove_file(&output);
    file
}
