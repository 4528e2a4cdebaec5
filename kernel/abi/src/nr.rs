//! System-call numbers of x86_64 Linux.

macro_rules! calls {
    ($($name:ident = $number:literal,)+) => {
        $(#[doc = concat!("`", stringify!($name), "(2)`.")] #[expect(non_upper_case_globals, reason = "the calls' own names")] pub const $name: u64 = $number;)+

        /// The name of a call that the kernel has a number for.
        pub const fn name(number: u64) -> Option<&'static str> {
            Some(match number { $($number => stringify!($name),)+ _ => return None })
        }
    };
}

calls! {
    read = 0, write = 1, open = 2, close = 3, stat = 4, fstat = 5, lstat = 6, poll = 7, lseek = 8, mmap = 9,
    mprotect = 10, munmap = 11, brk = 12, rt_sigaction = 13, rt_sigprocmask = 14, rt_sigreturn = 15, ioctl = 16,
    pread64 = 17, pwrite64 = 18, readv = 19, writev = 20, access = 21, pipe = 22, sched_yield = 24, mremap = 25,
    msync = 26, mincore = 27, madvise = 28, dup = 32, dup2 = 33, pause = 34, nanosleep = 35, getpid = 39, sendfile = 40,
    clone = 56, fork = 57, vfork = 58, execve = 59, exit = 60, wait4 = 61, kill = 62, uname = 63, fcntl = 72,
    getcwd = 79, chdir = 80, readlink = 89, gettimeofday = 96, getrlimit = 97, getrusage = 98, sysinfo = 99,
    getuid = 102, getgid = 104, geteuid = 107, getegid = 108, getppid = 110, rt_sigpending = 127, rt_sigtimedwait = 128,
    rt_sigsuspend = 130, sigaltstack = 131, mlock = 149, munlock = 150, mlockall = 151, munlockall = 152, prctl = 157,
    arch_prctl = 158, setrlimit = 160, gettid = 186, tkill = 200, time = 201, futex = 202, sched_setaffinity = 203,
    sched_getaffinity = 204, set_tid_address = 218, clock_gettime = 228, clock_getres = 229, clock_nanosleep = 230,
    exit_group = 231, tgkill = 234, openat = 257, newfstatat = 262, readlinkat = 267, faccessat = 269, ppoll = 271,
    set_robust_list = 273, get_robust_list = 274, dup3 = 292, pipe2 = 293,
    prlimit64 = 302, getcpu = 309, getrandom = 318, membarrier = 324,
    mlock2 = 325, statx = 332, rseq = 334, clone3 = 435, faccessat2 = 439,
}
