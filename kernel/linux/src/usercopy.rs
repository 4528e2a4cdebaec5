//! Words and structures from and to programs' memory, over [`System::copy_in`] and [`System::copy_out`].
//!
//! User memory is touched only here and in the calls' own copies, never under a lock and never inside a transaction: a
//! copy may fault, and a fault may wait for a transaction's end. Structures are built and taken apart as arrays of
//! words, so that no padding of the kernel's ever reaches a program.

use abi::{Errno, PAGE_SIZE, USER_END};

use crate::system::System;

/// Checks that `len` bytes from `address` lie in the programs' half, as Linux's `access_ok` does: without looking at
/// them.
///
/// # Errors
/// `EFAULT`.
pub(crate) fn check_range(address: u64, len: u64) -> Result<(), Errno> {
    match address.checked_add(len) {
        Some(end) if end <= USER_END => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// Reads `N` 64-bit words.
pub(crate) fn read_words<S: System, const N: usize>(address: u64) -> Result<[u64; N], Errno> {
    let mut words = [0; N];
    for (index, word) in words.iter_mut().enumerate() {
        let mut bytes = [0; 8];
        S::copy_in(&mut bytes, address.wrapping_add(8 * index as u64))?;
        *word = u64::from_le_bytes(bytes);
    }
    Ok(words)
}

/// Writes 64-bit words.
pub(crate) fn write_words<S: System>(address: u64, words: &[u64]) -> Result<(), Errno> {
    for (index, word) in words.iter().enumerate() {
        S::copy_out(address.wrapping_add(8 * index as u64), &word.to_le_bytes())?;
    }
    Ok(())
}

/// Writes one 32-bit word.
pub(crate) fn write_u32<S: System>(address: u64, value: u32) -> Result<(), Errno> {
    S::copy_out(address, &value.to_le_bytes())
}

/// Reads a string up to its NUL, at most `buffer.len()` bytes with it; returns its length without the NUL, or `None` if
/// there is no NUL in that many bytes. Reads no byte of a page after the one in which the string ends.
pub(crate) fn read_string<S: System>(address: u64, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
    let mut len = 0;
    while len < buffer.len() {
        let from = address.checked_add(len as u64).ok_or(Errno::EFAULT)?;
        let chunk = in_page(from).min(buffer.len() - len);
        let part = &mut buffer[len..len + chunk];
        S::copy_in(part, from)?;
        if let Some(end) = part.iter().position(|&byte| byte == 0) {
            return Ok(Some(len + end));
        }
        len += chunk;
    }
    Ok(None)
}

/// Bytes from `address` to the end of its page: a copy that stays inside a page works wholly or not at all.
pub(crate) fn in_page(address: u64) -> usize {
    (PAGE_SIZE - address % PAGE_SIZE) as usize
}
