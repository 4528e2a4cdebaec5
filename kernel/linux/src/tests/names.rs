//! Names, and the files that the kernel writes as they are read.

use abi::{Counter, Errno, PAGE_SIZE, nr};

use super::machine::machine;
use super::{Program, User};

const AT_FDCWD: u64 = -100i64 as u64;

fn fails(errno: Errno) -> i64 {
    -(errno as i64)
}

/// A page for paths, and one for what is read.
struct Places {
    path: u64,
    buffer: u64,
}

fn places(user: &User) -> Places {
    let at = user.pages(2);
    // Touched, so that reading into it is no fault more.
    user.put(at, &[0; 2 * PAGE_SIZE as usize]);
    Places { path: at, buffer: at + PAGE_SIZE }
}

impl Places {
    fn name(&self, user: &User, path: &str) -> u64 {
        user.put(self.path, path.as_bytes());
        user.put(self.path + path.len() as u64, &[0]);
        self.path
    }

    fn open(&self, user: &User, path: &str, flags: u64) -> i64 {
        user.call(nr::open, &[self.name(user, path), flags, 0o600])
    }

    fn read(&self, user: &User, fd: i64) -> String {
        let count = user.call(nr::read, &[fd as u64, self.buffer, PAGE_SIZE]);
        assert!(count >= 0, "read says {count}");
        String::from_utf8(user.get(self.buffer, count as usize)).expect("text")
    }
}

/// The value of `name` in a file of lines `name value ...`.
fn value(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.split(' ').next()?.parse().ok()
}

#[test]
fn counters_are_read_by_name_and_rise_by_what_is_counted() {
    let program = Program::new();
    program.run(|user| {
        let places = places(user);
        let own = places.open(user, "/proc/self/vmstat", 0);
        let all = places.open(user, "/proc/vmstat", 0);
        assert_eq!((own, all), (3, 4));
        let (before, machine_before) = (places.read(user, own), places.read(user, all));
        for counter in Counter::ALL {
            assert!(value(&before, counter.name()).is_some(), "{} in {before}", counter.name());
            assert!(value(&machine_before, counter.name()) >= value(&before, counter.name()), "{}", counter.name());
        }
        assert!(before.lines().any(|line| line.starts_with("longest_txn_hold_ns ")), "{before}");
        assert!(before.lines().all(|line| (2..=3).contains(&line.split(' ').count())), "{before}");
        // The site is a file and a line of the memory manager's.
        let site = before.lines().find_map(|line| line.strip_prefix("longest_txn_hold_ns ")?.split(' ').nth(1));
        assert!(site.is_some_and(|site| site.contains("mm/src/") && site.contains(".rs:")), "{before}");

        let pages = user.pages(5);
        for page in 0..5 {
            user.put(pages + page * PAGE_SIZE, b"x");
        }
        // The end of the file has been reached; from the start on it is made anew.
        assert_eq!(places.read(user, own), "");
        assert_eq!(user.call(nr::lseek, &[own as u64, 0, 0]), 0);
        assert_eq!(user.call(nr::lseek, &[all as u64, 0, 0]), 0);
        let (after, machine_after) = (places.read(user, own), places.read(user, all));
        for (before, after) in [(&before, &after), (&machine_before, &machine_after)] {
            let rise = |name| value(after, name).unwrap() - value(before, name).unwrap();
            // The machine of these tests makes a fault of each access of its own, so not `fault`.
            assert_eq!((rise("fault_locked"), rise("txn")), (5, 3), "{after}");
        }
    });
}

#[test]
fn a_file_read_in_pieces_says_one_thing() {
    let program = Program::new();
    program.run(|user| {
        let places = places(user);
        let fd = places.open(user, "/proc/self/vmstat", 0) as u64;
        let mut pieces = Vec::new();
        loop {
            let count = user.call(nr::read, &[fd, places.buffer, 7]);
            if count == 0 {
                break;
            }
            pieces.extend(user.get(places.buffer, count as usize));
            // The counters change all the while.
            user.pages(1);
        }
        let end = user.call(nr::lseek, &[fd, 0, 1]);
        assert_eq!(end, pieces.len() as i64);
        // By position: the same as long as nobody goes back to the start.
        let count = user.call(nr::pread64, &[fd, places.buffer, PAGE_SIZE, 1]);
        assert_eq!(user.get(places.buffer, count as usize), pieces[1..]);
        let count = user.call(nr::pread64, &[fd, places.buffer, PAGE_SIZE, 0]);
        let anew = user.get(places.buffer, count as usize);
        let txn = |text: &[u8]| value(core::str::from_utf8(text).unwrap(), "txn").unwrap();
        assert!(txn(&anew) >= txn(&pieces) + 100, "{} then {}", txn(&pieces), txn(&anew));
        assert_eq!(user.call(nr::lseek, &[fd, 0, 1]), end, "pread leaves the reader where it is");
        // A vector is filled part by part.
        assert_eq!(user.call(nr::lseek, &[fd, 0, 0]), 0);
        user.put_words(places.path, &[places.buffer, 3, places.buffer + 0x100, 2]);
        assert_eq!(user.call(nr::readv, &[fd, places.path, 2]), 5);
        assert_eq!((user.get(places.buffer, 3), user.get(places.buffer + 0x100, 2)), (b"fau".to_vec(), b"lt".to_vec()));
    });
}

#[test]
fn copies_of_a_descriptor_share_the_reader() {
    let program = Program::new();
    program.run(|user| {
        let places = places(user);
        let fd = places.open(user, "/proc/vmstat", 0) as u64;
        let copy = user.call(nr::dup, &[fd]) as u64;
        assert_eq!(user.call(nr::read, &[fd, places.buffer, 6]), 6);
        assert_eq!(user.call(nr::lseek, &[copy, 0, 1]), 6);
        assert_eq!(user.call(nr::close, &[fd]), 0);
        assert_eq!(user.call(nr::read, &[fd, places.buffer, 6]), fails(Errno::EBADF));
        assert_eq!(user.call(nr::lseek, &[copy, -2i64 as u64, 1]), 4);
        assert_eq!(user.call(nr::dup2, &[copy, 40]), 40);
        assert_eq!(user.call(nr::lseek, &[40, 0, 1]), 4);
        // Another opening has a reader of its own.
        let other = places.open(user, "/proc/vmstat", 0) as u64;
        assert_eq!(user.call(nr::lseek, &[other, 0, 1]), 0);
        // What could not be delivered is read again.
        let bad = places.buffer + PAGE_SIZE;
        assert_eq!(user.call(nr::read, &[other, bad, 5]), fails(Errno::EFAULT));
        assert_eq!(user.call(nr::lseek, &[other, 0, 1]), 0);
        assert_eq!(user.call(nr::read, &[other, bad - 3, 5]), 3);
        assert_eq!(user.call(nr::lseek, &[other, 0, 1]), 3);
    });
}

/// What Linux 6.18 says of `/proc/vmstat`, `/proc/self` and names around them to an ordinary user, seen there.
#[test]
fn errors_are_those_of_linux() {
    const WRONLY: u64 = 1;
    const RDWR: u64 = 2;
    const CREAT: u64 = 0o100;
    const EXCL: u64 = 0o200;
    const TRUNC: u64 = 0o1_000;
    const DIRECTORY: u64 = 0o200_000;
    const NOFOLLOW: u64 = 0o400_000;
    const TMPFILE: u64 = 0o20_200_000;
    let program = Program::new();
    program.run(|user| {
        let places = places(user);
        let refused: &[(&str, u64, Errno)] = &[
            ("/proc/vmstat", WRONLY, Errno::EACCES),
            ("/proc/vmstat", RDWR, Errno::EACCES),
            ("/proc/vmstat", 3, Errno::EACCES),
            ("/proc/vmstat", TRUNC, Errno::EACCES),
            ("/proc/self/vmstat", WRONLY | CREAT, Errno::EACCES),
            ("/proc/vmstat", CREAT | EXCL, Errno::EEXIST),
            ("/proc/vmstat", DIRECTORY, Errno::ENOTDIR),
            ("/proc/vmstat", TMPFILE, Errno::EINVAL),
            ("/proc/vmstat/", 0, Errno::ENOTDIR),
            ("/proc/vmstat/x", 0, Errno::ENOTDIR),
            ("/proc/nofile", 0, Errno::ENOENT),
            ("/proc/nofile", CREAT | WRONLY, Errno::ENOENT),
            ("/nofile", CREAT | WRONLY, Errno::EACCES),
            ("/nodir/nofile", CREAT | WRONLY, Errno::ENOENT),
            ("/nodir/", CREAT | WRONLY, Errno::EISDIR),
            ("/proc", WRONLY, Errno::EISDIR),
            ("/proc", CREAT, Errno::EISDIR),
            ("/proc/self", NOFOLLOW, Errno::ELOOP),
            ("/proc/99999999", 0, Errno::ENOENT),
            ("/proc/01", 0, Errno::ENOENT),
            ("", 0, Errno::ENOENT),
            ("proc/vmstat", 0, Errno::ENOENT),
        ];
        for &(path, flags, errno) in refused {
            assert_eq!(places.open(user, path, flags), fails(errno), "{path} {flags:o}");
        }
        let id = program.id();
        let opened = [
            ("/proc/vmstat", CREAT),
            ("/proc/../proc//./vmstat", 0),
            ("/../proc/self/../vmstat", NOFOLLOW),
            ("/proc/self/", NOFOLLOW),
            ("/proc", DIRECTORY),
            (&format!("/proc/{id}/vmstat"), 0),
        ];
        for (path, flags) in opened {
            assert_eq!(places.open(user, path, flags), 3, "{path}");
            assert_eq!(user.call(nr::close, &[3]), 0);
        }

        let file = places.open(user, "/proc/vmstat", 0) as u64;
        let directory = places.open(user, "/proc", 0) as u64;
        let at = places.buffer;
        let calls: &[(u64, &[u64], i64)] = &[
            (nr::write, &[file, at, 1], fails(Errno::EBADF)),
            (nr::pwrite64, &[file, at, 1, 0], fails(Errno::ESPIPE)),
            (nr::pread64, &[file, at, 1, u64::MAX], fails(Errno::EINVAL)),
            (nr::pread64, &[file, at, 1, 1 << 40], 0),
            (nr::pread64, &[0, at, 1, 0], fails(Errno::ESPIPE)),
            (nr::pread64, &[99, at, 1, 0], fails(Errno::EBADF)),
            (nr::read, &[file, 8, 10], fails(Errno::EFAULT)),
            (nr::read, &[file, at, u64::MAX], fails(Errno::EINVAL)),
            (nr::lseek, &[file, -1i64 as u64, 0], fails(Errno::EINVAL)),
            (nr::lseek, &[file, 0, 2], fails(Errno::EINVAL)),
            (nr::lseek, &[file, 0, 3], fails(Errno::EINVAL)),
            (nr::lseek, &[file, 1 << 40, 0], 1 << 40),
            (nr::read, &[file, at, 10], 0),
            (nr::lseek, &[file, i64::MAX as u64, 1], fails(Errno::EINVAL)),
            (nr::read, &[directory, at, 10], fails(Errno::EISDIR)),
            (nr::pread64, &[directory, at, 10, 0], fails(Errno::EISDIR)),
            (nr::lseek, &[directory, 0, 0], 0),
            (nr::ioctl, &[file, 0x5401, at], fails(Errno::ENOTTY)),
            (nr::mmap, &[0, PAGE_SIZE, 1, 2, file, 0], fails(Errno::ENODEV)),
        ];
        for &(number, args, expected) in calls {
            assert_eq!(user.call(number, args), expected, "call {number} with {args:x?}");
        }
        let name = |path| places.name(user, path);
        assert_eq!(user.call(nr::openat, &[directory, name("vmstat"), 0]), 5);
        assert_eq!(user.call(nr::openat, &[file, name("x"), 0]), fails(Errno::ENOTDIR));
        assert_eq!(user.call(nr::openat, &[file, name("/proc/vmstat"), 0]), 6);
        assert_eq!(user.call(nr::openat, &[99, name("x"), 0]), fails(Errno::EBADF));
        assert_eq!(user.call(nr::chdir, &[name("/proc/vmstat")]), fails(Errno::ENOTDIR));
        assert_eq!(user.call(nr::access, &[name("/proc/vmstat"), 4]), 0);
        assert_eq!(user.call(nr::access, &[name("/proc/vmstat"), 2]), fails(Errno::EACCES));
        assert_eq!(user.call(nr::access, &[name("/proc/vmstat"), 1]), fails(Errno::EACCES));
        assert_eq!(user.call(nr::access, &[name("/proc"), 5]), 0);
        assert_eq!(user.call(nr::access, &[name("/proc"), 2]), fails(Errno::EACCES));
        assert_eq!(user.call(nr::access, &[name("/proc/vmstat"), 8]), fails(Errno::EINVAL));
        // The number of the process, cut to the buffer.
        let digits = id.to_string();
        assert_eq!(user.call(nr::readlink, &[name("/proc/self"), at, 100]), digits.len() as i64);
        assert_eq!(user.get(at, digits.len()), digits.as_bytes());
        assert_eq!(user.call(nr::readlink, &[name("/proc/self"), at, 1]), 1);
        assert_eq!(user.call(nr::readlinkat, &[directory, name("self"), at, 100]), digits.len() as i64);
        assert_eq!(user.call(nr::readlink, &[name("/proc/self"), at, 0]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::readlink, &[name("/proc/vmstat"), at, 9]), fails(Errno::EINVAL));
        let (getfd, getfl, setfl, append_cloexec) = (1, 3, 4, 0o2_002_000);
        assert_eq!(user.call(nr::open, &[name("/proc/vmstat"), append_cloexec]), 7);
        assert_eq!((user.call(nr::fcntl, &[7, getfd]), user.call(nr::fcntl, &[7, getfl])), (1, 0o102_000));
        assert_eq!((user.call(nr::fcntl, &[7, setfl, 0]), user.call(nr::fcntl, &[7, getfl])), (0, 0o100_000));
    });
}

#[test]
fn files_are_described() {
    let program = Program::new();
    program.run(|user| {
        let places = places(user);
        let at = places.buffer;
        // Mode and user.
        let expected = [
            ("/", 0o040_755, 0),
            ("/proc", 0o040_555, 0),
            ("/proc/self", 0o040_555, 1000),
            ("/proc/vmstat", 0o100_444, 0),
            ("/proc/self/vmstat", 0o100_444, 1000),
        ];
        let inode = |user: &User| user.word(at + 8);
        let mut inodes = std::collections::BTreeSet::new();
        for (path, mode, owner) in expected {
            let name = places.name(user, path);
            assert_eq!(user.call(nr::stat, &[name, at]), 0, "{path}");
            assert_eq!((user.half(at + 24), user.half(at + 28), user.word(at + 48)), (mode, owner, 0), "{path}");
            assert!(inodes.insert(inode(user)), "{path}");
            let by_path = inode(user);
            let fd = places.open(user, path, 0) as u64;
            assert_eq!(user.call(nr::fstat, &[fd, at]), 0);
            assert_eq!(inode(user), by_path, "{path}");
            let empty = places.name(user, "");
            assert_eq!(user.call(nr::statx, &[fd, empty, 0x1000, 0x7ff, at]), 0);
            assert_eq!((user.half(at + 28), user.half(at + 20), user.word(at + 32)), (mode, owner, by_path), "{path}");
        }
        assert_eq!(user.call(nr::lstat, &[places.name(user, "/proc/self"), at]), 0);
        assert_eq!(user.half(at + 24), 0o120_777);
        assert_eq!(
            user.call(nr::newfstatat, &[AT_FDCWD, places.name(user, "/proc/none"), at, 0]),
            fails(Errno::ENOENT)
        );
    });
}

#[test]
fn a_full_table_and_no_memory_refuse() {
    let program = Program::new();
    program.run(|user| {
        let places = places(user);
        let name = places.name(user, "/proc/vmstat");
        for successes in 0.. {
            let (result, failed) =
                sync::testing::fail_allocation_after(successes, || user.call(nr::open, &[name, 0, 0]));
            if !failed {
                assert_eq!(result, 3);
                break;
            }
            assert_eq!(result, fails(Errno::ENOMEM), "allocation {successes}");
        }
        for successes in 0.. {
            let (result, failed) =
                sync::testing::fail_allocation_after(successes, || user.call(nr::pread64, &[3, places.buffer, 1, 0]));
            if !failed {
                assert!(successes > 1 && result == 1);
                break;
            }
            assert_eq!(result, fails(Errno::ENOMEM), "allocation {successes}");
        }
        for fd in 4..1024 {
            assert_eq!(user.call(nr::open, &[name, 0, 0]), fd);
        }
        assert_eq!(user.call(nr::open, &[name, 0, 0]), fails(Errno::EMFILE));
        assert_eq!(user.call(nr::close, &[700]), 0);
        assert_eq!(user.call(nr::open, &[name, 0, 0]), 700);
    });
    // The owner is named where reports look for it.
    let tally = machine().memory.counters.after(program.space().id() - 1).expect("a live address space");
    assert_eq!((tally.process(), &tally.name()), (program.id(), b"tiny-program\0\0\0\0"));
}
