//! What the launcher asks for: the words `NAME=VALUE` behind the plugin on QEMU's command line.

use std::ops::Range;
use std::path::PathBuf;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Count instructions and lines.
    Count,
    /// Note each instruction.
    Trace,
}

/// All options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Where the result goes.
    pub(crate) out: PathBuf,
    /// What to do.
    pub(crate) mode: Mode,
    /// Code at these addresses begins an interrupt: what runs from there to the return is left out.
    pub(crate) interrupts: Range<u64>,
}

impl Options {
    /// Reads the words.
    pub(crate) fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Options, String> {
        let (mut out, mut mode, mut interrupts) = (None, Mode::Count, 0..0);
        for word in words {
            match word.split_once('=') {
                Some(("out", path)) => out = Some(PathBuf::from(path)),
                Some(("mode", "count")) => mode = Mode::Count,
                Some(("mode", "trace")) => mode = Mode::Trace,
                Some(("interrupts", range)) => interrupts = addresses(range).ok_or_else(|| unknown(word))?,
                _ => return Err(unknown(word)),
            }
        }
        Ok(Options { out: out.ok_or("out=FILE is missing")?, mode, interrupts })
    }
}

fn unknown(word: &str) -> String {
    format!("what is {word:?}? There is out=FILE, mode=count|trace, interrupts=START-END")
}

/// `START-END`, hexadecimal.
fn addresses(text: &str) -> Option<Range<u64>> {
    let (start, end) = text.split_once('-')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    Some(number(start)?..number(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_understood_or_refused() {
        let options = Options::parse(["out=/tmp/x=y", "mode=trace", "interrupts=a0-ffffffffffffffff"]).unwrap();
        assert_eq!(options, Options { out: "/tmp/x=y".into(), mode: Mode::Trace, interrupts: 0xa0..u64::MAX });
        let plain = Options::parse(["out=x"]).unwrap();
        assert_eq!((plain.mode, plain.interrupts), (Mode::Count, 0..0));
        for bad in
            [&["mode=count"][..], &["out=x", "mode=loud"], &["out=x", "in=y"], &["out"], &["out=x", "interrupts=1"]]
        {
            assert!(Options::parse(bad.iter().copied()).is_err(), "{bad:?}");
        }
    }
}
