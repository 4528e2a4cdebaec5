//! Host: the launcher.
