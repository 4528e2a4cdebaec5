//! The stream port: `abi::wire` frames on COM2, to and from the launcher.
//!
//! Out: a program's output, its status, counters, guest tests' events; each frame whole, under one lock. In: a program's
//! standard input, into a ring of [`RING`] bytes. Input is polled ([`poll`]), by whoever waits for it and by the tick while somebody
//! waits; when the ring is full, bytes stay in the port and the host waits. When a byte is there depends on the host's speed,
//! so a run that must be the same each time has all its input given at once ([`give_input`]), and the port is not looked at.

use alloc::boxed::Box;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use abi::wire::{HEADER_LEN, Kind, MAGIC, MAX_PAYLOAD, header};
use lock_api::MutexGuard;
use sync::{Class, Platform, SpinLock};
use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550};

use crate::platform::Machine;

/// COM2's first port.
const COM2: u16 = 0x2f8;

/// Bytes of standard input that the kernel keeps.
pub const RING: usize = 4096;

/// The port for sending. Reading and writing touch different registers, so each direction has its own lock.
static OUT: SpinLock<Machine, Option<Uart16550<PioBackend>>> = sync::spin_lock(Class::StreamOut, None);

/// The port for receiving, and what came.
static IN: SpinLock<Machine, Input> = sync::spin_lock(Class::StreamIn, Input::new());

/// The port is there and the launcher's magic has been sent.
static READY: AtomicBool = AtomicBool::new(false);

/// Initialises the port and sends the magic. Called once, on the boot CPU. Without the port, output is dropped.
pub fn init() {
    // SAFETY: COM2's ports belong to this module.
    let Ok(mut port) = (unsafe { Uart16550::new_port(COM2) }) else { return };
    if port.init(Config::default()).is_err() {
        return;
    }
    port.send_bytes_exact(&MAGIC);
    *OUT.lock() = Some(port);
    // SAFETY: the second owner of the port reads only the receive side, under its own lock.
    if let Ok(port) = unsafe { Uart16550::new_port(COM2) } {
        IN.lock().port = Some(port);
    }
    READY.store(true, Ordering::Release);
}

/// Sends `payload` in frames of `kind`; more than [`MAX_PAYLOAD`] bytes become several frames, between which other CPUs' may
/// come. An empty payload is one empty frame.
pub fn send(kind: Kind, payload: &[u8]) {
    if payload.is_empty() {
        return send_frame(kind, &[payload]);
    }
    for part in payload.chunks(MAX_PAYLOAD) {
        send_frame(kind, &[part]);
    }
}

/// Sends one frame whose payload is the concatenation of `parts`.
///
/// # Panics
/// In debug builds, if the payload is longer than [`MAX_PAYLOAD`].
pub fn send_frame(kind: Kind, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    debug_assert!(len <= MAX_PAYLOAD);
    let mut out = OUT.lock();
    let Some(port) = out.as_mut() else { return };
    port.send_bytes_exact(&header(kind, len as u32));
    for part in parts {
        port.send_bytes_exact(part);
    }
}

/// Makes sure that this CPU can send, for a panic: waits a while for the lock, then breaks it. A frame that was cut off in the
/// middle stays so; the launcher takes what it can. All other CPUs have been told to stop.
pub(crate) fn break_in() {
    for _ in 0..1_000_000 {
        if let Some(guard) = OUT.try_lock() {
            return drop(guard);
        }
        core::hint::spin_loop();
    }
    // SAFETY: the holder is this CPU's own interrupted code, or a CPU that has stopped.
    unsafe { OUT.force_unlock() };
    // Unlocking may have restored the holder's interrupts.
    let _ = Machine::interrupts_disable();
}

/// Takes `bytes` as all that the standard input will ever have. Before any program runs.
pub(crate) fn give_input(bytes: Box<[u8]>) {
    let mut input = IN.lock();
    input.port = None;
    input.given = Some((bytes, 0));
}

/// The receiving side.
struct Input {
    port: Option<Uart16550<PioBackend>>,
    /// Input that did not come by the port, and how much of it is in the ring or gone.
    given: Option<(Box<[u8]>, usize)>,
    /// Bytes of the current frame's header so far.
    head: [u8; HEADER_LEN],
    head_len: usize,
    /// Bytes of the current frame's payload that are still to come.
    payload_left: usize,
    ring: [u8; RING],
    /// Bytes ever taken out of and put into the ring; their difference is what it holds.
    taken: usize,
    put: usize,
    ended: bool,
}

/// What the standard input has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputState {
    /// Nothing yet.
    Empty,
    /// Bytes to read.
    Bytes,
    /// Nothing, and nothing will come any more.
    Ended,
}

impl Input {
    const fn new() -> Input {
        Input {
            port: None,
            given: None,
            head: [0; HEADER_LEN],
            head_len: 0,
            payload_left: 0,
            ring: [0; RING],
            taken: 0,
            put: 0,
            ended: false,
        }
    }

    /// Takes bytes from the port, or of those that were given, while there are any and there is room.
    fn poll(&mut self) {
        if let Some((bytes, used)) = &mut self.given {
            while self.put - self.taken < RING && *used < bytes.len() {
                self.ring[self.put % RING] = bytes[*used];
                self.put += 1;
                *used += 1;
            }
            self.ended = *used == bytes.len();
            return;
        }
        while self.put - self.taken < RING {
            let Some(byte) = self.port.as_mut().and_then(|port| port.try_receive_byte().ok()) else { return };
            self.accept(byte);
        }
    }

    fn accept(&mut self, byte: u8) {
        if self.payload_left > 0 {
            self.payload_left -= 1;
            if self.head[0] == Kind::Stdin as u8 {
                self.ring[self.put % RING] = byte;
                self.put += 1;
            }
            return;
        }
        self.head[self.head_len] = byte;
        self.head_len += 1;
        if self.head_len == HEADER_LEN {
            self.head_len = 0;
            let [kind, len @ ..] = self.head;
            self.payload_left = u32::from_le_bytes(len) as usize;
            self.ended |= kind == Kind::StdinEnd as u8;
        }
    }

    fn state(&self) -> InputState {
        match (self.put > self.taken, self.ended) {
            (true, _) => InputState::Bytes,
            (false, true) => InputState::Ended,
            (false, false) => InputState::Empty,
        }
    }
}

fn input() -> MutexGuard<'static, sync::spin::RawSpin<Machine>, Input> {
    let mut input = IN.lock();
    input.poll();
    input
}

/// Takes what has arrived from the port; says what the standard input has. Callable with interrupts off.
pub fn poll() -> InputState {
    if !READY.load(Ordering::Acquire) {
        return InputState::Ended;
    }
    input().state()
}

/// Takes up to `buffer.len()` bytes of standard input, without waiting. Returns how many.
pub fn read(buffer: &mut [u8]) -> usize {
    let mut input = input();
    let count = buffer.len().min(input.put - input.taken);
    for byte in &mut buffer[..count] {
        *byte = input.ring[input.taken % RING];
        input.taken += 1;
    }
    count
}

/// Text for a frame, of a limited length and without memory.
pub(crate) struct Text {
    bytes: [u8; 512],
    len: usize,
}

impl Text {
    pub(crate) const fn new() -> Text {
        Text { bytes: [0; 512], len: 0 }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Write for Text {
    /// What does not fit is cut off.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.len..];
        let count = room.len().min(text.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.len += count;
        Ok(())
    }
}
