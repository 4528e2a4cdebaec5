//! The kernel's side of the stream port, understood: streams go on as events, reports are kept for the end.

use std::io;
use std::time::Duration;

use abi::wire::Kind;

use crate::run::{Event, Outcome, ProgramExit, Run, TestResult, Verdict};
use crate::spaces::Spaces;
use crate::stats::{FrameAccount, Stats};
use crate::wire::{Decoder, Frame};

/// What the kernel has said so far.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    decoder: Decoder,
    garbled: Option<String>,
    end: Option<u8>,
    exit: Option<ProgramExit>,
    stats_bytes: Vec<u8>,
    stats: Option<Stats>,
    spaces_text: Vec<u8>,
    spaces: Option<Spaces>,
    frames: Option<FrameAccount>,
    tests: Vec<TestResult>,
    tests_done: Option<(u32, u32)>,
}

impl Stream {
    pub(crate) fn new() -> Stream {
        Stream::default()
    }

    /// Whether the kernel has said anything.
    pub(crate) fn started(&self) -> bool {
        self.decoder.started()
    }

    /// The value that the kernel said it would write to the exit port.
    pub(crate) fn end(&self) -> Option<u8> {
        self.end
    }

    /// What was wrong with the stream, if anything was.
    pub(crate) fn garbled(&self) -> Option<String> {
        let cut = || self.decoder.inside_frame().then(|| "its stream ends inside a frame".to_owned());
        self.garbled.clone().or_else(cut)
    }

    /// Takes the port's next bytes.
    ///
    /// # Errors
    /// Those of `on`.
    pub(crate) fn push(&mut self, bytes: &[u8], on: &mut impl FnMut(Event<'_>) -> io::Result<()>) -> io::Result<()> {
        if self.garbled.is_some() {
            return Ok(());
        }
        self.decoder.push(bytes);
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => {
                    if let Err(how) = self.take(&frame, on)? {
                        self.garbled = Some(how);
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                Err(how) => {
                    self.garbled = Some(how.0);
                    return Ok(());
                }
            }
        }
    }

    /// Takes one frame. The inner error says why it makes no sense.
    fn take(
        &mut self,
        frame: &Frame,
        on: &mut impl FnMut(Event<'_>) -> io::Result<()>,
    ) -> io::Result<Result<(), String>> {
        let payload = &frame.payload[..];
        let text = || String::from_utf8_lossy(payload);
        let nonsense = || Ok(Err(format!("a {:?} frame of {} bytes: {payload:x?}", frame.kind, payload.len())));
        if self.end.is_some() {
            return Ok(Err(format!("a {:?} frame after the last one", frame.kind)));
        }
        match frame.kind {
            Kind::Stdout => on(Event::Stdout(payload))?,
            Kind::Stderr => on(Event::Stderr(payload))?,
            Kind::Exit => {
                let &[how, a, b, c, d] = payload else { return nonsense() };
                let number = u32::from_le_bytes([a, b, c, d]);
                self.exit = match how {
                    0 => Some(ProgramExit::Code(number as i32)),
                    1 => Some(ProgramExit::Signal(number)),
                    _ => return nonsense(),
                };
            }
            Kind::Stats => {
                self.stats_bytes.extend_from_slice(payload);
                match Stats::decode(&self.stats_bytes) {
                    Ok(stats) => self.stats = stats,
                    Err(how) => return Ok(Err(how)),
                }
            }
            Kind::Spaces => self.spaces_text.extend_from_slice(payload),
            Kind::Frames => match FrameAccount::decode(payload) {
                Ok(part) => self.frames.get_or_insert_default().owners.extend(part.owners),
                Err(how) => return Ok(Err(how)),
            },
            Kind::TestBegin => {
                let name = text().into_owned();
                on(Event::TestBegin(&name))?;
                let (took, log) = (Duration::ZERO, Vec::new());
                self.tests.push(TestResult { name, outcome: Outcome::Unfinished, took, log });
            }
            Kind::TestEnd => {
                let Some((&[passed, ref nanoseconds @ ..], name)) = payload.split_first_chunk::<9>() else {
                    return nonsense();
                };
                let running = self.tests.last_mut().filter(|test| test.outcome == Outcome::Unfinished);
                let Some(test) = running.filter(|test| test.name.as_bytes() == name) else { return nonsense() };
                test.outcome = if passed == 1 { Outcome::Passed } else { Outcome::Failed };
                test.took = Duration::from_nanos(u64::from_le_bytes(*nanoseconds));
                on(Event::TestEnd(test))?;
            }
            Kind::TestsDone => {
                let &[a, b, c, d, e, f, g, h] = payload else { return nonsense() };
                self.tests_done = Some((u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])));
            }
            Kind::Log => {
                let line = text();
                let line = line.trim_end_matches('\n');
                on(Event::TestLog(line))?;
                if let Some(test) = self.tests.last_mut() {
                    test.log.push(line.to_owned());
                }
            }
            Kind::End => {
                let &[value] = payload else { return nonsense() };
                if !self.spaces_text.is_empty() {
                    match Spaces::decode(&self.spaces_text) {
                        Ok(spaces) => self.spaces = Some(spaces),
                        Err(how) => return Ok(Err(how)),
                    }
                }
                self.end = Some(value);
            }
            Kind::Stdin | Kind::StdinEnd => return Ok(Err(format!("a {:?} frame from the kernel", frame.kind))),
        }
        Ok(Ok(()))
    }

    /// Everything together, at the end.
    pub(crate) fn into_run(
        self,
        verdict: Verdict,
        report: Vec<String>,
        console: String,
        elapsed: Duration,
        booted: Option<Duration>,
    ) -> Run {
        Run {
            verdict,
            report,
            console,
            stdout: Vec::new(),
            stderr: Vec::new(),
            exit: self.exit,
            stats: self.stats,
            spaces: self.spaces,
            frames: self.frames,
            tests: self.tests,
            tests_done: self.tests_done,
            elapsed,
            booted,
        }
    }
}

#[cfg(test)]
mod tests {
    use abi::wire::MAGIC;

    use super::*;
    use crate::wire::encode;

    fn stream(frames: &[(Kind, &[u8])]) -> (Stream, Vec<String>) {
        let mut bytes = MAGIC.to_vec();
        for (kind, payload) in frames {
            bytes.extend(encode(*kind, payload));
        }
        let (mut stream, mut events) = (Stream::new(), Vec::new());
        stream
            .push(&bytes, &mut |event| {
                events.push(format!("{event:?}"));
                Ok(())
            })
            .unwrap();
        (stream, events)
    }

    fn ended(passed: u8, name: &str) -> Vec<u8> {
        [&[passed][..], &1_500_000u64.to_le_bytes(), name.as_bytes()].concat()
    }

    #[test]
    fn a_program_is_followed_to_its_end() {
        let (stream, events) = stream(&[
            (Kind::Stdout, b"hi"),
            (Kind::Stderr, b"oh"),
            (Kind::Frames, b"anon 0 0\n"),
            (Kind::Frames, b"heap 4 4\n"),
            (Kind::Exit, &[1, 11, 0, 0, 0]),
            (Kind::End, &[0x10]),
        ]);
        assert_eq!(events, ["Stdout([104, 105])", "Stderr([111, 104])"]);
        assert_eq!(stream.garbled(), None);
        assert_eq!(stream.end(), Some(0x10));
        let run = stream.into_run(Verdict::Done, Vec::new(), String::new(), Duration::ZERO, None);
        assert_eq!(run.exit, Some(ProgramExit::Signal(11)));
        assert_eq!(run.frames.unwrap().owners.len(), 2);
    }

    #[test]
    fn tests_keep_their_logs_and_the_one_that_stopped_the_machine_shows() {
        let (stream, _) = stream(&[
            (Kind::TestBegin, b"a::b"),
            (Kind::Log, b"line\n"),
            (Kind::TestEnd, &ended(1, "a::b")),
            (Kind::TestBegin, b"c"),
        ]);
        assert_eq!(stream.garbled(), None);
        assert_eq!(stream.tests[0].outcome, Outcome::Passed);
        assert_eq!(stream.tests[0].took, Duration::from_micros(1500));
        assert_eq!(stream.tests[0].log, ["line"]);
        assert_eq!(stream.tests[1].outcome, Outcome::Unfinished);
    }

    #[test]
    fn nonsense_is_noticed() {
        let other = ended(1, "b");
        for frames in [
            &[(Kind::Exit, &[0u8, 1][..])][..],
            &[(Kind::Exit, &[9, 0, 0, 0, 0])],
            &[(Kind::End, &[])],
            &[(Kind::TestEnd, &other)],
            &[(Kind::TestBegin, b"a"), (Kind::TestEnd, &other)],
            &[(Kind::Stdin, b"x")],
            &[(Kind::Frames, b"what\n")],
            &[(Kind::End, &[0x10]), (Kind::Stdout, b"late")],
        ] {
            assert!(stream(frames).0.garbled().is_some(), "{frames:?}");
        }
    }

    #[test]
    fn an_event_handler_can_stop_it() {
        let mut stream = Stream::new();
        let bytes = [&MAGIC[..], &encode(Kind::Stdout, b"x")].concat();
        let result = stream.push(&bytes, &mut |_| Err(io::ErrorKind::BrokenPipe.into()));
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
