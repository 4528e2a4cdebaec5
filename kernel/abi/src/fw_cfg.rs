//! Names of the fw_cfg files by which the launcher hands options and the program to the kernel.
//!
//! All are optional but [`MODE`]. Numbers are decimal ASCII.

/// What to do: `run` (a program) or `test` (the guest tests).
pub const MODE: &str = "opt/tessera/mode";
/// The program's ELF file.
pub const PROGRAM: &str = "opt/tessera/program";
/// Its arguments from `argv[0]` on, each ended by a NUL byte.
pub const ARGS: &str = "opt/tessera/args";
/// Its environment (`NAME=value`), each ended by a NUL byte.
pub const ENV: &str = "opt/tessera/env";
/// Log level on the console: `off`, `error`, `warn`, `info`, `debug` or `trace`.
pub const LOG: &str = "opt/tessera/log";
/// All that the program's standard input has; absent: it comes by the stream port, as it is typed.
pub const STDIN: &str = "opt/tessera/stdin";
/// How the boot CPU waits for work: `spin` ([`IDLE_SPIN`]), else it halts. For machines whose time is counted in instructions.
pub const IDLE: &str = "opt/tessera/idle";
/// [`IDLE`]: it spins.
pub const IDLE_SPIN: &str = "spin";
/// `1`: send [`crate::wire::Kind::Stats`] when the program has ended.
pub const STATS: &str = "opt/tessera/stats";
/// Names of guest tests to run, each ended by a NUL byte; absent: all that do not panic.
pub const TESTS: &str = "opt/tessera/tests";
/// Names of faults to plant on purpose, each ended by a NUL byte (`leak-frame`, ...): the checks must catch them.
pub const PLANT: &str = "opt/tessera/plant";
/// What happens at schedule points, in debug builds: see [`crate::point`].
pub const POINTS: &str = "opt/tessera/points";
/// Seed of the delays with which CPUs and threads start, not 0; absent: no delays.
pub const START_DELAYS: &str = "opt/tessera/start-delays";
/// `off`: the event rings are not written to (`crate::report`). Absent: they are.
pub const EVENTS: &str = "opt/tessera/events";
/// Milliseconds that a wait of the kernel may last, in debug builds, before it says who waits for whom.
pub const WAIT_LIMIT_MS: &str = "opt/tessera/wait-limit-ms";
/// 32 bytes that seed the kernel's random numbers; absent: the CPU's time stamp.
pub const SEED: &str = "opt/tessera/seed";
/// Name of the read protocol ([`crate::ReadProtocol`]) of VMAs; absent: the default's.
pub const VMA_LOCK: &str = "opt/tessera/vma-lock";
/// Name of the update protocol ([`crate::UpdateProtocol`]); absent: the default's.
pub const UPDATE: &str = "opt/tessera/update";
