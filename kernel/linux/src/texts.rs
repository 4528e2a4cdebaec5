//! What do the kernel's own files say? Their contents are made when they are read.

use core::fmt::{self, Write};

use alloc::vec::Vec;
use mm::AddressSpace;
use sync::alloc::{AllocError, try_extend};

use crate::names::Text;
use crate::system::System;

/// A text that grows as it is written, as long as there is memory.
struct Growing(Vec<u8>);

impl Write for Growing {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        try_extend(&mut self.0, text.as_bytes()).map_err(|_| fmt::Error)
    }
}

/// The contents of `file` now, for who reads it from address space `reader`.
///
/// # Errors
/// [`AllocError`] if memory is out.
pub(crate) fn contents<S: System>(file: Text, reader: &AddressSpace<S>) -> Result<Vec<u8>, AllocError> {
    let snapshot = match file {
        Text::MachineCounters => S::memory().snapshot(),
        Text::ProcessCounters => reader.tally().snapshot(),
    };
    let mut text = Growing(Vec::new());
    write!(text, "{snapshot}").map_err(|_| AllocError)?;
    Ok(text.0)
}
