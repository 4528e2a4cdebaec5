//! The launcher as people use it.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use qemu::Image;
use qemu::count::{Counting, Mode};
use tests::oracle::Source::{C, Rust};
use tests::{child, launcher, turn};

use crate::Trials;

mod compare;
mod soak;

/// Adds the launcher's tests.
pub(crate) fn add(trials: &mut Trials) {
    trials.add("launcher::bad_input", bad_input);
    trials.add("launcher::streams_are_clean_and_separate", streams);
    trials.add("launcher::exit_status_is_the_programs", exit_status);
    trials.add("launcher::a_wild_access_is_reported_in_one_line", wild_access);
    trials.add("launcher::second_run_builds_nothing", second_run);
    trials.add("launcher::time_limit_ends_a_program_that_spins", time_limit);
    trials.add("launcher::ends_with_its_emulator_when_it_is_told_to", told_to_end);
    trials.add("launcher::unknown_calls_are_logged_once", unknown_calls);
    trials.add("launcher::a_kernel_without_checks_runs", without_checks);
    trials.add("launcher::planted_leak_fails_the_run", planted_leak);
    trials.add("launcher::waits_beyond_the_limit_are_drawn", wait_limit);
    compare::add(trials);
    soak::add(trials);
}

/// Who waits for the update lock of a call that is held up at a schedule point, and where both took or want it.
fn wait_limit() -> Result<()> {
    let options = ["--cpus", "2", "--firmware", "none", "--log", "warn", "--wait-limit", "5", "--timeout", "300"];
    let held_up = ["--points", "seed=1;after-mark=delay:30000:1/2"];
    let args = run_args(&[&options[..], &held_up].concat(), Rust("demo"), &["3", "6", "16"])?;
    let finished = launcher::run(&args, &[])?;
    let err = finished.err();
    ensure!(finished.status == 0, "status {}: {err}", finished.status);
    for words in [
        "a wait lasts too long:",
        " sleeps for update lock 0x",
        " is held by thread user@0x",
        "taken at kernel/mm/src/",
    ] {
        ensure!(err.contains(words), "{words:?} is missing: {err}");
    }
    ensure!(err.contains("no cycle") && !err.contains("a cycle:"), "there is none: {err}");
    Ok(())
}

/// One clear line on standard error, status 2, and no machine is started for it.
fn bad_input() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    std::fs::write(path("text"), "this is no program\n")?;
    std::fs::write(path("empty"), "")?;
    let hello = C("hello").build()?;
    let mut arm = std::fs::read(&hello)?;
    arm[18] = 183; // e_machine: AArch64
    std::fs::write(path("arm"), arm)?;
    std::fs::copy(&hello, path("huge"))?;
    // Sparse: it takes no room on the disk.
    std::fs::OpenOptions::new().write(true).open(path("huge"))?.set_len(400 << 20)?;
    let hello = hello.to_string_lossy().into_owned();
    let dynamic = dynamically_linked(&path("dynamic"))?;

    let mut cases: Vec<(Vec<String>, &str)> = vec![
        (vec![path("nothing")], "no such file"),
        (vec![path("text")], "ELF"),
        (vec![path("empty")], "ELF"),
        (vec![path("arm")], "x86_64"),
        (vec![path("huge")], "--mem"),
        (vec![dir.path().to_string_lossy().into_owned()], "director"),
        (vec!["--cpus".into(), "0".into(), hello.clone()], "--cpus"),
        (vec!["--cpus".into(), "65".into(), hello.clone()], "--cpus"),
        (vec!["--cpus".into(), "many".into(), hello.clone()], "--cpus"),
        (vec!["--mem".into(), "1".into(), hello.clone()], "--mem"),
        (vec!["--timeout".into(), "0".into(), hello.clone()], "--timeout"),
        (vec!["--log".into(), "loud".into(), hello.clone()], "--log"),
        (vec!["--env".into(), "NAME".into(), hello.clone()], "--env"),
        (vec!["--points".into(), "nowhere=delay:1:1/1".into(), hello.clone()], "nowhere"),
        (vec!["--release".into(), "--points".into(), "seed=1".into(), hello.clone()], "--points"),
        (vec!["--vma-lock".into(), "slots".into(), hello.clone()], "refcount"),
        (vec!["--update".into(), "cycles".into(), hello.clone()], "wound-wait"),
        (words("--vma-lock mm --update wound-wait", &hello), "--update wound-wait"),
        (words("--vma-lock mm --update cycle", &hello), "under --vma-lock mm a fault holds"),
        (vec!["--no-such-option".into(), hello], "--no-such-option"),
        (vec![], "PROGRAM"),
    ];
    if dynamic {
        cases.push((vec![path("dynamic")], "static"));
    }
    for (args, mentions) in cases {
        let args: Vec<String> = std::iter::once("run".to_owned()).chain(args).collect();
        let finished = launcher::run(&args, &[])?;
        let err = finished.err();
        ensure!(finished.status == 2, "{args:?}: status {}: {err}", finished.status);
        ensure!(finished.stdout.is_empty(), "{args:?}: standard output is not clean: {}", finished.out());
        let said = err.to_lowercase();
        ensure!(said.contains(&mentions.to_lowercase()), "{args:?}: {mentions:?} is not mentioned: {err}");
    }
    Ok(())
}

fn words(options: &str, program: &str) -> Vec<String> {
    options.split(' ').chain([program]).map(str::to_owned).collect()
}

/// Compiles a dynamically linked program, where the host's compiler can.
fn dynamically_linked(path: &str) -> Result<bool> {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("user/c/hello.c");
    let mut compiler = std::process::Command::new("cc");
    let finished = child::run(compiler.arg("-o").arg(path).arg(source), &[], Duration::from_secs(60));
    Ok(finished.is_ok_and(|finished| finished.status == 0))
}

/// Arguments for a run of one of our programs.
fn run_args(options: &[&str], source: tests::oracle::Source, args: &[&str]) -> Result<Vec<String>> {
    let program = source.build()?.to_string_lossy().into_owned();
    // The usual minute is for people: a busy host may need it for the boot.
    let limit: &[&str] = if options.contains(&"--timeout") { &[] } else { &["--timeout", "600"] };
    let mut all: Vec<String> = ["run"].iter().chain(limit).chain(options).map(|word| word.to_string()).collect();
    all.push(program);
    all.extend(args.iter().map(|argument| argument.to_string()));
    Ok(all)
}

fn streams() -> Result<()> {
    let args = run_args(&["--cpus", "2"], Rust("streams"), &[])?;
    let finished = launcher::run(&args, b"some\nlines")?;
    ensure!(finished.status == 0, "status {}: {}", finished.status, finished.err());
    ensure!(
        finished.out() == "standard output: 10 bytes came in\nsome\nlinesend",
        "standard output: {}",
        finished.out()
    );
    ensure!(!finished.out().contains("standard error"), "the streams are mixed: {}", finished.out());
    for line in ["standard error: nothing is wrong\n", "standard error: the last line\n"] {
        ensure!(finished.err().contains(line), "standard error: {}", finished.err());
    }
    Ok(())
}

fn exit_status() -> Result<()> {
    for (program, args, status) in [
        (Rust("exit_status"), &["77"][..], 77),
        (Rust("abort"), &[], 128 + 6),
        // Options after the program's name are the program's.
        (C("hello"), &["--cpus", "0"], 2),
    ] {
        let finished = launcher::run(&run_args(&["--cpus", "1"], program, args)?, &[])?;
        ensure!(finished.status == status, "{program:?}: status {}: {}", finished.status, finished.err());
    }
    Ok(())
}

/// The line names signal, address, kind of access, instruction and mapping.
fn wild_access() -> Result<()> {
    let finished = launcher::run(&run_args(&[], Rust("segv"), &["read-only"])?, &[])?;
    ensure!(finished.status == 128 + 11, "status {}: {}", finished.status, finished.err());
    let err = finished.err();
    let lines: Vec<&str> = err.lines().filter(|line| line.contains("SIGSEGV") && line.contains("0x")).collect();
    ensure!(lines.len() == 1, "one line about it, not {}: {err}", lines.len());
    for part in ["write to", "at ip", "r--p"] {
        ensure!(lines[0].contains(part), "{part:?} is missing: {}", lines[0]);
    }
    Ok(())
}

fn second_run() -> Result<()> {
    // What other tests want built they do not build meanwhile.
    for image in [Image::Kernel, Image::Release, Image::Guest, Image::GuestRelease] {
        qemu::kernel_image(image)?;
    }
    drop(Counting::new(Mode::Count)?);
    let args = run_args(&[], C("hello"), &["x"])?;
    let first = launcher::run(&args, &[])?;
    ensure!(first.status == 1 && first.out() == "hello from C\nargument 1: x\n", "{}{}", first.out(), first.err());
    let before = launcher::built_files()?;
    ensure!(
        before.keys().any(|path| path.extension().is_some_and(|extension| extension == "img")),
        "no image was found"
    );
    let second = launcher::run(&args, &[])?;
    let after = launcher::built_files()?;
    ensure!(second.status == 1 && second.out() == first.out(), "{}{}", second.out(), second.err());
    for (path, time) in &after {
        // Other tests build user programs meanwhile.
        let of_others = path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("user-"));
        ensure!(of_others || before.get(path) == Some(time), "{} was written", path.display());
    }
    Ok(())
}

fn time_limit() -> Result<()> {
    // Long enough to get there, on a host that may be slow; a machine that did not is given longer.
    let mut limit_s = 30;
    let finished = loop {
        let args = run_args(&["--cpus", "2", "--timeout", &limit_s.to_string()], Rust("spin"), &["3"])?;
        let finished = launcher::run(&args, &[])?;
        if !finished.stdout.is_empty() || limit_s > 300 {
            break finished;
        }
        limit_s *= 4;
    };
    ensure!(finished.out() == "spinning\n", "standard output: {}", finished.out());
    ensure!(finished.status == i32::from(qemu::status::TIMED_OUT), "status {}", finished.status);
    let err = finished.err();
    ensure!(err.contains("time was up"), "no verdict: {err}");
    ensure!(err.contains("CPU 1") || err.contains("cpu 1"), "where the CPUs were is missing: {err}");
    Ok(())
}

/// SIGTERM ends the launcher and its emulator.
fn told_to_end() -> Result<()> {
    let args = run_args(&[], Rust("spin"), &[])?;
    let mut command = launcher::command(&args)?;
    let _turn = turn::take();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut first = [0; 9];
    child.stdout.take().context("no pipe")?.read_exact(&mut first).context("it never began to spin")?;
    let started = launcher::descendants(child.id());
    ensure!(!started.is_empty(), "the launcher runs no emulator");
    child::terminate(&child);
    let deadline = Instant::now() + Duration::from_secs(60);
    let Some(status) = child::wait_until(&mut child, deadline)? else {
        child.kill()?;
        bail!("it did not end");
    };
    let status = child::as_a_shell(status);
    ensure!(status != 0, "status {status}");
    while let Some(left) = started.iter().find(|id| launcher::runs(**id)) {
        ensure!(Instant::now() < deadline, "process {left} is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn unknown_calls() -> Result<()> {
    let finished = launcher::run(&run_args(&["--log", "warn"], Rust("enosys"), &[])?, &[])?;
    ensure!(finished.status == 0, "status {}", finished.status);
    let err = finished.err();
    let times = err.lines().filter(|line| line.contains("400")).count();
    ensure!(times == 1, "call 400 is mentioned {times} times: {err}");
    Ok(())
}

/// The kernel that is for measuring. Its boot story says with which locks it runs.
fn without_checks() -> Result<()> {
    let options = ["--release", "--vma-lock", "rwsem", "--update", "cycle", "--log", "info"];
    let finished = launcher::run(&run_args(&options, C("hello"), &[])?, &[])?;
    ensure!(
        finished.status == 0 && finished.out() == "hello from C\n",
        "status {}: {}",
        finished.status,
        finished.err()
    );
    ensure!(finished.err().contains("] locks: faults by rwsem, updates by cycle\n"), "{}", finished.err());
    Ok(())
}

fn planted_leak() -> Result<()> {
    let finished = launcher::run(&run_args(&["--plant", "leak-frame"], C("hello"), &[])?, &[])?;
    ensure!(finished.out() == "hello from C\n", "standard output: {}", finished.out());
    ensure!(finished.status == i32::from(qemu::status::CHECK_FAILED), "status {}", finished.status);
    ensure!(finished.err().contains("frame"), "the verdict does not name frames: {}", finished.err());
    Ok(())
}
