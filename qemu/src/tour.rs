//! A path through the kernel, twice: as ARCHITECTURE.md tells it, and as a trace shows it. Do they agree?
//!
//! ARCHITECTURE.md's tables have one row a stop: its number, one file and one function, one sentence ([`rows`]). A trace is
//! the addresses of all instructions that ran; with the kernel's debug information it becomes the functions that were
//! entered, in their order, those that the compiler inlined among them ([`entries`]). The two agree if each row's function
//! is entered after the row's before it ([`walk`]).

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;

use crate::symbols::{Frame, Symbols};
use crate::workspace;

/// Where a row's file may lie, so that rows can be short.
const ROOMS: [&str; 3] = ["", "kernel/", "kernel/src/"];

/// What can be explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// A page fault: the first write to a page of a mapping.
    Fault,
    /// An munmap of six pages, four of which were written.
    Munmap,
}

impl Subject {
    /// The word for it, here and for the program that does it.
    pub fn name(self) -> &'static str {
        match self {
            Subject::Fault => "fault",
            Subject::Munmap => "munmap",
        }
    }

    /// In the heading of its section in ARCHITECTURE.md.
    pub fn heading(self) -> &'static str {
        match self {
            Subject::Fault => "Life of a page fault",
            Subject::Munmap => "Life of a `munmap`",
        }
    }

    /// The stops as ARCHITECTURE.md, or the file at `text`, tells them.
    ///
    /// # Errors
    /// It cannot be read, or is no such text.
    pub fn rows(self, text: Option<&Path>) -> Result<Vec<Row>> {
        let root = workspace::root()?;
        let path = text.map_or_else(|| root.join("ARCHITECTURE.md"), Path::to_owned);
        // As text: the launcher takes an error of this kind for its own output's.
        let text = std::fs::read_to_string(&path).map_err(|why| anyhow!("cannot read {}: {why}", path.display()))?;
        rows(&text, self.heading(), &root).with_context(|| path.display().to_string())
    }
}

/// A stop as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its number, from 1.
    pub number: u32,
    /// The file, from the root of the source tree.
    pub file: String,
    /// The function: `name`, or `Type::name`.
    pub function: String,
    /// What happens there.
    pub sentence: String,
}

/// Reads the rows of the table in the section of `text` whose heading contains `heading`.
///
/// # Errors
/// No such section, or a row that does not name one file of the tree at `root` and one function.
pub fn rows(text: &str, heading: &str, root: &Path) -> Result<Vec<Row>> {
    let mut lines = text.lines().skip_while(|line| !(line.starts_with("## ") && line.contains(heading)));
    lines.next().with_context(|| format!("there is no section {heading:?}"))?;
    let section = lines.take_while(|line| !line.starts_with("## "));
    let cells = section.filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.splitn(3, " | ").collect();
        let number = cells.first()?.parse().ok()?;
        Some((number, cells))
    });
    let rows: Vec<Row> = cells.map(|(number, cells)| row(number, &cells, root)).collect::<Result<_>>()?;
    ensure!(!rows.is_empty(), "the section {heading:?} has no table");
    for (index, row) in rows.iter().enumerate() {
        ensure!(row.number as usize == index + 1, "{heading}: row {} stands where {} should", row.number, index + 1);
    }
    Ok(rows)
}

fn row(number: u32, cells: &[&str], root: &Path) -> Result<Row> {
    let [_, place, sentence] = cells else { bail!("row {number} has not three cells") };
    let names: Vec<&str> = place.split('`').skip(1).step_by(2).collect();
    let [file, function] = names[..] else { bail!("row {number} names not one file and one function: {place}") };
    let files: Vec<String> =
        ROOMS.iter().map(|room| format!("{room}{file}")).filter(|file| root.join(file).is_file()).collect();
    let [file] = &files[..] else { bail!("row {number}: {file} names {} files", files.len()) };
    Ok(Row { number, file: file.clone(), function: function.to_owned(), sentence: sentence.replace(['`', '*'], "") })
}

/// A function that was entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How many instructions ran before it.
    pub at: usize,
    /// Its name, demangled.
    pub function: String,
    /// Its file, if the debug information knows: assembly has none.
    pub file: Option<String>,
    /// The line where it was entered.
    pub line: Option<u32>,
    /// In how many others it was entered, inlined ones among them.
    pub depth: usize,
}

/// What is at an address: where the function begins that holds it as machine code, and what was inlined there, the
/// outermost first.
struct Place {
    start: u64,
    frames: Vec<Frame>,
}

/// A call that has not returned.
struct Activation {
    start: u64,
    /// In how many functions it was called.
    depth: usize,
    /// How many functions are one in the other where it is now.
    inside: usize,
    /// What was entered in it so far.
    seen: HashSet<u64>,
}

/// The functions that a trace entered, in their order. The program's are none.
///
/// A call is a jump to a function's first instruction; any other change of function is a return to the nearest call that
/// has not returned, or another thread going on. An inlined function is entered once in each call around it, for the
/// compiler mixes its instructions with its neighbours'.
pub fn entries(trace: &[u64], symbols: &Symbols) -> Vec<Entry> {
    let mut places = HashMap::<u64, Rc<Place>>::new();
    let mut calls: Vec<Activation> = Vec::new();
    let mut entries = Vec::new();
    for (at, &address) in trace.iter().enumerate() {
        let place = Rc::clone(places.entry(address).or_insert_with(|| Rc::new(place(address, symbols))));
        let called = address == place.start;
        if called || calls.last().is_none_or(|call| call.start != place.start) {
            match calls.iter().rposition(|call| call.start == place.start) {
                Some(index) if !called => calls.truncate(index + 1),
                _ => {
                    let depth = calls.last().map_or(0, |call| call.depth + call.inside);
                    calls.push(Activation { start: place.start, depth, inside: 0, seen: HashSet::new() });
                }
            }
        }
        let Some(call) = calls.last_mut() else { continue };
        call.inside = place.frames.len();
        let mut way = DefaultHasher::new();
        for (inside, frame) in place.frames.iter().enumerate() {
            frame.function.hash(&mut way);
            if call.seen.insert(way.finish()) {
                let Frame { function, file, line } = frame.clone();
                entries.push(Entry { at, function, file, line, depth: call.depth + inside });
            }
            frame.line.hash(&mut way); // for what is inlined into it: the place of the call
        }
    }
    entries
}

fn place(address: u64, symbols: &Symbols) -> Place {
    if address < abi::USER_END {
        return Place { start: 0, frames: Vec::new() };
    }
    let start = address - symbols.offset(address).unwrap_or(0);
    let mut frames = symbols.frames(address);
    frames.reverse();
    Place { start, frames }
}

/// A stop as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// What is told of it.
    pub row: Row,
    /// How many instructions ran before it.
    pub at: usize,
    /// The line where its function was entered, if that is known.
    pub line: Option<u32>,
    /// Functions of the kernel that were entered between this stop and the next, each once: those that the stop calls
    /// itself, and what its callers call later.
    pub through: Vec<String>,
}

/// Finds each row's function, one after the other, among what was entered.
///
/// # Errors
/// The first row whose function is not entered after the row before it.
pub fn walk(rows: &[Row], entries: &[Entry]) -> Result<Vec<Stop>> {
    let mut found = Vec::new();
    let mut from = 0;
    for row in rows {
        let Some(index) = entries[from..].iter().position(|entry| is(row, entry)) else {
            let before = found.last().map(|&(_, index): &(_, usize)| entries[index].function.as_str());
            bail!(
                "stop {} is not on the way: after {}, {} of {} was not entered",
                row.number,
                before.unwrap_or("the beginning"),
                row.function,
                row.file
            );
        };
        found.push((row, from + index));
        from += index + 1;
    }
    let ends = found.iter().skip(1).map(|&(_, index)| index).chain([entries.len()]);
    let stops = found.iter().zip(ends).map(|(&(row, index), end)| Stop {
        row: row.clone(),
        at: entries[index].at,
        line: entries[index].line,
        through: passed(&entries[index], &entries[index + 1..end]),
    });
    Ok(stops.collect())
}

/// Whether `entry` is what `row` names.
fn is(row: &Row, entry: &Entry) -> bool {
    let (owner, name) = match row.function.rsplit_once("::") {
        Some((owner, name)) => (Some(owner), name),
        None => (None, row.function.as_str()),
    };
    let (path, last) = split(&entry.function);
    let file = match &entry.file {
        Some(file) => *file == row.file,
        // Assembly: its module's name says where it stands.
        None => path == module(&row.file),
    };
    file && last == name && owner.is_none_or(|owner| has_word(path, owner))
}

/// The module that a file is: `mm::tree::search` for `kernel/mm/src/tree/search.rs`.
fn module(file: &str) -> String {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod").trim_end_matches("/lib");
    let path = match path.strip_prefix("kernel/src/") {
        Some(inside) => format!("kernel/{inside}"),
        None => path.trim_start_matches("kernel/").replace("/src/", "/"),
    };
    path.replace('/', "::")
}

/// A function's path and its last name, without generic arguments behind it.
fn split(function: &str) -> (&str, &str) {
    let mut depth = 0;
    let mut end = function.len();
    for (index, char) in function.char_indices().rev() {
        match char {
            '>' => depth += 1,
            '<' => depth -= 1,
            ':' if depth == 0 && function[..index].ends_with(':') => {
                let name = &function[index + 1..end];
                if name.starts_with('<') {
                    end = index - 1; // `name::<arguments>`: the name is before
                } else {
                    return (&function[..index - 1], name.split('<').next().unwrap_or(name));
                }
            }
            _ => {}
        }
    }
    ("", &function[..end])
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|char: char| !char.is_alphanumeric() && char != '_').any(|part| part == word)
}

/// The kernel's own functions among `entries`, which follow `stop`, as people call them; not what those call.
fn passed(stop: &Entry, entries: &[Entry]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut depth = stop.depth;
    for entry in entries {
        if entry.depth > depth + 1 {
            continue;
        }
        depth = depth.min(entry.depth);
        let own = entry.file.as_deref().is_none_or(|file| file.starts_with("kernel/"));
        let (path, name) = split(&entry.function);
        if !own || name.contains(['{', '?']) {
            continue;
        }
        let name = match owner(path) {
            Some(owner) => format!("{owner}::{name}"),
            None => name.to_owned(),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The type, or else the module, in a function's path: `AddressSpace` in `mm::fault::<impl mm::space::AddressSpace<P>>`.
fn owner(path: &str) -> Option<&str> {
    let path = path.strip_suffix('>').map_or(path, |inside| {
        let inside = inside.rsplit_once("<impl ").map_or(inside.trim_start_matches('<'), |(_, inside)| inside);
        // `Type as Trait`: the type.
        inside.split(" as ").next().unwrap_or(inside)
    });
    let plain = path.split('<').next().unwrap_or(path).trim_end_matches("::");
    let name = plain.rsplit("::").next()?;
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in ["kernel/src/arch/trap.rs", "kernel/mm/src/fault.rs", "kernel/src/both.rs", "kernel/both.rs"] {
            let file = dir.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        dir
    }

    const TEXT: &str = "# Title\n## 3. Life of a fault\n\n| # | where | what |\n|---|---|---|\n\
        | 1 | `arch/trap.rs` `page_fault` | the *only* reader of `CR2` |\n\
        | 2 | `mm/src/fault.rs` `Space::serve` | one | two |\n\nMore.\n\
        ## 4. Other\n| 1 | `arch/trap.rs` `x` | y |\n";

    #[test]
    fn rows_are_read_from_their_section() {
        let rows = rows(TEXT, "Life of a fault", tree().path()).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!((&*rows[0].file, &*rows[0].function), ("kernel/src/arch/trap.rs", "page_fault"));
        assert_eq!(rows[0].sentence, "the only reader of CR2");
        assert_eq!((&*rows[1].file, &*rows[1].sentence), ("kernel/mm/src/fault.rs", "one | two"));
    }

    #[test]
    fn loose_rows_are_refused() {
        let dir = tree();
        let refused = |from: &str, to: &str| {
            let text = TEXT.replacen(from, to, 1);
            assert_ne!(text, TEXT);
            rows(&text, "Life of a fault", dir.path()).unwrap_err().to_string()
        };
        assert!(refused("arch/trap.rs", "arch/tarp.rs").contains("names 0 files"));
        assert!(refused("arch/trap.rs", "both.rs").contains("names 2 files"));
        assert!(refused(" `page_fault`", "").contains("one function"));
        assert!(refused("| 2 |", "| 3 |").contains("row 3"));
        assert!(refused("Life of a fault", "Death").contains("no section"));
    }

    fn entry(at: usize, function: &str, file: Option<&str>) -> Entry {
        Entry { at, function: function.into(), file: file.map(str::to_owned), line: Some(7), depth: at }
    }

    fn told(number: u32, file: &str, function: &str) -> Row {
        Row { number, file: file.into(), function: function.into(), sentence: String::new() }
    }

    fn path() -> (Vec<Row>, Vec<Entry>) {
        let fault = Some("kernel/mm/src/fault.rs");
        let rows = vec![
            told(1, "kernel/src/arch/idt.rs", "trap_entry"),
            told(2, "kernel/mm/src/fault.rs", "serve"),
            told(3, "kernel/sync/src/slot.rs", "FaultSection::drop"),
        ];
        let entries = vec![
            entry(0, "kernel::arch::idt::trap_entry", None),
            entry(1, "mm::fault::<impl mm::space::AddressSpace<P>>::resolve", fault),
            entry(2, "mm::fault::deeper", fault),
            entry(9, "mm::fault::<impl mm::space::AddressSpace<P>>::serve", fault),
            entry(9, "core::sync::atomic::AtomicU64::load", Some("library/core/src/sync/atomic.rs")),
            entry(20, "<sync::slot::FaultSection<P> as core::ops::drop::Drop>::drop", Some("kernel/sync/src/slot.rs")),
        ];
        (rows, entries)
    }

    #[test]
    fn stops_are_found_in_their_order() {
        let (rows, entries) = path();
        let stops = walk(&rows, &entries).unwrap();
        assert_eq!(stops.iter().map(|stop| stop.at).collect::<Vec<_>>(), [0, 9, 20]);
        assert_eq!(stops[0].through, ["AddressSpace::resolve"]);
        assert!(stops[1].through.is_empty(), "what is not the kernel's is left out, and what is deeper");
    }

    #[test]
    fn any_other_path_is_refused() {
        let (rows, entries) = path();
        for index in 0..rows.len() {
            for change in [
                (|row: &mut Row| row.function += "x") as fn(&mut Row),
                |row| row.function = format!("Other::{}", row.function),
                |row| row.file = "kernel/mm/src/other.rs".into(),
            ] {
                let mut rows = rows.clone();
                change(&mut rows[index]);
                let error = walk(&rows, &entries).unwrap_err().to_string();
                assert!(error.contains(&format!("stop {} ", index + 1)), "{error}");
            }
            let mut fewer = entries.clone();
            fewer.retain(|entry| !is(&rows[index], entry));
            assert!(walk(&rows, &fewer).is_err());
        }
        for (one, other) in [(0, 1), (1, 2), (0, 2)] {
            let mut rows = rows.clone();
            rows.swap(one, other);
            assert!(walk(&rows, &entries).is_err());
        }
    }

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(split("a::b::c"), ("a::b", "c"));
        assert_eq!(split("a::<impl b::C<P>>::d::<e::F>"), ("a::<impl b::C<P>>", "d"));
        assert_eq!(split("<a::B<P> as c::D>::e"), ("<a::B<P> as c::D>", "e"));
        assert_eq!(split("memcpy"), ("", "memcpy"));
        assert_eq!(owner("a::<impl b::C<P>>"), Some("C"));
        assert_eq!(owner("<a::B<P> as c::D>"), Some("B"));
        assert_eq!(owner("mm::edit::Edit<P>"), Some("Edit"));
        assert_eq!(owner("mm::tree::search"), Some("search"));
        assert_eq!(owner(""), None);
        assert_eq!(module("kernel/src/arch/idt.rs"), "kernel::arch::idt");
        assert_eq!(module("kernel/linux/src/call/mod.rs"), "linux::call");
    }

    #[test]
    fn architecture_has_a_table_for_each_subject() {
        for subject in Subject::value_variants() {
            assert!(subject.rows(None).unwrap().len() >= 10);
        }
    }
}
