//! `image KERNEL IMAGE`: writes a UEFI disk image that boots the kernel ELF. Run by the launcher, not by people.
#![forbid(unsafe_code)]

use std::path::Path;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [kernel, image] = args.as_slice() else { bail!("usage: image KERNEL IMAGE") };
    boot::write_image(Path::new(kernel), Path::new(image))
}
