//! ARCHITECTURE.md's lives of a page fault and of an `munmap` against what a machine really ran (`qemu::tour`).

use std::path::Path;

use anyhow::{Context, Result, ensure};
use qemu::explain::Traced;
use qemu::tour::{Row, Subject, walk};

use crate::launcher;
use crate::oracle::LIMIT;
use crate::turn;

/// Both tables are true, and no table with two neighbours exchanged, another function or another file would be.
///
/// # Errors
/// One is not, or one would be.
pub fn lives_are_true() -> Result<()> {
    for subject in [Subject::Fault, Subject::Munmap] {
        let rows = subject.rows(None)?;
        let turn = turn::take();
        let traced = Traced::of(subject, LIMIT)?;
        drop(turn);
        let stops = walk(&rows, &traced.entries).with_context(|| subject.name())?;
        ensure!(stops.len() == rows.len() && stops.is_sorted_by_key(|stop| stop.at), "{stops:?}");
        for doctored in doctored(&rows) {
            ensure!(walk(&doctored, &traced.entries).is_err(), "{}: passed: {doctored:?}", subject.name());
        }
    }
    Ok(())
}

/// Tables that tell something else than `rows`.
fn doctored(rows: &[Row]) -> Vec<Vec<Row>> {
    let mut all = Vec::new();
    for index in 0..rows.len() {
        if index > 0 {
            let mut exchanged = rows.to_vec();
            exchanged.swap(index - 1, index);
            all.push(exchanged);
        }
        let mut misnamed = rows.to_vec();
        misnamed[index].function += "_not";
        all.push(misnamed);
        let mut misplaced = rows.to_vec();
        misplaced[index].file = "kernel/src/console.rs".into();
        all.push(misplaced);
    }
    all
}

/// The launcher says which stop is wrong, and fails.
///
/// # Errors
/// It does not.
pub fn wrong_story() -> Result<()> {
    let truth = std::fs::read_to_string(qemu::workspace::root()?.join("ARCHITECTURE.md"))?;
    let wrong = truth.replace("`mm/src/tree/search.rs` `find`", "`mm/src/tree/search.rs` `lose`");
    ensure!(wrong != truth, "ARCHITECTURE.md does not name the look-up");
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("WRONG.md");
    std::fs::write(&file, wrong)?;
    let told = told(&file)?;
    ensure!(told.0 == 73 && told.1.contains("stop 6") && told.1.contains("lose"), "status {}: {}", told.0, told.1);
    let untold = self::told(&dir.path().join("NONE.md"))?;
    ensure!(untold.0 == 69 && untold.1.contains("NONE.md"), "status {}: {}", untold.0, untold.1);
    Ok(())
}

/// Status and standard error of a tour by the text at `file`.
fn told(file: &Path) -> Result<(i32, String)> {
    let file = file.to_string_lossy();
    let finished = launcher::run(&["explain", "fault", "--timeout", "600", "--architecture", &file], &[])?;
    Ok((finished.status, finished.err()))
}
