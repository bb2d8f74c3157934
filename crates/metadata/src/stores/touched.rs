//! What changed: counts that tell when a collection pays, and notes while one looks.
//!
//! A collection marks on a snapshot of the store while clients go on writing. Before it sweeps, it
//! takes every row written meanwhile as one more root, so that what a client has just referred to
//! survives. Counts and notes of aborted transactions stay: they only make a collection come
//! sooner and keep more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::kv::Table;
use crate::schema::{CHUNK, EVENT, EXIT, INTENT, META, TASK};

/// Counts written and deleted rows, and collects the keys of written ones while somebody watches.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    notes: Mutex<Option<Notes>>,
    written: AtomicU64,
    deleted: AtomicU64,
    changed: Notify,
}

/// Tables and keys in the order in which they were written.
pub(crate) type Notes = Vec<(Table, Vec<u8>)>;

/// Rows of these tables are no objects that a collection knows.
const BOOKKEEPING: &[Table] = &[META, EVENT, EXIT, INTENT, CHUNK, TASK];

impl Touched {
    /// Begins to take notes, forgetting earlier ones.
    pub(crate) fn watch(&self) {
        *self.lock() = Some(Vec::new());
    }
    /// Ends taking notes.
    pub(crate) fn unwatch(&self) {
        *self.lock() = None;
    }
    /// The notes so far, forgetting them; goes on taking notes.
    pub(crate) fn drain(&self) -> Notes {
        self.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }
    /// Notes that the row at `key` was written.
    pub(crate) fn wrote(&self, table: Table, key: &[u8]) {
        if BOOKKEEPING.contains(&table) {
            return;
        }
        if let Some(notes) = self.lock().as_mut() {
            notes.push((table, key.to_vec()));
        }
        self.written.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
    }
    /// Notes that a row was deleted.
    pub(crate) fn deleted(&self, table: Table) {
        if !BOOKKEEPING.contains(&table) {
            self.deleted.fetch_add(1, Ordering::Relaxed);
            self.changed.notify_one();
        }
    }
    /// How many rows were written and deleted since the daemon started.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.written.load(Ordering::Relaxed), self.deleted.load(Ordering::Relaxed))
    }
    /// Returns once a row has changed since the last call. Cancel safe.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Notes>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
