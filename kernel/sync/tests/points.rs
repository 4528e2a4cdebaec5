//! Every schedule point of `abi::point` stands in the kernel's sources, once.
#![cfg(not(any(loom, shuttle)))]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The names that `point!(…, "…")` mentions under `folder`, and how often.
fn names_in_sources(folder: &Path, names: &mut BTreeMap<String, usize>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names_in_sources(&path, names);
            continue;
        }
        for after in fs::read_to_string(&path).unwrap().split("point!(").skip(1) {
            let call = after.split(')').next().unwrap();
            if let [_, name, _] = call.split('"').collect::<Vec<_>>()[..] {
                *names.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
}

#[test]
fn every_point_stands_in_one_place() {
    let kernel = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = BTreeMap::new();
    for room in ["sync/src", "mm/src", "linux/src", "src"] {
        names_in_sources(&kernel.join(room), &mut found);
    }
    // The macro's own documentation.
    found.remove("name");
    let listed: BTreeMap<String, usize> = sync::Point::all().map(|point| (point.name().to_owned(), 1)).collect();
    assert_eq!(found, listed);
}
