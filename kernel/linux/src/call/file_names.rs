//! Calls that take a path, and those that describe a file.
//!
//! Arguments are checked as Linux does, in its order. Programs run as an ordinary user: what only the superuser may
//! write they may not. There is no working directory, so a relative path from there is honestly not found. The streams
//! are described as pipes.

use core::marker::PhantomData;

use abi::{Errno, nr};
use alloc::boxed::Box;
use sync::alloc::try_box_slice;

use super::file::{FD_CLOEXEC, O_APPEND, O_CLOEXEC, O_NONBLOCK};
use super::{Args, Caller, Entry};
use crate::files::{Descriptor, File};
use crate::names::{Directory, Found, LastLink, Node, Status, walk};
use crate::opened::OpenFile;
use crate::stack::USER_ID;
use crate::system::System;
use crate::usercopy;

pub(super) struct Calls<S>(PhantomData<S>);

impl<S: System> Calls<S> {
    pub(super) const LIST: &'static [Entry<S>] = &[
        (nr::open, open),
        (nr::openat, openat),
        (nr::stat, stat),
        (nr::lstat, lstat),
        (nr::fstat, fstat),
        (nr::newfstatat, newfstatat),
        (nr::statx, statx),
        (nr::access, access),
        (nr::faccessat, faccessat),
        (nr::faccessat2, faccessat2),
        (nr::readlink, readlink),
        (nr::readlinkat, readlinkat),
        (nr::chdir, chdir),
        (nr::getcwd, getcwd),
    ];
}

/// Longest path with its NUL (`PATH_MAX`).
const PATH_MAX: usize = 4096;

/// `AT_FDCWD`: relative paths start at the working directory.
const AT_FDCWD: i32 = -100;

/// `AT_FDCWD` as an argument.
const FROM_HERE: u64 = AT_FDCWD as u64;

/// A path in the kernel's memory.
struct Path {
    bytes: Box<[u8]>,
    len: usize,
}

impl Path {
    /// Reads one.
    ///
    /// # Errors
    /// `EFAULT`, `ENAMETOOLONG`, `ENOMEM`.
    fn read<S: System>(address: u64) -> Result<Path, Errno> {
        let mut bytes = try_box_slice(PATH_MAX, |_| 0)?;
        let len = usercopy::read_string::<S>(address, &mut bytes)?.ok_or(Errno::ENAMETOOLONG)?;
        Ok(Path { bytes, len })
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Looks it up from the directory `dirfd`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`; `EBADF` if it is relative and `dirfd` is not open.
    fn look_up<S: System>(&self, caller: &Caller<'_, S>, dirfd: u64, last: LastLink) -> Result<Found, Errno> {
        if self.is_empty() {
            return Err(Errno::ENOENT);
        }
        let from = match self.bytes().first() {
            Some(b'/') => Directory::Root,
            _ if dirfd as i32 == AT_FDCWD => return Err(Errno::ENOENT),
            _ => {
                let descriptor = caller.process().files.lock().get(dirfd as u32)?;
                match descriptor.file {
                    File::Opened(file) => match file.node() {
                        Node::Directory(directory) => directory,
                        Node::SelfLink | Node::File(_) => return Err(Errno::ENOTDIR),
                    },
                    File::In | File::Out(_) => return Err(Errno::ENOTDIR),
                }
            }
        };
        walk(self.bytes(), from, last, caller.process().id())
    }
}

/// What the path at `address` names.
///
/// # Errors
/// As [`Path::read`] and [`Path::look_up`].
fn find<S: System>(caller: &Caller<'_, S>, dirfd: u64, address: u64, last: LastLink) -> Result<Node, Errno> {
    match Path::read::<S>(address)?.look_up(caller, dirfd, last)? {
        Found::Node(node) => Ok(node),
        Found::Missing(_) => Err(Errno::ENOENT),
    }
}

const O_ACCMODE: u32 = 0o3;
const O_CREAT: u32 = 0o100;
const O_EXCL: u32 = 0o200;
const O_TRUNC: u32 = 0o1_000;
const O_LARGEFILE: u32 = 0o100_000;
const O_DIRECTORY: u32 = 0o200_000;
const O_NOFOLLOW: u32 = 0o400_000;
/// The bit of `O_TMPFILE` that is its own.
const O_TMPFILE: u32 = 0o20_000_000;
const O_PATH: u32 = 0o10_000_000;

/// What `F_GETFL` still tells of the flags of `open`.
const KEPT_FLAGS: u32 = O_APPEND | O_NONBLOCK | O_DIRECTORY | O_NOFOLLOW;

/// `open(path, flags, mode)`.
fn open<S: System>(caller: &Caller<'_, S>, [path, flags, mode, ..]: Args) -> Result<u64, Errno> {
    openat(caller, [FROM_HERE, path, flags, mode, 0, 0])
}

/// `openat(dirfd, path, flags, mode)`. Descriptors that stand for a mere place (`O_PATH`) are not made: `EINVAL`.
fn openat<S: System>(caller: &Caller<'_, S>, [dirfd, path, flags, ..]: Args) -> Result<u64, Errno> {
    let flags = flags as u32;
    let makes = flags & O_CREAT != 0;
    let temporary = flags & O_TMPFILE != 0;
    let writes = flags & O_ACCMODE != 0 || flags & O_TRUNC != 0;
    if flags & O_PATH != 0 || temporary && flags & O_ACCMODE == 0 || makes && flags & O_DIRECTORY != 0 {
        return Err(Errno::EINVAL);
    }
    let path = Path::read::<S>(path)?;
    caller.process().files.lock().free_from(0)?;
    let last = match flags & O_NOFOLLOW != 0 || makes && flags & O_EXCL != 0 {
        true => LastLink::Keep,
        false => LastLink::Follow,
    };
    let node = match path.look_up(caller, dirfd, last)? {
        Found::Node(node) => node,
        Found::Missing(_) if makes && path.bytes().last() == Some(&b'/') => return Err(Errno::EISDIR),
        // An ordinary user makes nothing there; and `/proc` has no names but its own.
        Found::Missing(Directory::Root) if makes => return Err(Errno::EACCES),
        Found::Missing(_) => return Err(Errno::ENOENT),
    };
    if makes && flags & O_EXCL != 0 {
        return Err(Errno::EEXIST);
    }
    match node {
        Node::SelfLink => return Err(Errno::ELOOP),
        Node::Directory(_) if temporary => return Err(Errno::EACCES),
        Node::Directory(_) if makes || writes => return Err(Errno::EISDIR),
        Node::File(_) if flags & O_DIRECTORY != 0 => return Err(Errno::ENOTDIR),
        Node::File(_) if writes => return Err(Errno::EACCES),
        Node::Directory(_) | Node::File(_) => {}
    }
    let file = File::Opened(OpenFile::new(node, flags & KEPT_FLAGS | O_LARGEFILE)?);
    let kept = if flags & O_CLOEXEC != 0 { FD_CLOEXEC } else { 0 };
    caller.process().files.lock().open(file, kept).map(u64::from)
}

const F_OK: u32 = 0;
const X_OK: u32 = 1;
const W_OK: u32 = 2;
const R_OK: u32 = 4;

/// `access(path, rights)`.
fn access<S: System>(caller: &Caller<'_, S>, [path, rights, ..]: Args) -> Result<u64, Errno> {
    faccessat2(caller, [FROM_HERE, path, rights, 0, 0, 0])
}

/// `faccessat(dirfd, path, rights)`.
fn faccessat<S: System>(caller: &Caller<'_, S>, [dirfd, path, rights, ..]: Args) -> Result<u64, Errno> {
    faccessat2(caller, [dirfd, path, rights, 0, 0, 0])
}

const AT_EACCESS: u32 = 0x200;

/// `faccessat2(dirfd, path, rights, flags)`.
fn faccessat2<S: System>(caller: &Caller<'_, S>, [dirfd, path, rights, flags, ..]: Args) -> Result<u64, Errno> {
    let (rights, flags) = (rights as u32, flags as u32);
    if rights & !(F_OK | X_OK | W_OK | R_OK) != 0 || flags & !(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let status = match described(caller, dirfd, path, flags)? {
        Described::Descriptor(_) => STREAM,
        Described::Node(node) => node.status(),
    };
    // The bits of the owner, or of all others.
    let granted = if status.user == USER_ID { status.mode >> 6 } else { status.mode } as u32 & 7;
    if rights & !granted == 0 { Ok(0) } else { Err(Errno::EACCES) }
}

/// `readlink(path, buffer, size)`.
fn readlink<S: System>(caller: &Caller<'_, S>, [path, buffer, size, ..]: Args) -> Result<u64, Errno> {
    readlinkat(caller, [FROM_HERE, path, buffer, size, 0, 0])
}

/// `readlinkat(dirfd, path, buffer, size)`. The one link there is, `/proc/self`, says the process's number.
fn readlinkat<S: System>(caller: &Caller<'_, S>, [dirfd, path, buffer, size, ..]: Args) -> Result<u64, Errno> {
    if size as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    match find(caller, dirfd, path, LastLink::Keep)? {
        Node::SelfLink => {}
        Node::Directory(_) | Node::File(_) => return Err(Errno::EINVAL),
    }
    // A `u32` has ten digits at most.
    let mut digits = [0; 10];
    let mut first = digits.len();
    let mut rest = caller.process().id();
    while rest > 0 || first == digits.len() {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let text = &digits[first..];
    let text = &text[..text.len().min(size as i32 as usize)];
    S::copy_out(buffer, text)?;
    Ok(text.len() as u64)
}

/// `chdir(path)`: there are no working directories yet, so it works nowhere.
fn chdir<S: System>(caller: &Caller<'_, S>, [path, ..]: Args) -> Result<u64, Errno> {
    match find(caller, FROM_HERE, path, LastLink::Follow)? {
        Node::File(_) => Err(Errno::ENOTDIR),
        Node::Directory(_) | Node::SelfLink => Err(Errno::EACCES),
    }
}

/// The working directory has no name: what Linux says when it has been removed.
fn getcwd<S: System>(_: &Caller<'_, S>, _: Args) -> Result<u64, Errno> {
    Err(Errno::ENOENT)
}

/// A stream: a pipe (`S_IFIFO`) that its owner may read and write. Its inode number is its descriptor's, and one.
const STREAM: Status = Status { mode: 0o010_600, device: 0, inode: 0, links: 1, user: USER_ID, block_size: 4096 };

const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_NO_AUTOMOUNT: u32 = 0x800;
const AT_EMPTY_PATH: u32 = 0x1000;
const AT_STATX_SYNC_TYPE: u32 = 0x6000;

/// What a call that describes something was asked about.
enum Described {
    /// A descriptor of a stream.
    Descriptor(u64),
    Node(Node),
}

impl Described {
    fn status(&self) -> Status {
        match self {
            Described::Descriptor(fd) => Status { inode: u64::from(*fd as u32) + 1, ..STREAM },
            Described::Node(node) => node.status(),
        }
    }
}

/// What `dirfd` stands for.
///
/// # Errors
/// `EBADF`.
fn open_at<S: System>(caller: &Caller<'_, S>, fd: u64) -> Result<Described, Errno> {
    let Descriptor { file, .. } = caller.process().files.lock().get(fd as u32)?;
    Ok(match file {
        File::In | File::Out(_) => Described::Descriptor(fd),
        File::Opened(file) => Described::Node(file.node()),
    })
}

/// What a path asks about. If it is empty, or not given, with the flag that allows it, it is the descriptor itself.
fn described<S: System>(caller: &Caller<'_, S>, dirfd: u64, path: u64, flags: u32) -> Result<Described, Errno> {
    let last = if flags & AT_SYMLINK_NOFOLLOW != 0 { LastLink::Keep } else { LastLink::Follow };
    if flags & AT_EMPTY_PATH != 0 && dirfd as i32 != AT_FDCWD && (path == 0 || Path::read::<S>(path)?.is_empty()) {
        return open_at(caller, dirfd);
    }
    find(caller, dirfd, path, last).map(Described::Node)
}

/// `struct stat`: device, inode, links, mode and user, group, device, size, block size, then blocks, times and room.
fn write_stat<S: System>(address: u64, described: &Described) -> Result<u64, Errno> {
    let status = described.status();
    let mut words = [0; 18];
    words[0] = status.device;
    words[1] = status.inode;
    words[2] = status.links;
    words[3] = status.mode | status.user << 32;
    words[4] = status.user;
    words[7] = status.block_size;
    usercopy::write_words::<S>(address, &words).map(|()| 0)
}

/// `stat(path, stat)`.
fn stat<S: System>(caller: &Caller<'_, S>, [path, stat, ..]: Args) -> Result<u64, Errno> {
    newfstatat(caller, [FROM_HERE, path, stat, 0, 0, 0])
}

/// `lstat(path, stat)`: of a symbolic link, the link.
fn lstat<S: System>(caller: &Caller<'_, S>, [path, stat, ..]: Args) -> Result<u64, Errno> {
    newfstatat(caller, [FROM_HERE, path, stat, u64::from(AT_SYMLINK_NOFOLLOW), 0, 0])
}

/// `fstat(fd, stat)`.
fn fstat<S: System>(caller: &Caller<'_, S>, [fd, stat, ..]: Args) -> Result<u64, Errno> {
    write_stat::<S>(stat, &open_at(caller, fd)?)
}

/// `newfstatat(dirfd, path, stat, flags)`: with an empty path it is how C libraries do `fstat`.
fn newfstatat<S: System>(caller: &Caller<'_, S>, [dirfd, path, stat, flags, ..]: Args) -> Result<u64, Errno> {
    let flags = flags as u32;
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    write_stat::<S>(stat, &described(caller, dirfd, path, flags)?)
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
    let status = described(caller, dirfd, path, flags)?.status();
    // struct statx: mask and block size, attributes, links and user, group and mode, inode, then sizes, times and
    // devices (the file's own, then its file system's: major and minor).
    let mut words = [0; 32];
    words[0] = STATX_BASIC_STATS | status.block_size << 32;
    words[2] = status.links | status.user << 32;
    words[3] = status.user | status.mode << 32;
    words[4] = status.inode;
    words[17] = status.device << 32;
    usercopy::write_words::<S>(address, &words).map(|()| 0)
}
