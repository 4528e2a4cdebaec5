//! Is `unsafe` only where ARCHITECTURE.md says, and does each piece of it say why it is sound?
//!
//! The list is the table of section 6. A row's first cell is `` `package`: `module`, `module` ``; modules are paths below the
//! package's `src` without `.rs` (`tree/mod`), `{a,b}` and a last `*` as in a shell. A pattern that finds no unsafe is an
//! error too, so that the list stays the list.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use proc_macro2::TokenTree;
use syn::visit::{self, Visit};

use super::Finding;
use super::source::{Module, Package, attributes, flatten, line, only_for_tests, tokens};

/// Where the list stands.
pub const LIST: &str = "ARCHITECTURE.md";
/// The heading above it.
const HEADING: &str = "## 6. Where unsafe lives";

/// One pattern of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The package.
    pub package: String,
    /// Below its `src`, without braces; may end in `*`.
    pub pattern: String,
    /// Of the row in [`LIST`].
    pub line: usize,
}

impl Listed {
    fn covers(&self, package: &Package, module: &Module) -> bool {
        let Some(below) = module.file.strip_prefix(&format!("{}/src/", package.dir)) else { return false };
        let below = below.trim_end_matches(".rs");
        match self.pattern.strip_suffix('*') {
            Some(start) => below.starts_with(start),
            None => below == self.pattern,
        }
    }
}

/// Reads the table.
///
/// # Errors
/// It is not there, or a row is not understood.
pub fn listed(architecture: &str) -> Result<Vec<Listed>> {
    let lines = architecture.lines().zip(1..).skip_while(|(text, _)| *text != HEADING).skip(1);
    let rows = lines.take_while(|(text, _)| !text.starts_with("## ")).filter(|(text, _)| text.starts_with('|'));
    let mut listed = Vec::new();
    for (text, line) in rows.skip(2) {
        let cell = text.split('|').nth(1).unwrap_or_default().trim();
        let (package, modules) = cell
            .split_once(':')
            .with_context(|| format!("{LIST}:{line}: a row must begin with `package`: `module`, ..."))?;
        let package =
            quoted(package).with_context(|| format!("{LIST}:{line}: the package must stand in backquotes"))?;
        // A comma between braces does not part patterns, so the backquotes do.
        for (at, piece) in modules.split('`').enumerate() {
            if at % 2 == 1 {
                let patterns = braces(piece);
                listed.extend(patterns.map(|pattern| Listed { package: package.into(), pattern, line }));
            } else {
                ensure!(["", ","].contains(&piece.trim()), "{LIST}:{line}: `{piece}` is no pattern in backquotes");
            }
        }
    }
    ensure!(!listed.is_empty(), "{LIST} has no table under `{HEADING}`");
    Ok(listed)
}

fn quoted(text: &str) -> Option<&str> {
    text.trim().strip_prefix('`')?.strip_suffix('`')
}

/// `a/{b,c}` is `a/b` and `a/c`.
fn braces(pattern: &str) -> impl Iterator<Item = String> {
    let parts =
        pattern.split_once('{').and_then(|(start, rest)| rest.split_once('}').map(|(mid, end)| (start, mid, end)));
    let (start, middle, end) = parts.unwrap_or((pattern, "", ""));
    middle.split(',').map(move |choice| format!("{start}{choice}{end}"))
}

/// Compares the packages with the list, both ways.
pub fn check_places<'a>(packages: impl IntoIterator<Item = &'a Package>, listed: &[Listed]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut used = vec![false; listed.len()];
    for package in packages {
        for module in &package.modules {
            let covering = listed.iter().enumerate().filter(|(_, entry)| entry.package == package.name);
            let covering: Vec<usize> =
                covering.filter(|(_, entry)| entry.covers(package, module)).map(|(at, _)| at).collect();
            let Some(line) = first_unsafe(module) else { continue };
            if covering.is_empty() {
                let text = format!(
                    "unsafe in a module that is not listed: do without it, or add a pattern for it to the row `{}` of the \
                     table in {LIST}, section 6",
                    package.name
                );
                findings.push(Finding::new(&module.file, line, text));
            }
            covering.into_iter().for_each(|at| used[at] = true);
        }
    }
    for (entry, _) in listed.iter().zip(used).filter(|(_, used)| !used) {
        let text = format!("`{}`: `{}` is listed, and no such module has unsafe", entry.package, entry.pattern);
        findings.push(Finding::new(LIST, entry.line, text));
    }
    findings
}

fn first_unsafe(module: &Module) -> Option<usize> {
    let mut flat = Vec::new();
    flatten(tokens(&module.syntax), &mut flat);
    let word = |token: &TokenTree| matches!(token, TokenTree::Ident(ident) if ident == "unsafe");
    flat.iter().find(|token| word(token)).map(|token| token.span().start().line)
}

/// How much unsafe there is, and how much of it has its proof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// `unsafe { }` and `unsafe impl`.
    pub blocks: usize,
    /// `unsafe fn` and `unsafe trait`.
    pub functions: usize,
}

/// Counts per package, and finds what has no `// SAFETY:` or no `# Safety`.
pub fn check_reasons<'a>(packages: impl IntoIterator<Item = &'a Package>) -> (BTreeMap<String, Count>, Vec<Finding>) {
    let mut counts = BTreeMap::new();
    let mut findings = Vec::new();
    for package in packages {
        let mut count = Count::default();
        for module in &package.modules {
            let mut reader = Reader {
                file: &module.file,
                lines: module.text.lines().collect(),
                statement: 0,
                count,
                findings: Vec::new(),
            };
            reader.visit_file(&module.syntax);
            count = reader.count;
            findings.append(&mut reader.findings);
        }
        counts.insert(package.name.clone(), count);
    }
    (counts, findings)
}

struct Reader<'a> {
    file: &'a str,
    lines: Vec<&'a str>,
    /// First line of the innermost statement, arm, field or item around: a proof may stand above it.
    statement: usize,
    count: Count,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn within<T>(&mut self, line: usize, piece: T, visit: impl FnOnce(&mut Self, T)) {
        let outer = std::mem::replace(&mut self.statement, line);
        visit(self, piece);
        self.statement = outer;
    }

    fn block(&mut self, line: usize) {
        self.count.blocks += 1;
        let first = if (1..=line).contains(&self.statement) { self.statement } else { line };
        // From the line itself up to the statement's first, and on through the comment above it.
        let inside = (first..=line).rev().any(|at| self.says_safety(at));
        if !inside && !self.comment_above(first) && !self.comment_above(line) {
            self.findings.push(Finding::new(self.file, line, "no `// SAFETY:` comment says why this is sound"));
        }
    }

    fn says_safety(&self, line: usize) -> bool {
        self.lines.get(line - 1).is_some_and(|text| text.contains("SAFETY:"))
    }

    fn comment_above(&self, line: usize) -> bool {
        let above = (1..line).rev().take_while(|&at| {
            let text = self.lines[at - 1].trim_start();
            text.starts_with("//") || text.starts_with("#[")
        });
        above.into_iter().any(|at| self.says_safety(at))
    }

    fn function(&mut self, line: usize, attributes: &[syn::Attribute]) {
        self.count.functions += 1;
        let documented = attributes.iter().any(|attribute| match &attribute.meta {
            syn::Meta::NameValue(pair) if pair.path.is_ident("doc") => {
                matches!(&pair.value, syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. })
                    if text.value().contains("# Safety"))
            }
            _ => false,
        });
        // What nobody but this file can call may say it in a comment.
        if !documented && !self.comment_above(line) {
            self.findings.push(Finding::new(
                self.file,
                line,
                "no `# Safety` section says what a caller must guarantee",
            ));
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !only_for_tests(attributes(item)) {
            self.within(line(item), item, visit::visit_item);
        }
    }

    fn visit_stmt(&mut self, statement: &'ast syn::Stmt) {
        self.within(line(statement), statement, visit::visit_stmt);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        self.within(line(arm), arm, visit::visit_arm);
    }

    fn visit_field_value(&mut self, field: &'ast syn::FieldValue) {
        self.within(line(field), field, visit::visit_field_value);
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.block(line(&block.unsafe_token));
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let Some(word) = &item.unsafety {
            self.within(line(item), line(word), Self::block);
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        if item.unsafety.is_some() {
            self.function(line(item), &item.attrs);
        }
        visit::visit_item_trait(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if item.sig.unsafety.is_some() {
            self.function(line(item), &item.attrs);
        }
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        // A trait's method has its contract where the trait is.
        if item.sig.unsafety.is_some()
            && matches!(item.vis, syn::Visibility::Public(_) | syn::Visibility::Restricted(_))
        {
            self.function(line(item), &item.attrs);
        }
        self.within(line(item), item, visit::visit_impl_item_fn);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if item.sig.unsafety.is_some() {
            self.function(line(item), &item.attrs);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let mut flat = Vec::new();
        flatten_with_braces(call.tokens.clone(), &mut flat);
        for at in flat {
            self.within(at, at, Self::block);
        }
        visit::visit_macro(self, call);
    }
}

/// Lines of the `unsafe {` and `unsafe impl` in a macro's tokens.
fn flatten_with_braces(stream: proc_macro2::TokenStream, lines: &mut Vec<usize>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        match (token, tokens.get(at + 1)) {
            (TokenTree::Ident(word), Some(TokenTree::Group(group)))
                if word == "unsafe" && group.delimiter() == proc_macro2::Delimiter::Brace =>
            {
                lines.push(word.span().start().line);
            }
            (TokenTree::Ident(word), Some(TokenTree::Ident(next))) if word == "unsafe" && next == "impl" => {
                lines.push(word.span().start().line);
            }
            (TokenTree::Group(group), _) => flatten_with_braces(group.stream(), lines),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tree;
    use super::*;

    const TABLE: &str = "# A\n\n## 6. Where unsafe lives\n\ntext\n\n| module | why |\n|---|---|\n\
        | `p`: `a`, `d/{mod,b}` | x |\n| `p`: `e/*` | y |\n\n## 7. Next\n\n| `p`: `z` | no |\n";

    fn package(files: &[(&str, &str)]) -> Package {
        let mut all = vec![("Cargo.toml", "[workspace]\nmembers = [\"p\"]"), ("p/Cargo.toml", "package.name = \"p\"")];
        all.extend_from_slice(files);
        Tree::made_up(&all).packages().unwrap().remove("p").unwrap()
    }

    const UNSAFE: &str = "fn f() {\n    // SAFETY: none.\n    unsafe { g() }\n}";

    #[test]
    fn the_table_is_read() {
        let listed = listed(TABLE).unwrap();
        let patterns: Vec<_> = listed.iter().map(|entry| (&*entry.pattern, entry.line)).collect();
        assert_eq!(patterns, [("a", 9), ("d/mod", 9), ("d/b", 9), ("e/*", 10)]);
        assert!(super::listed("## 6. Where unsafe lives\n| module | why |\n|--|--|\n| everything | x |\n").is_err());
        assert!(super::listed("## 6. Where unsafe lives\n| module | why |\n|--|--|\n| `p`: a | x |\n").is_err());
        assert!(super::listed("## 7. Nothing\n").is_err());
    }

    #[test]
    fn unsafe_in_a_listed_module_passes_and_elsewhere_is_found() {
        let good =
            [("p/src/a.rs", UNSAFE), ("p/src/d/mod.rs", UNSAFE), ("p/src/d/b.rs", UNSAFE), ("p/src/e/x.rs", UNSAFE)];
        let listed = listed(TABLE).unwrap();
        assert_eq!(check_places([&package(&good)], &listed), []);
        for text in [
            UNSAFE,
            "unsafe fn f() {}",
            "unsafe impl T for U {}",
            "macro_rules! m { () => { unsafe { f() } } }",
            "#[unsafe(no_mangle)] fn f() {}",
        ] {
            let with_more = package(&[&good[..], &[("p/src/d/c.rs", text)]].concat());
            let found = check_places([&with_more], &listed);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].text.contains("not listed") && found[0].file == "p/src/d/c.rs", "{found:?}");
        }
        let tested = package(&[&good[..], &[("p/src/d/c.rs", "#[cfg(test)] mod tests { unsafe fn f() {} }")]].concat());
        assert_eq!(check_places([&tested], &listed), []);
    }

    #[test]
    fn a_listed_module_without_unsafe_is_found() {
        let safe = [("p/src/a.rs", "// unsafe\n"), ("p/src/d/mod.rs", UNSAFE), ("p/src/d/b.rs", UNSAFE)];
        let found = check_places([&package(&safe)], &listed(TABLE).unwrap());
        let lines: Vec<_> = found.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [9, 10], "{found:?}");
        assert!(found[0].text.contains("`p`: `a` is listed, and no such module has unsafe"));
    }

    fn reasons(text: &str) -> (Count, Vec<Finding>) {
        let (counts, findings) = check_reasons([&package(&[("p/src/a.rs", text)])]);
        (counts["p"], findings)
    }

    #[test]
    fn proofs_are_found_where_they_stand() {
        for text in [
            UNSAFE,
            "fn f() {\n    // SAFETY: a long\n    // story.\n    let x = g(1, \n        unsafe { h() });\n}",
            "fn f() {\n    let x =\n        // SAFETY: y.\n        unsafe { h() };\n}",
            "// SAFETY: y.\n#[cfg(x)]\nunsafe impl T for U {}",
            "fn f() { match x {\n    // SAFETY: y.\n    1 => unsafe { h() },\n    _ => g(),\n} }",
            "macro_rules! m { () => {\n    // SAFETY: y.\n    unsafe { h() }\n} }",
            "fn f() { unsafe { h() } } // SAFETY: y.",
        ] {
            let (count, findings) = reasons(text);
            assert_eq!((count.blocks, &*findings), (1, &[][..]), "{text}");
        }
        let (count, findings) = reasons("/// F.\n///\n/// # Safety\n/// Never.\npub unsafe fn f() {}");
        assert_eq!((count.functions, &*findings), (1, &[][..]));
    }

    #[test]
    fn what_has_no_proof_is_found() {
        for text in [
            "fn f() {\n    unsafe { g() }\n}",
            "fn f() {\n    // SAFETY: y.\n    unsafe { g() };\n\n    unsafe { h() }\n}",
            "unsafe impl T for U {}",
            "/// F.\npub unsafe fn f() {}",
            "impl A {\n    pub unsafe fn f() {}\n}",
            "pub unsafe trait T {}",
            "macro_rules! m { () => {\n    unsafe { h() }\n} }",
        ] {
            let (_, findings) = reasons(text);
            assert_eq!(findings.len(), 1, "{text}: {findings:?}");
        }
    }
}
