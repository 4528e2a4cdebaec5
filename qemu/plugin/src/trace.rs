//! Which instructions ran in a window, one after the other.
//!
//! For short stretches on one CPU: a page fault is a few thousand instructions.

use std::sync::{Mutex, MutexGuard};

use crate::sites::Site;

/// Most instructions that are kept: beyond, the trace says that it is cut off.
pub(crate) const MAX_LENGTH: usize = 1 << 24;

/// Everything that ran in any window, in the order in which it began.
#[derive(Default)]
pub(crate) struct Trace(Mutex<Vec<Site>>);

impl Trace {
    fn sites(&self) -> MutexGuard<'_, Vec<Site>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn push(&self, site: Site) {
        let mut sites = self.sites();
        if sites.len() <= MAX_LENGTH {
            sites.push(site);
        }
    }

    /// What ran.
    pub(crate) fn take(&self) -> Vec<Site> {
        std::mem::take(&mut *self.sites())
    }
}
