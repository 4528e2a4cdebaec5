//! Taking the kernel's frames off the stream port, and putting ours on it. The format is `abi::wire`'s.
//!
//! Called by `session`. Knows nothing of sockets: bytes in, frames out.

use abi::wire::{HEADER_LEN, Kind, MAGIC, MAX_PAYLOAD, header};

/// More than any frame may carry: a longer length means that the stream is garbled. (Reports that do not fit in
/// [`MAX_PAYLOAD`] may come whole or in parts.)
const LONGEST: usize = 1 << 20;

/// A frame off the wire.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: Kind,
    /// The bytes.
    pub payload: Vec<u8>,
}

/// The stream broke the format; the text says how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbled(pub String);

/// Finds frames in a stream that arrives in pieces.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
    started: bool,
}

impl Decoder {
    /// A decoder that still waits for the kernel's [`MAGIC`].
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Whether the kernel's first bytes have arrived: before that, what we send would reach the firmware.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Whether a frame has begun and not ended.
    pub fn inside_frame(&self) -> bool {
        self.started && !self.pending.is_empty()
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        if !self.started {
            if let Some(at) = self.pending.windows(MAGIC.len()).position(|window| window == MAGIC) {
                self.pending.drain(..at + MAGIC.len());
                self.started = true;
            } else {
                let keep = self.pending.len().min(MAGIC.len() - 1);
                self.pending.drain(..self.pending.len() - keep);
            }
        }
    }

    /// The next whole frame, or none yet.
    ///
    /// # Errors
    /// The bytes are no frame. The stream cannot be used any more.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Garbled> {
        if !self.started || self.pending.len() < HEADER_LEN {
            return Ok(None);
        }
        let kind = Kind::from_byte(self.pending[0])
            .ok_or_else(|| Garbled(format!("a frame of unknown kind {:#04x}", self.pending[0])))?;
        let length = u32::from_le_bytes([self.pending[1], self.pending[2], self.pending[3], self.pending[4]]) as usize;
        if length > LONGEST {
            return Err(Garbled(format!("a {kind:?} frame of {length} bytes")));
        }
        if self.pending.len() < HEADER_LEN + length {
            return Ok(None);
        }
        let payload = self.pending[HEADER_LEN..HEADER_LEN + length].to_vec();
        self.pending.drain(..HEADER_LEN + length);
        Ok(Some(Frame { kind, payload }))
    }
}

/// The bytes of one or more frames of `kind` that carry `payload`; one empty frame if there is none.
pub fn encode(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + HEADER_LEN);
    let mut rest = payload;
    loop {
        let (now, later) = rest.split_at(rest.len().min(MAX_PAYLOAD));
        bytes.extend_from_slice(&header(kind, now.len() as u32));
        bytes.extend_from_slice(now);
        rest = later;
        if rest.is_empty() {
            return bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Vec<u8> {
        let mut bytes = b"firmware noise TESSER".to_vec();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&encode(Kind::Stdout, b"hello"));
        bytes.extend_from_slice(&encode(Kind::End, &[0x10]));
        bytes
    }

    #[test]
    fn frames_survive_any_cut_of_the_stream() {
        let bytes = stream();
        for step in 1..bytes.len() {
            let mut decoder = Decoder::new();
            let mut frames = Vec::new();
            for piece in bytes.chunks(step) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(
                frames,
                [
                    Frame { kind: Kind::Stdout, payload: b"hello".to_vec() },
                    Frame { kind: Kind::End, payload: vec![0x10] }
                ],
                "cut every {step} bytes"
            );
            assert!(!decoder.inside_frame());
        }
    }

    #[test]
    fn nothing_counts_before_the_magic() {
        let mut decoder = Decoder::new();
        decoder.push(&encode(Kind::Stdout, b"firmware"));
        assert_eq!(decoder.next_frame(), Ok(None));
        assert!(!decoder.started());
    }

    #[test]
    fn unknown_kinds_and_absurd_lengths_are_garbled() {
        for bad in [&[0x7f, 0, 0, 0, 0][..], &[1, 0xff, 0xff, 0xff, 0xff][..]] {
            let mut decoder = Decoder::new();
            decoder.push(&MAGIC);
            decoder.push(bad);
            assert!(decoder.next_frame().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn half_a_frame_is_noticed() {
        let mut decoder = Decoder::new();
        decoder.push(&MAGIC);
        decoder.push(&encode(Kind::Stdout, b"hello")[..7]);
        assert_eq!(decoder.next_frame(), Ok(None));
        assert!(decoder.inside_frame());
    }

    #[test]
    fn long_payloads_are_cut_into_frames() {
        let bytes = encode(Kind::Stdin, &[7; MAX_PAYLOAD + 1]);
        let mut decoder = Decoder::new();
        decoder.push(&MAGIC);
        decoder.push(&bytes);
        assert_eq!(decoder.next_frame().unwrap().unwrap().payload.len(), MAX_PAYLOAD);
        assert_eq!(decoder.next_frame().unwrap().unwrap().payload, [7]);
        assert_eq!(encode(Kind::StdinEnd, &[]), header(Kind::StdinEnd, 0));
    }
}
