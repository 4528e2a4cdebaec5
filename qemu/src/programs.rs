//! User programs that belong to the project, built as anyone would build a static Linux program: the demonstration's
//! and the tests'.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};

use crate::nested::{self, on_path};
use crate::toolchain::{LINUX, Toolchain};
use crate::workspace;

/// Builds the binary `bin` of the package `user` as a static Linux executable, as far as it is not built yet.
///
/// # Errors
/// No compiler, or a build that fails (it has said why itself).
pub fn user_program(bin: &str) -> Result<PathBuf> {
    let toolchain = Toolchain::choose()?;
    let target = workspace::target(&format!("user-{}", toolchain.key()))?;
    let mut cargo = toolchain.cargo()?;
    cargo.args(["build", "--package", "user", "--bin", bin, "--profile", "user", "--target", LINUX, "--target-dir"]);
    cargo.arg(&target).arg("--config").arg(format!("target.{LINUX}.rustflags=['-Ctarget-feature=+crt-static']"));
    nested::build(cargo, &format!("building the user program {bin} with {}", toolchain.name()))?;
    Ok(target.join(LINUX).join("user").join(bin))
}

/// Compiles the C file `source` to a static Linux executable, unless one as new as the source stands there already.
///
/// # Errors
/// No C compiler, or it fails (it has said why itself).
pub fn c_program(source: &Path) -> Result<PathBuf> {
    let name = source.file_stem().with_context(|| format!("{} names no file", source.display()))?;
    let dir = workspace::target("user-c")?;
    let program = dir.join(name);
    let made = fs::metadata(&program).and_then(|meta| meta.modified()).ok();
    let written = written(source).with_context(|| format!("cannot read {}", source.display()))?;
    if made.is_some_and(|made| made > written) {
        return Ok(program);
    }
    let Some(compiler) = ["gcc", "cc"].into_iter().find_map(on_path) else {
        bail!("no C compiler on the search path; on Debian and Ubuntu: sudo apt-get install gcc libc6-dev");
    };
    let new = tempfile::Builder::new().prefix("making-").tempdir_in(&dir).context("cannot make a directory")?;
    let output = new.path().join(name);
    let mut command = Command::new(compiler);
    command.args(["-O2", "-g0", "-Wall", "-static", "-pthread", "-o"]).arg(&output).arg(source);
    let status = command.status().context("cannot run the C compiler")?;
    ensure!(status.success(), "compiling {} failed ({status})", source.display());
    fs::rename(&output, &program).with_context(|| format!("cannot write {}", program.display()))?;
    Ok(program)
}

/// When a C file was last written, or one of the headers beside it, which it may include.
fn written(source: &Path) -> std::io::Result<SystemTime> {
    let mut newest = fs::metadata(source)?.modified()?;
    let beside = source.parent().map(fs::read_dir).transpose()?;
    for entry in beside.into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "h") {
            newest = newest.max(entry.metadata()?.modified()?);
        }
    }
    Ok(newest)
}
