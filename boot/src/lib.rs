//! A kernel ELF becomes a UEFI disk image: the only place that knows which boot loader we use.
//!
//! The image is a GPT disk with one FAT partition: the loader of the `bootloader` crate, a copy of the kernel without
//! its debug information, and the loader's configuration. The launcher (`qemu::image`) runs this package's binary
//! in a cargo of its own, with the feature `image`; without that feature the package is empty, because the loader's
//! build script needs a compiler with unstable options.
#![forbid(unsafe_code)]

#[cfg(feature = "image")]
mod disk;

#[cfg(feature = "image")]
pub use disk::write_image;
