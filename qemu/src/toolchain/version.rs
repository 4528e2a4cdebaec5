//! Releases of the compiler: read, compared, and which of them were tested.

use std::fmt;

/// A release of the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

/// The one release beside the pinned one that was tested with the kernel and the boot loader: Debian's. The loader's
/// crates stand between a compiler too old for them and one too new, so "about this release" is not good enough.
pub const DEBIAN: Version = Version { major: 1, minor: 96, patch: 0 };

impl Version {
    /// The release in `1.95.0`, or in what `rustc --version` or `cargo --version` prints; none for a nightly or beta.
    pub fn parse(text: &str) -> Option<Version> {
        let text = text.trim();
        let number = text.strip_prefix("rustc ").or_else(|| text.strip_prefix("cargo ")).unwrap_or(text);
        let mut parts = number.split(' ').next()?.split('.').map(|part| part.parse().ok());
        let version = Version { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? };
        parts.next().is_none().then_some(version)
    }

    /// The release that a `rust-toolchain.toml` with this text pins.
    pub fn pinned(text: &str) -> Option<Version> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix("channel"))?;
        Version::parse(line.trim_start_matches([' ', '=']).trim_matches('"'))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PINNED: Version = Version { major: 1, minor: 95, patch: 0 };

    #[test]
    fn versions_are_read_from_files_and_from_the_tools() {
        assert_eq!(Version::parse("1.95.0"), Some(PINNED));
        assert_eq!(Version::parse("rustc 1.95.0 (59807616e 2026-04-14)\n"), Some(PINNED));
        assert_eq!(Version::parse("cargo 1.95.0 (f2d3ce0bd 2026-03-21)\n"), Some(PINNED));
        assert_eq!(Version::parse("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)"), Some(DEBIAN));
        for not in ["", "rustc", "1.95", "1.95.0.1", "rustc 1.97.0-nightly (0 2026-05-19)", "stable"] {
            assert_eq!(Version::parse(not), None, "{not:?}");
        }
    }

    #[test]
    fn the_pin_is_found_in_its_file() {
        assert_eq!(Version::pinned("[toolchain]\nchannel = \"1.95.0\"\n"), Some(PINNED));
        assert_eq!(Version::pinned("[toolchain]\nchannel = \"nightly\"\n"), None);
    }
}
