//! Does a module name only modules of lower layers, and do the files of a directory name each other one way?
//!
//! Edges are the paths in the source that begin with `crate`, `super` or `self`, in `use` and elsewhere, macros included.
//! Where such a path goes through a re-export it counts for the module that has the thing. What a directory's own file
//! (`mod.rs`) shares with the files under it is the directory's own affair.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::TokenTree;
use syn::visit::{self, Visit};

use super::Finding;
use super::rules::{Exception, Layers};
use super::source::{Module, Package, flatten, line, name, only_for_tests};

/// Where the layers are.
const TABLE: &str = "LAYERS in tests/src/layering/rules.rs";

/// One module naming another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// The naming module.
    pub from: Vec<String>,
    /// The module named.
    pub to: Vec<String>,
    /// Where.
    pub file: String,
    /// From 1.
    pub line: usize,
}

/// Checks one package against its layers, and every directory in it for circles.
pub fn check(package: &Package, layers: &Layers) -> Vec<Finding> {
    let edges = edges(package);
    let mut findings = layered(package, layers, &edges);
    let dirs: BTreeSet<&[String]> =
        package.modules.iter().flat_map(|module| (1..module.path.len()).map(|depth| &module.path[..depth])).collect();
    for dir in dirs {
        findings.extend(circles(package, dir, &edges, layers.exceptions));
    }
    findings
}

/// The edges between direct children of `scope`, as pairs of their names.
fn between<'a>(scope: &[String], edges: &'a [Edge]) -> impl Iterator<Item = (&'a str, &'a str, &'a Edge)> {
    let depth = scope.len();
    let inside = move |path: &[String]| path.len() > depth && path[..depth] == *scope;
    let inside = edges.iter().filter(move |edge| inside(&edge.from) && inside(&edge.to));
    inside.map(move |edge| (&*edge.from[depth], &*edge.to[depth], edge)).filter(|(from, to, _)| from != to)
}

fn layered(package: &Package, layers: &Layers, edges: &[Edge]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let src = format!("{}/src", package.dir);
    // The listed name that stands for a module: itself or the nearest directory around it.
    let listed =
        |path: &[String]| {
            (1..=path.len()).rev().find_map(|depth| {
                let full = path[..depth].join("::");
                layers.lines.iter().zip(0..).find_map(|(line, layer)| {
                    line.split_whitespace().find(|word| *word == full).map(|word| (word, layer))
                })
            })
        };
    for module in package.modules.iter().filter(|module| !module.path.is_empty() && listed(&module.path).is_none()) {
        let top = &module.path[0];
        let named: BTreeSet<&str> = between(&[], edges).filter(|edge| edge.0 == top).map(|edge| edge.1).collect();
        let by: BTreeSet<&str> = between(&[], edges).filter(|edge| edge.1 == top).map(|edge| edge.0).collect();
        let text = format!(
            "module `{}` of `{}` is in no layer: put it into {TABLE}, above {named:?} and below {by:?}",
            module.name(),
            package.name
        );
        findings.push(Finding::new(&module.file, 0, text));
    }
    for word in layers.lines.iter().flat_map(|line| line.split_whitespace()) {
        if !package.modules.iter().any(|module| module.path.join("::") == word) {
            let text = format!("{TABLE} has `{word}` for `{}`, which has no such module", package.name);
            findings.push(Finding::new(&src, 0, text));
        }
    }
    let mut needed = BTreeSet::new();
    for edge in edges {
        // A directory's own file and those under it are one room.
        if edge.from.starts_with(&edge.to) || edge.to.starts_with(&edge.from) {
            continue;
        }
        let (Some((from, above)), Some((to, below))) = (listed(&edge.from), listed(&edge.to)) else { continue };
        if above > below || from == to {
            continue;
        }
        if let Some(at) = layers.exceptions.iter().position(|exception| exception.covers(from, to)) {
            needed.insert(at);
            continue;
        }
        let how = if above == below { "its own layer" } else { "a higher layer" };
        let text = format!("`{from}` names `{to}`, which is in {how} ({TABLE}, package `{}`)", package.name);
        findings.push(Finding::new(&edge.file, edge.line, text));
    }
    for (at, exception) in layers.exceptions.iter().enumerate() {
        let by_circle = circle_edge(exception, edges);
        if !by_circle && !needed.contains(&at) {
            let (from, to) = (exception.from, exception.to);
            let text = format!("{TABLE} excuses `{from}` for naming `{to}`, which it does not need any more");
            findings.push(Finding::new(&src, 0, text));
        }
    }
    findings
}

/// Whether an exception is about two files of one directory, one of which names the other.
fn circle_edge(exception: &Exception, edges: &[Edge]) -> bool {
    let directory = |path: &str| path.rsplit_once("::").map(|(directory, _)| directory.to_owned());
    let (from, to) = (directory(exception.from), directory(exception.to));
    from.is_some() && from == to && edges.iter().any(|edge| exception.covers(&name(&edge.from), &name(&edge.to)))
}

/// Circles among the files of one directory: each edge that lies on one is a finding.
fn circles(package: &Package, dir: &[String], edges: &[Edge], exceptions: &[Exception]) -> Vec<Finding> {
    let full = |child: &str| name(&dir.iter().cloned().chain([child.to_owned()]).collect::<Vec<_>>());
    let excused = |from: &str, to: &str| exceptions.iter().any(|exception| exception.covers(&full(from), &full(to)));
    let edges: Vec<_> = between(dir, edges).filter(|(from, to, _)| !excused(from, to)).collect();
    let mut findings = Vec::new();
    for &(from, to, edge) in &edges {
        let mut reached = BTreeSet::from([to]);
        let mut todo = vec![to];
        while let Some(at) = todo.pop() {
            let next = edges.iter().filter(|(start, _, _)| *start == at).map(|(_, end, _)| *end);
            todo.extend(next.filter(|end| reached.insert(end)));
        }
        if reached.contains(from) {
            let text = format!(
                "`{}` names `{to}`, which names it, by itself or through others: a circle in `{}` (take it apart, or \
                 excuse it in {TABLE})",
                full(from),
                package.name
            );
            findings.push(Finding::new(&edge.file, edge.line, text));
        }
    }
    findings
}

/// All edges between modules of a package.
pub fn edges(package: &Package) -> Vec<Edge> {
    let names = Names::of(package);
    let mut edges = Vec::new();
    for module in &package.modules {
        let mut paths = Paths { module: module.path.clone(), inline: 0, found: Vec::new() };
        paths.visit_file(&module.syntax);
        for (path, line) in paths.found {
            let to = names.resolve(&path);
            if to != module.path {
                edges.push(Edge { from: module.path.clone(), to, file: module.file.clone(), line });
            }
        }
    }
    edges.sort();
    edges.dedup();
    edges
}

/// What the modules of a package call things.
struct Names {
    modules: BTreeSet<Vec<String>>,
    /// For a module: another name in it, and where that leads.
    aliases: BTreeMap<Vec<String>, Vec<(String, Vec<String>)>>,
    /// Macros that the crate's root has although they stand in a module.
    macros: BTreeMap<String, Vec<String>>,
}

impl Names {
    fn of(package: &Package) -> Names {
        let modules: BTreeSet<Vec<String>> = package.modules.iter().map(|module| module.path.clone()).collect();
        let mut names = Names { modules, aliases: BTreeMap::new(), macros: BTreeMap::new() };
        for module in &package.modules {
            for item in &module.syntax.items {
                match item {
                    syn::Item::Use(item) => {
                        let mut leaves = Vec::new();
                        use_leaves(&item.tree, &mut Vec::new(), &mut leaves);
                        for (path, alias) in leaves {
                            names.alias(package, module, &path, alias);
                        }
                    }
                    syn::Item::Macro(item) if item.mac.path.is_ident("macro_rules") => {
                        if let Some(ident) = &item.ident {
                            names.macros.insert(ident.to_string(), module.path.clone());
                        }
                    }
                    _ => {}
                }
            }
        }
        names
    }

    fn alias(&mut self, package: &Package, module: &Module, path: &[String], alias: String) {
        let first = path.first().map_or("", String::as_str);
        let target = if ["crate", "super", "self"].contains(&first) {
            absolute(path, &module.path, 0)
        } else {
            // A child module by its plain name; everything else is another crate's.
            let child: Vec<String> = module.path.iter().cloned().chain(path.iter().cloned()).collect();
            self.modules.contains(&child[..=module.path.len()]).then_some(child)
        };
        let Some(target) = target else { return };
        let here = self.aliases.entry(module.path.clone()).or_default();
        if alias != "*" {
            here.push((alias, target));
            return;
        }
        let Some(whole) = package.modules.iter().find(|other| other.path == target) else { return };
        for item in &whole.syntax.items {
            if let Some(ident) = ident(item) {
                here.push((ident.to_string(), target.iter().cloned().chain([ident.to_string()]).collect()));
            }
        }
    }

    /// The innermost module that an absolute path leads into.
    fn resolve(&self, path: &[String]) -> Vec<String> {
        let mut path = path.to_vec();
        // Re-exports of re-exports end somewhere; a limit keeps an error in a made-up tree from running for ever.
        for _ in 0..16 {
            let depth = (0..=path.len()).rev().find(|&depth| self.modules.contains(&path[..depth])).unwrap_or(0);
            let (module, rest) = path.split_at(depth);
            let Some(item) = rest.first() else { return path };
            let alias = self.aliases.get(module).and_then(|all| all.iter().find(|(alias, _)| alias == item));
            match alias {
                Some((_, target)) if !target.starts_with(&path) => {
                    path = target.iter().chain(&rest[1..]).cloned().collect();
                }
                _ if depth == 0 => return self.macros.get(item).cloned().unwrap_or_default(),
                _ => return module.to_vec(),
            }
        }
        Vec::new()
    }
}

/// The name that an item gives.
fn ident(item: &syn::Item) -> Option<&syn::Ident> {
    match item {
        syn::Item::Const(item) => Some(&item.ident),
        syn::Item::Enum(item) => Some(&item.ident),
        syn::Item::Fn(item) => Some(&item.sig.ident),
        syn::Item::Mod(item) => Some(&item.ident),
        syn::Item::Static(item) => Some(&item.ident),
        syn::Item::Struct(item) => Some(&item.ident),
        syn::Item::Trait(item) => Some(&item.ident),
        syn::Item::Type(item) => Some(&item.ident),
        syn::Item::Union(item) => Some(&item.ident),
        _ => None,
    }
}

/// Each path of a `use`, with the name under which it is known afterwards (`*` for all).
fn use_leaves(tree: &syn::UseTree, before: &mut Vec<String>, leaves: &mut Vec<(Vec<String>, String)>) {
    match tree {
        syn::UseTree::Path(path) => {
            before.push(path.ident.to_string());
            use_leaves(&path.tree, before, leaves);
            before.pop();
        }
        syn::UseTree::Group(group) => group.items.iter().for_each(|item| use_leaves(item, before, leaves)),
        syn::UseTree::Glob(_) => leaves.push((before.clone(), "*".into())),
        syn::UseTree::Name(leaf) if leaf.ident == "self" => {
            leaves.push((before.clone(), before.last().cloned().unwrap_or_default()));
        }
        syn::UseTree::Name(leaf) => {
            let path = before.iter().cloned().chain([leaf.ident.to_string()]).collect();
            leaves.push((path, leaf.ident.to_string()));
        }
        syn::UseTree::Rename(leaf) => {
            let path = before.iter().cloned().chain([leaf.ident.to_string()]).collect();
            leaves.push((path, leaf.rename.to_string()));
        }
    }
}

/// A path from the crate's root, for one that begins with `crate`, `super` or `self` in `module` (and `inline` modules deep in
/// its file).
fn absolute(path: &[String], module: &[String], inline: usize) -> Option<Vec<String>> {
    let mut base = module.to_vec();
    let mut inline = inline;
    let mut rest = path;
    match rest.first().map(String::as_str) {
        Some("crate") => (base, rest) = (Vec::new(), &rest[1..]),
        Some("self" | "super") => {}
        _ => return None,
    }
    while let Some(word) = rest.first() {
        match &**word {
            "self" => {}
            "super" if inline > 0 => inline -= 1,
            "super" => {
                base.pop()?;
            }
            _ => break,
        }
        rest = &rest[1..];
    }
    base.extend(rest.iter().cloned());
    Some(base)
}

/// Collects what a file names.
struct Paths {
    module: Vec<String>,
    inline: usize,
    /// From the crate's root, and the line.
    found: Vec<(Vec<String>, usize)>,
}

impl Paths {
    fn add(&mut self, path: &[String], line: usize) {
        // `self` inside an inline module is that module: it stays in this file.
        if path.first().is_some_and(|first| first == "self") && self.inline > 0 {
            return;
        }
        if path.len() > 1
            && let Some(path) = absolute(path, &self.module, self.inline)
        {
            self.found.push((path, line));
        }
    }
}

impl<'a> Visit<'a> for Paths {
    fn visit_item(&mut self, item: &'a syn::Item) {
        if !only_for_tests(super::source::attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        self.inline += 1;
        visit::visit_item_mod(self, item);
        self.inline -= 1;
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        let mut leaves = Vec::new();
        use_leaves(&item.tree, &mut Vec::new(), &mut leaves);
        for (path, _) in leaves {
            self.add(&path, line(item));
        }
    }

    // `pub(in crate::a)` says who may see, and uses nothing.
    fn visit_visibility(&mut self, _: &'a syn::Visibility) {}

    fn visit_path(&mut self, path: &'a syn::Path) {
        let words: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(&words, line(path));
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'a syn::Macro) {
        let mut tokens = Vec::new();
        flatten(call.tokens.clone(), &mut tokens);
        for (words, line) in token_paths(&tokens) {
            self.add(&words, line);
        }
        visit::visit_macro(self, call);
    }
}

/// Paths that begin with `crate`, `super` or `self`, in a macro's tokens.
fn token_paths(tokens: &[TokenTree]) -> Vec<(Vec<String>, usize)> {
    let word = |at: usize| match tokens.get(at) {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    };
    let colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = word(at).filter(|word| ["crate", "super", "self"].contains(&&**word));
        let Some(first) = begins else {
            at += 1;
            continue;
        };
        let line = tokens[at].span().start().line;
        let mut words = vec![first];
        at += 1;
        while colon(at)
            && colon(at + 1)
            && let Some(next) = word(at + 2)
        {
            words.push(next);
            at += 3;
        }
        found.push((words, line));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::Tree;
    use super::*;

    const LAYERS: Layers = Layers { package: "p", lines: &["low other", "high"], exceptions: &[] };

    fn package(files: &[(&str, &str)]) -> Package {
        let mut all = vec![("Cargo.toml", "[workspace]\nmembers = [\"p\"]"), ("p/Cargo.toml", "package.name = \"p\"")];
        all.extend_from_slice(files);
        let mut packages = Tree::made_up(&all).packages().unwrap();
        packages.remove("p").unwrap()
    }

    fn found(root: &str, low: &str, high: &str) -> Vec<String> {
        found_by(&LAYERS, root, low, high)
    }

    fn found_by(layers: &Layers, root: &str, low: &str, high: &str) -> Vec<String> {
        let files = [
            ("p/src/lib.rs", root),
            ("p/src/low.rs", low),
            ("p/src/other.rs", "pub struct Other;"),
            ("p/src/high.rs", high),
        ];
        check(&package(&files), layers).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn downward_passes() {
        let high = "use crate::low::Low;\nfn f(_: super::other::Other, _: &Low) {}";
        assert_eq!(found("mod low; mod high; mod other;", "pub struct Low;", high), Vec::<String>::new());
    }

    #[test]
    fn upward_is_found_in_every_form() {
        for low in [
            "\nuse crate::high::High;",
            "\nuse super::high;",
            "\nfn f() -> crate::high::High { todo!() }",
            "\nfn f() { super::high::g::<u8>() }",
            "\nmacro_rules! m { () => { $crate::high::g() } }",
            "\nfn f() { assert!(crate::high::g()); }",
            "\nuse crate::High;",
            "\nuse crate::Renamed;",
            "\nuse crate::g;",
            "\nmod inside { use super::super::high; }",
            "\nimpl crate::high::Trait for u8 {}",
            "\nuse crate::shout;",
        ] {
            let root = "pub use high::High; pub use self::high::High as Renamed; pub use high::*;";
            let high = "pub struct High; pub fn g() {}\n#[macro_export] macro_rules! shout { () => {} }";
            let found = found(root, low, high);
            assert_eq!(found.len(), 1, "{low}: {found:?}");
            assert!(
                found[0].starts_with("p/src/low.rs:2: `low` names `high`, which is in a higher layer"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn one_layer_means_neither_names_the_other() {
        let found = found("", "use crate::other::Other;", "");
        assert!(found[0].contains("`low` names `other`, which is in its own layer"), "{found:?}");
    }

    #[test]
    fn tests_visibility_and_words_do_not_count() {
        let low =
            "//! [`crate::high`]\n#[cfg(test)] mod tests { use crate::high::High; }\npub(in crate::high) fn f() {}";
        assert_eq!(found("", low, ""), Vec::<String>::new());
    }

    #[test]
    fn the_list_is_complete_and_holds_nothing_else() {
        let short = Layers { package: "p", lines: &["low other"], exceptions: &[] };
        let found = found_by(&short, "", "", "use crate::low::Low;");
        assert!(found[0].contains("module `high` of `p` is in no layer"), "{found:?}");
        assert!(found[0].contains("above {\"low\"} and below {}"), "{found:?}");
        let long = Layers { package: "p", lines: &["low other", "high gone"], exceptions: &[] };
        assert!(found_by(&long, "", "", "")[0].contains("has `gone` for `p`, which has no such module"));
    }

    #[test]
    fn an_exception_excuses_one_edge_and_must_be_needed() {
        const EXCUSED: &[Exception] = &[Exception { from: "low", to: "high", why: "to show how" }];
        let layers = Layers { exceptions: EXCUSED, ..LAYERS };
        assert_eq!(found_by(&layers, "", "use crate::high;", ""), Vec::<String>::new());
        let found = found_by(&layers, "", "", "");
        assert!(found[0].contains("excuses `low` for naming `high`, which it does not need"), "{found:?}");
    }

    #[test]
    fn a_circle_in_a_directory_is_found_at_each_of_its_edges() {
        let layers = Layers { package: "p", lines: &["d"], exceptions: &[] };
        let files = [
            ("p/src/lib.rs", "mod d;"),
            ("p/src/d/mod.rs", "mod a; mod b; mod c; pub use b::B;"),
            ("p/src/d/a.rs", "use super::B;\nuse super::Own;"),
            ("p/src/d/b.rs", "\n\nuse super::c::C;"),
            ("p/src/d/c.rs", "use crate::d::a::A;"),
        ];
        let found: Vec<String> = check(&package(&files), &layers).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[1].starts_with("p/src/d/b.rs:3: `d::b` names `c`"), "{found:?}");
        let one_way = check(&package(&files[..4]), &layers);
        assert_eq!(one_way, []);
    }
}
