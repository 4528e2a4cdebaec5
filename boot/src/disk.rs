//! Writing the disk image. Called by this package's binary.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use bootloader::{BootConfig, UefiBoot};
use bootloader_boot_config::LevelFilter;

/// Writes a UEFI disk image that boots the kernel in the ELF file `kernel` to `image`.
///
/// `image` is written in place and may be half written when this fails: the caller renames it when it is complete.
///
/// # Errors
/// The kernel cannot be read or stripped, or a file cannot be written.
pub fn write_image(kernel: &Path, image: &Path) -> Result<()> {
    let stripped = image.with_extension("stripped");
    let loaded = strip(kernel, &stripped)?;

    // The kernel owns the console, and nobody looks at a frame buffer; what the loader has to complain about still shows.
    let mut config = BootConfig::default();
    config.log_level = LevelFilter::Warn;
    config.frame_buffer_logging = false;

    let written = UefiBoot::new(&loaded)
        .set_boot_config(&config)
        .create_disk_image(image)
        .with_context(|| format!("cannot write the disk image {}", image.display()));
    if loaded == stripped {
        std::fs::remove_file(&stripped).with_context(|| format!("cannot remove {}", stripped.display()))?;
    }
    written
}

/// Copies `kernel` to `stripped` without symbols and debug information (megabytes that firmware would read block by
/// block), and returns what the image should hold: the copy, or the kernel itself where no `strip` is installed.
fn strip(kernel: &Path, stripped: &Path) -> Result<PathBuf> {
    match Command::new("strip").arg("-o").arg(stripped).arg(kernel).status() {
        Ok(status) if status.success() => Ok(stripped.to_owned()),
        Ok(status) => bail!("strip failed on {} ({status})", kernel.display()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("boot: no `strip` here (package binutils): the image carries debug information and loads slower");
            Ok(kernel.to_owned())
        }
        Err(error) => Err(error).context("cannot run strip"),
    }
}
