//! What came of a machine: the events while it runs, and the judgement afterwards.

use std::fmt;
use std::time::Duration;

use crate::spaces::Spaces;
use crate::stats::{FrameAccount, Stats};

/// Something that happens while the machine runs, as it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A line of the kernel on the console, without its line feed.
    Console(&'a str),
    /// Bytes of the program's standard output.
    Stdout(&'a [u8]),
    /// Bytes of the program's standard error.
    Stderr(&'a [u8]),
    /// A guest test begins.
    TestBegin(&'a str),
    /// A line of the kernel's log while guest tests run.
    TestLog(&'a str),
    /// A guest test has ended.
    TestEnd(&'a TestResult),
}

/// How a guest test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It failed; the log says where.
    Failed,
    /// It began and never ended: the machine stopped in it.
    Unfinished,
}

/// One guest test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestResult {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took, on the guest's clock.
    pub took: Duration,
    /// What the kernel logged meanwhile.
    pub log: Vec<String>,
}

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramExit {
    /// It exited with this code.
    Code(i32),
    /// A signal of this number killed it.
    Signal(u32),
}

impl ProgramExit {
    /// The status that a shell would show: the exit code's low byte, or 128 and the signal.
    pub fn shell_status(self) -> u8 {
        match self {
            ProgramExit::Code(code) => (code & 0xff) as u8,
            ProgramExit::Signal(signal) => 128u8.wrapping_add(signal as u8),
        }
    }
}

impl fmt::Display for ProgramExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ProgramExit::Code(code) => write!(f, "exited with status {code}"),
            ProgramExit::Signal(signal) => {
                use abi::flags::signal as s;
                let name = match signal {
                    s::SIGILL => " (SIGILL, illegal instruction)",
                    s::SIGTRAP => " (SIGTRAP, breakpoint)",
                    s::SIGABRT => " (SIGABRT, aborted)",
                    s::SIGBUS => " (SIGBUS, bus error)",
                    s::SIGFPE => " (SIGFPE, arithmetic error)",
                    s::SIGKILL => " (SIGKILL, killed)",
                    s::SIGSEGV => " (SIGSEGV, segmentation fault)",
                    s::SIGPIPE => " (SIGPIPE, broken pipe)",
                    s::SIGTERM => " (SIGTERM, terminated)",
                    _ => "",
                };
                write!(f, "was killed by signal {signal}{name}")
            }
        }
    }
}

/// What became of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel did what it was asked, whatever the program's own status.
    Done,
    /// The kernel panicked.
    Panicked,
    /// The kernel refused what it was handed; the reason is on the console.
    Refused,
    /// A check at the end failed: frames are missing, or guest tests failed.
    CheckFailed,
    /// The machine reset itself.
    Reset,
    /// Time was up.
    TimedOut,
    /// The kernel ended, but not as it should: what was wrong with its stream.
    Garbled(String),
    /// QEMU itself failed: its exit status (negative: the signal that killed it) and what it said.
    QemuFailed(i32, String),
}

impl Verdict {
    /// The judgement in a few words.
    pub fn summary(&self) -> String {
        match self {
            Verdict::Done => "done".into(),
            Verdict::Panicked => "the kernel panicked".into(),
            Verdict::Refused => "the kernel refused what it was handed".into(),
            Verdict::CheckFailed => "a check at the end failed".into(),
            Verdict::Reset => "the machine reset itself".into(),
            Verdict::TimedOut => "time was up: the machine hangs, or needs longer".into(),
            Verdict::Garbled(how) => format!("the kernel ended in a way that makes no sense: {how}"),
            Verdict::QemuFailed(status, said) if *status < 0 => {
                format!("QEMU was killed by signal {}: {}", -status, said.trim())
            }
            Verdict::QemuFailed(status, said) => format!("QEMU failed with status {status}: {}", said.trim()),
        }
    }
}

/// Everything about a machine that has run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What became of it.
    pub verdict: Verdict,
    /// After a panic, a reset or a hang: what every CPU was doing (`report`), line by line.
    pub report: Vec<String>,
    /// All of the console, firmware's lines too.
    pub console: String,
    /// The program's standard output; empty if an event handler took it.
    pub stdout: Vec<u8>,
    /// The program's standard error; empty if an event handler took it.
    pub stderr: Vec<u8>,
    /// How the program ended, if it did.
    pub exit: Option<ProgramExit>,
    /// Counters, if they were asked for.
    pub stats: Option<Stats>,
    /// Counters of each address space, if counters were asked for.
    pub spaces: Option<Spaces>,
    /// The account of page frames, if the kernel came that far.
    pub frames: Option<FrameAccount>,
    /// Guest tests, in the order they ran; the last may be unfinished.
    pub tests: Vec<TestResult>,
    /// Passed and failed, by the kernel's count, once all guest tests have run.
    pub tests_done: Option<(u32, u32)>,
    /// From QEMU's start to its end.
    pub elapsed: Duration,
    /// From QEMU's start to the kernel's first word.
    pub booted: Option<Duration>,
}

impl Run {
    /// The verdict, the report about the machine, and the last `lines` lines of the console: what a person needs after a failure.
    /// Addresses in the console come with the names of their functions.
    pub fn failure_report(&self, symbols: &crate::symbols::Symbols, lines: usize) -> String {
        let mut text = format!("{} (after {:.1} s)\n", self.verdict.summary(), self.elapsed.as_secs_f32());
        for line in &self.report {
            text += &format!("  {line}\n");
        }
        let console: Vec<&str> = self.console.lines().collect();
        let tail = &console[console.len().saturating_sub(lines)..];
        if tail.is_empty() && !self.report.is_empty() {
            text += "  (nothing on the console)\n";
        } else if !tail.is_empty() {
            text += "  last lines of the console:\n";
        }
        for line in tail {
            text += &format!("  | {}\n", symbols.annotate(line));
        }
        text
    }
}

/// Judges how QEMU ended. `end` is the value in the kernel's last frame, `status` QEMU's exit status (negative: killed
/// by a signal), `said` what it wrote to its standard error.
pub fn judge(end: Option<u8>, garbled: Option<String>, status: i32, said: &str) -> Verdict {
    use abi::exit::{CHECK_FAILED, DONE, PANIC, REFUSED, qemu_status};
    // A panic may cut a frame short and sends none of its own.
    if status == qemu_status(PANIC) {
        return Verdict::Panicked;
    }
    let verdict = [(DONE, Verdict::Done), (REFUSED, Verdict::Refused), (CHECK_FAILED, Verdict::CheckFailed)]
        .into_iter()
        .find(|&(value, _)| status == qemu_status(value));
    match verdict {
        None if status == 0 => Verdict::Reset,
        None => Verdict::QemuFailed(status, said.to_owned()),
        Some(_) if garbled.is_some() => Verdict::Garbled(garbled.unwrap_or_default()),
        Some((value, verdict)) => match end {
            Some(end) if end == value => verdict,
            Some(end) => Verdict::Garbled(format!("it said {end:#x} and wrote {value:#x} to the exit port")),
            // The stream port may not be there yet when the kernel refuses.
            None if value == REFUSED => verdict,
            None => Verdict::Garbled(format!("it wrote {value:#x} to the exit port without saying so on the stream")),
        },
    }
}

#[cfg(test)]
mod tests {
    use abi::exit::{CHECK_FAILED, DONE, PANIC, REFUSED, qemu_status};

    use super::*;

    #[test]
    fn the_exit_port_and_the_last_frame_must_agree() {
        let judge = |end, value| judge(end, None, qemu_status(value), "");
        assert_eq!(judge(Some(DONE), DONE), Verdict::Done);
        assert_eq!(judge(Some(CHECK_FAILED), CHECK_FAILED), Verdict::CheckFailed);
        assert_eq!(judge(Some(REFUSED), REFUSED), Verdict::Refused);
        assert_eq!(judge(None, REFUSED), Verdict::Refused);
        assert_eq!(judge(None, PANIC), Verdict::Panicked);
        assert!(matches!(judge(None, DONE), Verdict::Garbled(_)));
        assert!(matches!(judge(Some(DONE), CHECK_FAILED), Verdict::Garbled(_)));
    }

    #[test]
    fn a_garbled_stream_is_never_done_and_never_hides_a_panic() {
        let how = || Some("a frame of unknown kind".to_owned());
        assert!(matches!(judge(Some(DONE), how(), qemu_status(DONE), ""), Verdict::Garbled(_)));
        assert_eq!(judge(None, how(), qemu_status(PANIC), ""), Verdict::Panicked);
    }

    #[test]
    fn qemus_own_ends_are_told_apart() {
        assert_eq!(judge(None, None, 0, ""), Verdict::Reset);
        assert_eq!(judge(None, None, 1, "no such device"), Verdict::QemuFailed(1, "no such device".into()));
        assert_eq!(judge(Some(DONE), None, -9, ""), Verdict::QemuFailed(-9, String::new()));
    }

    #[test]
    fn a_programs_end_becomes_the_status_a_shell_shows() {
        assert_eq!(ProgramExit::Code(7).shell_status(), 7);
        assert_eq!(ProgramExit::Code(256 + 3).shell_status(), 3);
        assert_eq!(ProgramExit::Code(-1).shell_status(), 255);
        assert_eq!(ProgramExit::Signal(11).shell_status(), 139);
        assert_eq!(ProgramExit::Signal(11).to_string(), "was killed by signal 11 (SIGSEGV, segmentation fault)");
    }
}
