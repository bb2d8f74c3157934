//! Small states over others.

use std::collections::BTreeSet;

use super::StoreError;
use super::read::{Pair, Read, Table};
use super::txn::known;

/// A view that refuses unknown tables.
pub(crate) struct Known<'a> {
    pub(crate) view: &'a dyn Read,
    pub(crate) tables: &'a BTreeSet<Table>,
}

impl Read for Known<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        known(self.tables, table)?;
        self.view.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        known(self.tables, table)?;
        self.view.scan(table, start, end, limit)
    }
}

/// A state that cannot be read.
pub(crate) struct Broken(pub(crate) StoreError);

impl Read for Broken {
    fn get(&self, _: Table, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Err(self.0.clone())
    }

    fn scan(
        &self,
        _: Table,
        _: &[u8],
        _: Option<&[u8]>,
        _: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        Err(self.0.clone())
    }
}
