//! What a soak runs: built once, and copied, so that whoever builds or edits beside it changes nothing of what is soaked.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::work::{Program, Source};
use crate::cli::MachineOptions;
use crate::image::{Built, Image, kernel_image};
use crate::launch;

/// Copies of everything that has been built. They go with this.
pub(super) struct Builds {
    dir: TempDir,
    kernel: OnceCell<Built>,
    guest: OnceCell<Built>,
    programs: RefCell<BTreeMap<Source, PathBuf>>,
}

impl Builds {
    /// Nothing is built yet.
    ///
    /// # Errors
    /// No directory for the copies can be made.
    pub(super) fn new() -> Result<Builds> {
        let dir = tempfile::Builder::new().prefix("tessera-soak-").tempdir().context("cannot make a directory")?;
        Ok(Builds { dir, kernel: OnceCell::new(), guest: OnceCell::new(), programs: RefCell::default() })
    }

    /// The kernel that runs programs.
    ///
    /// # Errors
    /// It cannot be built or copied.
    pub(super) fn kernel(&self, options: &MachineOptions) -> Result<Built> {
        self.once(&self.kernel, "kernel", || launch::image(options))
    }

    /// The kernel with the guest tests.
    ///
    /// # Errors
    /// As [`Builds::kernel`].
    pub(super) fn guest(&self) -> Result<Built> {
        self.once(&self.guest, "guest", || kernel_image(Image::Guest))
    }

    /// A program.
    ///
    /// # Errors
    /// As [`Builds::kernel`].
    pub(super) fn program(&self, program: &Program) -> Result<PathBuf> {
        let mut programs = self.programs.borrow_mut();
        let name = match program.source() {
            Source::Rust(name) => name.to_owned(),
            Source::C(name) => format!("{name}.c"),
        };
        Ok(match programs.entry(program.source()) {
            Entry::Occupied(built) => built.get().clone(),
            Entry::Vacant(place) => place.insert(self.copy(&program.build()?, &name)?).clone(),
        })
    }

    fn once(&self, cell: &OnceCell<Built>, name: &str, build: impl FnOnce() -> Result<Built>) -> Result<Built> {
        if let Some(built) = cell.get() {
            return Ok(built.clone());
        }
        let Built { disk, elf, loader } = build()?;
        let copies = Built {
            disk: self.copy(&disk, &format!("{name}.img"))?,
            elf: self.copy(&elf, &format!("{name}.elf"))?,
            loader: self.copy(&loader, &format!("{name}.loader"))?,
        };
        Ok(cell.get_or_init(|| copies).clone())
    }

    fn copy(&self, file: &Path, name: &str) -> Result<PathBuf> {
        let copy = self.dir.path().join(name);
        std::fs::copy(file, &copy).with_context(|| format!("cannot copy {}", file.display()))?;
        Ok(copy)
    }
}
