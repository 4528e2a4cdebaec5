//! The launcher's commands: the demonstration, and running a program.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use abi::{Counter, Pair};
use anyhow::Result;

use crate::cli::{self, Cli, MachineOptions, NoCommand, RunOptions, Verb};
use crate::compare;
use crate::cost;
use crate::count::{Counting, Mode};
use crate::doctor;
use crate::explain;
use crate::gdb::Debugging;
use crate::image::{Built, Image, disk_image, kernel_image};
use crate::machine::{Machine, Stdin, Time};
use crate::nested::on_path;
use crate::program;
use crate::programs::user_program;
use crate::run::{Event, ProgramExit, Run, Verdict};
use crate::say::say;
use crate::soak;
use crate::status;
use crate::symbols::Symbols;
use crate::toolchain::Toolchain;

/// Console lines shown after a failure.
const TAIL: usize = 40;

/// Does what the command line says, and returns the exit status.
pub fn main(words: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match cli::parse(words) {
        Ok(cli) => cli,
        Err(NoCommand::Asked(text)) => return ended(show(text)),
        Err(NoCommand::Wrong(text)) => {
            say(text);
            return status::BAD_INPUT;
        }
    };
    let Cli { machine, verb } = cli;
    if machine.points.as_deref() == Some("list") {
        return ended(list_points());
    }
    if let Some(why) = machine.bad_points() {
        say(format_args!("--points: {why}"));
        return status::BAD_INPUT;
    }
    let pair = match machine.pair() {
        Ok(pair) => pair,
        Err(why) => {
            say(why);
            return status::BAD_INPUT;
        }
    };
    if pair != Pair::DEFAULT && matches!(verb, Some(Verb::Explain(_))) {
        say(format_args!("explain: the map shows {}, and no other lock protocols", Pair::DEFAULT));
        return status::BAD_INPUT;
    }
    if machine.gdb && !matches!(verb, None | Some(Verb::Run(_))) {
        say("--gdb: only for `run` and the demonstration");
        return status::BAD_INPUT;
    }
    let result = match verb {
        None => demonstrate(&machine),
        Some(Verb::Run(options)) => run_program(&machine, &options),
        Some(Verb::Explain(options)) => explain::main(&machine, &options),
        Some(Verb::Count) => cost::main(&machine),
        Some(Verb::Compare(options)) => compare::main(&machine, &options),
        Some(Verb::Soak(options)) => soak::main(&machine, &options),
        Some(Verb::Doctor) => doctor::main(),
    };
    ended(result)
}

/// The exit status of a command, and one line on why it could not do its work.
fn ended(result: Result<u8>) -> u8 {
    result.unwrap_or_else(|error| match error.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::BrokenPipe) => status::BROKEN_PIPE,
        Some(_) => {
            say(format_args!("cannot write: {error:#}"));
            status::STREAM
        }
        None => {
            say(format_args!("{error:#}"));
            status::SET_UP
        }
    })
}

/// Prints what was asked for and nothing else.
fn show(text: impl std::fmt::Display) -> Result<u8> {
    write!(io::stdout(), "{text}")?;
    Ok(0)
}

fn list_points() -> Result<u8> {
    let mut out = io::stdout().lock();
    for point in abi::Point::all() {
        writeln!(out, "{:<20} {}", point.name(), point.about())?;
    }
    Ok(0)
}

/// What boots: built from the sources, or made from the kernel on the command line.
pub(crate) fn image(options: &MachineOptions) -> Result<Built> {
    match &options.kernel {
        None if options.release => kernel_image(Image::Release),
        None => kernel_image(Image::Kernel),
        Some(elf) => disk_image("other", elf, &Toolchain::choose()?),
    }
}

/// A machine with what every command's options say about it.
pub(crate) fn machine(image: &Built, options: &MachineOptions) -> Machine {
    let mut machine = Machine::new(image)
        .cpus(options.cpu_count())
        .mem_mib(options.mem_mib())
        .entry(options.entry())
        .time(options.time())
        .timeout(options.time_limit())
        .log(options.log.map_or("info", cli::Level::name));
    if let Some(seed) = options.seed() {
        machine = machine.seed(seed);
    }
    if let Some(rules) = &options.points {
        machine = machine.points(rules);
    }
    if options.events == Some(cli::Switch::Off) {
        machine = machine.events_off();
    }
    if let Some(limit_ms) = options.wait_limit {
        machine = machine.wait_limit_ms(limit_ms);
    }
    if (options.vma_lock.is_some() || options.update.is_some())
        && let Ok(pair) = options.pair()
    {
        machine = machine.pair(pair);
    }
    if options.plant.is_empty() {
        return machine;
    }
    machine.plant(&options.plant.iter().map(String::as_str).collect::<Vec<_>>())
}

/// With `--gdb`: what lets a debugger in. The person is told what to type.
fn debugging(options: &MachineOptions, image: &Built) -> Result<Option<Debugging>> {
    if !options.gdb {
        return Ok(None);
    }
    let debugging = Debugging::new(image)?;
    if on_path("gdb").is_none() {
        say("there is no gdb here: `apt-get install gdb` brings it");
    }
    say(format_args!("the machine waits for a debugger; in another terminal type:\n    {}", debugging.line()));
    Ok(Some(debugging))
}

/// `cargo run`: boots, shows how, runs a program that uses the memory manager hard, and shows what was counted.
fn demonstrate(options: &MachineOptions) -> Result<u8> {
    let image = image(options)?;
    let demo = user_program("demo")?;
    let mut machine = machine(&image, options).program(&demo, ["demo"]).stats();
    let debugging = debugging(options, &image)?;
    if let Some(debugging) = &debugging {
        machine = debugging.of(machine);
    }
    let mut out = io::stdout().lock();
    let run = machine.run_with(|event| {
        match event {
            Event::Console(line) => writeln!(out, "{line}")?,
            Event::Stdout(bytes) => out.write_all(bytes)?,
            Event::Stderr(bytes) => io::stderr().write_all(bytes)?,
            _ => {}
        }
        out.flush()
    })?;
    if let Some(stats) = &run.stats {
        write!(out, "\n{}", stats.table())?;
        if let Some(spaces) = &run.spaces {
            write!(out, "\n{}", spaces.table())?;
        }
    }
    if let Some(frames) = &run.frames {
        writeln!(out, "\n{}", frames.summary())?;
    }
    writeln!(out, "{}", summary(&run, options))?;
    out.flush()?;
    Ok(conclude(&run, &image, Path::new("demo")))
}

/// One line about a demonstration.
fn summary(run: &Run, options: &MachineOptions) -> String {
    let mut parts = vec![format!(
        "Tessera on {} CPUs, {} MiB, {}: {} in {:.1} s",
        options.cpu_count(),
        options.mem_mib(),
        options.pair().unwrap_or(Pair::DEFAULT),
        run.verdict.summary(),
        run.elapsed.as_secs_f32()
    )];
    if let Some(booted) = run.booted {
        parts.push(format!("{:.1} s of it to boot", booted.as_secs_f32()));
    }
    if options.time() == Time::Counted {
        parts.push(format!("deterministic, seed {:#x}", options.seed().unwrap_or_default()));
    }
    if let Some(exit) = run.exit {
        parts.push(format!("the program {exit}"));
    }
    if let Some(stats) = &run.stats {
        parts.push(format!(
            "{} page faults, {} under a VMA's own lock",
            stats.total(Counter::Fault),
            stats.total(Counter::FaultLocked)
        ));
    }
    parts.join("; ")
}

/// `run PROGRAM ARGS`: the program's streams and status are ours.
fn run_program(options: &MachineOptions, run: &RunOptions) -> Result<u8> {
    let program = run.program();
    if let Some(variable) = run.bad_variable() {
        say(format_args!("--env {}: not of the form NAME=VALUE", variable.display()));
        return Ok(status::BAD_INPUT);
    }
    if let Err(why) = program::check(&program, options.mem_mib()) {
        say(format_args!("{}: {why}", program.display()));
        return Ok(status::BAD_INPUT);
    }

    let image = image(options)?;
    // Without --log nothing is shown, but a report about a failure wants the story.
    let mut machine = machine(&image, options).program(&program, &run.command).env(&run.env);
    machine = machine.stdin(Stdin::Inherit);
    if run.stats {
        machine = machine.stats();
    }
    let counting = if run.count { Some(Counting::new(Mode::Count)?) } else { None };
    if let Some(counting) = &counting {
        machine = counting.of(machine);
    }
    let debugging = debugging(options, &image)?;
    if let Some(debugging) = &debugging {
        machine = debugging.of(machine);
    }
    let show_log = options.log.is_some();
    let mut out = io::stdout().lock();
    let ended = machine.run_with(|event| match event {
        Event::Stdout(bytes) => out.write_all(bytes).and_then(|()| out.flush()),
        Event::Stderr(bytes) => io::stderr().write_all(bytes),
        Event::Console(line) if show_log => writeln!(io::stderr(), "{line}"),
        _ => Ok(()),
    })?;
    if run.stats {
        if let Some(stats) = &ended.stats {
            eprint!("{}", stats.table());
        }
        if let Some(spaces) = &ended.spaces {
            eprint!("\n{}", spaces.table());
        }
        if let Some(frames) = &ended.frames {
            say(frames.summary());
        }
    }
    if let Some(counting) = counting
        && ended.verdict == Verdict::Done
    {
        eprint!("{}", counting.counts()?.table(&Symbols::load(&image.elf)?));
    }
    Ok(conclude(&ended, &image, &program))
}

/// The exit status for a machine that has run, after saying on standard error what went wrong, if anything did.
pub(crate) fn conclude(run: &Run, image: &Built, program: &Path) -> u8 {
    if let Some(failure) = status::of_failure(&run.verdict) {
        if run.verdict == Verdict::Refused {
            let reason = run.console.lines().next_back().unwrap_or("it did not say why");
            say(format_args!("{}: {}: {reason}", program.display(), run.verdict.summary()));
            return failure;
        }
        let symbols = Symbols::load(&image.elf).unwrap_or_default();
        if let (Verdict::CheckFailed, Some(frames)) = (&run.verdict, &run.frames) {
            say(frames.summary());
        }
        say(run.failure_report(&symbols, TAIL).trim_end());
        return failure;
    }
    match run.exit {
        Some(exit) => {
            if matches!(exit, ProgramExit::Signal(_)) {
                say(format_args!("{} {exit}{}", program.display(), death_notice(&run.console)));
            }
            exit.shell_status()
        }
        None => {
            say("the kernel ended without saying how the program did");
            status::STREAM
        }
    }
}

/// The kernel's reason for killing the program, off its log: `: write to 0x10 at ip 0x401623: no mapping`, or nothing.
fn death_notice(console: &str) -> &str {
    let line = console.lines().rev().find_map(|line| line.split_once(" killed by SIG"));
    line.and_then(|(_, rest)| rest.find(": ").map(|at| &rest[at..])).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_reason_is_found_among_its_lines() {
        let console =
            "[0 cpu0] tessera\n[0.2 cpu0] warning: pid 1 tid 1 killed by SIGSEGV: write to 0x10: no mapping\nx\n";
        assert_eq!(death_notice(console), ": write to 0x10: no mapping");
        assert_eq!(death_notice("pid 1 killed by SIGKILL\n"), "");
        assert_eq!(death_notice(""), "");
    }
}
