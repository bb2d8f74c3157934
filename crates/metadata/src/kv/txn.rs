//! One update in progress, and how it ends.

use std::collections::BTreeSet;

use super::StoreError;
use super::overlay::{Batch, Overlay};
use super::read::{Pair, Read, Table};

/// Largest value. Above it sled would keep a file per value and never remove old ones; larger
/// payloads are files of their own, named by digest.
pub const VALUE_BYTES_MAX: usize = 32 << 10;

/// Largest key.
pub const KEY_BYTES_MAX: usize = 4 << 10;

/// Called by the writer thread once the transaction is on disk.
pub(crate) type AfterCommit = Box<dyn FnOnce() + Send>;

/// How an update closure ends.
#[derive(Debug)]
pub enum Verdict<T, E> {
    /// The writes are committed, and this is the answer: an error may have something to record.
    Commit(Result<T, E>),
    /// Nothing of the transaction remains; the error is the answer.
    Abort(E),
}

impl<T, E> From<Result<T, E>> for Verdict<T, E> {
    /// The usual ending: `Ok` commits, `Err` aborts.
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Commit(Ok(value)),
            Err(error) => Self::Abort(error),
        }
    }
}

/// One update in progress. Reads see the last state, the transactions before it in its group, and
/// its own writes; nobody else writes meanwhile.
pub struct Txn<'a> {
    below: &'a dyn Read,
    known: &'a BTreeSet<Table>,
    writes: Batch,
    after: Vec<AfterCommit>,
    reserve: bool,
    fault: Option<StoreError>,
}

impl<'a> Txn<'a> {
    pub(crate) fn new(below: &'a dyn Read, known: &'a BTreeSet<Table>) -> Self {
        Self {
            below,
            known,
            writes: Batch::default(),
            after: Vec::new(),
            reserve: false,
            fault: None,
        }
    }

    /// Writes `value` under `key`. Refuses a value above [`VALUE_BYTES_MAX`], a key above
    /// [`KEY_BYTES_MAX`] and a table the store was not opened with; a refused put is no reason
    /// to abort by itself.
    pub fn put(
        &mut self,
        table: Table,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
    ) -> Result<(), StoreError> {
        let (key, value) = (key.into(), value.into());
        known(self.known, table)?;
        bounded("key", table, key.len(), KEY_BYTES_MAX)?;
        bounded("value", table, value.len(), VALUE_BYTES_MAX)?;
        self.writes.set(table, key, Some(value));
        Ok(())
    }

    /// Removes `key`; removing what is not there is no error. An unknown table makes the whole
    /// transaction fail when it ends.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        match known(self.known, table) {
            Ok(()) => self.writes.set(table, key.to_vec(), None),
            Err(error) => self.fault = Some(error),
        }
    }

    /// Has `f` called by the writer thread once this transaction is on disk: in the order of the
    /// commits, before the caller gets its answer. Not called when it aborts or fails. `f` must
    /// be short and must not call [`super::Db::update_blocking`]; a panic in it is logged.
    pub fn after_commit(&mut self, f: Box<dyn FnOnce() + Send>) {
        self.after.push(f);
    }

    /// Lets this transaction through when the disk is full, out of the space kept back for that:
    /// for what frees space or must not be lost (deletes, garbage collection, exits). A
    /// transaction that only deletes has this right anyway.
    pub fn draw_on_reserve(&mut self) {
        self.reserve = true;
    }

    /// Whether the transaction may commit on a full disk.
    pub(crate) fn may_draw(&self) -> bool {
        self.reserve || !self.writes.has_puts()
    }

    /// What the transaction wrote and wants called, or why it cannot be committed.
    pub(crate) fn finish(self) -> Result<(Batch, Vec<AfterCommit>), StoreError> {
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok((self.writes, self.after)),
        }
    }

    fn view(&self) -> Overlay<'_> {
        Overlay { above: &self.writes, below: self.below }
    }
}

impl Read for Txn<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        known(self.known, table)?;
        self.view().get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        known(self.known, table)?;
        self.view().scan(table, start, end, limit)
    }
}

/// Refuses a table that is not among `tables`.
pub(crate) fn known(tables: &BTreeSet<Table>, table: Table) -> Result<(), StoreError> {
    if tables.contains(&table) {
        return Ok(());
    }
    Err(StoreError::UnknownTable { table: table.0.to_owned() })
}

fn bounded(what: &'static str, table: Table, bytes: usize, max: usize) -> Result<(), StoreError> {
    if bytes <= max {
        return Ok(());
    }
    Err(StoreError::TooLarge { what, table: table.0, bytes, max })
}
