//! What the launcher says about itself: one line on standard error. Standard output belongs to programs.

/// Says a line to the person who started us.
pub fn say(text: impl std::fmt::Display) {
    eprintln!("tessera: {text}");
}
