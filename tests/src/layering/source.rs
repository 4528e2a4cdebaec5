//! The sources as the checks read them: a tree of text files, its packages, and their modules, parsed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use syn::spanned::Spanned;

/// Files by their path below the root.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    files: BTreeMap<String, String>,
}

impl Tree {
    /// The repository's own files: what git knows, as it stands in the work tree.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of_repository(root: &Path) -> Result<Tree> {
        let mut git = qemu::nested::command("git");
        git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let listed = match qemu::nested::answer(&mut git) {
            Some(list) => list.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect(),
            None => walk(root)?,
        };
        let mut files = BTreeMap::new();
        for path in listed {
            // Not there: deleted and not yet committed. Not text: nothing to read.
            if let Ok(text) = std::fs::read_to_string(root.join(&path)) {
                files.insert(path, text);
            }
        }
        ensure!(files.contains_key("Cargo.toml"), "{} is no source tree", root.display());
        Ok(Tree { files })
    }

    /// A tree that is not on any disk.
    pub fn made_up(files: &[(&str, &str)]) -> Tree {
        Tree { files: files.iter().map(|&(path, text)| (path.to_owned(), text.to_owned())).collect() }
    }

    /// All files, by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(path, text)| (&**path, &**text))
    }

    /// The text of one file.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// The packages of the workspace, by name.
    ///
    /// # Errors
    /// A manifest or a source file cannot be parsed.
    pub fn packages(&self) -> Result<BTreeMap<String, Package>> {
        self.packages_where(|_| true)
    }

    /// One package of the workspace.
    ///
    /// # Errors
    /// There is none of this name, or it cannot be parsed.
    pub fn package(&self, name: &str) -> Result<Package> {
        let mut found = self.packages_where(|other| other == name)?;
        found.remove(name).with_context(|| format!("the workspace has no package `{name}`"))
    }

    fn packages_where(&self, wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Package>> {
        let root = self.manifest("Cargo.toml")?;
        let members = root.get("workspace").and_then(|workspace| workspace.get("members"));
        let members = members.and_then(toml::Value::as_array).context("Cargo.toml lists no workspace members")?;
        let mut packages = BTreeMap::new();
        for dir in members.iter().filter_map(toml::Value::as_str) {
            let manifest = self.manifest(&format!("{dir}/Cargo.toml"))?;
            let name = manifest.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
            let name = name.with_context(|| format!("{dir}/Cargo.toml names no package"))?.to_owned();
            if !wanted(&name) {
                continue;
            }
            let modules = self.modules(dir)?;
            packages.insert(name.clone(), Package { name, dir: dir.into(), manifest, modules });
        }
        Ok(packages)
    }

    fn manifest(&self, path: &str) -> Result<toml::Table> {
        let text = self.text(path).with_context(|| format!("no {path}"))?;
        text.parse().with_context(|| format!("cannot parse {path}"))
    }

    fn modules(&self, dir: &str) -> Result<Vec<Module>> {
        let prefix = format!("{dir}/src/");
        let mut modules = Vec::new();
        for (file, text) in self.files.range(prefix.clone()..).take_while(|(file, _)| file.starts_with(&prefix)) {
            if let Some(stem) = file[prefix.len()..].strip_suffix(".rs") {
                modules.push(Module::parse(file, stem, text)?);
            }
        }
        let only_tests: BTreeSet<Vec<String>> = modules.iter().flat_map(Module::test_children).collect();
        modules.retain(|module| !(1..=module.path.len()).any(|depth| only_tests.contains(&module.path[..depth])));
        Ok(modules)
    }
}

/// Without git: everything but what is built and what is hidden.
fn walk(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut todo = vec![String::new()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(root.join(&dir)).with_context(|| format!("cannot read {dir}"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if dir.is_empty() { name.clone() } else { format!("{dir}/{name}") };
            match entry.file_type()? {
                kind if kind.is_dir() && !["target", ".git"].contains(&&*name) => todo.push(path),
                kind if kind.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    Ok(found)
}

/// One package of the workspace.
#[derive(Debug)]
pub struct Package {
    /// As its manifest says.
    pub name: String,
    /// Below the root.
    pub dir: String,
    /// Its `Cargo.toml`.
    pub manifest: toml::Table,
    /// What is under `src`, without what is compiled for tests only.
    pub modules: Vec<Module>,
}

/// One source file.
#[derive(Debug)]
pub struct Module {
    /// Below the root of the tree.
    pub file: String,
    /// Its path in the crate: empty for `lib.rs`, `["main"]` for `main.rs`, `["tree", "node"]` for `tree/node.rs`.
    pub path: Vec<String>,
    /// What it says.
    pub text: String,
    /// The same, parsed.
    pub syntax: syn::File,
}

impl Module {
    fn parse(file: &str, stem: &str, text: &str) -> Result<Module> {
        let syntax = syn::parse_file(text).with_context(|| format!("cannot parse {file}"))?;
        let mut path: Vec<String> = stem.split('/').map(str::to_owned).collect();
        if path.last().is_some_and(|last| last == "mod") || path == ["lib"] {
            path.pop();
        }
        Ok(Module { file: file.into(), path, text: text.into(), syntax })
    }

    /// The module's path in words: `tree::node`, or `the crate's root`.
    pub fn name(&self) -> String {
        name(&self.path)
    }

    fn test_children(&self) -> Vec<Vec<String>> {
        let children = self.syntax.items.iter().filter_map(|item| match item {
            syn::Item::Mod(module) if only_for_tests(&module.attrs) => Some(module.ident.to_string()),
            _ => None,
        });
        children.map(|child| self.path.iter().cloned().chain([child]).collect()).collect()
    }
}

/// A module's path in words.
pub fn name(path: &[String]) -> String {
    if path.is_empty() { "the crate's root".into() } else { path.join("::") }
}

/// Whether attributes say `#[cfg(test)]` or `#[test]`.
pub fn only_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let words = list.tokens.to_string();
            words == "test" || words.starts_with("all (test")
        }
        _ => false,
    })
}

/// The line of a piece of source, from 1.
pub fn line(piece: &impl Spanned) -> usize {
    piece.span().start().line
}

/// All tokens of a file but those of items that are for tests only.
pub fn tokens(syntax: &syn::File) -> proc_macro2::TokenStream {
    let mut shipped = syntax.clone();
    shipped.items.retain(|item| !only_for_tests(attributes(item)));
    quote::ToTokens::into_token_stream(shipped)
}

/// A token stream without its tree.
pub fn flatten(stream: proc_macro2::TokenStream, flat: &mut Vec<proc_macro2::TokenTree>) {
    for token in stream {
        if let proc_macro2::TokenTree::Group(group) = &token {
            flatten(group.stream(), flat);
        } else {
            flat.push(token);
        }
    }
}

/// The attributes of an item, of those kinds that tests come in.
pub fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
