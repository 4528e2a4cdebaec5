//! How a machine's two serial ports reach us: by sockets, or by files where time is counted.
//!
//! What the guest can see of a port (is it ready, has a byte come?) must not depend on the host where a run is to be the same
//! each time. So there the ports are files, which take everything at once and never give anything ([`crate::tail`]); input
//! goes another way ([`abi::fw_cfg::STDIN`]).

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
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

/// Makes the ports of the QEMU that `command` will start, and puts them on its command line. Sockets are its file descriptors
/// 0 and 1: no name to connect to, and nothing left over when one of us dies. `ended` becomes true when QEMU has ended.
///
/// # Errors
/// There is no socket, or no file.
pub(crate) fn open(time: Time, dir: &Path, command: &mut Command, ended: &Arc<AtomicBool>) -> Result<Ports> {
    command.args(["-serial", "chardev:console", "-serial", "chardev:stream"]);
    match time {
        Time::Host => {
            command.args(["-chardev", "socket,id=console,fd=1", "-chardev", "socket,id=stream,fd=0"]);
            let (console, console_end) = UnixStream::pair().context("cannot make a socket")?;
            let (stream, stream_end) = UnixStream::pair().context("cannot make a socket")?;
            command.stdin(OwnedFd::from(stream_end)).stdout(OwnedFd::from(console_end));
            let input = Some(stream.try_clone().context("cannot share a socket")?);
            Ok(Ports { console: Box::new(console), stream: Box::new(stream), input })
        }
        Time::Counted => {
            let mut file = |name: &str| {
                let path = dir.join(name);
                command.arg("-chardev").arg(joined(&format!("file,id={name},path="), &path));
                let tail = Tail::new(&path, ended).with_context(|| format!("cannot make {}", path.display()))?;
                anyhow::Ok(Box::new(tail))
            };
            let (console, stream) = (file("console")?, file("stream")?);
            command.stdin(Stdio::null()).stdout(Stdio::null());
            Ok(Ports { console, stream, input: None })
        }
    }
}
