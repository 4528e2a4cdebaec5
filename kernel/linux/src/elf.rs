//! [`Image`]: an ELF file, checked against everything that loading it relies on.
//!
//! The file is not trusted: every offset, size and address is checked here, once, before anything is mapped, and what
//! comes out cannot make the loader overflow, read past the file, or map outside the programs' half. Accepted are
//! static executables (`ET_EXEC`) and static position-independent ones (`ET_DYN` without an interpreter) for x86_64.
//! Section headers are not looked at: a program needs none, and a stripped or damaged table must not stop it.
//!
//! Sources: System V gABI, chapter 5; the processor supplement for AMD64; Linux's `fs/binfmt_elf.c`.

use core::fmt;
use core::ops::Range;

use abi::flags::prot;
use abi::{MMAP_MIN_ADDR, PAGE_SIZE, USER_END};
use arrayvec::ArrayVec;
use elf::abi as names;
use elf::endian::LittleEndian;
use elf::file::{Class, ELF64_EHDR_TAILSIZE, FileHeader, parse_ident};
use elf::segment::SegmentTable;

/// Most `PT_LOAD` segments of a program. Linkers make four or five.
pub const MAX_SEGMENTS: usize = 32;

/// Size of a program header of a 64-bit file.
const PHENTSIZE: u16 = 56;

/// A part of the file that becomes a mapping. Addresses are the file's: a position-independent image is moved as a
/// whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First address.
    pub start: u64,
    /// Bytes in memory, at least [`Segment::file_len`]; what the file does not give is zero.
    pub len: u64,
    /// Offset of its bytes in the file.
    pub file_offset: usize,
    /// Number of its bytes in the file.
    pub file_len: usize,
    /// Rights, as in [`abi::flags::prot`].
    pub prot: u32,
}

impl Segment {
    /// The whole pages that it covers.
    pub fn pages(&self) -> Range<u64> {
        let end = (self.start + self.len).next_multiple_of(PAGE_SIZE);
        self.start & !(PAGE_SIZE - 1)..end
    }
}

/// Where an image lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// At the addresses that the file names.
    Fixed,
    /// Anywhere, moved by a multiple of this alignment (a power of two, at least a page).
    Movable {
        /// The largest alignment that a segment asks for.
        align: u64,
    },
}

/// A checked program file.
#[derive(Clone, Debug)]
pub struct Image {
    /// Where it lies.
    pub placement: Placement,
    /// What becomes mappings: by rising address, no page in two of them, at least one.
    pub segments: ArrayVec<Segment, MAX_SEGMENTS>,
    /// Address of the first instruction, inside an executable segment.
    pub entry: u64,
    /// Address of the program headers in memory, if a segment holds them.
    pub headers: Option<u64>,
    /// Number of program headers.
    pub header_count: u16,
    /// Whether the stack is to be executable (`PT_GNU_STACK`); it is not if the file does not say.
    pub stack_prot: u32,
}

/// Size of one program header, for `AT_PHENT`.
pub const PROGRAM_HEADER_SIZE: u64 = PHENTSIZE as u64;

/// Why a file is no program for this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// It does not begin with an ELF header, or is cut off inside it.
    NotElf,
    /// It is for 32-bit programs, for big-endian machines, or of an unknown ELF version.
    WrongFormat,
    /// It is for another machine; the number is ELF's.
    WrongMachine(u16),
    /// It is an object file, a core dump, or something else that is not executable; the number is ELF's.
    NotExecutable(u16),
    /// It needs a dynamic linker.
    Dynamic,
    /// The table of program headers has a wrong entry size or lies outside the file.
    BadHeaders,
    /// It has no `PT_LOAD` segment with any memory.
    NoSegments,
    /// It has more than [`MAX_SEGMENTS`] of them.
    TooManySegments,
    /// The segment in this place of the table has more bytes in the file than in memory, or they lie outside the file.
    SegmentData(u16),
    /// The segment in this place has an address that does not agree with its file offset or its alignment.
    SegmentAlignment(u16),
    /// The segment in this place lies outside the addresses that programs may have.
    SegmentAddress(u16),
    /// The segment in this place is not above the one before, or shares a page with it.
    SegmentOrder(u16),
    /// The first instruction is in no executable segment.
    Entry,
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ElfError::NotElf => write!(f, "not an ELF file"),
            ElfError::WrongFormat => write!(f, "not a 64-bit little-endian ELF file of version 1"),
            ElfError::WrongMachine(machine) => {
                write!(f, "for another machine (ELF machine {machine}); x86_64 is needed")
            }
            ElfError::NotExecutable(kind) => write!(f, "not an executable (ELF type {kind})"),
            ElfError::Dynamic => {
                write!(f, "dynamically linked; link it statically (gcc -static, or -C target-feature=+crt-static)")
            }
            ElfError::BadHeaders => write!(f, "its program headers are malformed or outside the file"),
            ElfError::NoSegments => write!(f, "nothing in it is to be loaded"),
            ElfError::TooManySegments => write!(f, "more than {MAX_SEGMENTS} segments are to be loaded"),
            ElfError::SegmentData(index) => {
                write!(f, "program header {index}: its bytes are outside the file or more than its memory")
            }
            ElfError::SegmentAlignment(index) => {
                write!(f, "program header {index}: address, file offset and alignment do not agree")
            }
            ElfError::SegmentAddress(index) => write!(f, "program header {index}: outside the addresses of programs"),
            ElfError::SegmentOrder(index) => {
                write!(f, "program header {index}: overlaps another segment's pages or lies below it")
            }
            ElfError::Entry => write!(f, "its entry point is in no executable segment"),
        }
    }
}

impl Image {
    /// Checks a program file.
    ///
    /// # Errors
    /// See [`ElfError`]. Never panics, whatever `file` holds.
    pub fn parse(file: &[u8]) -> Result<Image, ElfError> {
        let header = file_header(file)?;
        let table = program_headers(&header, file)?;
        let movable = header.e_type == names::ET_DYN;
        // A movable image is placed by the loader, so only its extent is bounded here.
        let lowest = if movable { 0 } else { MMAP_MIN_ADDR };

        let mut segments = ArrayVec::<Segment, MAX_SEGMENTS>::new();
        let mut align = PAGE_SIZE;
        let mut stack_prot = prot::READ | prot::WRITE;
        for (index, entry) in (0u16..).zip(table.iter()) {
            match entry.p_type {
                names::PT_INTERP => return Err(ElfError::Dynamic),
                names::PT_GNU_STACK if entry.p_flags & names::PF_X != 0 => stack_prot |= prot::EXEC,
                names::PT_LOAD if entry.p_memsz != 0 || entry.p_filesz != 0 => {
                    let segment = segment(index, &entry, file.len(), lowest)?;
                    if segments.last().is_some_and(|below| below.pages().end > segment.pages().start) {
                        return Err(ElfError::SegmentOrder(index));
                    }
                    align = align.max(entry.p_align);
                    segments.try_push(segment).map_err(|_| ElfError::TooManySegments)?;
                }
                _ => {}
            }
        }
        if segments.is_empty() {
            return Err(ElfError::NoSegments);
        }

        let entry = header.e_entry;
        let is_code = |segment: &Segment| segment.prot & prot::EXEC != 0 && holds(segment, entry);
        if !segments.iter().any(is_code) {
            return Err(ElfError::Entry);
        }
        Ok(Image {
            placement: if movable { Placement::Movable { align } } else { Placement::Fixed },
            entry,
            headers: headers_in_memory(&header, &segments),
            header_count: header.e_phnum,
            segments,
            stack_prot,
        })
    }

    /// The pages from the first segment's to the last one's.
    pub fn extent(&self) -> Range<u64> {
        match (self.segments.first(), self.segments.last()) {
            (Some(first), Some(last)) => first.pages().start..last.pages().end,
            _ => 0..0,
        }
    }
}

fn file_header(file: &[u8]) -> Result<FileHeader<LittleEndian>, ElfError> {
    let (ident, rest) = file.split_at_checked(names::EI_NIDENT).ok_or(ElfError::NotElf)?;
    if !ident.starts_with(&names::ELFMAGIC) {
        return Err(ElfError::NotElf);
    }
    // The crate's other errors are about the class, the byte order and the version.
    let ident = parse_ident::<LittleEndian>(ident).map_err(|_| ElfError::WrongFormat)?;
    if ident.1 != Class::ELF64 {
        return Err(ElfError::WrongFormat);
    }
    let tail = rest.get(..ELF64_EHDR_TAILSIZE).ok_or(ElfError::NotElf)?;
    let header = FileHeader::parse_tail(ident, tail).map_err(|_| ElfError::NotElf)?;
    if header.e_machine != names::EM_X86_64 {
        return Err(ElfError::WrongMachine(header.e_machine));
    }
    if header.e_type != names::ET_EXEC && header.e_type != names::ET_DYN {
        return Err(ElfError::NotExecutable(header.e_type));
    }
    Ok(header)
}

fn program_headers<'f>(
    header: &FileHeader<LittleEndian>,
    file: &'f [u8],
) -> Result<SegmentTable<'f, LittleEndian>, ElfError> {
    // With 0xffff headers and more, the number stands in a section header; no program has that many.
    if header.e_phentsize != PHENTSIZE || header.e_phnum == names::PN_XNUM {
        return Err(ElfError::BadHeaders);
    }
    let start = usize::try_from(header.e_phoff).map_err(|_| ElfError::BadHeaders)?;
    let len = usize::from(header.e_phnum) * usize::from(PHENTSIZE);
    let end = start.checked_add(len).ok_or(ElfError::BadHeaders)?;
    let bytes = file.get(start..end).ok_or(ElfError::BadHeaders)?;
    Ok(SegmentTable::new(LittleEndian, Class::ELF64, bytes))
}

fn segment(index: u16, entry: &elf::segment::ProgramHeader, file_len: usize, lowest: u64) -> Result<Segment, ElfError> {
    let bad_data = ElfError::SegmentData(index);
    if entry.p_filesz > entry.p_memsz {
        return Err(bad_data);
    }
    let file_offset = usize::try_from(entry.p_offset).map_err(|_| bad_data)?;
    let bytes = usize::try_from(entry.p_filesz).map_err(|_| bad_data)?;
    if file_offset.checked_add(bytes).is_none_or(|end| end > file_len) {
        return Err(bad_data);
    }
    // gABI: 0 and 1 mean no alignment, otherwise a power of two. Address and offset should agree in it; like Linux,
    // we only insist that they agree within a page.
    if !entry.p_align.max(1).is_power_of_two() || !(entry.p_vaddr ^ entry.p_offset).is_multiple_of(PAGE_SIZE) {
        return Err(ElfError::SegmentAlignment(index));
    }
    // USER_END is a multiple of the page size, so rounding up to pages stays below it too.
    let end = entry.p_vaddr.checked_add(entry.p_memsz).filter(|&end| end <= USER_END);
    if end.is_none() || entry.p_vaddr < lowest {
        return Err(ElfError::SegmentAddress(index));
    }
    let right = |flag, bit| if entry.p_flags & flag != 0 { bit } else { prot::NONE };
    let prot = right(names::PF_R, prot::READ) | right(names::PF_W, prot::WRITE) | right(names::PF_X, prot::EXEC);
    Ok(Segment { start: entry.p_vaddr, len: entry.p_memsz, file_offset, file_len: bytes, prot })
}

fn holds(segment: &Segment, address: u64) -> bool {
    address >= segment.start && address - segment.start < segment.len
}

/// Where the table of program headers lies in memory: in the segment that holds its file offset (Linux does the same,
/// since `PT_PHDR` is optional).
fn headers_in_memory(header: &FileHeader<LittleEndian>, segments: &[Segment]) -> Option<u64> {
    let len = u64::from(header.e_phnum) * u64::from(PHENTSIZE);
    segments.iter().find_map(|segment| {
        let into = header.e_phoff.checked_sub(segment.file_offset as u64)?;
        let inside = into.checked_add(len)? <= segment.file_len as u64;
        inside.then_some(segment.start + into)
    })
}
