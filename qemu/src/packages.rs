//! Installing what is missing through the distribution's packages, where we may: as root, or with a `sudo` that asks
//! nothing. Elsewhere the person is told the exact command.

use std::path::Path;

use crate::host::Host;
use crate::say::say;

/// The command that a person would type for these Debian packages; `name=1.2.3*` asks for a version.
pub fn apt_command(packages: &[impl AsRef<str>]) -> String {
    let quoted = packages.iter().map(|package| match package.as_ref() {
        plain if !plain.contains('*') => plain.to_owned(),
        pattern => format!("'{pattern}'"), // the shell must not look for files of that name
    });
    let packages = quoted.collect::<Vec<_>>().join(" ");
    format!("sudo apt-get update && sudo apt-get install --no-install-recommends {packages}")
}

/// What installing may do to versions that are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// They only rise.
    Rise,
    /// A package that is asked for with a version gets it, even an older one than it has.
    AsAsked,
}

/// Installs Debian packages, and says so first. Never at the cost of removing another one: that is for a person to decide.
///
/// # Errors
/// Why it could not be done: no apt here, no right to install, or apt failed.
pub fn install(host: &Host, packages: &[impl AsRef<str>], versions: Versions) -> Result<(), String> {
    let Some(apt_get) = host.on_path("apt-get") else {
        return Err("this system has no apt-get".into());
    };
    let sudo = match host.on_path("id").and_then(|id| host.ask(id, &["-u"])).as_deref().map(str::trim) {
        Some("0") => None,
        _ => match host.on_path("sudo").filter(|sudo| host.ask(sudo, &["-n", "true"]).is_some()) {
            Some(sudo) => Some(sudo),
            None => return Err("not root, and no sudo that asks no password, so nothing was installed".into()),
        },
    };
    say(format_args!("installing packages (a minute or so): {}", apt_command(packages)));
    let apt = |args: &[&str]| apt(host, sudo.as_deref(), &apt_get, args);
    // A source of somebody else's that cannot be reached makes the update fail, and does not matter to us.
    if !apt(&["update"]) {
        say("apt-get update reported errors; going on");
    }
    let mut args = vec!["install", "-y", "--no-install-recommends", "--no-remove"];
    if versions == Versions::AsAsked {
        args.push("--allow-downgrades");
    }
    args.extend(packages.iter().map(AsRef::as_ref));
    if apt(&args) { Ok(()) } else { Err(format!("apt-get {} failed", args.join(" "))) }
}

fn apt(host: &Host, sudo: Option<&Path>, apt_get: &Path, args: &[&str]) -> bool {
    const QUIET: &str = "DEBIAN_FRONTEND=noninteractive";
    let mut command = match sudo {
        Some(sudo) => {
            let mut command = host.command(sudo);
            command.args(["-n", "env", QUIET]).arg(apt_get);
            command
        }
        None => {
            let mut command = host.command(apt_get);
            command.envs(QUIET.split_once('='));
            command
        }
    };
    // Its progress goes where ours goes: standard output belongs to programs.
    command.arg("-q").args(args).stdout(std::io::stderr());
    command.status().is_ok_and(|status| status.success())
}

/// The version of `package` that would be installed, where there is apt.
pub fn candidate(host: &Host, package: &str) -> Option<String> {
    let policy = host.ask(host.on_path("apt-cache")?, &["policy", package])?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// The version of `package` that is installed.
pub fn installed(host: &Host, package: &str) -> Option<String> {
    let said = host.ask(host.on_path("dpkg-query")?, &["-W", "-f", "${db:Status-Abbrev} ${Version}", package])?;
    said.strip_prefix("ii ").map(|version| version.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::imagined::Imagined;

    #[test]
    fn the_command_can_be_pasted_into_a_shell() {
        assert_eq!(
            apt_command(&["ovmf", "rustc-web=1.96.0*"]),
            "sudo apt-get update && sudo apt-get install --no-install-recommends ovmf 'rustc-web=1.96.0*'"
        );
    }

    #[test]
    fn without_the_right_nothing_is_tried() {
        let computer = Imagined::new();
        assert!(install(&computer.host(&[]), &["x"], Versions::Rise).unwrap_err().contains("no apt-get"));
        computer.script("/usr/bin/apt-get", ": > $ROOT/ran");
        computer.script("/usr/bin/id", "echo 1000");
        assert!(install(&computer.host(&[]), &["x"], Versions::Rise).unwrap_err().contains("not root"));
        computer.script("/usr/bin/sudo", "exit 1");
        assert!(install(&computer.host(&[]), &["x"], Versions::Rise).unwrap_err().contains("not root"));
        assert!(!computer.path("ran").exists());
    }

    #[test]
    fn as_root_or_with_sudo_apt_is_asked_to_remove_nothing() {
        let computer = Imagined::new();
        computer.script("/usr/bin/apt-get", "echo \"$DEBIAN_FRONTEND $@\" >> $ROOT/said; [ \"$2\" = install ]");
        computer.script("/usr/bin/id", "echo 0");
        let said = |computer: &Imagined| std::fs::read_to_string(computer.path("said")).unwrap();
        let wanted = "noninteractive -q update\n\
            noninteractive -q install -y --no-install-recommends --no-remove a b=1*\n";
        install(&computer.host(&[]), &["a", "b=1*"], Versions::Rise).unwrap();
        assert_eq!(said(&computer), wanted);
        computer.script("/usr/bin/id", "echo 1000");
        computer.script("/usr/bin/env", "exec /usr/bin/env \"$@\"");
        computer.script("/usr/bin/sudo", "shift; [ \"$1\" = true ] || exec \"$@\"");
        install(&computer.host(&[]), &["a", "b=1*"], Versions::Rise).unwrap();
        assert_eq!(said(&computer), wanted.repeat(2));
        computer.script("/usr/bin/apt-get", "exit 100");
        assert!(
            install(&computer.host(&[]), &["a"], Versions::Rise)
                .unwrap_err()
                .contains("install -y --no-install-recommends")
        );
    }
}
