//! Reading and writing user memory: the only code of the kernel that may.
//!
//! SMAP forbids the kernel to touch user pages; the routines below open that door with `stac` for just their accesses. A
//! page fault inside them is served like the program's own (`sched::user_access_fault`). If it cannot be served,
//! `trap::page_fault` sends the routine to its **landing**, where it closes the door and reports failure: `EFAULT`.
//!
//! User memory is never touched inside a VMA read section, under a spin lock or in an interrupt: serving the fault may sleep.
//! All of these have interrupts off. Nor inside an update transaction, where the fault could wait for the very mark that the
//! caller set; `linux` copies before and after, never within. Debug builds check for all of it (`sync::order`).

use core::arch::naked_asm;

use abi::{Errno, USER_END};
use sync::{InterruptState, order, point};

use super::cpu;
use crate::platform::Machine;

/// Checks that `len` bytes at `user` lie in the user half, and in debug builds that the caller may fault.
#[track_caller]
fn check(user: u64, len: usize) -> Result<(), Errno> {
    debug_assert_eq!(cpu::interrupt_state(), InterruptState::On, "user memory touched where a fault cannot be served");
    order::may_touch_user::<Machine>();
    point!(Machine, "user-copying");
    match user.checked_add(len as u64) {
        Some(end) if end <= USER_END => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// Copies user memory at `user` into `dst`.
///
/// # Errors
/// `EFAULT` if a byte cannot be read; `dst` may have been written in part.
#[track_caller]
pub fn copy_in(dst: &mut [u8], user: u64) -> Result<(), Errno> {
    check(user, dst.len())?;
    // SAFETY: `dst` is ours; the source is checked to be user memory, where faults land.
    match unsafe { copy(dst.as_mut_ptr(), user as *const u8, dst.len()) } {
        0 => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// Copies `src` to user memory at `user`.
///
/// # Errors
/// `EFAULT` if a byte cannot be written; some may have been.
#[track_caller]
pub fn copy_out(user: u64, src: &[u8]) -> Result<(), Errno> {
    check(user, src.len())?;
    // SAFETY: `src` is ours; the destination is checked to be user memory, where faults land.
    match unsafe { copy(user as *mut u8, src.as_ptr(), src.len()) } {
        0 => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// Sets `len` bytes of user memory to 0.
///
/// # Errors
/// `EFAULT` if a byte cannot be written; some may have been.
#[track_caller]
pub fn clear(user: u64, len: usize) -> Result<(), Errno> {
    check(user, len)?;
    // SAFETY: checked to be user memory, where faults land.
    match unsafe { zero(user as *mut u8, len) } {
        0 => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// Loads a word that other threads may be changing (Acquire, as all loads on x86_64).
///
/// # Errors
/// `EFAULT` if it cannot be read; `EINVAL` if it is not aligned.
#[track_caller]
pub fn load_u32(user: u64) -> Result<u32, Errno> {
    check(user, 4)?;
    if !user.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    // SAFETY: checked to be user memory, where faults land.
    let result = unsafe { load(user as *const u32) };
    unpack(result)
}

/// Stores `new` if the word is `old`, atomically; returns what it was.
///
/// # Errors
/// `EFAULT` if it cannot be written; `EINVAL` if it is not aligned.
#[track_caller]
pub fn compare_exchange_u32(user: u64, old: u32, new: u32) -> Result<u32, Errno> {
    check(user, 4)?;
    if !user.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    // SAFETY: checked to be user memory, where faults land.
    let result = unsafe { compare_exchange(user as *mut u32, old, new) };
    unpack(result)
}

/// The word routines return the word, or a value above 32 bits for a fault.
fn unpack(result: u64) -> Result<u32, Errno> {
    u32::try_from(result).map_err(|_| Errno::EFAULT)
}

/// Where the instruction at `rip` goes on if its access to user memory fails; `None` if it may not fault at all.
pub(super) fn landing(rip: u64) -> Option<u64> {
    let within = |first: unsafe extern "C" fn(), last: unsafe extern "C" fn()| {
        (first as *const () as u64..last as *const () as u64).contains(&rip)
    };
    if within(uaccess_bytes_begin, uaccess_bytes_end) {
        Some(uaccess_bytes_end as *const () as u64)
    } else if within(uaccess_zero_begin, uaccess_zero_end) {
        Some(uaccess_zero_end as *const () as u64)
    } else if within(uaccess_load_begin, uaccess_load_end) || within(uaccess_exchange_begin, uaccess_exchange_end) {
        Some(uaccess_word_fault as *const () as u64)
    } else {
        None
    }
}

unsafe extern "C" {
    // Labels in the routines below: what may fault, from `begin` to before `end`.
    fn uaccess_bytes_begin();
    fn uaccess_bytes_end();
    fn uaccess_zero_begin();
    fn uaccess_zero_end();
    fn uaccess_load_begin();
    fn uaccess_load_end();
    fn uaccess_exchange_begin();
    fn uaccess_exchange_end();
    fn uaccess_word_fault();
}

/// Copies `len` bytes, eight at a time and then the rest. Returns 0, or something else after a fault.
///
/// # Safety
/// One side is the caller's for `len` bytes, the other is user memory by address.
#[unsafe(naked)]
unsafe extern "C" fn copy(dst: *mut u8, src: *const u8, len: usize) -> u64 {
    naked_asm!(
        "mov rcx, rdx",
        "shr rcx, 3",
        "and edx, 7",
        "stac",
        "uaccess_bytes_begin:",
        "rep movsq",
        "mov ecx, edx",
        "xor edx, edx",
        "rep movsb",
        "uaccess_bytes_end:", // also the landing: what is left to do is in RCX and RDX
        "clac",
        "lea rax, [rcx + rdx]",
        "ret",
    )
}

/// Zeroes `len` bytes. Returns 0, or something else after a fault.
///
/// # Safety
/// The range is user memory by address.
#[unsafe(naked)]
unsafe extern "C" fn zero(dst: *mut u8, len: usize) -> u64 {
    naked_asm!(
        "mov rcx, rsi",
        "mov edx, esi",
        "shr rcx, 3",
        "and edx, 7",
        "xor eax, eax",
        "stac",
        "uaccess_zero_begin:",
        "rep stosq",
        "mov ecx, edx",
        "xor edx, edx",
        "rep stosb",
        "uaccess_zero_end:",
        "clac",
        "lea rax, [rcx + rdx]",
        "ret",
    )
}

/// Loads a word; a fault gives a value above `u32::MAX`.
///
/// # Safety
/// The address is user memory by address.
#[unsafe(naked)]
unsafe extern "C" fn load(from: *const u32) -> u64 {
    naked_asm!(
        "stac",
        "uaccess_load_begin:",
        "mov eax, [rdi]",
        "uaccess_load_end:",
        "clac",
        "ret",
        "uaccess_word_fault:", // the landing of both word routines
        "clac",
        "mov rax, -1",
        "ret",
    )
}

/// Compares and exchanges a word; a fault gives a value above `u32::MAX`.
///
/// # Safety
/// The address is user memory by address.
#[unsafe(naked)]
unsafe extern "C" fn compare_exchange(at: *mut u32, old: u32, new: u32) -> u64 {
    naked_asm!(
        "mov eax, esi",
        "stac",
        "uaccess_exchange_begin:",
        "lock cmpxchg [rdi], edx",
        "uaccess_exchange_end:",
        "clac",
        "mov eax, eax", // what it was, without stale high bits
        "ret",
    )
}
