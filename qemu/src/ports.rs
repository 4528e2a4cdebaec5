//! How a machine's two serial ports reach us: by sockets, or by files where time is counted.
//!
//! What the guest can see of a port (is it ready, has a byte come?) must not depend on the host where a run is to be the same
//! each time. So there the ports are files, which take everything at once and never give anything ([`crate::tail`]); input
//! goes another way ([`abi::fw_cfg::STDIN`]).

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};

use crate::machine::{Time, joined};
use crate::tail::Tail;

/// Our ends of the ports.
pub(crate) struct Ports {
    /// What the kernel prints.
    pub(crate) console: Box<dyn Read + Send>,
    /// The kernel's frames.
    pub(crate) stream: Box<dyn Read + Send>,
    /// Where frames for the kernel go, if it looks.
    pub(crate) input: Option<UnixStream>,
}

/// Puts the ports on QEMU's command line. The sockets are its file descriptors 0 and 1: no name to connect to, and nothing
/// left over when one of us dies.
pub(crate) fn describe(time: Time, dir: &Path, command: &mut Command) {
    match time {
        Time::Host => {
            command.args(["-chardev", "socket,id=console,fd=1", "-chardev", "socket,id=stream,fd=0"]);
        }
        Time::Counted => {
            command.arg("-chardev").arg(joined("file,id=console,path=", &console_file(dir)));
            command.arg("-chardev").arg(joined("file,id=stream,path=", &stream_file(dir)));
        }
    }
    command.args(["-serial", "chardev:console", "-serial", "chardev:stream"]);
}

/// Makes the ports for QEMU, about to be started by `command`. `ended` becomes true when it has ended.
///
/// # Errors
/// There is no socket, or no file.
pub(crate) fn open(time: Time, dir: &Path, command: &mut Command, ended: &Arc<AtomicBool>) -> Result<Ports> {
    match time {
        Time::Host => {
            let (console, console_end) = UnixStream::pair().context("cannot make a socket")?;
            let (stream, stream_end) = UnixStream::pair().context("cannot make a socket")?;
            command.stdin(OwnedFd::from(stream_end)).stdout(OwnedFd::from(console_end));
            let input = Some(stream.try_clone().context("cannot share a socket")?);
            Ok(Ports { console: Box::new(console), stream: Box::new(stream), input })
        }
        Time::Counted => {
            let tail = |path: PathBuf| {
                let tail = Tail::new(&path, ended).with_context(|| format!("cannot make {}", path.display()))?;
                anyhow::Ok(Box::new(tail))
            };
            command.stdin(Stdio::null()).stdout(Stdio::null());
            Ok(Ports { console: tail(console_file(dir))?, stream: tail(stream_file(dir))?, input: None })
        }
    }
}

fn console_file(dir: &Path) -> PathBuf {
    dir.join("console")
}

fn stream_file(dir: &Path) -> PathBuf {
    dir.join("stream")
}
