//! Names for kernel addresses, from the symbol table of the ELF that the machine booted.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use object::{Object, ObjectSymbol, SymbolKind};

/// The kernel's functions by address.
#[derive(Debug, Default)]
pub struct Symbols {
    /// Start, size, name; by start.
    functions: Vec<(u64, u64, String)>,
}

impl Symbols {
    /// Reads the functions of an ELF file.
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
        Ok(Symbols::new(functions.collect()))
    }

    fn new(mut functions: Vec<(u64, u64, String)>) -> Symbols {
        functions.sort();
        for (_, _, name) in &mut functions {
            *name = format!("{:#}", rustc_demangle::demangle(name));
        }
        Symbols { functions }
    }

    /// The function that holds `address`, as `name+0x12`.
    pub fn resolve(&self, address: u64) -> Option<String> {
        let after = self.functions.partition_point(|&(start, _, _)| start <= address);
        let (start, size, name) = &self.functions[..after].last()?;
        let offset = address - start;
        // Assembly often has no size: then the nearest label before, if it is near.
        (offset < (*size).max(1) || (*size == 0 && offset < 0x1000)).then(|| format!("{name}+{offset:#x}"))
    }

    /// `line`, with the name of the function after each kernel address in it.
    pub fn annotate(&self, line: &str) -> String {
        let mut out = String::with_capacity(line.len());
        let mut rest = line;
        while let Some(at) = rest.find("0x") {
            let digits = rest[at + 2..].find(|char: char| !char.is_ascii_hexdigit()).unwrap_or(rest.len() - at - 2);
            let (number, after) = rest.split_at(at + 2 + digits);
            out += number;
            rest = after;
            let address = u64::from_str_radix(&number[at + 2..], 16).ok().filter(|&address| address >> 47 == 0x1_ffff);
            if let Some(name) = address.and_then(|address| self.resolve(address))
                && !rest.starts_with(" <")
            {
                let _ = write!(out, " <{name}>");
            }
        }
        out + rest
    }
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
    fn lines_keep_everything_else() {
        let symbols = symbols();
        assert_eq!(
            symbols.annotate("rip 0xffffffff80000204, rax 0x7, 0x"),
            "rip 0xffffffff80000204 <kernel::main+0x4>, rax 0x7, 0x"
        );
        assert_eq!(symbols.annotate("no address here"), "no address here");
    }
}
