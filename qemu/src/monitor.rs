//! The part of QEMU's machine protocol (QMP) that a report about a stuck machine needs.
//!
//! QMP is one JSON object a line, both ways: a greeting, then for each command a `return` or an `error`, with events in
//! between (QEMU's "QMP protocol specification"). A thread reads ([`Listener`]); the session asks ([`Monitor`]) when it
//! has a report to make.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Longest wait for one answer: QEMU answers at once, or is stuck itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why the machine stopped by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It reset itself: a triple fault, or the keyboard controller's or PCI's reset line.
    Reset,
    /// It switched itself off: newer QEMUs tell so of the debug-exit port too.
    Off,
    /// It said that it panics, and waits to be looked at.
    Panicked,
}

/// The asking side of a connection.
#[derive(Debug)]
pub struct Monitor {
    stream: UnixStream,
    answers: Receiver<Value>,
    /// Questions so far: the number of the last one.
    asked: u64,
}

/// The reading side of a connection: belongs to a thread.
#[derive(Debug)]
pub struct Listener {
    lines: BufReader<UnixStream>,
    answers: Sender<Value>,
}

/// Splits a connection to QEMU's monitor.
///
/// # Errors
/// The socket cannot be shared.
pub fn split(stream: UnixStream) -> Result<(Monitor, Listener)> {
    let lines = BufReader::new(stream.try_clone().context("cannot share the monitor's socket")?);
    let (sender, answers) = channel();
    Ok((Monitor { stream, answers, asked: 0 }, Listener { lines, answers: sender }))
}

impl Listener {
    /// Reads until QEMU closes; tells `stopped` when the machine has stopped by itself.
    pub fn listen(self, mut stopped: impl FnMut(Stopped)) {
        for line in self.lines.lines() {
            let Ok(line) = line else { return };
            let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
            if let Some(why) = stop_event(&value) {
                stopped(why);
            } else if value.get("return").is_some() || value.get("error").is_some() {
                let _ = self.answers.send(value); // nobody waits any more: then nobody needs it
            }
        }
    }
}

/// Whether a line is the event that the machine has stopped by itself.
fn stop_event(line: &Value) -> Option<Stopped> {
    match line.get("event")?.as_str()? {
        "SHUTDOWN" => {}
        "GUEST_PANICKED" => return Some(Stopped::Panicked),
        _ => return None,
    }
    let data = line.get("data")?;
    if data.get("guest")?.as_bool()? {
        Some(if data.get("reason")?.as_str()? == "guest-reset" { Stopped::Reset } else { Stopped::Off })
    } else {
        None
    }
}

impl Monitor {
    /// Asks for commands and events.
    ///
    /// # Errors
    /// QEMU has gone.
    pub fn greet(&mut self) -> Result<()> {
        self.command("qmp_capabilities", json!({})).map(drop)
    }

    /// Lets a stopped QEMU leave with the status that the machine asked for.
    ///
    /// # Errors
    /// QEMU has gone.
    pub fn quit(&mut self) -> Result<()> {
        self.command("quit", json!({})).map(drop)
    }

    fn command(&mut self, name: &str, arguments: Value) -> Result<Value> {
        self.asked += 1;
        let line = format!("{}\n", json!({ "execute": name, "arguments": arguments, "id": self.asked }));
        self.stream.write_all(line.as_bytes()).context("QEMU's monitor has gone")?;
        let mut answer = loop {
            let answer = self.answers.recv_timeout(PATIENCE).context("QEMU's monitor does not answer")?;
            // An answer that came too late for its own question is none to this one.
            if answer["id"] == self.asked {
                break answer;
            }
        };
        match answer.get_mut("return") {
            Some(value) => Ok(value.take()),
            None => bail!("{name}: {answer}"),
        }
    }

    fn human(&mut self, cpu: Option<u32>, line: &str) -> Result<String> {
        let mut arguments = json!({ "command-line": line });
        if let Some(cpu) = cpu {
            arguments["cpu-index"] = json!(cpu);
        }
        let answer = self.command("human-monitor-command", arguments)?;
        Ok(answer.as_str().unwrap_or_default().replace('\r', ""))
    }

    /// Stops the machine, if it has not stopped by itself.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn stop(&mut self) -> Result<()> {
        self.command("stop", json!({})).map(drop)
    }

    /// Lets a stopped machine go on.
    ///
    /// # Errors
    /// QEMU does not answer, or the machine cannot go on.
    pub fn resume(&mut self) -> Result<()> {
        self.command("cont", json!({})).map(drop)
    }

    /// Every CPU's registers.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn cpus(&mut self) -> Result<Vec<Cpu>> {
        Ok(cpus(&self.human(None, "info registers -a")?))
    }

    /// Writes `len` bytes of memory at `address`, as `cpu`'s page tables map it, into `file`.
    ///
    /// # Errors
    /// They do not map all of it, or QEMU does not answer.
    pub fn save_memory(&mut self, cpu: u32, address: u64, len: u64, file: &Path) -> Result<()> {
        // QEMU's older versions take a signed number, and all take a negative one for its bits.
        let arguments = json!({ "val": address as i64, "size": len, "filename": file, "cpu-index": cpu });
        self.command("memsave", arguments).map(drop)
    }
}

fn hex(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}

/// What QEMU knows of one CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub index: u32,
    /// The next instruction.
    pub rip: u64,
    /// Frame pointer.
    pub rbp: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Whether it runs a program.
    pub user: bool,
    /// Whether interrupts are on.
    pub interrupts: bool,
    /// Whether it waits for one.
    pub halted: bool,
    /// Whether its page tables are in use: it has been started.
    pub paging: bool,
    /// General, flags and control registers, a few a line, as QEMU prints them.
    pub registers: Vec<String>,
}

/// Parses what QEMU prints for `info registers -a`.
fn cpus(dump: &str) -> Vec<Cpu> {
    let mut cpus = Vec::new();
    for block in dump.split("CPU#").skip(1) {
        let field = |name: &str| {
            let at = block.find(&format!("{name}="))? + name.len() + 1;
            block[at..].split(|char: char| !char.is_ascii_hexdigit()).next()
        };
        let number = |name: &str| field(name).and_then(hex).unwrap_or(0);
        let Some(index) = block.split_whitespace().next().and_then(|word| word.parse().ok()) else { continue };
        let shown = ["RAX=", "RSI=", "R8 =", "R12=", "RIP=", "CR0="];
        let general = |line: &&str| shown.iter().any(|name| line.starts_with(name));
        cpus.push(Cpu {
            index,
            rip: number("RIP"),
            rbp: number("RBP"),
            rsp: number("RSP"),
            user: number("CPL") == 3,
            interrupts: number("RFL") & 0x200 != 0,
            halted: number("HLT") == 1,
            paging: number("CR0") & 1 << 31 != 0,
            registers: block.lines().filter(general).map(|line| line.trim().to_owned()).collect(),
        });
    }
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "\nCPU#0\nRAX=0000000000000007 RBX=0000000000000001 RCX=0000000000000002 RDX=0000000000000003\n\
        RSI=0000000000000000 RDI=0000000000000000 RBP=ffffffff80010ff0 RSP=ffffffff80010fe0\n\
        R8 =0000000000000000 R9 =0000000000000000 R10=0000000000000000 R11=0000000000000000\n\
        R12=0000000000000000 R13=0000000000000000 R14=0000000000000000 R15=0000000000000000\n\
        RIP=ffffffff80001234 RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0\nES =0000\n\
        CR0=80010033 CR2=0000000000000000 CR3=0000000000001000 CR4=00000000\n\n\
        CPU#1\nRAX=0000000000000000 RBX=0\nRIP=0000000000401000 RFL=00000202 [-------] CPL=3 II=0 A20=1 SMM=0 HLT=1\n";

    #[test]
    fn registers_are_read_off_the_dump() {
        let cpus = cpus(DUMP);
        assert_eq!(cpus.len(), 2);
        assert_eq!((cpus[0].index, cpus[0].rip, cpus[0].rbp), (0, 0xffff_ffff_8000_1234, 0xffff_ffff_8001_0ff0));
        assert!(!cpus[0].user && !cpus[0].interrupts && !cpus[0].halted);
        assert_eq!(cpus[0].registers.len(), 6);
        assert!(cpus[0].paging && !cpus[1].paging);
        assert_eq!(cpus[0].rsp, 0xffff_ffff_8001_0fe0);
        assert_eq!((cpus[1].index, cpus[1].rip), (1, 0x40_1000));
        assert!(cpus[1].user && cpus[1].interrupts && cpus[1].halted);
    }

    #[test]
    fn a_machine_that_stops_by_itself_is_told_from_one_that_we_stop() {
        let event =
            |guest: bool, reason: &str| json!({ "event": "SHUTDOWN", "data": { "guest": guest, "reason": reason } });
        assert_eq!(stop_event(&event(true, "guest-reset")), Some(Stopped::Reset));
        assert_eq!(stop_event(&event(true, "guest-shutdown")), Some(Stopped::Off));
        assert_eq!(stop_event(&event(false, "host-qmp-quit")), None);
        assert_eq!(stop_event(&json!({ "event": "GUEST_PANICKED", "data": {} })), Some(Stopped::Panicked));
        assert_eq!(stop_event(&json!({ "event": "STOP" })), None);
        assert_eq!(stop_event(&json!({ "return": {} })), None);
    }
}
