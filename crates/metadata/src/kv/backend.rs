//! What a backend promises, and which ones there are.

use super::StoreError;
use super::overlay::Batch;
use super::read::{Read, Table};

/// Which backend keeps the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackendKind {
    /// sled 0.34: the default.
    Sled,
    /// redb 4.
    Redb,
}

/// A backend: durable tables with one writer and any number of readers.
pub trait MetaStore: Send + Sync {
    /// The state of the last successful [`MetaStore::commit`]. It does not move while the view
    /// lives, shows nothing that is not on disk, and neither making nor using it waits for a disk
    /// flush. Tables are known to exist.
    fn view(&self) -> Result<Box<dyn Read + '_>, StoreError>;

    /// Makes all of `batch` the state, atomically over all tables, and returns when it is on
    /// disk. `old` is what the state holds for the keys of `batch`. After an error the state is the one before, for readers and after a reopen; the next
    /// commit may succeed, unless the error is [`StoreError::Stopped`]. One caller at a time.
    fn commit(&self, batch: &Batch, old: Batch) -> Result<(), StoreError>;

    /// Whether the space kept back for deletes is there; false: the disk is full, and only
    /// transactions entitled to the reserve should be committed.
    fn has_reserve(&self) -> bool {
        true
    }

    /// Entries in `table`: walks it.
    fn len(&self, table: Table) -> Result<u64, StoreError> {
        let mut count = 0;
        self.view()?.for_each(table, &[], None, &mut |_, _| {
            count += 1;
            true
        })?;
        Ok(count)
    }

    /// Bytes that the store's files occupy.
    fn size_on_disk(&self) -> Result<u64, StoreError>;

    /// Leaves the files clean. Views are gone by then.
    fn close(self: Box<Self>) -> Result<(), StoreError>;
}
