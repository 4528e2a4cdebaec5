//! Does the repository name a machine on which somebody worked?
//!
//! What belongs to no repository is where this checkout stands, whose home it is in, and what its host is called: these are
//! asked of the running system, so that no list of them needs to be written down. Paths into somebody's home directory and
//! addresses of hosts inside a network are found by their form.

use super::Finding;
use super::source::Tree;

/// Beginnings of absolute paths that exist on one person's machine only.
const HOMES: [&str; 4] = ["home", "Users", "root", "workspace"];

/// Names of examples.
const NOBODY: [&str; 3] = ["me", "user", "you"];

/// What the running system is called, as far as it tells one machine from another.
pub fn here(root: &std::path::Path) -> Vec<String> {
    let mut names = vec![root.display().to_string()];
    names.extend(std::env::var("HOME").ok().filter(|home| home.matches('/').count() > 1));
    names.extend(std::env::var("CARGO_HOME").ok());
    names.extend(std::fs::read_to_string("/proc/sys/kernel/hostname").ok());
    let names = names.into_iter().map(|name| name.trim().trim_end_matches('/').to_owned());
    // A host called `build` or `pc` would be found in prose.
    names.filter(|name| name.starts_with('/') && name.len() > 4 || name.len() > 7 && name != "localhost").collect()
}

/// Looks for `names`, and for paths and hosts by their form.
pub fn check(tree: &Tree, names: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, text) in tree.files() {
        for (line, number) in text.lines().zip(1..) {
            for name in names.iter().filter(|name| contains_word(line, name)) {
                findings.push(Finding::new(file, number, format!("names this machine: {name}")));
            }
            for home in HOMES.iter().filter(|home| is_in_home(line, home)) {
                findings.push(Finding::new(file, number, format!("an absolute path in somebody's /{home}")));
            }
            for host in hosts(line).filter(|host| is_private(host)) {
                findings.push(Finding::new(file, number, format!("names a host of a network of its own: {host}")));
            }
        }
    }
    findings
}

/// Whether `name` stands in `line` and not inside a longer word.
fn contains_word(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let part = |char: char| char.is_alphanumeric() || char == '_' || char == '-';
        let before = line[..at].chars().next_back().is_some_and(|char| part(char) && !name.starts_with('/'));
        let after = line[at + name.len()..].chars().next().is_some_and(part);
        !before && !after
    })
}

/// Whether a path in `line` begins with `/home/` and goes on with a name. One letter is nobody, as in examples.
fn is_in_home(line: &str, home: &str) -> bool {
    let start = format!("/{home}/");
    line.match_indices(&start).any(|(at, _)| {
        let begins =
            line[..at].chars().next_back().is_none_or(|char| !char.is_alphanumeric() && !"_.-}$)/*".contains(char));
        let rest = &line[at + start.len()..];
        let end = rest.find(|char: char| !char.is_alphanumeric() && !"_-.".contains(char)).unwrap_or(rest.len());
        let name = &rest[..end];
        begins && name.len() > 1 && !name.starts_with('.') && !NOBODY.contains(&name)
    })
}

/// Hosts of the web addresses in a line.
fn hosts(line: &str) -> impl Iterator<Item = &str> {
    line.split("://").skip(1).filter_map(|rest| {
        let end = rest.find(|char: char| !(char.is_alphanumeric() || ".-".contains(char))).unwrap_or(rest.len());
        (end > 0).then_some(&rest[..end])
    })
}

/// A host that only one network knows: a private address, or a name without a public ending. The host's own is everybody's.
fn is_private(host: &str) -> bool {
    if let Ok(address) = host.parse::<std::net::Ipv4Addr>() {
        return address.is_private() || address.is_link_local();
    }
    host.ends_with(".internal") || host.ends_with(".local") || host.ends_with(".lan") || host.ends_with(".corp")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Vec<Finding> {
        check(&Tree::made_up(&[("a.md", text)]), &["/some/where".into(), "bigmachine".into()])
    }

    #[test]
    fn names_of_a_machine_are_found() {
        let somebody = ["home", "Users"].map(|home| format!("see /{home}/mary/x"));
        let local = ["10.1.2.3", "192.168.0.1", "cache.internal"].map(|host| format!("from http{}{host}/x", "://"));
        let fixed = ["cd /some/where", "in /some/where/target", "on bigmachine."].map(str::to_owned);
        for text in somebody.iter().chain(&local).chain(&fixed) {
            let found = findings(&format!("\n{text}"));
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert_eq!(found[0].line, 2);
        }
    }

    #[test]
    fn what_everybody_has_passes() {
        for text in [
            "/usr/share/qemu and /dev/null, /tmp/x",
            "https://docs.rs/x and http://127.0.0.1:1",
            "target/home/x, $HOME/x, a/root/b",
            "bigmachinery, /some/wherever",
            "/home/x/tree, /home/me and /home/.config/y are examples",
        ] {
            assert_eq!(findings(text), [], "{text}");
        }
    }
}
