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
    /// Notes that a transaction removes objects that clients made. Rows that come and go with
    /// every write (an ingest that became content, a lease's entry) do not count: content that
    /// nobody holds yet should not go because something else was committed.
    pub(crate) fn freed(&self) {
        self.deleted.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
    }
    /// How many rows were written, and how often objects were removed, since the daemon started.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gantry_core::snapshot::{SnapshotId, SnapshotInfo, SnapshotKind, Usage};
    use gantry_core::{
        CallCx, Labels, Namespace, SnapshotKey, SnapshotterName, SystemClock, Timestamp,
    };

    use crate::Metadata;
    use crate::stores::{SnapshotCommit, SnapshotEntry, SnapshotRecords};

    /// Were a commit to count, content that nobody holds yet would be collected only because
    /// something else was committed.
    #[test]
    fn a_removal_counts_as_freeing_and_a_commit_does_not() {
        let metadata = Metadata::in_memory(Arc::new(SystemClock)).unwrap();
        let records = SnapshotRecords::new(SnapshotterName::new("s").unwrap());
        let cx = CallCx::default().in_namespace(Namespace::new("n").unwrap(), None);
        let (key, name) = (SnapshotKey::new("k").unwrap(), SnapshotKey::new("c").unwrap());
        let entry = SnapshotEntry {
            info: SnapshotInfo {
                kind: SnapshotKind::Active,
                name: key.clone(),
                parent: None,
                labels: Labels::default(),
                created_at: Timestamp::UNSET,
                updated_at: Timestamp::UNSET,
            },
            id: SnapshotId(1),
            usage: Usage::default(),
            backend_key: String::new(),
        };
        let commit = SnapshotCommit {
            name: name.clone(),
            key,
            parent: None,
            labels: Labels::default(),
            usage: Usage::default(),
            backend_key: String::new(),
        };
        metadata
            .update_blocking({
                let (records, cx) = (records.clone(), cx.clone());
                move |tx| {
                    records.insert(tx, &cx, entry)?;
                    records.commit(tx, &cx, commit)
                }
            })
            .unwrap();
        let (written, freed) = metadata.touched().counts();
        assert!(written > 0);
        assert_eq!(freed, 0);
        metadata.update_blocking(move |tx| records.remove(tx, &cx, &name).map(drop)).unwrap();
        assert_eq!(metadata.touched().counts().1, 1);
    }
}
