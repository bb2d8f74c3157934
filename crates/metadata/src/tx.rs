//! What a transaction closure gets: the store's tables in domain terms.
//!
//! [`View`] reads, [`Tx`] also writes. A closure that returns an error leaves nothing behind, with
//! one exception it must ask for: [`Tx::keep_on_error`] commits although the call fails, which is
//! how an AlreadyExists still leases the object it found.

use std::sync::Arc;

use gantry_core::model::{Envelope, Event};
use gantry_core::{Namespace, Result, Timestamp};
use prost::Message;

use crate::codec::{self, Stored};
use crate::journal::Journal;
use crate::kv::{Read, Table, Txn};
use crate::stores::touched::Touched;
use crate::values;

/// Reads of one consistent state.
#[derive(Clone, Copy)]
pub struct View<'a> {
    read: &'a dyn Read,
}

/// How many rows one step of a long scan takes.
const SCAN_STEP: usize = 512;

impl<'a> View<'a> {
    /// A view through `read`.
    pub fn of(read: &'a dyn Read) -> Self {
        Self { read }
    }

    /// The plain reader below, for tables whose rows are no records.
    pub fn raw(&self) -> &'a dyn Read {
        self.read
    }

    /// The record at `key`.
    ///
    /// # Errors
    /// `DataLoss` when it does not decode.
    pub(crate) fn get<T: Stored>(
        &self,
        table: Table,
        key: &[u8],
        name: T::Name,
    ) -> Result<Option<T>> {
        match values::get(self.read, table, key)? {
            Some(bytes) => codec::decode(table, name, &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Whether there is a row at `key`.
    pub(crate) fn contains(&self, table: Table, key: &[u8]) -> Result<bool> {
        Ok(self.read.get(table, key)?.is_some())
    }

    /// Whether any key begins with `prefix`.
    pub(crate) fn any_below(&self, table: Table, prefix: &[u8]) -> Result<bool> {
        let first = self.read.scan(table, prefix, None, 1)?;
        Ok(first.first().is_some_and(|(key, _)| key.starts_with(prefix)))
    }

    /// Calls `each` with every key below `prefix` and its record's bytes, in byte order.
    pub(crate) fn each_below(
        &self,
        table: Table,
        prefix: &[u8],
        mut each: impl FnMut(&[u8], Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let mut start = prefix.to_vec();
        loop {
            let rows = self.read.scan(table, &start, None, SCAN_STEP)?;
            let full = rows.len() == SCAN_STEP;
            for (key, row) in rows {
                if !key.starts_with(prefix) {
                    return Ok(());
                }
                let value = values::resolve(self.read, table, &key, &row)?;
                each(&key, value)?;
                start = key;
            }
            if !full {
                return Ok(());
            }
            // The smallest key above the last one seen.
            start.push(0);
        }
    }

    /// Calls `each` with every key below `prefix` of a table whose rows carry no value.
    pub(crate) fn each_key_below(
        &self,
        table: Table,
        prefix: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut start = prefix.to_vec();
        loop {
            let rows = self.read.scan(table, &start, None, SCAN_STEP)?;
            let full = rows.len() == SCAN_STEP;
            for (key, _) in rows {
                if !key.starts_with(prefix) {
                    return Ok(());
                }
                each(&key)?;
                start = key;
            }
            if !full {
                return Ok(());
            }
            start.push(0);
        }
    }
}

/// One transaction over all tables.
pub struct Tx<'t, 'a> {
    txn: &'t mut Txn<'a>,
    now: Timestamp,
    journal: Arc<Journal>,
    touched: Arc<Touched>,
    keep_on_error: bool,
}

impl<'t, 'a> Tx<'t, 'a> {
    pub(crate) fn new(
        txn: &'t mut Txn<'a>,
        now: Timestamp,
        journal: Arc<Journal>,
        touched: Arc<Touched>,
    ) -> Self {
        Self { txn, now, journal, touched, keep_on_error: false }
    }

    /// When the transaction was asked for.
    pub fn now(&self) -> Timestamp {
        self.now
    }
    /// Reads that see this transaction's own writes.
    pub fn view(&self) -> View<'_> {
        View::of(&*self.txn)
    }
    /// The plain transaction below, for tables whose rows are no records.
    pub fn raw(&mut self) -> &mut Txn<'a> {
        self.txn
    }
    /// Says that this transaction removes objects that clients made: a collection pays afterwards,
    /// and a full disk must not stop it.
    pub fn frees(&mut self) {
        self.touched.freed();
        self.txn.draw_on_reserve();
    }
    /// Commits what was written so far even if the closure returns an error.
    pub fn keep_on_error(&mut self) {
        self.keep_on_error = true;
    }
    pub(crate) fn journal(&self) -> Arc<Journal> {
        Arc::clone(&self.journal)
    }
    pub(crate) fn keeps_on_error(&self) -> bool {
        self.keep_on_error
    }

    pub(crate) fn put<T: Stored>(&mut self, table: Table, key: &[u8], record: &T) -> Result<()> {
        self.touched.wrote(table, key);
        values::put(self.txn, table, key, &record.to_message().encode_to_vec())
    }
    pub(crate) fn put_message(
        &mut self,
        table: Table,
        key: &[u8],
        message: &impl Message,
    ) -> Result<()> {
        self.touched.wrote(table, key);
        values::put(self.txn, table, key, &message.encode_to_vec())
    }
    pub(crate) fn mark(&mut self, table: Table, key: &[u8]) -> Result<()> {
        self.touched.wrote(table, key);
        Ok(self.txn.put(table, key, Vec::new())?)
    }
    pub(crate) fn unmark(&mut self, table: Table, key: &[u8]) {
        self.txn.delete(table, key);
    }
    pub(crate) fn delete(&mut self, table: Table, key: &[u8]) -> Result<()> {
        values::delete(self.txn, table, key)
    }

    /// Writes `event` into the journal with this transaction; subscribers get it once the
    /// transaction is on disk, before the reply.
    ///
    /// # Errors
    /// What the store below fails with.
    pub fn emit(&mut self, namespace: &Namespace, event: Event) -> Result<()> {
        let envelope = codec::envelope(event, namespace.clone(), self.now);
        self.emit_envelope(envelope)
    }

    /// As [`Tx::emit`] for an envelope that came from outside.
    ///
    /// # Errors
    /// What the store below fails with.
    pub fn emit_envelope(&mut self, envelope: Envelope) -> Result<()> {
        let journal = Arc::clone(&self.journal);
        journal.append(self, envelope)
    }
}
