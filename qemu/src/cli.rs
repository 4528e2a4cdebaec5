//! The command line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use abi::protocol::NoPair;
use abi::{Pair, ReadProtocol, UpdateProtocol};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::machine::{Entry, MAX_MEM_MIB, MIN_MEM_MIB, Time};
use crate::tour::Subject;

/// Boots the Tessera kernel in QEMU and runs a program on it. Without a command: a demonstration.
#[derive(Debug, Parser)]
#[command(name = "tessera", bin_name = "cargo run --", version, after_help = EXIT_STATUSES)]
pub struct Cli {
    /// Options of the machine.
    #[command(flatten)]
    pub machine: MachineOptions,
    /// What to do.
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

const EXIT_STATUSES: &str = "Exit status: the program's own (128 and the signal's number if one killed it); or 2 bad input, \
    69 set-up or QEMU failed, 70 kernel panic, 71 machine reset, 72 refused by the kernel, 73 page frames missing at the \
    end, 74 broken stream, 124 time was up; of soak also 1 a program's own check failed, 130 stopped. All but the first come with a line on standard error.";

/// The longest time limit on offer, in seconds: a day.
const MAX_TIMEOUT_S: u32 = 86_400;

/// Options of every command that boots a machine.
#[derive(Clone, Debug, Args)]
pub struct MachineOptions {
    /// Number of CPUs, 1 to 64 [default: 4]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=abi::MAX_CPUS as i64))]
    pub cpus: Option<u32>,
    /// Memory in MiB, 128 to 65536 [default: 512]
    #[arg(long, global = true, value_name = "MIB",
        value_parser = clap::value_parser!(u32).range(i64::from(MIN_MEM_MIB)..=i64::from(MAX_MEM_MIB)))]
    pub mem: Option<u32>,
    /// Stop the machine after this long, boot included [default: 60]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_TIMEOUT_S)))]
    pub timeout: Option<u32>,
    /// Show the kernel's log down to this level
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log: Option<Level>,
    /// Where the kernel's and the program's random numbers come from: decimal, or hexadecimal with 0x. With --icount it
    /// decides the whole run [default: 0 with --icount, else the time]
    #[arg(long, global = true, value_name = "N", value_parser = seed)]
    pub seed: Option<u64>,
    /// Let time be the number of instructions executed, CPUs taking turns: the same seed and input then give the same run,
    /// to the last counter
    #[arg(long, global = true)]
    pub icount: bool,
    /// What the machine starts with [default: uefi; none with --icount]
    #[arg(long, global = true, value_name = "KIND")]
    pub firmware: Option<FirmwareKind>,
    /// Record events for reports about a machine that went wrong [default: on; off for `count`]
    #[arg(long, global = true, value_name = "SWITCH")]
    pub events: Option<Switch>,
    /// How a page fault keeps its VMA as it is [default: slot; all with `compare`]
    #[arg(long, global = true, value_name = "PROTOCOL", value_parser = read_protocol())]
    pub vma_lock: Option<ReadProtocol>,
    /// How an update locks several VMAs [default: bulk; all with `compare`]
    #[arg(long, global = true, value_name = "PROTOCOL", value_parser = update_protocol())]
    pub update: Option<UpdateProtocol>,
    /// Draw in the log who waits for whom when a wait of the kernel lasts longer than this [default: 10000]
    #[arg(long, global = true, value_name = "MS", conflicts_with = "release",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_TIMEOUT_S) * 1000))]
    pub wait_limit: Option<u32>,
    /// Boot a kernel without debug checks: for measuring
    #[arg(long, global = true, conflicts_with = "kernel")]
    pub release: bool,
    /// What happens at schedule points, such as `seed=7;*=delay:50:1/16`, or `list` for their names
    #[arg(long, global = true, value_name = "SPEC", conflicts_with = "release")]
    pub points: Option<String>,
    /// Wait for gdb before the first instruction, and say what to type; no time limit then, unless --timeout gives one
    #[arg(long, global = true)]
    pub gdb: bool,
    /// Boot this kernel, as cargo left it, instead of building one from the sources
    #[arg(long, global = true, value_name = "ELF", hide = true)]
    pub kernel: Option<PathBuf>,
    /// Plant a fault on purpose: the checks must catch it.
    #[arg(long, global = true, value_name = "NAME", hide = true)]
    pub plant: Vec<String>,
}

impl MachineOptions {
    /// MiB of memory, asked for or by default.
    pub fn mem_mib(&self) -> u32 {
        self.mem.unwrap_or(512)
    }

    /// What is wrong with what was asked for at schedule points, if anything is.
    pub fn bad_points(&self) -> Option<String> {
        let text = self.points.as_deref()?;
        if text.len() > abi::point::SPEC_MAX {
            return Some(format!("longer than {} bytes", abi::point::SPEC_MAX));
        }
        let bad = abi::point::rules(text).find_map(Result::err)?;
        Some(format!("{bad} (--points list names them)"))
    }

    /// The lock protocols, asked for or by default.
    ///
    /// # Errors
    /// Why those asked for do not go together.
    pub fn pair(&self) -> Result<Pair, NoPair> {
        let (read, update) = (Pair::DEFAULT.read(), Pair::DEFAULT.update());
        Pair::new(self.vma_lock.unwrap_or(read), self.update.unwrap_or(update))
    }

    /// CPUs, asked for or by default.
    pub fn cpu_count(&self) -> u32 {
        self.cpus.unwrap_or(4)
    }

    /// How the machine comes to the kernel, asked for or by default.
    pub fn entry(&self) -> Entry {
        match self.firmware {
            Some(FirmwareKind::Uefi) => Entry::Uefi,
            Some(FirmwareKind::None) => Entry::Direct,
            None if self.icount => Entry::Direct,
            None => Entry::Uefi,
        }
    }

    /// What the machine's time is.
    pub fn time(&self) -> Time {
        if self.icount { Time::Counted } else { Time::Host }
    }

    /// The seed of the random numbers; `None`: the machine takes its own.
    pub fn seed(&self) -> Option<u64> {
        self.seed.or(self.icount.then_some(0))
    }

    /// Longest time that the machine may run.
    pub fn time_limit(&self) -> Duration {
        // Somebody who debugs thinks; but nothing waits for ever.
        let unasked = if self.gdb { MAX_TIMEOUT_S } else { 60 };
        Duration::from_secs(self.timeout.unwrap_or(unasked).into())
    }
}

/// What the machine starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FirmwareKind {
    /// UEFI firmware and the boot loader on the disk, as a computer does.
    Uefi,
    /// Nothing: QEMU loads the kernel by a small loader of ours. Much cheaper.
    None,
}

/// The name of a read protocol.
fn read_protocol() -> impl TypedValueParser<Value = ReadProtocol> {
    let names = PossibleValuesParser::new(ReadProtocol::ALL.iter().map(|protocol| protocol.name()));
    names.try_map(|name| ReadProtocol::from_name(&name).ok_or("no such protocol"))
}

/// The name of an update protocol.
fn update_protocol() -> impl TypedValueParser<Value = UpdateProtocol> {
    let names = PossibleValuesParser::new(UpdateProtocol::ALL.iter().map(|protocol| protocol.name()));
    names.try_map(|name| UpdateProtocol::from_name(&name).ok_or("no such protocol"))
}

/// A seed, as people write it and as the launcher prints it.
fn seed(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// Levels of the kernel's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Nothing.
    Off,
    /// What went wrong.
    Error,
    /// What may be wrong.
    Warn,
    /// What happens.
    Info,
    /// What happens, in detail.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// The kernel's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Off => "off",
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a static x86_64 Linux program: its streams and its exit status are passed through.
    #[command(override_usage = "cargo run -- run [OPTIONS] PROGRAM [ARGS]...")]
    Run(RunOptions),
    /// Show the path of a page fault or an munmap through the kernel, from a real run: a first tour
    #[command(override_usage = "cargo run -- explain fault|munmap")]
    Explain(ExplainOptions),
    /// Show what a page fault and an munmap cost: instructions, locked instructions, shared lines, and where. On 2 CPUs,
    /// without firmware and debug checks, if nothing else is asked for.
    #[command(override_usage = "cargo run -- count [OPTIONS]")]
    Count,
    /// Compare the lock protocols: what faults and memory calls cost under each pair of them, on 1, 2, 4 and 8 CPUs. Each
    /// machine has one CPU more, which waits, is without firmware and debug checks, and repeats to the last count
    #[command(override_usage = "cargo run -- compare [OPTIONS]")]
    Compare(CompareOptions),
    /// Boot machine after machine with random work, CPUs, memory and delays, until one fails
    Soak(SoakOptions),
    /// List what this computer has of what Tessera needs, and the command that mends each lack; install nothing
    Doctor,
}

/// Options of `soak`. CPUs, memory and lock protocols are random too unless `--cpus` and others say them; `--seed` is the
/// first run's.
#[derive(Debug, Args)]
pub struct SoakOptions {
    /// Number of runs [default: 100; with --for: as many as there is time for]
    #[arg(long, value_name = "N")]
    pub runs: Option<u64>,
    /// Begin no run after this long: seconds, or with `m` minutes, with `h` hours
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Under the ten pairs of lock protocols in turn, instead of random ones
    #[arg(long, conflicts_with_all = ["vma_lock", "update"])]
    pub pairs: bool,
    /// Only work whose name holds this; a name that does not exist lists them all
    #[arg(long, value_name = "WORK")]
    pub only: Option<String>,
}

impl SoakOptions {
    /// Most runs, asked for or by default.
    pub fn runs(&self) -> u64 {
        self.runs.unwrap_or(if self.duration.is_some() { u64::MAX } else { 100 })
    }
}

/// A time, such as `90`, `90s`, `60m` or `2h`.
fn duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| "no number of seconds, minutes or hours")?;
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(format!("no unit of time: {unit}; there are s, m and h")),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| "too long".into())
}

/// Options of `compare`. `--cpus` names the only number of CPUs, `--vma-lock` and `--update` the only protocols.
#[derive(Debug, Args)]
pub struct CompareOptions {
    /// Page faults of each CPU in each workload; of calls it is a quarter
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(4..=4096))]
    pub operations: u32,
    /// How the results are printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: CompareFormat,
    /// Change a word behind the program's back: its checks must find it.
    #[arg(long, hide = true)]
    pub plant_content: bool,
}

/// How results of `compare` are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompareFormat {
    /// For people.
    Table,
    /// For programs, with all counters.
    Json,
}

/// Options of `explain`.
#[derive(Debug, Args)]
pub struct ExplainOptions {
    /// What to follow
    #[arg(value_name = "fault|munmap")]
    pub subject: Subject,
    /// The text that tells of the path, instead of ARCHITECTURE.md
    #[arg(long, value_name = "FILE", hide = true)]
    pub architecture: Option<PathBuf>,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// Print each CPU's counters and the account of page frames to standard error at the end
    #[arg(long)]
    pub stats: bool,
    /// Count instructions, locked instructions and shared lines between the program's markers, and print them to standard
    /// error at the end
    #[arg(long)]
    pub count: bool,
    /// Put a variable into the program's environment; it has no others
    #[arg(long, value_name = "NAME=VALUE", value_parser = clap::builder::OsStringValueParser::new())]
    pub env: Vec<OsString>,
    /// The program, and everything after it for the program
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, value_name = "PROGRAM [ARGS]",
        value_parser = clap::builder::OsStringValueParser::new())]
    pub command: Vec<OsString>,
}

impl RunOptions {
    /// The program's file.
    pub fn program(&self) -> PathBuf {
        self.command.first().map(PathBuf::from).unwrap_or_default()
    }

    /// The first variable that is no `NAME=VALUE`.
    pub fn bad_variable(&self) -> Option<&OsStr> {
        let bad =
            |variable: &&OsString| matches!(variable.as_bytes().iter().position(|&byte| byte == b'='), None | Some(0));
        self.env.iter().find(bad).map(OsString::as_os_str)
    }
}

/// Why there is nothing to do.
#[derive(Debug, PartialEq, Eq)]
pub enum NoCommand {
    /// The person asked for this text (`--help`, `--version`).
    Asked(String),
    /// The command line makes no sense, in one line.
    Wrong(String),
}

/// Reads a command line; the first word is the launcher's name.
///
/// # Errors
/// A text to print instead.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, NoCommand> {
    Cli::try_parse_from(words).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => NoCommand::Asked(error.to_string()),
        _ => NoCommand::Wrong(one_line(&error.to_string())),
    })
}

/// The message of an error without the usage below it.
fn one_line(text: &str) -> String {
    let end = ["\n\nUsage:", "\n\nFor more"].iter().filter_map(|below| text.find(below)).min().unwrap_or(text.len());
    let words: Vec<&str> = text[..end].trim_start_matches("error: ").split_whitespace().collect();
    format!("{} (--help shows what there is)", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli(line: &str) -> Result<Cli, NoCommand> {
        parse(std::iter::once("tessera").chain(line.split(' ').filter(|word| !word.is_empty())).map(OsString::from))
    }

    fn run(line: &str) -> (MachineOptions, RunOptions) {
        let cli = cli(line).unwrap();
        let Some(Verb::Run(run)) = cli.verb else { panic!("{line}: no run") };
        (cli.machine, run)
    }

    #[test]
    fn everything_after_the_program_is_the_programs() {
        let (machine, run) = run("run --cpus 2 ./p --cpus 9 -x --help -- y");
        assert_eq!(machine.cpus, Some(2));
        assert_eq!(run.command, ["./p", "--cpus", "9", "-x", "--help", "--", "y"]);
    }

    #[test]
    fn machine_options_stand_before_or_after_the_verb() {
        assert_eq!(run("--mem 256 run ./p").0.mem, Some(256));
        assert_eq!(run("run --mem 256 ./p").0.mem, Some(256));
        assert_eq!(cli("--cpus 64 --log trace").unwrap().machine.log, Some(Level::Trace));
    }

    #[test]
    fn bounds_are_checked() {
        for line in [
            "--cpus 0",
            "--cpus 65",
            "--cpus x",
            "--mem 1",
            "--mem 65537",
            "--timeout 0",
            "--log loud",
            "--seed 0xg",
            "--seed -1",
            "--firmware bios",
            "--vma-lock slots",
            "--update none",
            "--nope",
            "walk",
            "run",
            "run --nope ./p",
            "run --cpus 0 ./p",
            "compare --operations 0",
            "compare --format xml",
        ] {
            let Err(NoCommand::Wrong(text)) = cli(line) else { panic!("{line} passed") };
            assert!(!text.contains('\n') && !text.contains("error:"), "{line}: {text}");
        }
    }

    #[test]
    fn seeds_are_decimal_or_hexadecimal() {
        assert_eq!(cli("--seed 17").unwrap().machine.seed, Some(17));
        assert_eq!(run("run --seed 0xFfffFfffFfffFfff ./p").0.seed, Some(u64::MAX));
    }

    #[test]
    fn counted_time_needs_no_firmware_unless_it_is_asked_for() {
        let options = |line| cli(line).unwrap().machine;
        assert_eq!((options("").entry(), options("").time(), options("").seed()), (Entry::Uefi, Time::Host, None));
        assert_eq!(options("--firmware none").entry(), Entry::Direct);
        let counted = options("--icount");
        assert_eq!((counted.entry(), counted.time(), counted.seed()), (Entry::Direct, Time::Counted, Some(0)));
        assert_eq!(options("--icount --firmware uefi").entry(), Entry::Uefi);
        assert_eq!(options("--icount --seed 5").seed(), Some(5));
    }

    #[test]
    fn every_pair_has_its_words() {
        assert_eq!(cli("").unwrap().machine.pair(), Ok(Pair::DEFAULT));
        for pair in Pair::all() {
            let line = format!("run --vma-lock {} --update {} ./p", pair.read(), pair.update());
            assert_eq!(run(&line).0.pair(), Ok(pair));
        }
        assert_eq!(cli("--update cycle").unwrap().machine.pair().unwrap().to_string(), "slot+cycle");
        assert_eq!(cli("--vma-lock mm").unwrap().machine.pair().unwrap().to_string(), "mm+bulk");
        let Err(why) = cli("--vma-lock mm --update cycle").unwrap().machine.pair() else { panic!("it went together") };
        assert_eq!(why, NoPair { update: UpdateProtocol::Cycle });
    }

    #[test]
    fn a_soak_lasts_for_runs_or_for_a_time() {
        let soak = |line: &str| match cli(line).map(|cli| cli.verb) {
            Ok(Some(Verb::Soak(options))) => Some((options.runs(), options.duration.map(|time| time.as_secs()))),
            _ => None,
        };
        assert_eq!(soak("soak"), Some((100, None)));
        assert_eq!(soak("soak --for 60m --pairs"), Some((u64::MAX, Some(3600))));
        assert_eq!(soak("soak --for 2h --runs 7"), Some((7, Some(7200))));
        assert_eq!(soak("soak --for 90"), soak("soak --for 90s"));
        for line in ["--for x", "--for 5d", "--for 99999999999999999999s", "--for 9999999999999999999h"] {
            assert_eq!(soak(&format!("soak {line}")), None, "{line}");
        }
        assert_eq!(soak("soak --pairs --update cycle"), None);
    }

    #[test]
    fn variables_need_a_name() {
        assert!(run("run --env A=b --env C= ./p").1.bad_variable().is_none());
        assert_eq!(run("run --env =b ./p").1.bad_variable(), Some(OsStr::new("=b")));
        assert_eq!(run("run --env A ./p").1.bad_variable(), Some(OsStr::new("A")));
    }

    #[test]
    fn help_is_no_error() {
        for line in ["--help", "run --help", "--version"] {
            assert!(matches!(cli(line), Err(NoCommand::Asked(_))), "{line}");
        }
    }
}
