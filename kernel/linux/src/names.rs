//! Which names are there? The tree of directories and files that programs reach by paths.
//!
//! ```text
//! /proc/vmstat        the counters of the whole machine
//! /proc/self          a link to /proc/PID, of the caller
//! /proc/PID/vmstat    the counters of its address space
//! ```
//!
//! Nothing can be made, removed or written. There is no working directory: relative paths from there are not found. A
//! name leads to a [`Node`], a few bytes that are copied; what a file says is `texts`' business, and where a reader stands
//! `opened`'s. A new kind of file is an entry here and a text there.

use abi::Errno;

use crate::stack::USER_ID;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Directory(Directory),
    /// `/proc/self`: a symbolic link to the directory of the caller.
    SelfLink,
    File(Text),
}

/// A directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Directory {
    Root,
    Proc,
    /// Of the process that looks: there is no way yet to another one's.
    Process,
}

/// A file whose contents the kernel makes when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Text {
    /// `/proc/vmstat`.
    MachineCounters,
    /// `/proc/PID/vmstat`.
    ProcessCounters,
}

/// The names in a directory, but for those of processes.
const ROOT: &[(&[u8], Node)] = &[(b"proc", Node::Directory(Directory::Proc))];
const PROC: &[(&[u8], Node)] = &[(b"self", Node::SelfLink), (b"vmstat", Node::File(Text::MachineCounters))];
const PROCESS: &[(&[u8], Node)] = &[(b"vmstat", Node::File(Text::ProcessCounters))];

/// A walk's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Node(Node),
    /// The last name is not in this directory, in which all others led.
    Missing(Directory),
}

/// What becomes of a symbolic link at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastLink {
    Follow,
    Keep,
}

impl Directory {
    fn parent(self) -> Directory {
        match self {
            Directory::Root | Directory::Proc => Directory::Root,
            Directory::Process => Directory::Proc,
        }
    }

    /// What `name` stands for in it, for process `caller`.
    fn entry(self, name: &[u8], caller: u32) -> Option<Node> {
        let names = match self {
            Directory::Root => ROOT,
            Directory::Proc if decimal(name) == Some(caller) => return Some(Node::Directory(Directory::Process)),
            Directory::Proc => PROC,
            Directory::Process => PROCESS,
        };
        names.iter().find(|(known, _)| *known == name).map(|&(_, node)| node)
    }
}

/// A number as Linux writes it in `/proc`: without sign and leading zeros.
fn decimal(name: &[u8]) -> Option<u32> {
    if name.first().is_none_or(|&first| first == b'0' || first == b'+') {
        return None;
    }
    core::str::from_utf8(name).ok()?.parse().ok()
}

/// Walks `path`, which is not empty, from `from` (absolute paths: from the root) for process `caller`.
///
/// # Errors
/// `ENOENT`: a name that is not the last is not there. `ENOTDIR`: it is, and is no directory; or a slash after the last says
/// that it must be one.
pub(crate) fn walk(path: &[u8], from: Directory, last: LastLink, caller: u32) -> Result<Found, Errno> {
    let mut at = if path.first() == Some(&b'/') { Directory::Root } else { from };
    let mut names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".").peekable();
    // As on Linux: a path that ends so names a directory, and a link there is followed.
    let wants_directory = path.last() == Some(&b'/') || path.ends_with(b"/.");
    while let Some(name) = names.next() {
        if name == b".." {
            at = at.parent();
            continue;
        }
        let is_last = names.peek().is_none();
        match at.entry(name, caller) {
            None if is_last => return Ok(Found::Missing(at)),
            None => return Err(Errno::ENOENT),
            Some(Node::Directory(directory)) => at = directory,
            Some(Node::SelfLink) if is_last && last == LastLink::Keep && !wants_directory => {
                return Ok(Found::Node(Node::SelfLink));
            }
            Some(Node::SelfLink) => at = Directory::Process,
            Some(file @ Node::File(_)) if is_last && !wants_directory => return Ok(Found::Node(file)),
            Some(Node::File(_)) => return Err(Errno::ENOTDIR),
        }
    }
    Ok(Found::Node(Node::Directory(at)))
}

/// What `stat` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// Kind and rights.
    pub(crate) mode: u64,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) links: u64,
    pub(crate) user: u64,
    /// Best size of a read.
    pub(crate) block_size: u64,
}

const S_IFDIR: u64 = 0o040_000;
const S_IFREG: u64 = 0o100_000;
const S_IFLNK: u64 = 0o120_000;

impl Node {
    /// As on Linux: `/proc` is the superuser's, but for a process's own part of it; sizes are 0.
    pub(crate) fn status(self) -> Status {
        let (mode, inode, links, user) = match self {
            Node::Directory(Directory::Root) => (S_IFDIR | 0o755, 1, 3, 0),
            Node::Directory(Directory::Proc) => (S_IFDIR | 0o555, 2, 3, 0),
            Node::Directory(Directory::Process) => (S_IFDIR | 0o555, 3, 2, USER_ID),
            Node::SelfLink => (S_IFLNK | 0o777, 4, 1, 0),
            Node::File(Text::MachineCounters) => (S_IFREG | 0o444, 5, 1, 0),
            Node::File(Text::ProcessCounters) => (S_IFREG | 0o444, 6, 1, USER_ID),
        };
        Status { mode, device: 1, inode, links, user, block_size: 1024 }
    }
}
