//! The rules: who may use whom, in which order modules stand, and which places may do what others must not.
//!
//! A new package gets a line in [`CRATES`], a new module a place in [`LAYERS`]. Whatever is excused here says why.

/// A package and what it may use.
#[derive(Clone, Copy, Debug)]
pub struct Crate {
    /// Its name.
    pub name: &'static str,
    /// Packages of this workspace that it uses.
    pub may_use: &'static [&'static str],
    /// Packages that its tests use besides.
    pub tests_may_use: &'static [&'static str],
    /// Whether it may use [`MACHINE_LIBRARIES`].
    pub machine: bool,
}

const fn portable(name: &'static str, may_use: &'static [&'static str]) -> Crate {
    Crate { name, may_use, tests_may_use: &[], machine: false }
}

const fn machine(name: &'static str, may_use: &'static [&'static str]) -> Crate {
    Crate { name, may_use, tests_may_use: &[], machine: true }
}

/// Every package of the workspace, those that others stand on first: a line uses earlier lines only.
pub const CRATES: &[Crate] = &[
    // In the kernel.
    portable("abi", &[]),
    portable("sync", &["abi"]),
    portable("mm", &["abi", "sync"]),
    portable("linux", &["abi", "sync", "mm"]),
    machine("kernel", &["abi", "sync", "mm", "linux"]),
    machine("guest", &["abi", "sync", "mm", "linux", "kernel"]),
    // Before the kernel.
    machine("direct", &["abi"]),
    // On the host.
    portable("boot", &[]),
    portable("qemu", &["abi"]),
    portable("plugin", &["abi"]),
    portable("user", &["abi"]),
    portable("tests", &["abi", "qemu"]),
];

/// The packages that know no machine: no statics, assembly, printing, and no question about the build.
pub const PORTABLE: [&str; 4] = ["abi", "sync", "mm", "linux"];

/// Libraries that know one machine.
pub const MACHINE_LIBRARIES: &[&str] = &["x86_64", "bootloader_api", "uart_16550", "acpi"];

/// The order of a package's modules.
#[derive(Clone, Copy, Debug)]
pub struct Layers {
    /// The package.
    pub package: &'static str,
    /// Modules directly under `src`, lowest layer first. A module names modules of lower lines only.
    pub lines: &'static [&'static str],
    /// Edges against the order, each with its reason; for files of one directory by their full paths (`sched::sleep`).
    pub exceptions: &'static [Exception],
}

/// One edge that is allowed against the order.
#[derive(Clone, Copy, Debug)]
pub struct Exception {
    /// The module that names.
    pub from: &'static str,
    /// The module named.
    pub to: &'static str,
    /// Why.
    pub why: &'static str,
}

impl Exception {
    /// Whether this is the edge.
    pub fn covers(&self, from: &str, to: &str) -> bool {
        self.from == from && self.to == to
    }
}

/// A place that may do what its package must not.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// A file, or the beginning of its path without `.rs`.
    pub file: &'static str,
    /// Why.
    pub why: &'static str,
}

impl Allowed {
    /// Whether `file` is this place or under it.
    pub fn covers(&self, file: &str) -> bool {
        let rest = file.strip_prefix(self.file);
        rest.is_some_and(|rest| rest.is_empty() || rest == ".rs" || rest.starts_with('/'))
    }

    /// Whether the place is in the package at `dir`.
    pub fn is_in(&self, dir: &str) -> bool {
        self.file.strip_prefix(dir).is_some_and(|rest| rest.starts_with("/src"))
    }
}

const fn because(why: &'static str, from: &'static str, to: &'static str) -> Exception {
    Exception { from, to, why }
}

/// The order of modules, package by package. A directory's name stands for all files in it that have no place of their own.
pub const LAYERS: &[Layers] = &[
    Layers {
        package: "abi",
        lines: &["counter errno event exit extreme flags fw_cfg lock marker nr point protocol wire", "report"],
        exceptions: &[],
    },
    Layers {
        package: "sync",
        lines: &[
            "list platform primitive",
            "order",
            "park point testing",
            "spin",
            "alloc extremes fair futex rcu wait",
            "counters torture",
            "vma_lock",
            "txn",
        ],
        exceptions: &[
            because("the platform keeps each context's record of what it holds", "platform", "order"),
            because("host tests say which mistake the code shall make", "primitive", "testing"),
        ],
    },
    Layers {
        package: "mm",
        lines: &[
            "addr few program_break tree vma",
            "error request",
            "frame",
            "tally",
            "memory paging",
            "space",
            "edit gather load placement report",
            "fault protect testing unmap",
            "advise exit map",
            "brk",
        ],
        exceptions: &[],
    },
    Layers {
        package: "linux",
        lines: &[
            "elf ids signal",
            "report",
            "system",
            "seen stack usercopy",
            "names",
            "texts",
            "opened",
            "files",
            "limits",
            "thread",
            "process",
            "deliver exit load",
            "fault",
            "call",
        ],
        exceptions: &[
            because("the machine keeps threads, which are generic over the machine", "system", "thread"),
            because("a thread keeps its process alive, which lists its threads", "thread", "process"),
        ],
    },
    Layers {
        package: "kernel",
        lines: &[
            "machine arch::context arch::fpu arch::frame arch::percpu",
            "arch::cpu arch::gdt",
            "arch::idt arch::paging arch::user",
            "acpi arch::apic fw_cfg report",
            "arch::ipi arch::timer clock console heap random stream",
            "arch::smp event exit log plant",
            "memory point",
            "arch::tlb stack",
            "sched",
            "platform start_delay",
            "arch",
            "arch::syscall arch::uaccess panic",
            "arch::fault",
            "arch::trap",
            "accounts system",
            "ktest",
            "init",
            "boot",
            "main",
        ],
        exceptions: &[
            because("the stubs call what decodes", "arch::idt", "arch::trap"),
            because("a panic prints the report of the trap that led to it", "panic", "arch::fault"),
            because("a program's exception is reported by its name", "sched", "arch::fault"),
            because("each CPU that schedules takes calls", "sched", "arch::syscall"),
            because("a new thread's first step may be late on purpose", "sched", "start_delay"),
            because("a stack is unmapped when every CPU has passed by the scheduler", "stack", "sched"),
            because("a queue links threads, which hold its links", "sched::runqueue", "sched::thread"),
            because("the list of contexts links threads, which hold its links", "sched::contexts", "sched::thread"),
            because("a sleep list links threads, which hold its links", "sched::sleep", "sched::thread"),
            because("a thread's first steps come out of a switch, and a switch reaps", "sched::switch", "sched::spawn"),
            because("a switch begins a slice, and a tick asks who runs", "sched::switch", "sched::tick"),
            because("a program's thread begins in user mode", "sched::spawn", "sched::user"),
        ],
    },
    Layers {
        package: "qemu",
        lines: &[
            "console draws host program registry say spaces stats wire",
            "nested workspace",
            "packages symbols tail",
            "monitor run toolchain tour",
            "status stream",
            "emulator image programs",
            "doctor",
            "machine",
            "peek ports",
            "backtrace recorder",
            "report",
            "cli count gdb session",
            "compare cost explain soak",
            "launch",
            "main",
        ],
        exceptions: &[
            because("starting a machine is a method of it", "machine", "session"),
            because("a soak makes and judges machines as the launcher's other verbs do", "soak", "launch"),
            because("so does a measurement of costs", "cost", "launch"),
            because("so does a comparison of them", "compare", "launch"),
            because("so does a tour", "explain", "launch"),
        ],
    },
];

/// Who may ask which build this is (`cfg` of `loom`, `shuttle`, `target_...`).
pub const BUILD_FACADES: &[Allowed] = &[
    Allowed { file: "kernel/sync/src/primitive", why: "the façade: atomics of `core` or of a model" },
    Allowed { file: "kernel/sync/src/testing", why: "its hosted CPUs are threads, the host's or the model's" },
    Allowed { file: "kernel/src/lib.rs", why: "on the host the package is an empty shell" },
    Allowed { file: "kernel/src/main.rs", why: "on the host the package is an empty shell" },
    Allowed { file: "boot/direct/src/main.rs", why: "on the host the package is an empty shell" },
    Allowed { file: "tests/guest/src/main.rs", why: "on the host the package is an empty shell" },
];

/// Which parts of the portable crates may have statics and print.
pub const HOSTED_FACADES: &[Allowed] = &[
    Allowed { file: "kernel/sync/src/primitive/model", why: "a model's own state, in builds for the model only" },
    Allowed { file: "kernel/sync/src/primitive/chosen", why: "as above" },
    Allowed { file: "kernel/sync/src/primitive/scheduled", why: "as above" },
    Allowed { file: "kernel/sync/src/testing", why: "the hosted platform, behind the feature `testing`" },
    Allowed { file: "kernel/mm/src/testing", why: "the hosted machine, behind the feature `testing`" },
];
