//! Names for kernel addresses: function, file and line, from the ELF that the machine booted.
//!
//! Functions come from the symbol table, which assembly has too; files, lines and the functions that the compiler
//! inlined from the debug information (DWARF), by the `addr2line` crate.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use addr2line::Loader;
use anyhow::{Context, Result};
use object::{Object, ObjectSymbol, SymbolKind};

use crate::workspace;

/// One function at an address: several lie at one address where the compiler inlined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its name, demangled, without the hash.
    pub function: String,
    /// The source file, relative to the source tree; for a library `library/...` or `crate-version/...`.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<u32>,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.function)?;
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, " at {file}:{line}"),
            (Some(file), None) => write!(f, " in {file}"),
            _ => Ok(()),
        }
    }
}

/// The kernel's functions by address, and where their code came from.
#[derive(Default)]
pub struct Symbols {
    /// Start, size, name; by start.
    functions: Vec<(u64, u64, String)>,
    /// Start and size of everything that has a name, by the name as it stands in the ELF.
    objects: std::collections::HashMap<String, (u64, u64)>,
    /// None in an ELF without debug information.
    lines: Option<Loader>,
    /// Where the source tree stands.
    root: PathBuf,
}

impl fmt::Debug for Symbols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Symbols").field("functions", &self.functions.len()).finish_non_exhaustive()
    }
}

impl Symbols {
    /// Reads the functions and the debug information of an ELF file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn load(elf: &Path) -> Result<Symbols> {
        let bytes = std::fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
        let file = object::File::parse(&*bytes).with_context(|| format!("cannot parse {}", elf.display()))?;
        let functions = file
            .symbols()
            .filter(|symbol| symbol.address() != 0)
            .filter(|symbol| matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown))
            .filter_map(|symbol| Some((symbol.address(), symbol.size(), symbol.name().ok()?.to_owned())))
            .filter(|(_, _, name)| !name.is_empty());
        let objects = file
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Data)
            .filter_map(|symbol| Some((symbol.name().ok()?.to_owned(), (symbol.address(), symbol.size()))));
        let mut symbols = Symbols::new(functions.collect());
        symbols.objects = objects.collect();
        // An ELF without lines still has names.
        symbols.lines = Loader::new(elf).ok();
        symbols.root = workspace::root().unwrap_or_default();
        Ok(symbols)
    }

    /// Made of these starts, sizes and names.
    #[cfg(test)]
    pub(crate) fn of(functions: &[(u64, u64, &str)]) -> Symbols {
        Symbols::new(functions.iter().map(|&(start, size, name)| (start, size, name.to_owned())).collect())
    }

    /// With a static of this name there.
    #[cfg(test)]
    pub(crate) fn with_object(mut self, name: &str, address: u64) -> Symbols {
        self.objects.insert(name.into(), (address, 0));
        self
    }

    fn new(mut functions: Vec<(u64, u64, String)>) -> Symbols {
        functions.sort();
        for (_, _, name) in &mut functions {
            *name = format!("{:#}", rustc_demangle::demangle(name));
        }
        Symbols { functions, ..Symbols::default() }
    }

    /// The function that holds `address`, as `name+0x12`.
    pub fn resolve(&self, address: u64) -> Option<String> {
        self.find(address).map(|(offset, name)| format!("{name}+{offset:#x}"))
    }

    /// How far into which function `address` lies.
    fn find(&self, address: u64) -> Option<(u64, &str)> {
        let after = self.functions.partition_point(|&(start, _, _)| start <= address);
        let (start, size, name) = &self.functions[..after].last()?;
        let offset = address - start;
        // Assembly often has no size: then the nearest label before, if it is near.
        (offset < (*size).max(1) || (*size == 0 && offset < 0x1000)).then_some((offset, name))
    }

    /// The functions at `address`, the innermost inlined one first: empty where the ELF has no code. For a return address
    /// ask for the one before it, which lies in the call.
    pub fn frames(&self, address: u64) -> Vec<Frame> {
        let mut found = Vec::new();
        if let Some(lines) = &self.lines
            && let Ok(mut frames) = lines.find_frames(address)
        {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref().and_then(|name| name.raw_name().ok());
                let function = match &name {
                    Some(name) => format!("{:#}", rustc_demangle::demangle(name)),
                    None => self.function(address).unwrap_or("?").to_owned(),
                };
                let location = frame.location;
                let file = location.as_ref().and_then(|place| place.file).map(|file| self.relative(file));
                found.push(Frame { function, file, line: location.and_then(|place| place.line) });
            }
        }
        if found.is_empty()
            && let Some(function) = self.function(address)
        {
            found.push(Frame { function: function.to_owned(), file: None, line: None });
        }
        found
    }

    /// Address and size of the static with this symbol.
    pub fn object(&self, symbol: &str) -> Option<(u64, u64)> {
        self.objects.get(symbol).copied()
    }

    /// How far `address` lies behind the start of its function.
    pub fn offset(&self, address: u64) -> Option<u64> {
        self.find(address).map(|(offset, _)| offset)
    }

    /// Where the code with this name, as [`Symbols::function`] gives it, begins.
    pub(crate) fn start_of(&self, name: &str) -> Option<u64> {
        self.functions.iter().find(|(_, _, other)| other == name).map(|&(start, _, _)| start)
    }

    /// The name of the function that holds `address`.
    pub(crate) fn function(&self, address: u64) -> Option<&str> {
        self.find(address).map(|(_, name)| name)
    }

    /// A path as reports show it: without the parts that differ between machines.
    fn relative(&self, file: &str) -> String {
        let path = Path::new(file);
        if let Ok(inside) = path.strip_prefix(&self.root)
            && !self.root.as_os_str().is_empty()
        {
            return inside.display().to_string();
        }
        // The compiler's own library, built in or from its sources; a package from a registry.
        if let Some((_, rest)) = file.split_once("/library/") {
            return format!("library/{}", without_detours(rest));
        }
        match file.split_once("/registry/src/").and_then(|(_, rest)| rest.split_once('/')) {
            Some((_, package)) => package.to_owned(),
            None => file.to_owned(),
        }
    }

    /// `line`, with function, file and line after each kernel address in it.
    pub fn annotate(&self, line: &str) -> String {
        let mut out = String::with_capacity(line.len());
        let mut rest = line;
        while let Some(at) = rest.find("0x") {
            let digits = rest[at + 2..].find(|char: char| !char.is_ascii_hexdigit()).unwrap_or(rest.len() - at - 2);
            let (number, after) = rest.split_at(at + 2 + digits);
            out += number;
            rest = after;
            let address = u64::from_str_radix(&number[at + 2..], 16).ok().filter(|&address| address >> 47 == 0x1_ffff);
            if let Some((address, name)) = address.and_then(|address| Some((address, self.resolve(address)?)))
                && !rest.starts_with(" <")
            {
                // The innermost one's line: it is where the CPU is.
                let _ = match self.frames(address).first() {
                    Some(Frame { file: Some(file), line: Some(line), .. }) => write!(out, " <{name} {file}:{line}>"),
                    _ => write!(out, " <{name}>"),
                };
            }
        }
        out + rest
    }
}

/// A path in which no `name/..` goes there and back.
fn without_detours(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            ".." if parts.pop().is_some() => {}
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xffff_ffff_8000_0000;

    fn symbols() -> Symbols {
        Symbols::new(vec![
            (BASE + 0x200, 0x10, "_ZN6kernel4main17h0123456789abcdefE".into()),
            (BASE + 0x100, 0, "stub".into()),
        ])
    }

    #[test]
    fn addresses_find_their_function() {
        let symbols = symbols();
        assert_eq!(symbols.resolve(BASE + 0x204).as_deref(), Some("kernel::main+0x4"));
        assert_eq!(symbols.resolve(BASE + 0x1f0).as_deref(), Some("stub+0xf0"));
        assert_eq!(symbols.resolve(BASE + 0x210), None, "past the end");
        assert_eq!(symbols.resolve(BASE), None, "before everything");
        assert_eq!(Symbols::default().resolve(BASE), None);
    }

    #[test]
    fn inlined_functions_come_innermost_first_with_true_lines() {
        // This test's own executable is an ELF with debug information.
        let symbols = Symbols::load(&std::env::current_exe().unwrap()).unwrap();
        let (start, size, _) =
            symbols.functions.iter().find(|(_, _, name)| name.ends_with("tests::outer_of_two")).expect("not inlined");
        // The library's functions are inlined in turn: ours are the last two.
        let frames = (*start..start + size).map(|address| symbols.frames(address)).find(|frames| frames.len() > 1);
        let frames = frames.expect("one address lies in both");
        let frames = &frames[frames.len() - 2..];
        assert!(frames[0].function.ends_with("inner_of_two"), "{frames:?}");
        assert!(frames[1].function.ends_with("outer_of_two"), "{frames:?}");
        let line = include_str!("symbols.rs").lines().position(|line| line.ends_with("// the inner line")).unwrap();
        assert_eq!(frames[0].file.as_deref(), Some("qemu/src/symbols.rs"));
        assert_eq!(frames[0].line, Some(line as u32 + 1));
    }

    #[inline(never)]
    fn outer_of_two(value: u64) -> u64 {
        inner_of_two(value) + 1
    }

    #[inline(always)]
    fn inner_of_two(value: u64) -> u64 {
        std::hint::black_box(value.wrapping_mul(value)) // the inner line
    }

    #[test]
    fn the_test_above_has_something_to_look_at() {
        assert_eq!(std::hint::black_box(outer_of_two as fn(u64) -> u64)(2), 5);
    }

    #[test]
    fn paths_lose_what_differs_between_machines() {
        let symbols = Symbols { root: "/home/x/tessera".into(), ..Symbols::default() };
        assert_eq!(symbols.relative("/home/x/tessera/kernel/mm/src/fault.rs"), "kernel/mm/src/fault.rs");
        assert_eq!(symbols.relative("/rustc/0123/library/core/src/ptr/mod.rs"), "library/core/src/ptr/mod.rs");
        let arch = "/rustc/0123/library/core/src/../../stdarch/crates/core_arch/src/x86/sse2.rs";
        assert_eq!(symbols.relative(arch), "library/stdarch/crates/core_arch/src/x86/sse2.rs");
        let package = "/home/x/.cargo/registry/src/index.example-0123/spin-0.12.3/src/once.rs";
        assert_eq!(symbols.relative(package), "spin-0.12.3/src/once.rs");
        assert_eq!(symbols.relative("src/main.rs"), "src/main.rs");
    }

    #[test]
    fn lines_keep_everything_else() {
        let symbols = symbols();
        assert_eq!(
            symbols.annotate("rip 0xffffffff80000204, rax 0x7, 0x"),
            "rip 0xffffffff80000204 <kernel::main+0x4>, rax 0x7, 0x"
        );
        assert_eq!(symbols.annotate("no address here"), "no address here");
    }
}
