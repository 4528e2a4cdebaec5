//! The choice of the compiler, on made-up computers.

use std::ffi::OsStr;
use std::process::Command;

use super::imagined::{Parts, choice, distribution, rustup_toolchain};
use super::*;
use crate::host::imagined::Imagined;

const NAME: &str = "1.95.0-x86_64-unknown-linux-gnu";

/// What a made-up rustup or apt was asked, a line a call.
fn asked(computer: &Imagined) -> String {
    std::fs::read_to_string(computer.path("asked")).unwrap_or_default()
}

/// A rustup whose server is out of reach.
fn refusing_rustup(computer: &Imagined) {
    computer.script("/usr/bin/rustup", "echo \"rustup $@\" >> $ROOT/asked; exit 1");
}

/// An apt, as root, that moves Debian's compiler into place.
fn working_apt(computer: &Imagined, rustc: &str) {
    let shelf = Imagined::new();
    distribution(&shelf, rustc, rustc, Parts::All);
    let copy = Command::new("cp").arg("-r").arg(shelf.path("/usr")).arg(computer.path("/shelf")).status();
    assert!(copy.unwrap().success());
    computer.script("/usr/bin/id", "echo 0");
    computer.script(
        "/usr/bin/apt-get",
        "echo \"apt-get $@\" >> $ROOT/asked; [ \"$2\" = update ] && exit\n\
         /bin/cp -r $ROOT/shelf/. $ROOT/usr\n\
         /bin/sed -i s,^ROOT=.*,ROOT=$ROOT, $ROOT/usr/bin/rustc $ROOT/usr/bin/cargo",
    );
}

fn variable<'a>(command: &'a Command, name: &str) -> Option<&'a OsStr> {
    command.get_envs().find(|(each, _)| *each == name).and_then(|(_, value)| value)
}

fn words(command: &Command) -> Vec<String> {
    command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
}

#[test]
fn rustups_pinned_release_comes_first_and_is_plain_stable() {
    let computer = Imagined::new();
    rustup_toolchain(&computer, NAME, "1.95.0", Parts::All);
    rustup_toolchain(&computer, "stable-x86_64-unknown-linux-gnu", "1.97.0", Parts::All);
    distribution(&computer, "1.96.0", "1.96.0", Parts::All);
    let toolchain = choice(&computer, &[]).choose().unwrap();
    assert_eq!(toolchain.name(), "rustup's Rust 1.95.0");
    assert_eq!((toolchain.key().as_str(), toolchain.core()), ("1.95.0", Core::Prebuilt));
    let build = toolchain.bare_metal_build().unwrap();
    assert_eq!(build.get_program(), toolchain.candidate().bin.join("cargo"));
    assert_eq!(variable(&build, "RUSTC"), Some(toolchain.candidate().bin.join("rustc").as_os_str()));
    assert_eq!(variable(&build, "RUSTC_BOOTSTRAP"), None);
    assert!(!words(&build).iter().any(|word| word.starts_with("-Z")), "{:?}", words(&build));
    // The boot loader builds a `core` of its own, always.
    assert_eq!(variable(&toolchain.bootstrap_cargo().unwrap(), "RUSTC_BOOTSTRAP"), Some(OsStr::new("1")));
}

#[test]
fn a_toolchain_is_what_its_compiler_says_not_what_its_directory_is_called() {
    let computer = Imagined::new();
    rustup_toolchain(&computer, NAME, "1.97.0", Parts::All);
    let against = choice(&computer, &[]).look().unwrap_err();
    assert!(against[0].contains("1.95.0 is not installed"), "{against:?}");
    // Another name, the very release.
    rustup_toolchain(&computer, "stable-x86_64-unknown-linux-gnu", "1.95.0", Parts::All);
    let toolchain = choice(&computer, &[]).look().unwrap();
    assert!(
        toolchain
            .candidate()
            .bin
            .starts_with(computer.path("/home/.rustup/toolchains/stable-x86_64-unknown-linux-gnu"))
    );
}

#[test]
fn rustups_home_may_be_elsewhere() {
    let computer = Imagined::new();
    rustup_toolchain(&computer, NAME, "1.95.0", Parts::All);
    let elsewhere = [("RUSTUP_HOME", computer.path("/elsewhere").into())];
    assert!(choice(&computer, &elsewhere).look().is_err());
    std::fs::rename(computer.path("/home/.rustup"), computer.path("/elsewhere")).unwrap();
    assert!(choice(&computer, &elsewhere).look().is_ok());
}

#[test]
fn without_rustup_debians_release_builds_core_and_only_then_unstable_options_are_let_in() {
    let computer = Imagined::new();
    distribution(&computer, "1.96.0", "1.96.0", Parts::All);
    let toolchain = choice(&computer, &[]).choose().unwrap();
    assert_eq!((toolchain.key().as_str(), toolchain.core()), ("1.96.0-distribution-built-core", Core::Built));
    assert_eq!(toolchain.kernel_target(), "kernel-1.96.0-distribution-built-core");
    assert!(toolchain.name().contains("Rust 1.96.0") && toolchain.name().contains("rustup: "), "{}", toolchain.name());
    let build = toolchain.bare_metal_build().unwrap();
    assert_eq!(build.get_program(), computer.path("/usr/bin/cargo"));
    assert_eq!(variable(&build, "RUSTC_BOOTSTRAP"), Some(OsStr::new("1")));
    assert!(words(&build).contains(&"-Zbuild-std=core,alloc".into()), "{:?}", words(&build));
    // Programs for Linux are built by stable Rust everywhere.
    assert_eq!(variable(&toolchain.cargo().unwrap(), "RUSTC_BOOTSTRAP"), None);
}

#[test]
fn other_releases_of_the_distribution_are_refused_with_the_reason() {
    for (rustc, cargo, why) in [
        ("1.85.0", "1.85.0", "1.85.0: only 1.95.0 and 1.96.0 were tested"),
        ("1.96.1", "1.96.1", "1.96.1: only"),
        ("1.97.0", "1.97.0", "1.97.0: only"),
        ("1.97.0-nightly", "1.97.0-nightly", "not a release"),
        ("1.96.0", "1.85.0", "cargo 1.85.0: only"),
        ("1.96.0", "1.95.0", "its cargo 1.95.0"),
    ] {
        let computer = Imagined::new();
        distribution(&computer, rustc, cargo, Parts::All);
        let against = choice(&computer, &[]).look().unwrap_err();
        assert!(against[1].contains(why), "{rustc}: {against:?}");
    }
}

#[test]
fn a_packaged_rustup_is_no_compiler_of_the_distributions() {
    let computer = Imagined::new();
    distribution(&computer, "1.96.0", "1.96.0", Parts::All);
    computer
        .script("/usr/bin/rustc", "[ $1 = --print ] && echo /home/me/.rustup/toolchains/stable || echo 'rustc 1.96.0'");
    let against = choice(&computer, &[]).look().unwrap_err();
    assert!(against[1].contains("/home/me/.rustup/toolchains/stable"), "{against:?}");
}

#[test]
fn a_distributions_compiler_needs_its_sources_and_its_linker() {
    let computer = Imagined::new();
    distribution(&computer, "1.96.0", "1.96.0", Parts::Minimal);
    assert!(choice(&computer, &[]).look().unwrap_err()[1].contains("rust-src"));
    computer.dir("/usr/lib/rustlib/src/rust/library/core");
    std::fs::remove_file(computer.path("/usr/bin/rust-lld")).unwrap();
    // The package of the link without the one that it points to.
    std::os::unix::fs::symlink("lld-22", computer.path("/usr/bin/rust-lld")).unwrap();
    assert!(choice(&computer, &[]).look().unwrap_err()[1].contains("rust-lld"));
}

#[test]
fn what_rustup_lacks_it_fetches() {
    let computer = Imagined::new();
    rustup_toolchain(&computer, NAME, "1.95.0", Parts::Minimal);
    computer.script(
        "/usr/bin/rustup",
        &format!(
            "echo \"rustup $@\" >> $ROOT/asked\nlib=$ROOT/home/.rustup/toolchains/{NAME}/lib/rustlib\n\
             case $1 in component) /bin/mkdir -p $lib/src/rust/library/core;; target) /bin/mkdir -p $lib/$3/lib;; esac"
        ),
    );
    let toolchain = choice(&computer, &[]).choose().unwrap();
    assert_eq!(toolchain.key(), "1.95.0");
    let wanted = "rustup component add rust-src --toolchain 1.95.0\n\
        rustup target add x86_64-unknown-none --toolchain 1.95.0\n";
    assert_eq!(asked(&computer), wanted);
    // Nothing is fetched twice.
    choice(&computer, &[]).choose().unwrap();
    assert_eq!(asked(&computer), wanted);
}

#[test]
fn where_only_the_target_is_refused_core_is_built_now_and_later() {
    let computer = Imagined::new();
    rustup_toolchain(&computer, NAME, "1.95.0", Parts::Minimal);
    computer.dir(&format!("/home/.rustup/toolchains/{NAME}/lib/rustlib/src/rust/library/core"));
    refusing_rustup(&computer);
    let toolchain = choice(&computer, &[]).choose().unwrap();
    assert_eq!((toolchain.key().as_str(), toolchain.core()), ("1.95.0-built-core", Core::Built));
    // What was built is found again, without asking, whatever else has been installed since.
    computer.dir(&format!("/target/{}", toolchain.kernel_target()));
    std::fs::remove_file(computer.path("asked")).unwrap();
    distribution(&computer, "1.96.0", "1.96.0", Parts::All);
    assert_eq!(choice(&computer, &[]).choose().unwrap().key(), "1.95.0-built-core");
    assert_eq!(asked(&computer), "");
}

#[test]
fn where_rustups_server_is_out_of_reach_debians_packages_are_installed_by_exact_release() {
    let computer = Imagined::new();
    rustup_toolchain(&computer, NAME, "1.95.0", Parts::Minimal);
    refusing_rustup(&computer);
    working_apt(&computer, "1.96.0");
    let toolchain = choice(&computer, &[]).choose().unwrap();
    assert_eq!(toolchain.key(), "1.96.0-distribution-built-core");
    let why = "(rustup's Rust 1.95.0 lacks the sources of its library (rust-src), and rustup could not fetch it)";
    assert!(toolchain.name().ends_with(why), "{}", toolchain.name());
    let asked = asked(&computer);
    assert!(asked.starts_with("rustup component add rust-src"), "{asked}");
    let install = "install -y --no-install-recommends --no-remove rustc-web=1.96.0* cargo-web=1.96.0* rust-web-src=1.96.0* \
        rust-web-llvm=1.96.0* lld-22\n";
    assert!(asked.ends_with(install), "{asked}");
}

#[test]
fn an_archive_with_another_release_is_refused_after_the_fact_too() {
    let computer = Imagined::new();
    working_apt(&computer, "1.85.0");
    let error = choice(&computer, &[]).choose().unwrap_err().to_string();
    assert!(error.contains("rustup: not installed"), "{error}");
    assert!(error.contains("1.85.0: only 1.95.0 and 1.96.0 were tested"), "{error}");
    assert!(error.contains("This mends it:\n  sudo apt-get"), "{error}");
}

#[test]
fn where_nothing_may_be_installed_the_commands_are_shown() {
    let computer = Imagined::new();
    let shown = |computer: &Imagined| choice(computer, &[]).choose().unwrap_err().to_string();
    let error = shown(&computer);
    assert!(error.contains("no apt-get") && error.contains("https://rustup.rs"), "{error}");
    refusing_rustup(&computer);
    computer.script("/usr/bin/apt-get", "echo \"apt-get $@\" >> $ROOT/asked");
    computer.script("/usr/bin/id", "echo 1000");
    let error = shown(&computer);
    assert!(error.contains("not root"), "{error}");
    for mend in [
        "rustup toolchain install 1.95.0 --component rust-src --target x86_64-unknown-none",
        "sudo apt-get update && sudo apt-get install --no-install-recommends 'rustc-web=1.96.0*'",
    ] {
        assert!(error.contains(mend), "{error}");
    }
    assert!(!asked(&computer).contains("apt-get"), "{}", asked(&computer));
}

#[test]
fn this_tree_pins_the_release_that_the_tests_know_and_asks_rustup_for_nothing_more() {
    assert_eq!(Choice::here().unwrap().pinned(), Version { major: 1, minor: 95, patch: 0 });
    // With more in the file, rustup ends with an error of its own before we run, where its server is out of reach.
    let text = std::fs::read_to_string(workspace::root().unwrap().join("rust-toolchain.toml")).unwrap();
    let keys: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0.trim())).collect();
    assert_eq!(keys, ["channel"]);
}
