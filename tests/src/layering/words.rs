//! Do the portable crates say what they must not: which build this is, statics, assembly, printing?

use proc_macro2::{TokenStream, TokenTree};

use super::Finding;
use super::rules::Allowed;
use super::source::{Package, flatten, tokens};

/// Macros of the standard library that print.
const PRINTING: [&str; 5] = ["print", "println", "eprint", "eprintln", "dbg"];
/// Macros that are assembly.
const ASSEMBLY: [&str; 3] = ["asm", "global_asm", "naked_asm"];
/// Macros that make statics of some kind.
const STATICS: [&str; 2] = ["thread_local", "lazy_static"];

/// Whether the package asks which build it is in, outside the places in `allowed`.
pub fn check_builds(package: &Package, allowed: &[Allowed]) -> Vec<Finding> {
    each_file(package, allowed, |word| match word {
        Word::Cfg(name) if name == "loom" || name == "shuttle" || name.starts_with("target_") => Some(format!(
            "asks whether the build is `{name}`: only the façade may (BUILD_FACADES in tests/src/layering/rules.rs)"
        )),
        _ => None,
    })
}

/// Whether a portable package has statics, assembly or printing, outside the places in `allowed`.
pub fn check_portable(package: &Package, allowed: &[Allowed]) -> Vec<Finding> {
    const LIST: &str = "(HOSTED_FACADES in tests/src/layering/rules.rs)";
    each_file(package, allowed, |word| match word {
        Word::Static => Some(format!("a static in a portable crate: state belongs to whoever makes it {LIST}")),
        Word::Macro(name) if STATICS.contains(&&**name) => Some(format!("`{name}!` in a portable crate {LIST}")),
        Word::Macro(name) if ASSEMBLY.contains(&&**name) => {
            Some(format!("`{name}!` in a portable crate: assembly belongs to kernel/src/arch {LIST}"))
        }
        Word::Macro(name) if PRINTING.contains(&&**name) => {
            Some(format!("`{name}!` in a portable crate: who prints is decided above {LIST}"))
        }
        Word::Arch => Some(format!("`arch::` in a portable crate: the processor belongs to kernel/src/arch {LIST}")),
        _ => None,
    })
}

/// What the checks look for.
enum Word {
    /// A name inside `cfg(..)`, `cfg_attr(..)` or `cfg!(..)`.
    Cfg(String),
    /// `name!`.
    Macro(String),
    /// The keyword, not the lifetime.
    Static,
    /// `core::arch` or `std::arch`.
    Arch,
}

fn each_file(package: &Package, allowed: &[Allowed], judge: impl Fn(&Word) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut used = vec![false; allowed.len()];
    for module in &package.modules {
        let mut found = Vec::new();
        let mut said = Vec::new();
        words(tokens(&module.syntax), &mut said);
        for (word, line) in said {
            found.extend(judge(&word).map(|text| Finding::new(&module.file, line, text)));
        }
        match allowed.iter().position(|place| place.covers(&module.file)) {
            Some(at) => used[at] |= !found.is_empty(),
            None => findings.append(&mut found),
        }
    }
    for (place, _) in allowed.iter().zip(used).filter(|(place, used)| !used && place.is_in(&package.dir)) {
        let text = "is listed in tests/src/layering/rules.rs as a place that may, and does not: take it out";
        findings.push(Finding::new(place.file, 0, text));
    }
    findings.sort();
    findings.dedup();
    findings
}

fn words(stream: TokenStream, found: &mut Vec<(Word, usize)>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let ident = |at: usize| match tokens.get(at) {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    };
    let punct = |at: usize, char: char| matches!(tokens.get(at), Some(TokenTree::Punct(it)) if it.as_char() == char);
    for (at, token) in tokens.iter().enumerate() {
        let line = token.span().start().line;
        match token {
            TokenTree::Group(group) => {
                let before = |back: usize| at.checked_sub(back).and_then(ident);
                let call = if at >= 1 && punct(at - 1, '!') { before(2) } else { before(1) };
                if call.is_some_and(|call| call == "cfg" || call == "cfg_attr") {
                    let mut flat = Vec::new();
                    flatten(group.stream(), &mut flat);
                    let names = flat.iter().filter(|token| matches!(token, TokenTree::Ident(_)));
                    found.extend(names.map(|name| (Word::Cfg(name.to_string()), line)));
                } else {
                    words(group.stream(), found);
                }
            }
            TokenTree::Ident(name) => match &*name.to_string() {
                "static" if at == 0 || !punct(at - 1, '\'') => found.push((Word::Static, line)),
                "arch" if at >= 3 && punct(at - 1, ':') && matches!(ident(at - 3).as_deref(), Some("core" | "std")) => {
                    found.push((Word::Arch, line));
                }
                name if punct(at + 1, '!') && !punct(at + 2, '=') => found.push((Word::Macro(name.into()), line)),
                _ => {}
            },
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tree;
    use super::*;

    const NONE: &[Allowed] = &[];
    const FACADE: &[Allowed] = &[Allowed { file: "p/src/facade", why: "to show how" }];

    fn package(file: &str, text: &str) -> Package {
        let tree = Tree::made_up(&[
            ("Cargo.toml", "[workspace]\nmembers = [\"p\"]"),
            ("p/Cargo.toml", "package.name = \"p\""),
            ("p/src/lib.rs", "mod a; mod facade; #[cfg(test)] mod tests;"),
            ("p/src/tests/deep.rs", "static S: u8 = 0; #[cfg(loom)] fn f() { println!() }"),
            (file, text),
        ]);
        tree.packages().unwrap().remove("p").unwrap()
    }

    #[test]
    fn asking_for_the_build_is_found_in_every_form() {
        for text in [
            "\n#[cfg(loom)] mod a {}",
            "\n#![cfg(not(shuttle))]",
            "\nfn f() { if cfg!(target_os = \"none\") {} }",
            "\n#[cfg_attr(all(test, loom), allow(x))] fn f() {}",
            "\nfn f() { #[cfg(target_arch = \"x86_64\")] g(); }",
            "\nmacro_rules! m { () => { #[cfg(loom)] f() } }",
        ] {
            let found = check_builds(&package("p/src/a.rs", text), NONE);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert_eq!((&*found[0].file, found[0].line), ("p/src/a.rs", 2), "{found:?}");
        }
        let fine = "#[cfg(feature = \"loom\")] fn f() { loom::model(g) } #[cfg(debug_assertions)] fn g() {}";
        assert_eq!(check_builds(&package("p/src/a.rs", fine), NONE), []);
    }

    #[test]
    fn what_portable_code_must_not_say_is_found() {
        for (text, word) in [
            ("\nstatic S: u8 = 0;", "a static"),
            ("\npub(crate) static mut S: u8 = 0;", "a static"),
            ("\nfn f() { static S: u8 = 0; }", "a static"),
            ("\nmacro_rules! m { () => { static S: u8 = 0; } }", "a static"),
            ("\nstd::thread_local! { }", "`thread_local!`"),
            ("\nlazy_static! { }", "`lazy_static!`"),
            ("\nfn f() { unsafe { core::arch::asm!(\"hlt\") } }", "`asm!`"),
            ("\nglobal_asm!(\"\");", "`global_asm!`"),
            ("\nuse core::arch::x86_64::_rdtsc;", "`arch::`"),
            ("\nfn f() { if x { eprintln!(\"x\") } }", "`eprintln!`"),
            ("\nfn f() { dbg!(1); }", "`dbg!`"),
            ("\nmacro_rules! m { () => { println!() } }", "`println!`"),
        ] {
            let found = check_portable(&package("p/src/a.rs", text), NONE);
            assert!(found.iter().any(|finding| finding.line == 2 && finding.text.contains(word)), "{text}: {found:?}");
        }
        let fine = "//! `static`, asm!\nfn f(x: &'static str) { let print = x != x; assert!(print) }";
        assert_eq!(check_portable(&package("p/src/a.rs", fine), NONE), []);
        assert_eq!(check_portable(&package("p/src/a.rs", "#[cfg(test)] mod tests { static S: u8 = 0; }"), NONE), []);
    }

    #[test]
    fn a_listed_place_may_and_must_need_it() {
        for file in ["p/src/facade.rs", "p/src/facade/model.rs"] {
            assert_eq!(check_portable(&package(file, "static S: u8 = 0;"), FACADE), []);
            assert_eq!(check_builds(&package(file, "#[cfg(loom)] fn f() {}"), FACADE), []);
        }
        let found = check_portable(&package("p/src/facade.rs", ""), FACADE);
        assert!(found[0].text.contains("does not: take it out"), "{found:?}");
    }
}
