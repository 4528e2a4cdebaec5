//! System calls without the C library's help: no retries, no argument checks, no vDSO. Every program that asks what the
//! *kernel* answers goes through here.

use std::ptr::NonNull;

/// An error number as the kernel gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match name(self.0) {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

/// The symbolic names of the errors that the tests meet.
fn name(errno: i32) -> Option<&'static str> {
    Some(match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EINTR => "EINTR",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::ENOTTY => "ENOTTY",
        libc::ESPIPE => "ESPIPE",
        libc::ENOSYS => "ENOSYS",
        libc::EOVERFLOW => "EOVERFLOW",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::ETIMEDOUT => "ETIMEDOUT",
        _ => return None,
    })
}

/// What the kernel answered.
pub type Answer = Result<usize, Errno>;

/// Makes system call `number`.
///
/// # Safety
/// The call must not break the memory that the program itself lives in: no unmapping or writing of anything that Rust
/// code still uses, no second thread on the same stack. Bad pointers as such are fine; the kernel must survive them.
pub unsafe fn call(number: i64, args: [usize; 6]) -> Answer {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the caller's promise is exactly what `syscall` needs beyond passing registers through.
    let value = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if value == -1 {
        Err(Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)))
    } else {
        Ok(value as usize)
    }
}

/// Whether the kernel can read four bytes at `address` for this program: asked by a futex wait that cannot sleep.
/// `address` must be a multiple of four.
pub fn readable(address: usize) -> bool {
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let timeout = &raw const zero as usize;
    let operation = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
    // SAFETY: the call only reads, and its timeout of zero ends it at once when the words happen to be equal.
    let answer = unsafe { call(libc::SYS_futex, [address, operation, 0x5eed_5eed, timeout, 0, 0]) };
    !matches!(answer, Err(Errno(libc::EFAULT)))
}

/// Whether the kernel can write sixteen bytes at `place` for this program: asked by a clock that is read into it.
/// Where it can, the sixteen bytes are overwritten.
///
/// # Safety
/// Nothing but the caller may use those sixteen bytes.
pub unsafe fn writable(place: NonNull<u8>) -> bool {
    let clock = libc::CLOCK_MONOTONIC as usize;
    // SAFETY: the caller owns the only bytes that the call writes.
    let answer = unsafe { call(libc::SYS_clock_gettime, [clock, place.as_ptr() as usize, 0, 0, 0, 0]) };
    !matches!(answer, Err(Errno(libc::EFAULT)))
}

/// Number of CPUs that this process may run on.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
