//! The same program on the host's Linux and on Tessera: standard output, standard error and status must agree.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use abi::Pair;
use anyhow::{Context, Result, ensure};
use qemu::{Image, Machine, Run, Stdin, Symbols, Verdict};

use crate::child::{self, Finished};
use crate::turn;

/// How long a program may take, boot included, on either system. Generous: a loaded host is slow, and a program that hangs
/// hangs for ever.
pub const LIMIT: Duration = Duration::from_secs(600);

/// Lines of the console that a report shows.
const TAIL: usize = 40;

/// Where a program's source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A binary of the package `user`: static-PIE.
    Rust(&'static str),
    /// A file in `tests/user/c`: static, at a fixed address.
    C(&'static str),
}

impl Source {
    /// Builds the program, as far as it is not built yet.
    ///
    /// # Errors
    /// No compiler, or the build fails.
    pub fn build(self) -> Result<PathBuf> {
        match self {
            Source::Rust(bin) => qemu::user_program(bin),
            Source::C(name) => {
                qemu::c_program(&Path::new(env!("CARGO_MANIFEST_DIR")).join("user/c").join(name).with_extension("c"))
            }
        }
    }
}

/// One way of running a program.
#[derive(Clone, Debug)]
pub struct Case {
    source: Source,
    args: Vec<String>,
    env: Vec<(String, String)>,
    input: Vec<u8>,
    cpus: u32,
    mem_mib: u32,
    plant: Vec<&'static str>,
    points: Option<&'static str>,
    pair: Pair,
    limit: Duration,
}

impl Case {
    /// The program from `source` with these arguments, on 4 CPUs and 512 MiB.
    pub fn new(source: Source, args: &[&str]) -> Case {
        let args = args.iter().map(|argument| argument.to_string()).collect();
        Case {
            source,
            args,
            env: Vec::new(),
            input: Vec::new(),
            cpus: 4,
            mem_mib: 512,
            plant: Vec::new(),
            points: None,
            pair: Pair::DEFAULT,
            limit: LIMIT,
        }
    }

    /// On this many CPUs.
    pub fn cpus(mut self, cpus: u32) -> Case {
        self.cpus = cpus;
        self
    }

    /// With this much memory.
    pub fn mem_mib(mut self, mem_mib: u32) -> Case {
        self.mem_mib = mem_mib;
        self
    }

    /// With this variable in its environment.
    pub fn env(mut self, name: &str, value: &str) -> Case {
        self.env.push((name.into(), value.into()));
        self
    }

    /// With this on its standard input.
    pub fn input(mut self, input: &[u8]) -> Case {
        self.input = input.to_vec();
        self
    }

    /// With these faults planted in the kernel.
    pub fn plant(mut self, names: &[&'static str]) -> Case {
        self.plant = names.to_vec();
        self
    }

    /// With these delays and meetings at the kernel's schedule points.
    pub fn points(mut self, rules: &'static str) -> Case {
        self.points = Some(rules);
        self
    }

    /// Under these lock protocols.
    pub fn pair(mut self, pair: Pair) -> Case {
        self.pair = pair;
        self
    }

    /// For no longer than this on Tessera, boot included.
    pub fn limit(mut self, limit: Duration) -> Case {
        self.limit = limit;
        self
    }

    /// Runs it on the host.
    ///
    /// # Errors
    /// It cannot be built or started, or does not end.
    pub fn on_linux(&self) -> Result<Finished> {
        let program = self.source.build()?;
        let mut command = Command::new(program);
        command.args(&self.args).env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        child::run(&mut command, &self.input, LIMIT)
    }

    /// Runs it on Tessera, and judges nothing. The counters come with it.
    ///
    /// # Errors
    /// It cannot be built, or the machine cannot be started.
    pub fn boot(&self) -> Result<Run> {
        let program = self.source.build()?;
        let image = qemu::kernel_image(Image::Kernel)?;
        let name = program.to_string_lossy().into_owned();
        let _turn = turn::take();
        let machine = Machine::new(&image)
            .cpus(self.cpus)
            .mem_mib(self.mem_mib)
            .pair(self.pair)
            .timeout(self.limit)
            .program(&program, std::iter::once(&name).chain(&self.args))
            .env(self.env.iter().map(|(name, value)| format!("{name}={value}")))
            .stdin(Stdin::Bytes(self.input.clone()))
            .plant(&self.plant)
            .stats();
        self.points.map_or(machine.clone(), |rules| machine.points(rules)).run()
    }

    /// Runs it on Tessera: it must end by itself, and every frame must be accounted for.
    ///
    /// # Errors
    /// Anything else; the text shows the kernel's last words.
    pub fn on_tessera(&self) -> Result<(Finished, Run)> {
        let run = self.boot()?;
        ensure!(run.verdict == Verdict::Done, "{}{}", report(&run)?, streams(&run));
        let frames = run.frames.as_ref().context("the kernel sent no account of its frames")?;
        ensure!(frames.changed().next().is_none(), "{}", frames.summary());
        let exit = run.exit.context("the kernel did not say how the program ended")?;
        let status = i32::from(exit.shell_status());
        let finished = Finished { stdout: run.stdout.clone(), stderr: run.stderr.clone(), status };
        Ok((finished, run))
    }

    /// Both must agree.
    ///
    /// # Errors
    /// They do not: the text shows the first difference.
    pub fn same(&self) -> Result<()> {
        let linux = self.on_linux()?;
        let (tessera, run) = self.on_tessera()?;
        agree("standard output", &linux.out(), &tessera.out())?;
        agree("standard error", &linux.err(), &tessera.err()).with_context(|| console(&run))?;
        ensure!(linux.status == tessera.status, "status {} on Linux, {} on Tessera", linux.status, tessera.status);
        Ok(())
    }
}

/// Compares two texts line by line.
fn agree(what: &str, linux: &str, tessera: &str) -> Result<()> {
    if linux == tessera {
        return Ok(());
    }
    let differs = linux.lines().zip(tessera.lines()).take_while(|(one, other)| one == other).count();
    let line = |text: &str| text.lines().nth(differs).unwrap_or("(the end)").to_owned();
    anyhow::bail!(
        "{what} differs at line {}:\n  Linux:   {}\n  Tessera: {}\nall of it on Tessera:\n{tessera}",
        differs + 1,
        line(linux),
        line(tessera)
    )
}

/// The kernel's last words.
///
/// # Errors
/// There is no image.
pub fn report(run: &Run) -> Result<String> {
    let symbols = Symbols::load(&qemu::kernel_image(Image::Kernel)?.elf).unwrap_or_default();
    Ok(run.failure_report(&symbols, TAIL))
}

fn streams(run: &Run) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("standard output:\n{}\nstandard error:\n{}", text(&run.stdout), text(&run.stderr))
}

fn console(run: &Run) -> String {
    format!("the console:\n{}", run.console)
}
