//! Whether the source still flows the way that ARCHITECTURE.md draws it: see `tests::layering`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use tests::child;
use tests::layering::rules::{BUILD_FACADES, CRATES, HOSTED_FACADES, LAYERS, MACHINE_LIBRARIES, PORTABLE};
use tests::layering::source::Package;
use tests::layering::{Finding, Tree, crates, modules, names, safety, words};

/// Another processor than the kernel's, without an operating system, for which the portable crates must compile.
const OTHER_TARGET: &str = "aarch64-unknown-none";

fn main() -> ExitCode {
    let mut trials = vec![
        trial("crates", || none(crates::check(&tree()?.packages()?, CRATES, MACHINE_LIBRARIES))),
        trial("safety::places", || {
            none(safety::check_places(tree()?.packages()?.values(), &safety::listed(architecture()?)?))
        }),
        trial("safety::reasons", reasons),
        trial("names", || none(names::check(tree()?, &names::here(&root()?)))),
        second_processor(format!("portable::compile_for_{OTHER_TARGET}"), check_second_processor),
        second_processor(format!("portable::compile_for_{OTHER_TARGET}_can_fail"), first_processor_only),
    ];
    for layers in LAYERS {
        trials.push(trial(format!("modules::{}", layers.package), || {
            none(modules::check(&package(layers.package)?, layers))
        }));
    }
    for rule in CRATES {
        trials.push(trial(format!("builds::{}", rule.name), || {
            none(words::check_builds(&package(rule.name)?, BUILD_FACADES))
        }));
    }
    for name in PORTABLE {
        trials
            .push(trial(format!("portable::{name}"), || none(words::check_portable(&package(name)?, HOSTED_FACADES))));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(name: impl Into<String>, check: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || check().map_err(|error| Failed::from(format!("{error:#}"))))
}

fn none(findings: Vec<Finding>) -> Result<()> {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    ensure!(lines.is_empty(), "{} places break the rule:\n{}", lines.len(), lines.join("\n"));
    Ok(())
}

fn root() -> Result<std::path::PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?)
}

/// The sources, read once.
fn tree() -> Result<&'static Tree> {
    static TREE: OnceLock<std::result::Result<Tree, String>> = OnceLock::new();
    let read = || root().and_then(|root| Tree::of_repository(&root)).map_err(|error| format!("{error:#}"));
    TREE.get_or_init(read).as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn architecture() -> Result<&'static str> {
    tree()?.text(safety::LIST).context("no ARCHITECTURE.md")
}

/// One package, parsed; each test parses for itself, for syntax trees belong to one thread.
fn package(name: &str) -> Result<Package> {
    tree()?.package(name)
}

fn reasons() -> Result<()> {
    let (counts, findings) = safety::check_reasons(tree()?.packages()?.values());
    for (package, count) in counts.iter().filter(|(_, count)| **count != safety::Count::default()) {
        println!("{package}: {} unsafe blocks, {} unsafe functions", count.blocks, count.functions);
    }
    none(findings)
}

/// A test that needs the other processor's target. Skipped, with the reason in its name, where rustup has not brought it.
fn second_processor(name: String, check: fn() -> Result<()>) -> Trial {
    match has_target() {
        Ok(()) => trial(name, check),
        Err(reason) => trial(format!("{name} (skipped: {reason})"), || Ok(())).with_ignored_flag(true),
    }
}

fn has_target() -> Result<(), String> {
    let mut rustc = qemu::nested::command("rustc");
    rustc.args(["--print", "sysroot"]);
    let sysroot = root().ok().and_then(|root| qemu::nested::answer(rustc.current_dir(root)));
    let sysroot = sysroot.ok_or("no rustc answers")?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib").join(OTHER_TARGET);
    if library.is_dir() { Ok(()) } else { Err(format!("rustup target add {OTHER_TARGET} brings it")) }
}

/// The portable crates compile for another processor.
fn check_second_processor() -> Result<()> {
    let packages = PORTABLE.iter().flat_map(|name| ["--package", name]);
    let finished = check_in(&root()?, packages)?;
    ensure!(finished.status == 0, "{}", finished.err());
    Ok(())
}

/// A made-up crate that names this processor does not.
fn first_processor_only() -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::create_dir(dir.path().join("src"))?;
    let manifest = "[package]\nname = \"tied\"\nedition = \"2024\"\n[workspace]\n";
    std::fs::write(dir.path().join("Cargo.toml"), manifest)?;
    let tied = "#![no_std]\npub fn now() -> u64 {\n    unsafe { core::arch::x86_64::_rdtsc() }\n}\n";
    std::fs::write(dir.path().join("src/lib.rs"), tied)?;
    let finished = check_in(dir.path(), [])?;
    ensure!(finished.status != 0 && finished.err().contains("x86_64"), "it compiled: {}", finished.err());
    Ok(())
}

fn check_in<'a>(dir: &Path, packages: impl IntoIterator<Item = &'a str>) -> Result<child::Finished> {
    let mut cargo = qemu::nested::command("cargo");
    cargo.current_dir(dir).args(["check", "--target", OTHER_TARGET]).args(packages);
    cargo.arg("--target-dir").arg(root()?.join("target/check-portable"));
    child::run(&mut cargo, &[], Duration::from_secs(1800))
}
