//! Installing what is missing through the distribution's packages, where we may: as root, or with a `sudo` that asks
//! nothing. Elsewhere the person is told the exact command.

use std::process::{Command, Stdio};

use crate::nested::{answer, on_path};
use crate::say::say;

/// The command that a person would type for these Debian packages.
pub fn apt_command(packages: &[&str]) -> String {
    format!("sudo apt-get update && sudo apt-get install --no-install-recommends {}", packages.join(" "))
}

/// Installs Debian packages, and says so first.
///
/// # Errors
/// Why it could not be done: no apt here, no right to install, or apt failed.
pub fn install(packages: &[&str]) -> Result<(), String> {
    if on_path("apt-get").is_none() {
        return Err("this system has no apt-get".into());
    }
    let sudo = match answer(Command::new("id").arg("-u")).as_deref().map(str::trim) {
        Some("0") => false,
        _ if answer(Command::new("sudo").args(["-n", "true"])).is_some() => true,
        _ => return Err("not root, and sudo would ask for a password".into()),
    };
    say(format_args!("installing {} (a minute or so): {}", packages.join(" "), apt_command(packages)));
    // A source of somebody else's that cannot be reached makes the update fail, and does not matter to us.
    if !apt(sudo, &["update"]) {
        say("apt-get update reported errors; going on");
    }
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend_from_slice(packages);
    if apt(sudo, &args) { Ok(()) } else { Err(format!("apt-get install {} failed", packages.join(" "))) }
}

fn apt(sudo: bool, args: &[&str]) -> bool {
    let mut command = Command::new(if sudo { "sudo" } else { "env" });
    if sudo {
        command.args(["-n", "env"]);
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]).args(args);
    // Its progress goes where ours goes: standard output belongs to programs.
    command.stdin(Stdio::null()).stdout(std::io::stderr());
    command.status().is_ok_and(|status| status.success())
}
