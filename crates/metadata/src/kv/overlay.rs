//! Writes not yet in the store, and how a reader sees the store through them.
//!
//! [`Overlay`] merges in one place what transactions, groups and undo records all need: a map of
//! written and deleted keys over some other state. Overlays stack.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::Bound;

use super::StoreError;
use super::read::{PAGE, Pair, Read, Table};

type Entries = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Writes over several tables that belong together: put (`Some`) or deleted (`None`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    tables: BTreeMap<Table, Entries>,
}

impl Batch {
    /// Records `key` as put (`Some`) or deleted (`None`).
    pub fn set(&mut self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.tables.entry(table).or_default().insert(key, value);
    }

    /// What is recorded for `key`: outer `None` is nothing, inner `None` a delete.
    pub fn get(&self, table: Table, key: &[u8]) -> Option<Option<&Vec<u8>>> {
        self.tables.get(&table)?.get(key).map(Option::as_ref)
    }

    /// Adds the writes of `newer`, which win.
    pub fn merge(&mut self, newer: Self) {
        for (table, entries) in newer.tables {
            self.tables.entry(table).or_default().extend(entries);
        }
    }

    /// What `state` holds for the keys recorded here.
    pub fn old_values(&self, state: &dyn Read) -> Result<Self, StoreError> {
        let mut old = Self::default();
        for (table, key, _) in self.iter() {
            old.set(table, key.clone(), state.get(table, key)?);
        }
        Ok(old)
    }

    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.tables.values().all(BTreeMap::is_empty)
    }

    /// Whether any key is put.
    pub fn has_puts(&self) -> bool {
        self.iter().any(|(_, _, value)| value.is_some())
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.iter().map(|(_, key, value)| key.len() + value.map_or(0, Vec::len)).sum()
    }

    /// The tables with records.
    pub fn tables(&self) -> impl Iterator<Item = Table> + '_ {
        self.tables.keys().copied()
    }

    /// Every record in order of table and key.
    pub fn iter(&self) -> impl Iterator<Item = (Table, &Vec<u8>, Option<&Vec<u8>>)> {
        self.tables.iter().flat_map(|(table, entries)| {
            entries.iter().map(|(key, value)| (*table, key, value.as_ref()))
        })
    }

    /// The records of one table within the bounds; the lower one must not lie above the upper.
    fn range(
        &self,
        table: Table,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
    ) -> Option<Range<'_, Vec<u8>, Option<Vec<u8>>>> {
        self.tables.get(&table).map(|entries| entries.range::<[u8], _>(bounds))
    }
}

/// The state `below` as it looks with `above` written over it.
pub struct Overlay<'a> {
    /// The writes.
    pub above: &'a Batch,
    /// The state under them.
    pub below: &'a dyn Read,
}

impl Read for Overlay<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.above.get(table, key) {
            Some(value) => Ok(value.cloned()),
            None => self.below.get(table, key),
        }
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        let mut merged = Vec::new();
        let mut from = start.to_vec();
        while merged.len() < limit && end.is_none_or(|end| from.as_slice() < end) {
            let want = (limit - merged.len()).clamp(1, PAGE);
            let page = self.below.scan(table, &from, end, want)?;
            // A full page says nothing about keys above its last: merge up to there, then go on.
            let last = (page.len() == want).then(|| page.last().map(|(key, _)| key.clone()));
            let last = last.flatten();
            let upper = match (&last, end) {
                (Some(last), _) => Bound::Included(last.as_slice()),
                (None, Some(end)) => Bound::Excluded(end),
                (None, None) => Bound::Unbounded,
            };
            let written = self.above.range(table, (Bound::Included(from.as_slice()), upper));
            merge_page(page, written, limit, &mut merged);
            match last {
                Some(mut next) => {
                    next.push(0);
                    from = next;
                }
                None => break,
            }
        }
        Ok(merged)
    }
}

/// Appends the union of `page` and `written` to `merged` in key order until it has `limit`
/// entries; a written key hides the page's, a deleted one leaves nothing.
fn merge_page(
    page: Vec<Pair>,
    written: Option<Range<'_, Vec<u8>, Option<Vec<u8>>>>,
    limit: usize,
    merged: &mut Vec<Pair>,
) {
    let mut page = page.into_iter().peekable();
    let mut written = written.into_iter().flatten().peekable();
    while merged.len() < limit {
        let take_page = match (page.peek(), written.peek()) {
            (Some((stored, _)), Some((over, _))) => {
                if stored == *over {
                    page.next();
                    continue;
                }
                stored < *over
            }
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return,
        };
        if take_page {
            merged.extend(page.next());
        } else if let Some((key, Some(value))) = written.next() {
            merged.push((key.clone(), value.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::memory::Memory;
    use super::super::versioned::Live;
    use super::*;

    const T: Table = Table("t");

    fn batch(entries: &[(u16, Option<u8>)]) -> Batch {
        let mut batch = Batch::default();
        for (key, value) in entries {
            batch.set(T, key.to_be_bytes().to_vec(), value.map(|value| vec![value]));
        }
        batch
    }

    /// Mostly a run of neighbours, so that pages fill up and whole pages are deleted.
    fn entries(puts_only: bool) -> impl Strategy<Value = Vec<(u16, Option<u8>)>> {
        let value = move || {
            if puts_only { any::<u8>().prop_map(Some).boxed() } else { any::<Option<u8>>().boxed() }
        };
        let run = (0u16..600, 0u16..600, value())
            .prop_map(|(from, length, value)| (from..from + length).map(|k| (k, value)).collect());
        prop_oneof![run, vec((0u16..1200, value()), 0..300)]
    }

    proptest! {
        #[test]
        fn a_stack_of_overlays_is_one_map(
            base in entries(true),
            layers in vec(entries(false), 0..4),
            start in 0u16..1300,
            end in proptest::option::of(0u16..1300),
            limit in prop_oneof![0usize..4, 250usize..260, 500usize..520, Just(usize::MAX)],
        ) {
            let memory = Memory::default();
            memory.apply(&batch(&base)).unwrap();
            let mut model: BTreeMap<u16, Option<u8>> = base.into_iter().collect();
            model.extend(layers.iter().flatten().copied());
            let layers: Vec<Batch> = layers.iter().map(|entries| batch(entries)).collect();
            let expected: Vec<Pair> = model
                .iter()
                .filter(|(key, _)| **key >= start && end.is_none_or(|end| **key < end))
                .filter_map(|(key, value)| Some((key.to_be_bytes().to_vec(), vec![(*value)?])))
                .take(limit)
                .collect();
            stacked(&layers, &memory, &mut |top| {
                let end = end.map(u16::to_be_bytes);
                let end = end.as_ref().map(<[u8; 2]>::as_slice);
                let found = top.scan(T, &start.to_be_bytes(), end, limit).unwrap();
                // Not assert_eq: hundreds of entries say nothing.
                assert!(found == expected, "{} entries for {}", found.len(), expected.len());
                let got = top.get(T, &start.to_be_bytes()).unwrap();
                assert_eq!(got, model.get(&start).copied().flatten().map(|value| vec![value]));
            });
        }
    }

    fn stacked(layers: &[Batch], below: &dyn Read, f: &mut dyn FnMut(&dyn Read)) {
        match layers.split_first() {
            None => f(below),
            Some((above, rest)) => stacked(rest, &Overlay { above, below }, f),
        }
    }
}
