//! Which way do things flow in this repository, and does the source still obey?
//!
//! ARCHITECTURE.md draws arrows between rooms and lists where `unsafe` lives. This module reads the sources and says where
//! they differ. The rules are data, all in one file: [`rules`]. The checks are functions of a [`Tree`] and of rules, so
//! each is shown by its unit tests to fail on a small made-up tree that breaks it.
//!
//! | module | what must hold |
//! |---|---|
//! | [`crates`] | a package depends only on those that its line of the table allows |
//! | [`modules`] | a module names only modules of lower layers; no circle inside a directory |
//! | [`words`] | `cfg` of target or model only in the façade; no statics, assembly or printing in the portable crates |
//! | [`safety`] | `unsafe` only in the modules that ARCHITECTURE.md lists, each with its reason beside it |
//! | [`names`] | nothing names the machine on which it was written |
//!
//! What it cannot see: a method called on a value whose type is named elsewhere, and whatever a macro of another crate
//! makes. The compiler guards the crates' edges; this guards the rest as far as names go.

pub mod crates;
pub mod modules;
pub mod names;
pub mod rules;
pub mod safety;
pub mod source;
pub mod words;

use std::fmt;

pub use source::Tree;

/// One place where the source breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Below the root of the tree.
    pub file: String,
    /// From 1; 0 if it is about the whole file.
    pub line: usize,
    /// What is wrong, and how to mend it.
    pub text: String,
}

impl Finding {
    /// A finding at a line.
    pub fn new(file: &str, line: usize, text: impl Into<String>) -> Finding {
        Finding { file: file.into(), line, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(out, "{}: {}", self.file, self.text),
            line => write!(out, "{}:{line}: {}", self.file, self.text),
        }
    }
}
