//! The mistake that a run of models makes on purpose: the environment's `TESSERA_MUTANT`. Reached through [`super`] only.

extern crate std;

/// Whether this run asked for the mistake called `name`. The environment is read once per process.
pub fn mutant(name: &'static str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<std::string::String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("TESSERA_MUTANT").ok()).as_deref() == Some(name)
}
