//! [`load`]: from a program file to a process that is ready to run.
//!
//! The file is checked first ([`Image::parse`]); then a new address space gets one private anonymous mapping a
//! segment, with the segment's exact rights, and a stack. Bytes are written through the kernel's physical window, so
//! that a read-only segment never needs to be writable, not even for a moment. Nothing of a load that fails remains.
//!
//! Placement follows Linux without randomisation: fixed images where they say, movable ones from
//! 0x5555_5555_4000 on, the heap (`brk`) right after the last segment, the stack below the top of the programs' half.

use core::fmt;

use abi::flags::{map, prot};
use abi::{Errno, MMAP_MIN_ADDR, PAGE_SIZE, USER_END};
use mm::{AddressSpace, MapRequest};
use sync::alloc::Arc;

use crate::elf::{ElfError, Image, Placement, Segment};
use crate::limits::STACK_SIZE;
use crate::process::Process;
use crate::stack::{Stack, StackError, Start};
use crate::system::{System, UserRegs};
use crate::thread::Thread;

/// Where movable images go: two thirds of the programs' half, as on Linux (`ELF_ET_DYN_BASE`).
const MOVABLE_BASE: u64 = (USER_END / 3 * 2) & !(PAGE_SIZE - 1);

/// Lowest address of the first thread's stack.
const STACK_BOTTOM: u64 = USER_END - STACK_SIZE;

/// Bytes of arguments, environment and their pointers: a quarter of the stack, as on Linux.
const START_ROOM: usize = STACK_SIZE as usize / 4;

/// RFLAGS of a new program: interrupts on, and bit 1, which is always set.
const RFLAGS: u64 = 0x202;

/// A process that is ready to run: hand the thread and its registers to [`System::spawn`]. If that fails, call
/// [`crate::thread_exit`] for the thread: as the process's only one it takes the process with it.
pub struct Loaded<S: System> {
    /// The process.
    pub process: Arc<Process<S>>,
    /// Its first thread.
    pub thread: Arc<Thread<S>>,
    /// What the thread starts with.
    pub regs: UserRegs,
}

/// Why a program was not loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The file is no program for this kernel.
    Elf(ElfError),
    /// Its segments leave no room for the stack, or cannot be moved to where there is room.
    NoRoom,
    /// Arguments or environment are malformed or too long.
    Arguments(StackError),
    /// Memory or process numbers ran out (`ENOMEM`, `EAGAIN`).
    Refused(Errno),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Elf(error) => write!(f, "cannot run this file: {error}"),
            LoadError::NoRoom => write!(f, "its segments do not fit below the stack"),
            LoadError::Arguments(StackError::Unterminated) => write!(f, "an argument or environment string has no end"),
            LoadError::Arguments(StackError::TooLong) => {
                write!(f, "arguments and environment are longer than {START_ROOM} bytes")
            }
            LoadError::Arguments(StackError::OutOfMemory) => write!(f, "no memory for its arguments"),
            LoadError::Refused(errno) => write!(f, "no memory or no process number for it ({})", errno.name()),
        }
    }
}

impl From<ElfError> for LoadError {
    fn from(error: ElfError) -> Self {
        LoadError::Elf(error)
    }
}

impl From<StackError> for LoadError {
    fn from(error: StackError) -> Self {
        LoadError::Arguments(error)
    }
}

impl From<Errno> for LoadError {
    fn from(errno: Errno) -> Self {
        LoadError::Refused(errno)
    }
}

/// Loads the program in `file` with arguments and environment (`args`, `env`: strings each ended by a NUL).
/// `kernel_root` is the physical address of a root table whose upper half every address space shares.
///
/// # Errors
/// See [`LoadError`]; nothing remains then.
pub fn load<S: System>(file: &[u8], args: &[u8], env: &[u8], kernel_root: u64) -> Result<Loaded<S>, LoadError> {
    let image = Image::parse(file)?;
    let bias = bias(&image)?;
    let mut random = [0; 16];
    S::random(&mut random);
    let start = Start {
        args,
        env,
        headers: image.headers.map_or(0, |headers| headers.wrapping_add(bias)),
        header_count: image.header_count,
        entry: image.entry.wrapping_add(bias),
        facts: S::user_facts(),
        random,
    };
    let stack = Stack::build(USER_END & !15, START_ROOM, &start)?;

    let space = AddressSpace::<S>::new(S::memory(), kernel_root)?;
    for segment in &image.segments {
        map_segment(&space, segment, bias, file)?;
    }
    space.set_brk_start(image.extent().end.wrapping_add(bias));
    map_fixed(&space, STACK_BOTTOM, STACK_SIZE, image.stack_prot)?;
    space.set_stack(stack.sp);
    space.write_initial(stack.sp, &stack.bytes)?;

    let process = Process::new(space)?;
    let thread = Thread::new(process.id(), process.clone(), None).map_err(Errno::from)?;
    let name = short_name(args);
    thread.set_name(name);
    process.space().tally().set_owner(process.id(), &name);
    process.add(thread.clone())?;
    let regs = UserRegs { rip: start.entry, rsp: stack.sp, rflags: RFLAGS, ..UserRegs::default() };
    Ok(Loaded { process, thread, regs })
}

/// What to add to every address of the file.
fn bias(image: &Image) -> Result<u64, LoadError> {
    let extent = image.extent();
    let bias = match image.placement {
        Placement::Fixed => 0,
        // Linux aligns downwards too.
        Placement::Movable { align } => (MOVABLE_BASE & !(align - 1)).wrapping_sub(extent.start & !(align - 1)),
    };
    let start = extent.start.wrapping_add(bias);
    let end = start.checked_add(extent.end - extent.start).ok_or(LoadError::NoRoom)?;
    if start < MMAP_MIN_ADDR || end > STACK_BOTTOM { Err(LoadError::NoRoom) } else { Ok(bias) }
}

fn map_segment<S: System>(space: &AddressSpace<S>, segment: &Segment, bias: u64, file: &[u8]) -> Result<(), Errno> {
    let pages = segment.pages();
    map_fixed(space, pages.start.wrapping_add(bias), pages.end - pages.start, segment.prot)?;
    // What is left of the pages is zero, because fresh anonymous pages are.
    let bytes = &file[segment.file_offset..segment.file_offset + segment.file_len];
    space.write_initial(segment.start.wrapping_add(bias), bytes)
}

fn map_fixed<S: System>(space: &AddressSpace<S>, addr: u64, len: u64, prot: u32) -> Result<(), Errno> {
    debug_assert!(prot & !(prot::READ | prot::WRITE | prot::EXEC) == 0, "rights come from a checked image");
    let flags = map::PRIVATE | map::ANONYMOUS | map::FIXED_NOREPLACE;
    space.mmap(MapRequest { addr, len, prot, flags })?;
    Ok(())
}

/// The thread's first name: the last part of `argv[0]`, cut to 15 bytes.
fn short_name(args: &[u8]) -> [u8; crate::thread::NAME_LEN] {
    let path = args.split(|&byte| byte == 0).next().unwrap_or_default();
    let last = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let mut name = [0; crate::thread::NAME_LEN];
    let len = last.len().min(name.len() - 1);
    name[..len].copy_from_slice(&last[..len]);
    name
}
