//! A machine under gdb: a real session, scripted, against a program that maps what is known.
//!
//! One boot. `session.py` is what a person would type; what gdb answered is compared here with what the program `landmarks` says
//! in its table. Skipped, with the reason, where there is no gdb or its Python is missing.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use tests::oracle::{LIMIT, Source};
use tests::{child, launcher, turn};

/// What a person would type.
const SESSION: &str = include_str!("session.py");

fn main() -> ExitCode {
    let trial = |name: &str, check: fn() -> Result<()>| {
        Trial::test(name, move || check().map_err(|error| Failed::from(format!("{error:#}"))))
    };
    let trials = match has_gdb() {
        Ok(()) => vec![
            trial("gdb::shows_what_the_program_mapped", session),
            trial("gdb::is_for_one_machine_only", soak_refuses),
        ],
        Err(reason) => {
            let name = format!("gdb::shows_what_the_program_mapped (skipped: {reason})");
            vec![trial(&name, || Ok(())).with_ignored_flag(true)]
        }
    };
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn has_gdb() -> Result<(), &'static str> {
    if qemu::nested::on_path("gdb").is_none() {
        return Err("there is no gdb: apt-get install gdb brings it");
    }
    let mut python = Command::new("gdb");
    python.args(["-nx", "-batch", "-ex", "python print(6 * 7)"]);
    let answer = qemu::nested::answer(&mut python).unwrap_or_default();
    if answer.trim() == "42" { Ok(()) } else { Err("gdb was built without Python") }
}

fn soak_refuses() -> Result<()> {
    let finished = launcher::run(&["soak", "--gdb", "--runs", "1"], b"")?;
    ensure!(finished.status == 2 && finished.err().contains("--gdb"), "{}: {}", finished.status, finished.err());
    Ok(())
}

/// Starts the machine, types, and reads.
fn session() -> Result<()> {
    let program = Source::Rust("landmarks").build()?;
    let limit_s = LIMIT.as_secs().to_string();
    let options = ["run", "--gdb", "--firmware", "none", "--cpus", "2", "--timeout", &limit_s];
    let mut command = launcher::command(&options)?;
    command.arg(program).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let _turn = turn::take();
    let mut machine = command.spawn().context("cannot start the launcher")?;
    let mut stderr = BufReader::new(machine.stderr.take().context("no standard error")?);
    let told = what_to_type(&mut stderr).and_then(|line| type_it(&line));
    if told.is_err() {
        child::terminate(&machine);
    }
    let status = child::wait_until(&mut machine, Instant::now() + LIMIT)?;
    let mut rest = String::new();
    stderr.read_to_string(&mut rest)?;
    let answers = told.with_context(|| format!("the launcher went on: {rest}"))?;

    let mut stdout = String::new();
    machine.stdout.take().context("no standard output")?.read_to_string(&mut stdout)?;
    // Whatever gdb did to the machine, the program noticed nothing.
    let status = status.context("the machine goes on for ever")?;
    ensure!(status.success() && stdout == "landmarks: 0 0\n", "{status}, {stdout:?}, {rest}");
    judge(&answers).with_context(|| all(&answers))
}

/// The one line, off the launcher's standard error.
fn what_to_type(stderr: &mut impl BufRead) -> Result<String> {
    let mut said = String::new();
    loop {
        let mut line = String::new();
        ensure!(stderr.read_line(&mut line)? > 0, "the launcher ended and said only: {said}");
        if line.trim_start().starts_with("gdb ") {
            return Ok(line.trim().to_owned());
        }
        said += &line;
    }
}

/// Types the line, with the session's commands after it, and returns gdb's answers by their headings.
fn type_it(line: &str) -> Result<BTreeMap<String, String>> {
    let dir = tempfile::tempdir()?;
    let session = dir.path().join("session.py");
    std::fs::write(&session, SESSION)?;
    let mut shell = Command::new("sh");
    // As typed, but for the person: no questions, the session's file, and no start-up file of whoever runs this.
    let typed = line.replacen("gdb -q", "exec gdb -nx -q -batch", 1);
    shell.arg("-c").arg(format!("{typed} -x {}", session.display()));
    shell.current_dir(std::env::current_dir()?);
    // QEMU opens its socket a moment after the line was printed.
    let until = Instant::now() + Duration::from_secs(60);
    let finished = loop {
        let finished = child::run(&mut shell, b"", LIMIT)?;
        if !finished.err().contains("o such file or directory") || Instant::now() > until {
            break finished;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let out = finished.out();
    let mut answers = BTreeMap::new();
    for piece in out.split("== ").skip(1) {
        let (heading, answer) = piece.split_once('\n').unwrap_or((piece, ""));
        answers.insert(heading.trim().to_owned(), answer.to_owned());
    }
    ensure!(answers.contains_key("end"), "gdb did not come to the end:\n{out}\n{}", finished.err());
    Ok(answers)
}

fn all(answers: &BTreeMap<String, String>) -> String {
    answers.iter().map(|(heading, answer)| format!("== {heading}\n{answer}")).collect()
}

/// Compares what gdb showed with what the program did.
fn judge(answers: &BTreeMap<String, String>) -> Result<()> {
    let answer = |heading: &str| answers.get(heading).map(String::as_str).with_context(|| format!("no `{heading}`"));
    let has = |heading: &str, pieces: &[&str]| -> Result<()> {
        let answer = answer(heading)?;
        for piece in pieces {
            ensure!(answer.contains(piece), "`{heading}` does not show `{piece}`:\n{answer}");
        }
        Ok(())
    };
    let lacks = |heading: &str, piece: &str| -> Result<()> {
        ensure!(!answer(heading)?.contains(piece), "`{heading}` shows `{piece}`:\n{}", answer(heading)?);
        Ok(())
    };
    has("before the kernel", &["no memory manager yet"])?;

    // Inside a fault: function names with file and line from the fault path up to the trap's stub, inlined frames too.
    has(
        "a fault: backtrace",
        &["fault_locked", "at kernel/mm/src/fault.rs:", "linux::fault::user_fault", "at kernel/src/arch/trap.rs:"],
    )?;
    has("a fault: list", &["fn alloc_zeroed"])?;
    has("a fault: slots", &["busy at 0x100000008000, fault ", ": idle"])?;
    has("a fault: cpus", &["user (pid 1 tid 1) in address space 1, slot busy at 0x100000008000", "CPU 0", "CPU 1"])?;
    has("a fault: pt", &["4 KiB table, entry   8: empty"])?;

    // Before anything is unmapped: what the program mapped, and no lock held.
    has("munmap: backtrace", &["linux::call::memory::munmap", "at kernel/linux/src/call/memory.rs:"])?;
    for heading in ["a fault: backtrace", "munmap: backtrace"] {
        lacks(heading, "in ?? ()")?;
    }
    let mapped = [
        "0x100000000000-0x100000008000 rw- anonymous ",
        "0x100000008000-0x10000000c000 r-- anonymous ",
        "0x10000000c000-0x100000010000 rw- anonymous ",
        "0x100010000000-0x100010004000 --- anonymous ",
        "0x100020000000-0x100020002000 rw- anonymous ",
    ];
    has("munmap: vmas", &mapped)?;
    has("munmap: tree", &mapped)?;
    has("munmap: tree", &["leaf 0x"])?;
    lacks("munmap: vmas", "LOCKED")?;
    has("munmap: cells", &["none taken"])?;
    let written = "present write user accessed dirty no-execute";
    has("munmap: pt of page 0", &["  root table, entry  32: ", "4 KiB table, entry   0: ", written])?;
    has("munmap: pt of page 1", &["4 KiB table, entry   1: ", written])?;
    has("munmap: pt of page 2", &["4 KiB table, entry   2: empty"])?;
    has("munmap: pt of page 8", &["4 KiB table, entry   8: ", "present user accessed"])?;
    let of_page_8 = answer("munmap: pt of page 8")?.lines().last().unwrap_or_default();
    ensure!(!of_page_8.contains("write"), "the page has lost its right: {of_page_8}");
    has("munmap: pt of doomed", &["4 KiB table, entry   0: ", written])?;

    // In the middle of it: a locked tombstone, the one cell that locks it, and no translation left.
    has("shootdown: vmas", &["0x100020000000-0x100020002000 --- tombstone LOCKED by cell "])?;
    has("shootdown: vmas", &mapped[..4])?;
    has("shootdown: cells", &[", taken"])?;
    has("shootdown: cpus", &[", in a system call, in a transaction (cell "])?;
    lacks("shootdown: pt of doomed", written)?;
    has("shootdown: the space, printed", &["address space 1: ", " VMAs, root table at 0x", ", on CPUs {"])?;
    has("shootdown: its tree, printed", &[" ranges", "tombstone LOCKED by cell "])?;

    has("shootdown: the cells, printed", &[" cells = {", ", taken"])?;
    has("shootdown: the slots, printed", &["[0] = idle, [1] = idle"])?;

    has("help", &["tessera vmas", "tessera pt ADDR"])?;
    has("wrong", &["error: "])?;
    lacks("wrong", "Python")?;
    has("break", &["file kernel/mm/src/gather.rs, line "])?;
    has("nowhere", &["error: no function no_such_function"])?;
    Ok(())
}
