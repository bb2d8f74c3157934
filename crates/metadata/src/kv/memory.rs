//! A backend without a disk, for tests of what stands on the store.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use super::overlay::Batch;
use super::read::{Pair, Read, Table};
use super::versioned::{Live, Versioned};
use super::{MetaStore, StoreError};

type Tables = BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>;

/// The tables.
#[derive(Default)]
pub(crate) struct Memory {
    tables: RwLock<Tables>,
}

impl Read for Memory {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        Ok(tables.get(&table).and_then(|entries| entries.get(key)).cloned())
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(Vec::new());
        }
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let Some(entries) = tables.get(&table) else { return Ok(Vec::new()) };
        let range = entries.range::<[u8], _>((Bound::Included(start), upper));
        Ok(range.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

impl Live for Memory {
    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        for (table, key, value) in batch.iter() {
            let entries = tables.entry(table).or_default();
            match value {
                Some(value) => entries.insert(key.clone(), value.clone()),
                None => entries.remove(key),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn reopen(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl MetaStore for Versioned<Memory> {
    fn view(&self) -> Result<Box<dyn Read + '_>, StoreError> {
        Ok(Box::new(Self::view(self)))
    }

    fn commit(&self, batch: &Batch, old: Batch) -> Result<(), StoreError> {
        Self::commit(self, batch, old)
    }

    fn size_on_disk(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}
