//! Which rows changed since a collection began to look.
//!
//! A collection marks on a snapshot of the store while clients go on writing. Before it sweeps, it
//! takes every row written meanwhile as one more root, so that what a client has just referred to
//! survives. Notes of aborted transactions stay: they only make a collection keep more.

use std::sync::{Mutex, PoisonError};

use crate::kv::Table;

/// Collects the keys of written rows while somebody watches.
#[derive(Debug, Default)]
pub(crate) struct Touched(Mutex<Option<Vec<(Table, Vec<u8>)>>>);

impl Touched {
    /// Begins to take notes, forgetting earlier ones.
    pub(crate) fn watch(&self) {
        *self.lock() = Some(Vec::new());
    }
    /// Ends taking notes and returns them.
    pub(crate) fn take(&self) -> Vec<(Table, Vec<u8>)> {
        self.lock().take().unwrap_or_default()
    }
    /// Notes that the row at `key` was written.
    pub(crate) fn note(&self, table: Table, key: &[u8]) {
        if let Some(notes) = self.lock().as_mut() {
            notes.push((table, key.to_vec()));
        }
    }
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Vec<(Table, Vec<u8>)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
