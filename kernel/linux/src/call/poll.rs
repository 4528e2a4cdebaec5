//! `poll(2)` and `ppoll(2)`: only the standard input is ever not ready.

use core::marker::PhantomData;

use abi::{Errno, nr};
use sync::Waited;

use super::signal::{SET_SIZE, read_set};
use super::time::{Timespec, sleep, timespec_words};
use super::{Args, Caller, Entry};
use crate::deliver;
use crate::files::{File, MAX_FILES};
use crate::system::System;
use crate::usercopy;

pub(super) struct Calls<S>(PhantomData<S>);

impl<S: System> Calls<S> {
    pub(super) const LIST: &'static [Entry<S>] = &[(nr::poll, poll), (nr::ppoll, ppoll)];
}

const POLLIN: u16 = 0x001;
const POLLOUT: u16 = 0x004;
const POLLNVAL: u16 = 0x020;
const POLLRDNORM: u16 = 0x040;
const POLLWRNORM: u16 = 0x100;

/// Bytes of `struct pollfd`: descriptor (4), events asked for (2), events found (2).
const POLLFD_SIZE: u64 = 8;

/// The program's array.
#[derive(Clone, Copy)]
struct Polled {
    address: u64,
    count: u64,
}

/// What a look at the array found.
#[derive(Clone, Copy, Default)]
struct Found {
    /// Descriptors with events.
    ready: u64,
    /// The standard input is among those asked about, and is not ready.
    waits_for_input: bool,
}

/// Whether a look writes what it finds back to the program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WriteBack {
    Yes,
    No,
}

impl Polled {
    fn look<S: System>(self, caller: &Caller<'_, S>, write_back: WriteBack) -> Result<Found, Errno> {
        let mut found = Found::default();
        for index in 0..self.count {
            let entry = self.address.wrapping_add(POLLFD_SIZE * index);
            let [word] = usercopy::read_words::<S, 1>(entry)?;
            let (fd, asked) = (word as i32, (word >> 32) as u16);
            let events = match u32::try_from(fd) {
                Err(_) => 0, // negative descriptors are skipped
                Ok(fd) => {
                    let file = caller.process().files.lock().get(fd).map(|descriptor| descriptor.file);
                    match file {
                        Err(_) => POLLNVAL,
                        Ok(File::Out(_)) => asked & (POLLOUT | POLLWRNORM),
                        // As all regular files and directories on Linux.
                        Ok(File::Opened(_)) => asked & (POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM),
                        Ok(File::In) if S::stdin_ready() => asked & (POLLIN | POLLRDNORM),
                        Ok(File::In) => {
                            found.waits_for_input |= asked & (POLLIN | POLLRDNORM) != 0;
                            0
                        }
                    }
                }
            };
            found.ready += u64::from(events != 0);
            if write_back == WriteBack::Yes {
                S::copy_out(entry.wrapping_add(6), &events.to_le_bytes())?;
            }
        }
        Ok(found)
    }

    /// Waits until a descriptor has an event or the deadline passes; returns how many have.
    fn wait<S: System>(self, caller: &Caller<'_, S>, deadline: Option<u64>) -> Result<u64, Errno> {
        if self.count > MAX_FILES as u64 {
            return Err(Errno::EINVAL);
        }
        loop {
            let found = self.look(caller, WriteBack::No)?;
            let too_late = deadline.is_some_and(|deadline| S::now_ns() >= deadline);
            if found.ready > 0 || too_late {
                let ready = self.look(caller, WriteBack::Yes)?.ready;
                // Another thread may have read the input between the two looks.
                if ready > 0 || too_late {
                    return Ok(ready);
                }
            } else if found.waits_for_input {
                if S::wait_stdin(deadline) == Waited::Interrupted {
                    return Err(Errno::EINTR);
                }
            } else {
                sleep::<S>(deadline)?;
            }
        }
    }
}

/// `poll(array, count, milliseconds)`: a negative time is for ever.
fn poll<S: System>(caller: &Caller<'_, S>, [address, count, timeout, ..]: Args) -> Result<u64, Errno> {
    let timeout = u64::try_from(timeout as i32).ok();
    let deadline = timeout.map(|ms| S::now_ns().saturating_add(ms * 1_000_000));
    Polled { address, count: u64::from(count as u32) }.wait(caller, deadline)
}

/// `ppoll(array, count, time, mask, mask size)`: the rest of the time is written back, as Linux's call does.
fn ppoll<S: System>(caller: &Caller<'_, S>, [address, count, time, mask, size, _]: Args) -> Result<u64, Errno> {
    let deadline = match time {
        0 => None,
        _ => Some(S::now_ns().saturating_add(Timespec::read::<S>(time)?.checked_ns()?)),
    };
    let mask = match mask {
        0 => None,
        _ if size != SET_SIZE => return Err(Errno::EINVAL),
        _ => Some(read_set::<S>(mask)?),
    };
    let before = caller.thread.blocked();
    if let Some(mask) = mask {
        deliver::set_mask(caller.thread, mask);
    }
    let outcome = Polled { address, count: u64::from(count as u32) }.wait(caller, deadline);
    if mask.is_some() {
        deliver::set_mask(caller.thread, before);
    }
    if let Some(deadline) = deadline {
        // Linux ignores a time that cannot be written.
        let rest = deadline.saturating_sub(S::now_ns());
        let _ = usercopy::write_words::<S>(time, &timespec_words(rest));
    }
    outcome
}
