//! The console: lines out of a serial port that firmware also writes to.
//!
//! Firmware clears the screen and moves the cursor; what is for people begins with the kernel's first line. Everything
//! is kept, bounded, for reports about a machine that never came so far. Called by `session`.

use std::collections::VecDeque;

/// What the kernel's first line on the console contains: time and CPU, then its name.
pub const FIRST_LINE: &str = "] tessera ";

/// Lines kept for reports.
const KEPT: usize = 20_000;

/// Turns the port's bytes into lines.
#[derive(Debug, Default)]
pub struct Console {
    partial: Vec<u8>,
    lines: VecDeque<String>,
    kernel: bool,
}

impl Console {
    /// A console on which nothing has been written yet.
    pub fn new() -> Console {
        Console::default()
    }

    /// Takes the port's next bytes and hands each line of the kernel that is now complete to `line`.
    ///
    /// # Errors
    /// Those of `line`, at once.
    pub fn push<E>(&mut self, bytes: &[u8], mut line: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line(&mut line)?;
            } else {
                self.partial.push(byte);
            }
        }
        Ok(())
    }

    /// Ends the last line, which may lack its line feed: nothing more will come.
    ///
    /// # Errors
    /// Those of `line`.
    pub fn finish<E>(&mut self, mut line: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        if self.partial.is_empty() { Ok(()) } else { self.end_line(&mut line) }
    }

    fn end_line<E>(&mut self, line: &mut impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        let text = plain(&std::mem::take(&mut self.partial));
        self.kernel |= text.contains(FIRST_LINE);
        let shown = if self.kernel { line(&text) } else { Ok(()) };
        if self.kernel || !text.trim().is_empty() {
            if self.lines.len() == KEPT {
                self.lines.pop_front();
            }
            self.lines.push_back(text);
        }
        shown
    }

    /// From here on the port is the kernel's, whatever its lines look like: it has written to its other port.
    pub fn kernel_is_up(&mut self) {
        self.kernel = true;
    }

    /// Whether the kernel has written its first line.
    pub fn kernel_started(&self) -> bool {
        self.kernel
    }

    /// The last `count` lines, firmware's too.
    pub fn tail(&self, count: usize) -> impl Iterator<Item = &str> {
        self.lines.iter().skip(self.lines.len().saturating_sub(count)).map(String::as_str)
    }

    /// All lines kept, firmware's too, each ended by a line feed.
    pub fn text(&self) -> String {
        self.lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }
}

/// The text of a line without terminal control: escape sequences (ECMA-48) and control characters but the tab go.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut chars = text.chars().peekable();
    let mut out = String::with_capacity(text.len());
    while let Some(char) = chars.next() {
        if char == '\u{1b}' {
            if chars.next_if_eq(&'[').is_some() {
                while chars.next().is_some_and(|char| !('@'..='~').contains(&char)) {}
            } else {
                // Two characters, with any number of intermediate ones in between.
                while chars.next().is_some_and(|char| (' '..='/').contains(&char)) {}
            }
        } else if char == '\t' || !char.is_control() {
            out.push(char);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn lines(console: &mut Console, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        let Ok(()) = console.push(bytes, |line| {
            lines.push(line.to_owned());
            Ok::<_, Infallible>(())
        });
        lines
    }

    #[test]
    fn firmware_is_kept_but_not_shown() {
        let mut console = Console::new();
        let shown =
            lines(&mut console, b"\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: loading\r\n\r\n[0 cpu0] tessera 0.1\r\nnext\r\n");
        assert_eq!(shown, ["[0 cpu0] tessera 0.1", "next"]);
        assert_eq!(console.tail(9).collect::<Vec<_>>(), ["BdsDxe: loading", "[0 cpu0] tessera 0.1", "next"]);
        assert!(console.kernel_started());
    }

    #[test]
    fn screen_codes_before_the_first_line_do_not_hide_it() {
        let mut console = Console::new();
        assert_eq!(lines(&mut console, b"\x1b[2J\x1b[0m\x1b(B[0] tessera \tx\n"), ["[0] tessera \tx"]);
    }

    #[test]
    fn lines_survive_any_cut() {
        let bytes = b"\x1b[2J[0] tessera 0\r\nsecond \xe2\x9c\x93\r\nthird";
        for step in 1..bytes.len() {
            let mut console = Console::new();
            let mut all = Vec::new();
            for piece in bytes.chunks(step) {
                all.extend(lines(&mut console, piece));
            }
            let Ok(()) = console.finish(|line| {
                all.push(line.to_owned());
                Ok::<_, Infallible>(())
            });
            assert_eq!(all, ["[0] tessera 0", "second \u{2713}", "third"], "cut every {step} bytes");
        }
    }

    #[test]
    fn the_tail_is_the_end() {
        let mut console = Console::new();
        lines(&mut console, b"[0] tessera 0\na\nb\nc\n");
        assert_eq!(console.tail(2).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(console.text(), "[0] tessera 0\na\nb\nc\n");
    }
}
