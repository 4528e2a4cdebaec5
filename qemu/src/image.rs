//! From sources to something that boots: the kernel's ELF and the direct loader's by a nested cargo, then a disk image by
//! the `boot` package.
//!
//! Images are named by the content that they are made of, so a second run finds its image and writes nothing, and
//! launchers that run at the same time never write into each other's: files appear complete, by a rename, or not at
//! all. Called by the launcher and by the test harness.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::nested;
use crate::toolchain::Toolchain;
use crate::workspace;

/// What boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Image {
    /// The kernel that runs programs, with its debug checks.
    Kernel,
    /// The same kernel without debug checks and schedule points: for measuring.
    Release,
    /// The same kernel with the guest tests linked in.
    Guest,
    /// Without debug checks and with the guest tests: for those that count instructions.
    GuestRelease,
}

impl Image {
    /// The package, and its binary.
    fn package(self) -> &'static str {
        match self {
            Image::Kernel | Image::Release => "kernel",
            Image::Guest | Image::GuestRelease => "guest",
        }
    }

    /// The profile of `Cargo.toml` that it is built with.
    fn profile(self) -> &'static str {
        match self {
            Image::Kernel | Image::Guest => "kernel",
            Image::Release | Image::GuestRelease => "kernel-release",
        }
    }

    /// What its images are called. No name begins another one.
    fn name(self) -> &'static str {
        match self {
            Image::Kernel => "kernel",
            Image::Release => "release",
            Image::Guest => "guest",
            Image::GuestRelease => "unchecked-guest",
        }
    }
}

/// An image on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The disk that the machine boots from.
    pub disk: PathBuf,
    /// The ELF file on it, with its symbols.
    pub elf: PathBuf,
    /// The loader that takes firmware's place and loads that file ([`crate::machine::Entry::Direct`]).
    pub loader: PathBuf,
}

/// Images kept of each kind: the newest. A launcher may stand between its look-up and its boot while others build.
const KEPT: usize = 8;

/// How directories with unfinished images are called.
const UNFINISHED: &str = "making-";

/// Builds the kernel and its image as far as they are not built yet, and says so before anything that takes long.
///
/// Within one process a kind is built once: sources that change later do not matter to it.
///
/// # Errors
/// No compiler, a build that fails (it has said why itself), or a file that cannot be written.
pub fn kernel_image(which: Image) -> Result<Built> {
    static BUILT: Mutex<Option<HashMap<Image, Built>>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let built = built.get_or_insert_default();
    if let Some(image) = built.get(&which) {
        return Ok(image.clone());
    }
    let toolchain = Toolchain::choose()?;
    let image = disk_image(which.name(), &kernel_elf(which, &toolchain)?, &toolchain)?;
    built.insert(which, image.clone());
    Ok(image)
}

fn kernel_elf(which: Image, toolchain: &Toolchain) -> Result<PathBuf> {
    bare_metal(which.package(), which.profile(), toolchain)
}

/// Builds the binary of `package` for the bare machine, as far as it is not built yet.
fn bare_metal(package: &str, profile: &str, toolchain: &Toolchain) -> Result<PathBuf> {
    let target = workspace::target(&toolchain.kernel_target())?;
    let mut cargo = toolchain.bare_metal_build()?;
    cargo.args(["--package", package, "--profile", profile, "--target-dir"]).arg(&target);
    nested::build(cargo, &format!("building the {package} (profile {profile}) with {}", toolchain.name()))?;
    Ok(target.join(crate::toolchain::BARE_METAL).join(profile).join(package))
}

/// The disk image for `elf`, made by the `boot` package unless it stands there already.
///
/// # Errors
/// The build fails, or a file cannot be written.
pub fn disk_image(name: &str, elf: &Path, toolchain: &Toolchain) -> Result<Built> {
    let read = |file: &Path| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    let bytes = read(elf)?;
    let loader = read(&bare_metal("direct", Image::Kernel.profile(), toolchain)?)?;
    let dir = workspace::target("images")?;
    let stem = format!("{name}-{:016x}", content_hash(&bytes, &loader)?);
    let file = |extension| dir.join(format!("{stem}.{extension}"));
    let built = Built { disk: file("img"), elf: file("elf"), loader: file("loader") };
    let complete = || [&built.disk, &built.elf, &built.loader].iter().all(|file| file.is_file());
    if complete() {
        return Ok(built);
    }
    let _lock = workspace::exclusive("disk image")?;
    if complete() {
        return Ok(built);
    }

    forget_unfinished(&dir); // nobody else makes any: we hold the lock

    // The copy, not cargo's file, goes on the disk: another launcher may be building again already.
    let scratch = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&dir).context("cannot make a directory")?;
    let [new_elf, new_loader, new_disk] = ["kernel", "loader", "image"].map(|file| scratch.path().join(file));
    fs::write(&new_elf, &bytes).with_context(|| format!("cannot write {}", new_elf.display()))?;
    fs::write(&new_loader, &loader).with_context(|| format!("cannot write {}", new_loader.display()))?;
    let mut cargo = toolchain.bootstrap_cargo()?;
    cargo.args(["run", "--package", "boot", "--features", "image", "--bin", "image", "--target-dir"]);
    cargo.arg(workspace::target(&format!("boot-{}", toolchain.key()))?);
    cargo.arg("--").args([&new_elf, &new_disk]);
    let what = "building the UEFI boot loader and the disk image (the loader once: a minute or two)";
    nested::build(cargo, &format!("{what} with {}", toolchain.name()))?;
    fs::rename(&new_elf, &built.elf).with_context(|| format!("cannot write {}", built.elf.display()))?;
    fs::rename(&new_loader, &built.loader).with_context(|| format!("cannot write {}", built.loader.display()))?;
    fs::rename(&new_disk, &built.disk).with_context(|| format!("cannot write {}", built.disk.display()))?;
    forget_old(&dir, name);
    Ok(built)
}

/// What an image depends on: the kernel, the loader beside it, and how images are made.
fn content_hash(elf: &[u8], loader: &[u8]) -> Result<u64> {
    let root = workspace::root()?;
    let mut hash = Fnv::new();
    hash.add(elf);
    hash.add(loader);
    for file in ["Cargo.lock", "boot/Cargo.toml", "boot/src/lib.rs", "boot/src/disk.rs", "boot/src/main.rs"] {
        let path = root.join(file);
        hash.add(&fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    Ok(hash.0)
}

/// FNV-1a over words: names that survive a new compiler, unlike the standard library's hashes.
struct Fnv(u64);

impl Fnv {
    fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
        self.0 ^= self.0 >> 29; // the product moves nothing downwards
    }
}

/// Removes what launchers left that were killed while they made an image.
fn forget_unfinished(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(UNFINISHED)) {
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// Removes all but the newest images of a kind. What cannot be removed stays.
fn forget_old(dir: &Path, name: &str) {
    let prefix = format!("{name}-");
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut disks: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "img"))
        .filter(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&prefix)))
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .collect();
    disks.sort();
    let old = disks.len().saturating_sub(KEPT);
    for (_, disk) in disks.drain(..old) {
        let _ = fs::remove_file(disk.with_extension("elf"));
        let _ = fs::remove_file(disk.with_extension("loader"));
        let _ = fs::remove_file(disk);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn hash(bytes: &[u8]) -> u64 {
        let mut hash = Fnv::new();
        hash.add(bytes);
        hash.0
    }

    #[test]
    fn every_byte_and_the_length_count() {
        let bytes: Vec<u8> = (0..100).collect();
        let mut seen = std::collections::HashSet::from([hash(&bytes)]);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(seen.insert(hash(&changed)), "byte {at} bit {bit}");
            }
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(seen.insert(hash(&longer)));
    }

    #[test]
    fn old_images_go_and_other_kinds_stay() {
        let dir = tempfile::tempdir().unwrap();
        for index in 0..KEPT + 3 {
            for extension in ["img", "elf", "loader"] {
                let file = fs::File::create(dir.path().join(format!("kernel-{index:02}.{extension}"))).unwrap();
                file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(index as u64)).unwrap();
            }
        }
        fs::write(dir.path().join("guest-00.img"), "").unwrap();
        forget_old(dir.path(), "kernel");
        assert!(!dir.path().join("kernel-02.img").exists());
        assert!(!dir.path().join("kernel-02.elf").exists());
        assert!(!dir.path().join("kernel-02.loader").exists());
        assert!(dir.path().join("kernel-03.img").exists());
        assert!(dir.path().join("guest-00.img").exists());
    }
}
