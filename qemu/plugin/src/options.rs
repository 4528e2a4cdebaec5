//! What the launcher asks for: the words `NAME=VALUE` behind the plugin on QEMU's command line.

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
}

impl Options {
    /// Reads the words.
    pub(crate) fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Options, String> {
        let (mut out, mut mode) = (None, Mode::Count);
        for word in words {
            match word.split_once('=') {
                Some(("out", path)) => out = Some(PathBuf::from(path)),
                Some(("mode", "count")) => mode = Mode::Count,
                Some(("mode", "trace")) => mode = Mode::Trace,
                _ => return Err(format!("what is {word:?}? There is out=FILE and mode=count|trace")),
            }
        }
        Ok(Options { out: out.ok_or("out=FILE is missing")?, mode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_understood_or_refused() {
        let options = Options::parse(["out=/tmp/x=y", "mode=trace"]).unwrap();
        assert_eq!(options, Options { out: "/tmp/x=y".into(), mode: Mode::Trace });
        assert_eq!(Options::parse(["out=x"]).unwrap().mode, Mode::Count);
        for bad in [&["mode=count"][..], &["out=x", "mode=loud"], &["out=x", "in=y"], &["out"]] {
            assert!(Options::parse(bad.iter().copied()).is_err(), "{bad:?}");
        }
    }
}
