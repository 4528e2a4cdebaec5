//! Every ordering, fence and planted mistake in the sources has its line in `mutants.list`, and the other way round.
#![cfg(not(any(loom, shuttle)))]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The names that `weaken("…")`, `fence_named("…")` and `mutant("…")` mention under `folder`.
fn names_in_sources(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names_in_sources(&path, names);
            continue;
        }
        if path.ends_with("tests/mutants.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for call in ["weaken(", "fence_named(", "mutant("] {
            for after in text.split(call).skip(1) {
                if let Some(rest) = after.trim_start().strip_prefix('"') {
                    names.insert(rest.split('"').next().unwrap().to_string());
                }
            }
        }
    }
}

#[test]
fn every_name_is_listed_and_every_listed_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut in_sources = BTreeSet::new();
    names_in_sources(&root.join("src"), &mut in_sources);
    names_in_sources(&root.join("tests"), &mut in_sources);

    let mut listed = BTreeSet::new();
    for line in fs::read_to_string(root.join("tests/mutants.list")).unwrap().lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, binary, test] = fields[..] else { panic!("not `name binary test`: {line}") };
        assert!(listed.insert(name.to_string()), "{name} is listed twice");
        let source = fs::read_to_string(root.join(format!("tests/{binary}.rs"))).unwrap();
        assert!(source.contains(&format!("fn {test}()")), "{binary} has no test {test}");
    }
    assert_eq!(in_sources, listed);
}

/// The model orderings are only as good as their names: no named place may spell its ordering twice.
#[test]
fn orderings_stronger_than_relaxed_are_named() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![root.clone()];
    while let Some(path) = files.pop() {
        // The torture is itself a test.
        if path.ends_with("src/primitive") || path.ends_with("src/torture") {
            continue;
        }
        if path.is_dir() {
            files.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        if path.ends_with("primitive.rs") || path.ends_with("testing.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("mod tests {").next().unwrap();
        for (number, line) in text.lines().enumerate() {
            let strong = ["Acquire", "Release", "AcqRel", "SeqCst"]
                .iter()
                .any(|ordering| line.contains(&format!("Ordering::{ordering}")));
            assert!(
                // A compiler's fence orders nothing between CPUs, so no model can miss it.
                !strong || line.contains("weaken(\"") || line.contains("compiler_fence("),
                "{}:{}: an ordering without a name",
                path.display(),
                number + 1
            );
        }
    }
}
