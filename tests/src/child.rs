//! Running a program on the host to its end, with everything that it writes, and with a limit.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What a program left behind.
#[derive(Debug)]
pub struct Finished {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// As a shell reports it: the exit status, or 128 and the number of the signal that killed it.
    pub status: i32,
}

impl Finished {
    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Runs `command`, hands it `input`, and collects what it writes.
///
/// # Errors
/// It cannot be started, or has not ended after `limit`: it is killed then, and the error shows what it wrote so far.
pub fn run(command: &mut Command, input: &[u8], limit: Duration) -> Result<Finished> {
    let name = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {name}"))?;
    let stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        // A program that does not read its input ends all the same: the write fails.
        scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input)));
        let stdout = scope.spawn(move || drain(stdout));
        let stderr = scope.spawn(move || drain(stderr));
        let status = wait(&mut child, limit);
        let [stdout, stderr] = [stdout, stderr].map(|reader| reader.join().unwrap_or_default());
        match status.with_context(|| format!("cannot wait for {name}"))? {
            Some(status) => Ok(Finished { stdout, stderr, status: as_a_shell(status) }),
            None => bail!(
                "{name} has not ended after {} s\nstandard output:\n{}\nstandard error:\n{}",
                limit.as_secs(),
                String::from_utf8_lossy(&stdout),
                String::from_utf8_lossy(&stderr)
            ),
        }
    })
}

/// Waits for the end of `child`; after `limit` asks it to end, then makes it end, and returns none.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    if let Some(status) = wait_until(child, Instant::now() + limit)? {
        return Ok(Some(status));
    }
    // The launcher takes its emulator with it when it is asked, and could not when it is killed.
    terminate(child);
    if wait_until(child, Instant::now() + Duration::from_secs(5))?.is_none() {
        child.kill()?;
        child.wait()?;
    }
    Ok(None)
}

/// Sends SIGTERM.
pub fn terminate(child: &Child) {
    let _ = Command::new("kill").arg(child.id().to_string()).status();
}

/// Waits for the end of `child`, at most until `deadline`.
///
/// # Errors
/// The host's.
pub fn wait_until(child: &mut Child, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn drain(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What arrived before an error is worth showing.
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
}

/// The status as a shell reports it.
pub fn as_a_shell(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}
