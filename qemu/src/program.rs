//! Checks on a user program, before a machine is started for it: what the kernel would refuse is said here, in one
//! line, in a moment.
//!
//! Called by the launcher. The kernel checks again for itself: it trusts no host.

use std::fmt;
use std::path::Path;

/// Memory in MiB that kernel, firmware and page tables need beside the program.
const RESERVED_MIB: u64 = 64;

/// Why a file cannot run on Tessera. The text is one line that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The file cannot be read, for this reason.
    Unreadable(String),
    /// A directory, a device, a pipe.
    NotAFile,
    /// No ELF header.
    NotElf,
    /// An ELF file of 32 bits.
    Not64Bit,
    /// An ELF file for another machine: its `e_machine`.
    OtherMachine(u16),
    /// An object file, a core dump, or a file without anything to load.
    NotExecutable(&'static str),
    /// Needs a dynamic linker.
    Dynamic,
    /// The file ends before what its headers promise.
    Truncated,
    /// Does not fit: needed and given MiB.
    TooLarge {
        /// MiB that the machine would need.
        needed: u64,
        /// MiB that it has.
        given: u64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unreadable(why) => write!(f, "cannot read it: {why}"),
            Refusal::NotAFile => write!(f, "not a regular file"),
            Refusal::NotElf => write!(f, "not an ELF executable (scripts need an interpreter, which Tessera has not)"),
            Refusal::Not64Bit => write!(f, "a 32-bit program; Tessera runs 64-bit x86_64 programs"),
            Refusal::OtherMachine(machine) => {
                write!(f, "a program for another machine (ELF machine {machine}); Tessera runs x86_64 programs")
            }
            Refusal::NotExecutable(what) => write!(f, "{what}, not an executable"),
            Refusal::Dynamic => write!(
                f,
                "dynamically linked; link it statically: `gcc -static`, or `RUSTFLAGS=-Ctarget-feature=+crt-static \
                 cargo build --target x86_64-unknown-linux-gnu`"
            ),
            Refusal::Truncated => write!(f, "truncated: the file ends before its last segment"),
            Refusal::TooLarge { needed, given } => {
                write!(f, "too large for {given} MiB of memory; give the machine at least {needed} with --mem {needed}")
            }
        }
    }
}

/// Reads the program at `path` and checks that a machine with `mem_mib` MiB of memory can run it.
///
/// # Errors
/// The first reason against it.
pub fn check(path: &Path, mem_mib: u32) -> Result<(), Refusal> {
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    if meta.is_dir() {
        return Err(Refusal::Unreadable("it is a directory".into()));
    }
    if !meta.is_file() {
        return Err(Refusal::NotAFile);
    }
    check_size(meta.len(), mem_mib)?;
    check_elf(&std::fs::read(path).map_err(unreadable)?)
}

fn unreadable(error: std::io::Error) -> Refusal {
    Refusal::Unreadable(match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    })
}

/// The kernel holds the file once as the launcher handed it over, and once as the program's pages.
fn check_size(file_len: u64, mem_mib: u32) -> Result<(), Refusal> {
    let needed = (2 * file_len).div_ceil(1 << 20) + RESERVED_MIB;
    let given = u64::from(mem_mib);
    if needed > given { Err(Refusal::TooLarge { needed, given }) } else { Ok(()) }
}

const ET_REL: u16 = 1;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const ET_CORE: u16 = 4;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const PHDR_LEN: usize = 56;

/// Checks the headers of a program whose file holds `bytes`. Layout: System V ABI, "Object Files"; AMD64 supplement.
///
/// # Errors
/// The first reason against it.
pub fn check_elf(bytes: &[u8]) -> Result<(), Refusal> {
    if bytes.get(..4) != Some(b"\x7fELF") {
        return Err(Refusal::NotElf);
    }
    let class = *bytes.get(4).ok_or(Refusal::Truncated)?;
    let machine = u16_at(bytes, 18)?;
    if machine != EM_X86_64 {
        // A 32-bit program for x86 is for "another machine" too, but this says it better.
        return Err(if class == 1 && machine == 3 { Refusal::Not64Bit } else { Refusal::OtherMachine(machine) });
    }
    if class != 2 {
        return Err(Refusal::Not64Bit); // x32: 64-bit registers, 32-bit pointers
    }
    match u16_at(bytes, 16)? {
        ET_EXEC | ET_DYN => {}
        ET_REL => return Err(Refusal::NotExecutable("an object file")),
        ET_CORE => return Err(Refusal::NotExecutable("a core dump")),
        _ => return Err(Refusal::NotExecutable("an ELF file of unknown type")),
    }
    let segments = usize::try_from(u64_at(bytes, 32)?).map_err(|_| Refusal::Truncated)?;
    let mut loadable = false;
    for index in 0..usize::from(u16_at(bytes, 56)?) {
        let at = index.checked_mul(PHDR_LEN).and_then(|at| at.checked_add(segments)).ok_or(Refusal::Truncated)?;
        let header = array_at::<PHDR_LEN>(bytes, at)?;
        let (kind, offset, len) = (u32_at(&header, 0)?, u64_at(&header, 8)?, u64_at(&header, 32)?);
        let end = offset.checked_add(len).ok_or(Refusal::Truncated)?;
        if kind == PT_LOAD && end > bytes.len() as u64 {
            return Err(Refusal::Truncated);
        }
        match kind {
            PT_LOAD => loadable = true,
            PT_INTERP => return Err(Refusal::Dynamic),
            PT_DYNAMIC if needs_library(bytes, offset, len) => return Err(Refusal::Dynamic),
            _ => {}
        }
    }
    if loadable { Ok(()) } else { Err(Refusal::NotExecutable("an ELF file without anything to load")) }
}

/// Whether the dynamic section asks for a shared library: a static-PIE has such a section too, but asks for none.
fn needs_library(bytes: &[u8], offset: u64, len: u64) -> bool {
    let entries = (offset..offset.saturating_add(len)).step_by(16);
    entries.map_while(|at| u64_at(bytes, usize::try_from(at).ok()?).ok()).any(|tag| tag == DT_NEEDED)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Refusal> {
    let end = at.checked_add(N).ok_or(Refusal::Truncated)?;
    bytes.get(at..end).and_then(|slice| slice.try_into().ok()).ok_or(Refusal::Truncated)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Refusal> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Refusal> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Refusal> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with these program headers: `(type, offset, size in the file)`.
    fn elf(class: u8, kind: u16, machine: u16, segments: &[(u32, u64, u64)]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..5].copy_from_slice(&[0x7f, b'E', b'L', b'F', class]);
        bytes[16..18].copy_from_slice(&kind.to_le_bytes());
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
        bytes[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        for &(kind, offset, size) in segments {
            let mut header = [0; PHDR_LEN];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[8..16].copy_from_slice(&offset.to_le_bytes());
            header[32..40].copy_from_slice(&size.to_le_bytes());
            bytes.extend_from_slice(&header);
        }
        bytes
    }

    #[test]
    fn static_programs_pass() {
        assert_eq!(check_elf(&elf(2, ET_EXEC, EM_X86_64, &[(PT_LOAD, 0, 64)])), Ok(()));
        assert_eq!(check_elf(&elf(2, ET_DYN, EM_X86_64, &[(PT_LOAD, 0, 64), (PT_DYNAMIC, 200, 0)])), Ok(()));
    }

    #[test]
    fn every_refusal_has_its_file() {
        let load = (PT_LOAD, 0, 64);
        let cases = [
            (b"#!/bin/sh\n".to_vec(), Refusal::NotElf),
            (Vec::new(), Refusal::NotElf),
            (b"\x7fELF".to_vec(), Refusal::Truncated),
            (b"\x7fELF\x02\x01\x01".to_vec(), Refusal::Truncated),
            (elf(1, ET_EXEC, 3, &[load]), Refusal::Not64Bit),
            (elf(1, ET_EXEC, EM_X86_64, &[load]), Refusal::Not64Bit),
            (elf(2, ET_EXEC, 183, &[load]), Refusal::OtherMachine(183)),
            (elf(2, ET_REL, EM_X86_64, &[]), Refusal::NotExecutable("an object file")),
            (elf(2, ET_CORE, EM_X86_64, &[load]), Refusal::NotExecutable("a core dump")),
            (elf(2, ET_EXEC, EM_X86_64, &[]), Refusal::NotExecutable("an ELF file without anything to load")),
            (elf(2, ET_DYN, EM_X86_64, &[load, (PT_INTERP, 0, 8)]), Refusal::Dynamic),
            (elf(2, ET_EXEC, EM_X86_64, &[(PT_LOAD, 0, 65536)]), Refusal::Truncated),
            (elf(2, ET_EXEC, EM_X86_64, &[(PT_LOAD, u64::MAX, 2)]), Refusal::Truncated),
        ];
        for (bytes, refusal) in cases {
            assert_eq!(check_elf(&bytes), Err(refusal.clone()), "{refusal}");
        }
    }

    #[test]
    fn a_shared_library_is_dynamic_and_a_header_table_out_of_the_file_is_truncated() {
        let mut library = elf(2, ET_DYN, EM_X86_64, &[(PT_LOAD, 0, 64), (PT_DYNAMIC, 176, 16)]);
        library.extend_from_slice(&DT_NEEDED.to_le_bytes());
        library.extend_from_slice(&7u64.to_le_bytes());
        assert_eq!(check_elf(&library), Err(Refusal::Dynamic));

        let mut far = elf(2, ET_EXEC, EM_X86_64, &[(PT_LOAD, 0, 64)]);
        far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(check_elf(&far), Err(Refusal::Truncated));
    }

    #[test]
    fn every_prefix_of_a_program_gives_an_answer() {
        let bytes = elf(2, ET_EXEC, EM_X86_64, &[(PT_LOAD, 0, 120), (PT_DYNAMIC, 100, 1 << 60)]);
        for end in 0..bytes.len() {
            assert!(check_elf(&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn size_is_checked_against_memory() {
        assert_eq!(check_size(1 << 20, 512), Ok(()));
        assert_eq!(check_size(300 << 20, 512), Err(Refusal::TooLarge { needed: 664, given: 512 }));
    }

    #[test]
    fn refusals_are_one_line() {
        for refusal in [Refusal::NotElf, Refusal::Dynamic, Refusal::TooLarge { needed: 2, given: 1 }] {
            assert!(!refusal.to_string().contains('\n'));
        }
    }
}
