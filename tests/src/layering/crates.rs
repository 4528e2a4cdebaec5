//! Does each package depend only on what its line of the table allows?

use std::collections::BTreeMap;

use super::Finding;
use super::rules::Crate;
use super::source::Package;

/// Where the table is.
const TABLE: &str = "CRATES in tests/src/layering/rules.rs";

/// Compares every manifest with the table. Only edges between packages of the workspace count, and libraries that know
/// one machine.
pub fn check(packages: &BTreeMap<String, Package>, rules: &[Crate], machine_libraries: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages.values() {
        let manifest = format!("{}/Cargo.toml", package.dir);
        let Some(rule) = rules.iter().find(|rule| rule.name == package.name) else {
            let needs: Vec<String> =
                edges(package, "dependencies").filter(|used| packages.contains_key(used)).collect();
            let text = format!("package `{}` has no line in {TABLE}: add one; it depends on {needs:?}", package.name);
            findings.push(Finding::new(&manifest, 0, text));
            continue;
        };
        for (kind, allowed) in [("dependencies", rule.may_use), ("dev-dependencies", rule.tests_may_use)] {
            for used in edges(package, kind) {
                let known = packages.contains_key(&used);
                // What the shipped code may use, its tests may.
                if known && !allowed.contains(&&*used) && !(kind != "dependencies" && rule.may_use.contains(&&*used)) {
                    let text = format!("`{}` must not use `{used}` ({kind}): {TABLE} allows {allowed:?}", package.name);
                    findings.push(Finding::new(&manifest, 0, text));
                } else if kind == "dependencies" && !rule.machine && machine_libraries.contains(&&*used) {
                    let text = format!(
                        "`{}` must not use `{used}`, which knows one machine: {TABLE} does not mark it so",
                        package.name
                    );
                    findings.push(Finding::new(&manifest, 0, text));
                }
            }
        }
        let used: Vec<String> = edges(package, "dependencies").collect();
        for allowed in rule.may_use.iter().filter(|allowed| !used.iter().any(|used| used == *allowed)) {
            let text = format!("`{}` does not use `{allowed}` any more: take it out of {TABLE}", package.name);
            findings.push(Finding::new(&manifest, 0, text));
        }
    }
    for rule in rules.iter().filter(|rule| !packages.contains_key(rule.name)) {
        let text = format!("{TABLE} has a line for `{}`, which is no package of the workspace", rule.name);
        findings.push(Finding::new("Cargo.toml", 0, text));
    }
    findings.extend(circles(rules));
    findings
}

/// The table itself must not allow a circle: each line may use earlier ones only.
fn circles(rules: &[Crate]) -> Vec<Finding> {
    let place = |name: &str| rules.iter().position(|rule| rule.name == name);
    let upward = rules.iter().enumerate().flat_map(|(at, rule)| {
        let up = rule.may_use.iter().filter(move |used| place(used).is_none_or(|used| used >= at));
        up.map(move |used| (rule.name, *used))
    });
    let text = |(name, used)| format!("{TABLE}: `{name}` may use `{used}`, which is not above it in the table");
    upward.map(|edge| Finding::new("Cargo.toml", 0, text(edge))).collect()
}

/// Names of the packages in one kind of dependency table, for every target.
fn edges(package: &Package, kind: &str) -> impl Iterator<Item = String> {
    let mut names = Vec::new();
    let build = (kind == "dependencies").then_some("build-dependencies");
    for kind in [Some(kind), build].into_iter().flatten() {
        let everywhere = package.manifest.get(kind).and_then(toml::Value::as_table);
        let targets = package.manifest.get("target").and_then(toml::Value::as_table);
        let by_target = targets.into_iter().flat_map(toml::Table::values);
        let by_target = by_target.filter_map(|target| target.get(kind).and_then(toml::Value::as_table));
        for table in everywhere.into_iter().chain(by_target) {
            for (name, value) in table {
                let renamed = value.get("package").and_then(toml::Value::as_str);
                names.push(renamed.unwrap_or(name).to_owned());
            }
        }
    }
    // A crate's tests may ask for the crate itself, with other features.
    let own = package.name.clone();
    names.into_iter().filter(move |name| *name != own)
}

#[cfg(test)]
mod tests {
    use super::super::Tree;
    use super::*;

    const RULES: &[Crate] = &[
        Crate { name: "low", may_use: &[], tests_may_use: &[], machine: false },
        Crate { name: "high", may_use: &["low"], tests_may_use: &[], machine: false },
    ];

    fn findings(low: &str, high: &str, rules: &[Crate]) -> Vec<String> {
        let package = |name: &str, text: &str| format!("[package]\nname = \"{name}\"\n{text}");
        let tree = Tree::made_up(&[
            ("Cargo.toml", "[workspace]\nmembers = [\"low\", \"high\"]"),
            ("low/Cargo.toml", &package("low", low)),
            ("high/Cargo.toml", &package("high", high)),
        ]);
        let found = check(&tree.packages().unwrap(), rules, &["x86_64"]);
        found.iter().map(ToString::to_string).collect()
    }

    const GOOD: &str = "[dependencies]\nlow.workspace = true\n";

    #[test]
    fn the_allowed_edges_pass() {
        assert_eq!(findings("", GOOD, RULES), Vec::<String>::new());
        let itself = "[dev-dependencies]\nhigh = { path = \".\" }\nanyhow = \"1\"\n";
        assert_eq!(findings("", &format!("{GOOD}{itself}"), RULES), Vec::<String>::new());
    }

    #[test]
    fn an_edge_upward_is_found_in_every_kind_of_table() {
        for table in [
            "dependencies",
            "dev-dependencies",
            "build-dependencies",
            "target.'cfg(loom)'.dependencies",
            "target.x.dev-dependencies",
        ] {
            let found = findings(&format!("[{table}]\nhigh.workspace = true\n"), GOOD, RULES);
            assert_eq!(found.len(), 1, "{table}: {found:?}");
            assert!(found[0].starts_with("low/Cargo.toml: `low` must not use `high`"), "{found:?}");
        }
        let renamed = "[dependencies]\nnothing = { package = \"high\", path = \"../high\" }\n";
        assert_eq!(findings(renamed, GOOD, RULES).len(), 1);
    }

    #[test]
    fn the_table_is_complete_and_holds_nothing_else() {
        let found = findings("", GOOD, &RULES[..1]);
        assert!(found[0].contains("package `high` has no line in CRATES"), "{found:?}");
        assert!(findings("", "", RULES)[0].contains("does not use `low` any more"));
        let gone = [RULES, &[Crate { name: "gone", may_use: &[], tests_may_use: &[], machine: false }]].concat();
        assert!(findings("", GOOD, &gone)[0].contains("`gone`, which is no package"));
    }

    #[test]
    fn a_circle_in_the_table_is_found() {
        let circle = [
            Crate { name: "low", may_use: &["high"], tests_may_use: &[], machine: false },
            Crate { name: "high", may_use: &["low"], tests_may_use: &[], machine: false },
        ];
        let found = findings("[dependencies]\nhigh.workspace = true\n", GOOD, &circle);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("`low` may use `high`, which is not above it"), "{found:?}");
    }

    #[test]
    fn the_machine_stays_in_its_room() {
        let found = findings("[dependencies]\nx86_64 = \"0.15\"\n", GOOD, RULES);
        assert!(found[0].contains("`low` must not use `x86_64`, which knows one machine"), "{found:?}");
    }
}
