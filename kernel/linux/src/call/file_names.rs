//! Calls that take a path, and those that describe a file.
//!
//! There is no file system yet, so every name is honestly not found; arguments are still checked as Linux does. The
//! streams can be described: as pipes.

use core::marker::PhantomData;

use abi::{Errno, nr};

use super::{Args, Caller, Entry};
use crate::stack::USER_ID;
use crate::system::System;
use crate::usercopy;

pub(super) struct Calls<S>(PhantomData<S>);

impl<S: System> Calls<S> {
    pub(super) const LIST: &'static [Entry<S>] = &[
        (nr::open, path_first),
        (nr::stat, path_first),
        (nr::lstat, path_first),
        (nr::access, path_first),
        (nr::readlink, path_first),
        (nr::chdir, path_first),
        (nr::openat, path_second),
        (nr::faccessat, path_second),
        (nr::faccessat2, path_second),
        (nr::readlinkat, path_second),
        (nr::newfstatat, newfstatat),
        (nr::statx, statx),
        (nr::fstat, fstat),
        (nr::getcwd, getcwd),
    ];
}

/// Longest path with its NUL (`PATH_MAX`).
const PATH_MAX: u64 = 4096;

/// `AT_FDCWD`: relative paths start at the working directory.
const AT_FDCWD: i32 = -100;

/// What matters about a path when no name exists.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    Empty,
    Absolute,
    Relative,
}

/// Reads a path for the errors that it can lead to.
///
/// # Errors
/// `EFAULT`, `ENAMETOOLONG`.
fn read_path<S: System>(address: u64) -> Result<Path, Errno> {
    let mut chunk = [0; 256];
    let mut path = None;
    let mut read = 0;
    while read < PATH_MAX {
        let at = address.checked_add(read).ok_or(Errno::EFAULT)?;
        let end = usercopy::read_string::<S>(at, &mut chunk)?;
        path = path.or(Some(match chunk[0] {
            0 => Path::Empty,
            b'/' => Path::Absolute,
            _ => Path::Relative,
        }));
        if let (Some(_), Some(path)) = (end, path) {
            return Ok(path);
        }
        read += chunk.len() as u64;
    }
    Err(Errno::ENAMETOOLONG)
}

/// Looks a path up from the directory `dirfd`: says why it cannot be found.
fn look_up<S: System>(caller: &Caller<'_, S>, dirfd: u64, path: u64) -> Errno {
    let path = match read_path::<S>(path) {
        Ok(path) => path,
        Err(errno) => return errno,
    };
    if path == Path::Relative && dirfd as i32 != AT_FDCWD {
        // A descriptor that is open is a stream, and no directory.
        return match caller.process().files.lock().get(dirfd as u32) {
            Ok(_) => Errno::ENOTDIR,
            Err(errno) => errno,
        };
    }
    Errno::ENOENT
}

/// Calls whose first argument is a path.
fn path_first<S: System>(caller: &Caller<'_, S>, [path, ..]: Args) -> Result<u64, Errno> {
    Err(look_up(caller, AT_FDCWD as u64, path))
}

/// Calls whose arguments begin with a directory and a path.
fn path_second<S: System>(caller: &Caller<'_, S>, [dirfd, path, ..]: Args) -> Result<u64, Errno> {
    Err(look_up(caller, dirfd, path))
}

/// The working directory has no name: what Linux says when it has been removed.
fn getcwd<S: System>(_: &Caller<'_, S>, _: Args) -> Result<u64, Errno> {
    Err(Errno::ENOENT)
}

/// `st_mode` of a stream: a pipe (`S_IFIFO`) that its owner may read and write.
const STREAM_MODE: u64 = 0o10600;

/// `st_blksize` of a pipe.
const BLOCK_SIZE: u64 = 4096;

/// `fstat(fd, stat)`.
fn fstat<S: System>(caller: &Caller<'_, S>, [fd, stat, ..]: Args) -> Result<u64, Errno> {
    caller.process().files.lock().get(fd as u32)?;
    // struct stat: device, inode, links, mode and user, group, device, size, block size, then blocks, times and room.
    let mut words = [0; 18];
    words[1] = inode(fd);
    words[2] = 1;
    words[3] = STREAM_MODE | USER_ID << 32;
    words[4] = USER_ID;
    words[7] = BLOCK_SIZE;
    usercopy::write_words::<S>(stat, &words).map(|()| 0)
}

fn inode(fd: u64) -> u64 {
    u64::from(fd as u32) + 1
}

const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_NO_AUTOMOUNT: u32 = 0x800;
const AT_EMPTY_PATH: u32 = 0x1000;
const AT_STATX_SYNC_TYPE: u32 = 0x6000;

/// Whether a path asks for the descriptor itself: empty, or not given, with the flag that allows it.
fn names_descriptor<S: System>(path: u64, flags: u32) -> Result<bool, Errno> {
    Ok(flags & AT_EMPTY_PATH != 0 && (path == 0 || read_path::<S>(path)? == Path::Empty))
}

/// `newfstatat(dirfd, path, stat, flags)`: with an empty path it is how C libraries do `fstat`.
fn newfstatat<S: System>(caller: &Caller<'_, S>, [dirfd, path, stat, flags, ..]: Args) -> Result<u64, Errno> {
    let flags = flags as u32;
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    if names_descriptor::<S>(path, flags)? && dirfd as i32 != AT_FDCWD {
        return fstat(caller, [dirfd, stat, 0, 0, 0, 0]);
    }
    Err(look_up(caller, dirfd, path))
}

/// `stx_mask`: all that `stat` tells.
const STATX_BASIC_STATS: u64 = 0x7ff;
/// A bit that no program may set in its mask.
const STATX_RESERVED: u32 = 1 << 31;

/// `statx(dirfd, path, flags, mask, statx)`.
fn statx<S: System>(caller: &Caller<'_, S>, [dirfd, path, flags, mask, address, _]: Args) -> Result<u64, Errno> {
    let flags = flags as u32;
    let known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE;
    if mask as u32 & STATX_RESERVED != 0 || flags & !known != 0 || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE {
        return Err(Errno::EINVAL);
    }
    if !names_descriptor::<S>(path, flags)? || dirfd as i32 == AT_FDCWD {
        return Err(look_up(caller, dirfd, path));
    }
    caller.process().files.lock().get(dirfd as u32)?;
    // struct statx: mask and block size, attributes, links and user, group and mode, inode, then sizes, times and
    // devices.
    let mut words = [0; 32];
    words[0] = STATX_BASIC_STATS | BLOCK_SIZE << 32;
    words[2] = 1 | USER_ID << 32;
    words[3] = USER_ID | STREAM_MODE << 32;
    words[4] = inode(dirfd);
    usercopy::write_words::<S>(address, &words).map(|()| 0)
}
