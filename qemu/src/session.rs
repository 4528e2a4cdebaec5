//! One machine from QEMU's start to its end: who reads which port, who waits for what, and that nothing survives.
//!
//! Threads read the two serial ports, QEMU's complaints and its monitor, and send what they read to the one thread
//! that started QEMU; it alone decodes, calls the event handler, watches the clock, and judges. It leaves only when
//! QEMU has ended: by itself, or killed.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use abi::wire::Kind;
use anyhow::{Context, Result, ensure};

use crate::console::Console;
use crate::emulator::Emulator;
use crate::machine::{Machine, Starter, Stdin, Time, monitor_socket, resets};
use crate::monitor::{self, Monitor, Stopped};
use crate::ports;
use crate::report::{self, Why};
use crate::run::{Event, Run, Verdict, judge};
use crate::stream::Stream;
use crate::symbols::Symbols;
use crate::wire::encode;

/// What the reading threads tell.
enum Message {
    Console(Vec<u8>),
    Stream(Vec<u8>),
    Complaint(Vec<u8>),
    /// One of these three has ended.
    Closed,
    Monitor(Monitor),
    Stopped(Stopped),
}

/// How long a panic may take to write its last words, after it was looked at.
const LAST_WORDS: Duration = Duration::from_secs(20);

/// How many of them there are: both ports and QEMU's standard error. When all are closed, QEMU has ended.
const SOURCES: usize = 3;

/// How often to look whether we are to stop, where that may be.
const STOP_LOOK: Duration = Duration::from_millis(100);

/// QEMU, killed if we leave before it does.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended: then there is nothing to kill
        let _ = self.0.wait();
    }
}

/// Runs `machine`. See [`Machine::run_with`].
pub(crate) fn run(
    machine: &Machine,
    emulator: &Emulator,
    mut on: impl FnMut(Event<'_>) -> std::io::Result<()>,
) -> Result<Run> {
    let machine = &machine.clone().kept_apart()?;
    let dir = scratch()?;
    let socket = monitor_socket(dir.path());
    let listener = UnixListener::bind(&socket).with_context(|| format!("cannot make {}", socket.display()))?;

    let mut command = machine.command(emulator, dir.path())?;
    let ended = Arc::new(AtomicBool::new(false));
    let ports = ports::open(machine.time, dir.path(), &mut command, &ended)?;
    command.stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = Guarded(command.spawn().with_context(|| format!("cannot run {}", emulator.qemu.display()))?);
    drop(command); // and with it our copies of QEMU's ends: the ports end when QEMU does

    let (tell, told) = channel();
    let mut stdin = ports.input.map(|port| (machine.stdin.clone(), port));
    forward(ports.console, tell.clone(), Message::Console);
    forward(ports.stream, tell.clone(), Message::Stream);
    if let Some(stderr) = child.0.stderr.take() {
        let tell = tell.clone();
        thread::spawn(move || {
            pass_on(stderr, &tell, Message::Complaint);
            ended.store(true, Ordering::Release); // nobody else holds its other end
        });
    }
    thread::spawn(move || watch(&listener, &tell));

    let mut session = Session { console: Console::new(), stream: Stream::new(), complaints: Vec::new(), closed: 0 };
    let mut monitor = None;
    let mut booted = None;
    let mut lines = Vec::new();
    let look = |monitor: Option<&mut Monitor>, why| look(monitor, machine, dir.path(), why);
    let mut deadline = started + machine.timeout;
    let forced = loop {
        if session.closed == SOURCES {
            break None;
        }
        let mut patience = deadline.saturating_duration_since(Instant::now());
        if let Some(stop) = &machine.stop {
            // Relaxed: the flag says all there is to know.
            ensure!(!stop.load(Ordering::Relaxed), "stopped");
            patience = patience.min(STOP_LOOK);
        }
        match told.recv_timeout(patience) {
            Ok(Message::Monitor(mut fresh)) => {
                let started = fresh.greet().and_then(|()| match (machine.time, machine.starter) {
                    (Time::Counted, Starter::Launcher) => fresh.resume(),
                    (Time::Host, _) | (_, Starter::Debugger) => Ok(()),
                });
                if started.is_ok() {
                    monitor = Some(fresh);
                }
            }
            Ok(Message::Stopped(Stopped::Off)) => {
                if let Some(monitor) = &mut monitor {
                    let _ = monitor.quit(); // QEMU may have gone before it answers
                }
            }
            Ok(Message::Stopped(Stopped::Reset)) => {
                lines = look(monitor.as_mut(), Why::Reset);
                break Some(Verdict::Reset);
            }
            Ok(Message::Stopped(Stopped::Panicked)) => {
                // The second time the panic itself has panicked.
                if lines.is_empty() {
                    lines = look(monitor.as_mut(), Why::Panic);
                }
                // Who looks at it with a debugger lets it go on.
                if machine.starter == Starter::Debugger {
                    continue;
                }
                // It has a few words for the console, and ends. It may be too broken for that.
                deadline = Instant::now() + LAST_WORDS;
                if monitor.as_mut().is_none_or(|monitor| monitor.resume().is_err()) {
                    break Some(Verdict::Panicked);
                }
            }
            Ok(message) => {
                session.take(message, &mut on)?;
                if session.stream.started() && booted.is_none() {
                    booted = Some(started.elapsed());
                    if let Some((stdin, port)) = stdin.take() {
                        thread::spawn(move || feed(stdin, port));
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
            Err(RecvTimeoutError::Timeout) if !lines.is_empty() => break Some(Verdict::Panicked),
            Err(RecvTimeoutError::Timeout) => {
                lines = look(monitor.as_mut(), Why::Hang);
                break Some(Verdict::TimedOut);
            }
            Err(RecvTimeoutError::Disconnected) => break None,
        }
    };

    if forced.is_some() {
        let _ = child.0.kill(); // it may have ended in the same moment
        session.drain(&told, &mut on)?;
    }
    let status = child.0.wait().context("cannot wait for QEMU")?;
    session.console.finish(|line| on(Event::Console(line)))?;
    let complaints = String::from_utf8_lossy(&session.complaints).into_owned();
    let verdict = forced
        .unwrap_or_else(|| judge(session.stream.end(), session.stream.garbled(), status_number(status), &complaints));
    Ok(session.stream.into_run(verdict, lines, session.console.text(), started.elapsed(), booted))
}

/// What has been read so far.
struct Session {
    console: Console,
    stream: Stream,
    complaints: Vec<u8>,
    closed: usize,
}

impl Session {
    /// Takes what one of the ports has brought.
    fn take(&mut self, message: Message, on: &mut impl FnMut(Event<'_>) -> std::io::Result<()>) -> std::io::Result<()> {
        match message {
            Message::Console(bytes) => self.console.push(&bytes, |line| on(Event::Console(line))),
            Message::Stream(bytes) => {
                let result = self.stream.push(&bytes, on);
                if self.stream.started() {
                    self.console.kernel_is_up();
                }
                result
            }
            Message::Complaint(bytes) => {
                self.complaints.extend_from_slice(&bytes);
                Ok(())
            }
            Message::Closed => {
                self.closed += 1;
                Ok(())
            }
            Message::Monitor(_) | Message::Stopped(_) => Ok(()),
        }
    }

    /// Takes what the ports still hold of a QEMU that has been killed.
    fn drain(
        &mut self,
        told: &Receiver<Message>,
        on: &mut impl FnMut(Event<'_>) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        while self.closed < SOURCES {
            let Ok(message) = told.recv_timeout(Duration::from_secs(10)) else { break };
            self.take(message, on)?;
        }
        Ok(())
    }
}

/// How the names of these directories begin.
const PREFIX: &str = "tessera-";

/// Twice the longest time limit on offer.
const ABANDONED: Duration = Duration::from_secs(2 * 86_400);

/// A directory of this machine's own. Its path is short: a socket's name has room for a hundred bytes.
fn scratch() -> Result<tempfile::TempDir> {
    let dir = std::env::temp_dir();
    let dir = if dir.as_os_str().len() > 60 { "/tmp".into() } else { dir };
    forget_abandoned(&dir);
    let scratch = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&dir);
    scratch.with_context(|| format!("cannot make a directory in {}", dir.display()))
}

/// Removes directories of launchers that were killed before they could: older than any machine may become.
fn forget_abandoned(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let made = entry.metadata().and_then(|meta| meta.modified());
        if made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > ABANDONED)) {
            let _ = std::fs::remove_dir_all(entry.path()); // somebody else's, perhaps
        }
    }
}

/// Sends everything that can be read from `source`, until its end.
fn forward(source: impl Read + Send + 'static, tell: Sender<Message>, message: fn(Vec<u8>) -> Message) {
    thread::spawn(move || pass_on(source, &tell, message));
}

/// The same, on this thread.
fn pass_on(mut source: impl Read, tell: &Sender<Message>, message: fn(Vec<u8>) -> Message) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match source.read(&mut buffer) {
            Ok(count) if count > 0 => {
                if tell.send(message(buffer[..count].to_vec())).is_err() {
                    return; // the session is over
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    let _ = tell.send(Message::Closed); // the session may be over
}

/// Waits for QEMU's monitor to call, and reads what it says until it closes.
fn watch(listener: &UnixListener, tell: &Sender<Message>) {
    // QEMU calls while it starts, or has ended before: `accept` alone would wait for ever then.
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    let mut patience = 12_000;
    let stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(_) if patience > 0 => thread::sleep(Duration::from_millis(5)),
            Err(_) => return,
        }
        patience -= 1;
    };
    if stream.set_nonblocking(false).is_ok()
        && let Ok((monitor, listener)) = monitor::split(stream)
        && tell.send(Message::Monitor(monitor)).is_ok()
    {
        listener.listen(|stopped| {
            let _ = tell.send(Message::Stopped(stopped)); // nobody listens: the session is over
        });
    }
}

/// Sends the program its standard input, then the end.
fn feed(stdin: Stdin, mut port: UnixStream) {
    let mut send = |kind, bytes: &[u8]| port.write_all(&encode(kind, bytes)).is_ok();
    match stdin {
        Stdin::Null => {}
        Stdin::Bytes(bytes) if bytes.is_empty() => {}
        Stdin::Bytes(bytes) => {
            if !send(Kind::Stdin, &bytes) {
                return;
            }
        }
        Stdin::Inherit => {
            let mut buffer = [0; abi::wire::MAX_PAYLOAD];
            loop {
                match std::io::stdin().read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) if send(Kind::Stdin, &buffer[..count]) => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                    Ok(_) => return, // the machine has gone
                }
            }
        }
    }
    send(Kind::StdinEnd, &[]);
}

/// What the machine, stopped or about to be, was doing.
fn look(monitor: Option<&mut Monitor>, machine: &Machine, scratch: &Path, why: Why) -> Vec<String> {
    let Some(monitor) = monitor else { return vec!["(QEMU's monitor never answered)".into()] };
    let symbols = Symbols::load(&machine.image.elf).unwrap_or_default();
    let resets = std::fs::read_to_string(resets(scratch)).unwrap_or_default();
    let why = if why == Why::Reset && resets.contains("Triple fault") { Why::TripleFault } else { why };
    report::report(monitor, &symbols, scratch, why).unwrap_or_else(|error| vec![format!("(no report: {error:#})")])
}

/// The exit status, or the negative number of the signal that killed QEMU.
fn status_number(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| -signal)).unwrap_or(i32::MIN)
}
