//! QEMU's firmware configuration device: how the launcher hands options and the program to the kernel.
//!
//! Files are found in a directory by name (`abi::fw_cfg`). Small ones are read byte by byte through the data port, which
//! needs no memory and works from the first moment on; large ones by DMA, straight into a buffer.
//! Specification: QEMU, `docs/specs/fw_cfg.rst`. All of the device's numbers are big-endian.

use alloc::boxed::Box;
use core::sync::atomic::{Ordering, fence};

use sync::{AllocError, Class, SpinLock};
use x86_64::instructions::port::Port;

use crate::arch::paging;
use crate::platform::Machine;

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const DMA_HIGH: u16 = 0x514;
const DMA_LOW: u16 = 0x518;

const ITEM_SIGNATURE: u16 = 0;
const ITEM_DIRECTORY: u16 = 0x19;

/// Serialises the device: selecting and reading belong together.
static DEVICE: SpinLock<Machine, ()> = sync::spin_lock(Class::FwCfg, ());

/// A file of the device.
#[derive(Clone, Copy, Debug)]
pub struct File {
    item: u16,
    /// Its length in bytes.
    pub len: usize,
}

/// Why a file could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// There is no memory for it.
    NoMemory,
    /// The device reported an error.
    Device,
}

impl From<AllocError> for ReadError {
    fn from(_: AllocError) -> ReadError {
        ReadError::NoMemory
    }
}

fn select(item: u16) {
    // SAFETY: the selector port only chooses what the data port shows.
    unsafe { Port::<u16>::new(SELECTOR).write(item) };
}

fn next_bytes(buffer: &mut [u8]) {
    let mut data = Port::<u8>::new(DATA);
    for byte in buffer {
        // SAFETY: reading the data port only moves on in the selected item.
        *byte = unsafe { data.read() };
    }
}

fn next<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    next_bytes(&mut bytes);
    bytes
}

/// Looks a file up. `None` if the launcher gave none of that name, or there is no such device.
pub fn find(name: &str) -> Option<File> {
    let _device = DEVICE.lock();
    select(ITEM_SIGNATURE);
    if next() != *b"QEMU" {
        return None;
    }
    select(ITEM_DIRECTORY);
    let count = u32::from_be_bytes(next());
    for _ in 0..count {
        let len = u32::from_be_bytes(next());
        let item = u16::from_be_bytes(next());
        let _reserved: [u8; 2] = next();
        let file_name: [u8; 56] = next();
        let end = file_name.iter().position(|byte| *byte == 0).unwrap_or(file_name.len());
        if &file_name[..end] == name.as_bytes() {
            return Some(File { item, len: len as usize });
        }
    }
    None
}

/// Reads a file of at most `buffer.len()` bytes without needing memory. `None` if there is none or it is longer.
pub fn read_small<'a>(name: &str, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let file = find(name)?;
    let bytes = buffer.get_mut(..file.len)?;
    let _device = DEVICE.lock();
    select(file.item);
    next_bytes(bytes);
    Some(bytes)
}

/// Reads a whole file into new memory; `None` if the launcher gave none of that name.
///
/// # Errors
/// [`ReadError`], if there is no memory or the device fails.
pub fn read(name: &str) -> Result<Option<Box<[u8]>>, ReadError> {
    let Some(file) = find(name) else { return Ok(None) };
    let mut bytes = sync::alloc::try_box_slice(file.len, |_| 0u8)?;
    let _device = DEVICE.lock();
    select(file.item);
    let mut rest = &mut bytes[..];
    while !rest.is_empty() {
        // Page by page: that much is contiguous in physical memory wherever the buffer lies.
        let in_page = 4096 - rest.as_ptr().addr() % 4096;
        let (part, after) = rest.split_at_mut(in_page.min(rest.len()));
        dma_read(part)?;
        rest = after;
    }
    Ok(Some(bytes))
}

/// Whether the launcher asked for the planted fault `name`.
pub fn planted(name: &str) -> bool {
    let mut buffer = [0; 256];
    let Some(list) = read_small(abi::fw_cfg::PLANT, &mut buffer) else { return false };
    list.split(|&byte| byte == 0).any(|entry| entry == name.as_bytes())
}

/// The device's command block.
#[repr(C, align(16))]
struct Command {
    control: u32,
    len: u32,
    address: u64,
}

/// Reads the next bytes of the selected item by DMA. `part` lies in one page.
fn dma_read(part: &mut [u8]) -> Result<(), ReadError> {
    const ERROR: u32 = 1;
    const READ: u32 = 2;
    let physical = |pointer: *const u8| paging::translate(pointer.addr() as u64).ok_or(ReadError::Device);
    let mut command =
        Command { control: READ.to_be(), len: (part.len() as u32).to_be(), address: physical(part.as_ptr())?.to_be() };
    // Aligned to its size, so it lies in one page.
    let at = physical((&raw const command).cast())?;
    // The device reads the block when the low half is written: our stores must be done by then.
    fence(Ordering::SeqCst);
    // SAFETY: only sets half of an address.
    unsafe { Port::<u32>::new(DMA_HIGH).write(((at >> 32) as u32).to_be()) };
    // SAFETY: starts the transfer into `part`, which is ours for as long as it takes.
    unsafe { Port::<u32>::new(DMA_LOW).write((at as u32).to_be()) };
    loop {
        // SAFETY: our own variable, which the device changes: hence volatile.
        let control = u32::from_be(unsafe { (&raw mut command.control).read_volatile() });
        if control & ERROR != 0 {
            return Err(ReadError::Device);
        }
        if control == 0 {
            // The bytes come before the cleared control word.
            fence(Ordering::SeqCst);
            return Ok(());
        }
        core::hint::spin_loop();
    }
}
