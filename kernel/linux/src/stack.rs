//! The stack that a program starts with: arguments, environment, auxiliary vector (System V ABI for AMD64, section
//! 3.4.1).
//!
//! ```text
//! top    8 bytes of zeros
//!        environment strings, argument strings      (each ended by a NUL, in order)
//!        "x86_64", 16 random bytes
//!        padding
//!        auxiliary vector, ended by AT_NULL
//!        pointers to the environment strings, 0
//!        pointers to the argument strings, 0
//! sp     number of arguments                          (sp is a multiple of 16)
//! ```
//!
//! Built as bytes, from plain data: nothing here knows an address space.

use alloc::boxed::Box;

use abi::PAGE_SIZE;
use sync::alloc::{AllocError, try_box_slice};

use crate::system::UserFacts;

/// User and group number of every program: an ordinary user, for whom [`abi::MMAP_MIN_ADDR`] holds.
pub const USER_ID: u64 = 1000;

/// `AT_PLATFORM`.
const PLATFORM: &[u8] = b"x86_64\0";

/// Zeros above everything; `AT_EXECFN` points here if there are no arguments.
const TOP_ZEROS: usize = 8;

/// `AT_CLKTCK`: ticks a second in the units of `times(2)`; always 100 on x86_64 Linux.
const CLOCK_TICKS: u64 = 100;

/// Keys of the auxiliary vector (`getauxval(3)`).
pub mod at {
    #![expect(missing_docs, reason = "the names and meanings are those of Linux's manual pages")]
    pub const NULL: u64 = 0;
    pub const PHDR: u64 = 3;
    pub const PHENT: u64 = 4;
    pub const PHNUM: u64 = 5;
    pub const PAGESZ: u64 = 6;
    pub const BASE: u64 = 7;
    pub const FLAGS: u64 = 8;
    pub const ENTRY: u64 = 9;
    pub const UID: u64 = 11;
    pub const EUID: u64 = 12;
    pub const GID: u64 = 13;
    pub const EGID: u64 = 14;
    pub const PLATFORM: u64 = 15;
    pub const HWCAP: u64 = 16;
    pub const CLKTCK: u64 = 17;
    pub const SECURE: u64 = 23;
    pub const RANDOM: u64 = 25;
    pub const HWCAP2: u64 = 26;
    pub const EXECFN: u64 = 31;
    pub const MINSIGSTKSZ: u64 = 51;
}

/// What a stack is made from.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// Arguments, each ended by a NUL.
    pub args: &'a [u8],
    /// Environment, each ended by a NUL.
    pub env: &'a [u8],
    /// Address of the program headers; 0 if they are not in memory.
    pub headers: u64,
    /// Number of program headers.
    pub header_count: u16,
    /// First instruction.
    pub entry: u64,
    /// What programs are told about the machine.
    pub facts: UserFacts,
    /// For `AT_RANDOM`.
    pub random: [u8; 16],
}

/// The bytes of a new stack, from the stack pointer to the top.
#[derive(Debug)]
pub struct Stack {
    /// Where the program's stack pointer starts, and where [`Stack::bytes`] belong.
    pub sp: u64,
    /// What is there.
    pub bytes: Box<[u8]>,
}

/// Why no stack can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackError {
    /// The last argument or environment string has no NUL.
    Unterminated,
    /// Arguments and environment are longer than the room for them.
    TooLong,
    /// No memory.
    OutOfMemory,
}

impl From<AllocError> for StackError {
    fn from(_: AllocError) -> Self {
        StackError::OutOfMemory
    }
}

/// Number of strings in a block of NUL-terminated strings.
fn count(block: &[u8]) -> Result<usize, StackError> {
    match block.last() {
        None => Ok(0),
        Some(0) => Ok(block.iter().filter(|&&byte| byte == 0).count()),
        Some(_) => Err(StackError::Unterminated),
    }
}

impl Stack {
    /// Builds the stack that ends at `top` (a multiple of 16) and takes at most `room` bytes.
    ///
    /// # Errors
    /// See [`StackError`].
    pub fn build(top: u64, room: usize, start: &Start<'_>) -> Result<Stack, StackError> {
        let (arg_count, env_count) = (count(start.args)?, count(start.env)?);
        if start.args.len().saturating_add(start.env.len()) > room {
            return Err(StackError::TooLong);
        }

        // Addresses of the strings, from the top down. Sums stay small: the strings fit into `room`.
        let env_at = top - TOP_ZEROS as u64 - start.env.len() as u64;
        let args_at = env_at - start.args.len() as u64;
        let platform_at = args_at - PLATFORM.len() as u64;
        let random_at = platform_at - start.random.len() as u64;

        let auxv = [
            (at::HWCAP, start.facts.hwcap),
            (at::PAGESZ, PAGE_SIZE),
            (at::CLKTCK, CLOCK_TICKS),
            (at::PHDR, start.headers),
            (at::PHENT, crate::elf::PROGRAM_HEADER_SIZE),
            (at::PHNUM, u64::from(start.header_count)),
            (at::BASE, 0), // where the dynamic linker is: there is none
            (at::FLAGS, 0),
            (at::ENTRY, start.entry),
            (at::UID, USER_ID),
            (at::EUID, USER_ID),
            (at::GID, USER_ID),
            (at::EGID, USER_ID),
            (at::SECURE, 0),
            (at::RANDOM, random_at),
            (at::HWCAP2, start.facts.hwcap2),
            (at::EXECFN, if arg_count > 0 { args_at } else { top - TOP_ZEROS as u64 }),
            (at::PLATFORM, platform_at),
            (at::MINSIGSTKSZ, start.facts.min_signal_stack),
            (at::NULL, 0),
        ];

        let words = 1 + (arg_count + 1) + (env_count + 1) + 2 * auxv.len();
        let sp = (random_at - 8 * words as u64) & !15;
        let len = (top - sp) as usize;
        if len > room {
            return Err(StackError::TooLong);
        }

        let mut bytes = try_box_slice(len, |_| 0u8)?;
        let mut put = |address: u64, what: &[u8]| {
            let offset = (address - sp) as usize;
            bytes[offset..offset + what.len()].copy_from_slice(what);
        };
        put(env_at, start.env);
        put(args_at, start.args);
        put(platform_at, PLATFORM);
        put(random_at, &start.random);

        let mut next = sp;
        let mut word = |value: u64| {
            put(next, &value.to_le_bytes());
            next += 8;
        };
        word(arg_count as u64);
        for (block, block_at) in [(start.args, args_at), (start.env, env_at)] {
            let mut string_at = block_at;
            for string in block.split_inclusive(|&byte| byte == 0) {
                word(string_at);
                string_at += string.len() as u64;
            }
            word(0);
        }
        for (key, value) in auxv {
            word(key);
            word(value);
        }
        Ok(Stack { sp, bytes })
    }
}
