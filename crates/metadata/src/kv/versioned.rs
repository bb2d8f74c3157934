//! Consistent durable views over a store that has neither: undo records instead of versions.
//!
//! The live store holds one state, the newest, possibly not yet on disk. Before a commit touches
//! it, the old values of the keys it will write become an undo record, published under the same
//! short exclusive lock under which the commit is applied. A view of state `v` is the live store
//! seen through the undo records above `v`, oldest on top. A view takes the state of the last
//! *flushed* commit, so an applied commit is hidden until it is on disk.
//!
//! When a commit fails its undo record stays until the live store, opened anew, has been brought
//! back to it; so views never notice. A store that cannot be brought back takes no more commits
//! and goes on being read.
//!
//! Invariants: the lock is held for memory work only, never across a flush; a view reads under
//! the shared lock one step at a time, so that a long scan delays no commit for longer than a
//! page; a record lives as long as a view needs it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::StoreError;
use super::overlay::{Batch, Overlay};
use super::read::{PAGE, Pair, Read, Table};

/// An ordered store with one state, readable while it is not written.
pub(crate) trait Live: Read + Send + Sync {
    /// Makes `batch` part of the state in memory, atomically with respect to a crash.
    fn apply(&self, batch: &Batch) -> Result<(), StoreError>;
    /// Returns when everything applied is on disk.
    fn sync(&self) -> Result<(), StoreError>;
    /// Makes the store usable after a failed [`Live::apply`] or [`Live::sync`]: afterwards it is
    /// in the state before or after that apply, never between. An error: it cannot be trusted.
    fn reopen(&self) -> Result<(), StoreError>;
}

#[derive(Default)]
struct History {
    /// The undo records by the commit they undo, ascending without gaps.
    undo: VecDeque<(u64, Batch)>,
    /// The newest commit that is on disk.
    durable: u64,
    /// The last undo record has yet to be written back, because of this.
    unsettled: Option<StoreError>,
}

/// A [`Live`] store with views.
pub(crate) struct Versioned<S> {
    live: S,
    history: RwLock<History>,
    /// Views by state. Taken inside the history lock, where both are needed.
    views: std::sync::Mutex<BTreeMap<u64, usize>>,
}

impl<S: Live> Versioned<S> {
    pub(crate) fn new(live: S) -> Self {
        Self { live, history: RwLock::default(), views: std::sync::Mutex::default() }
    }

    pub(crate) fn live(&self) -> &S {
        &self.live
    }

    pub(crate) fn into_live(self) -> S {
        self.live
    }

    pub(crate) fn view(&self) -> VersionedView<'_, S> {
        let history = self.read();
        let state = history.durable;
        *self.views().entry(state).or_default() += 1;
        VersionedView { store: self, state }
    }

    /// See [`super::MetaStore::commit`].
    pub(crate) fn commit(&self, batch: &Batch, old: Batch) -> Result<(), StoreError> {
        if self.read().unsettled.is_some() {
            self.take_back()?;
        }
        let applied = {
            let mut history = self.write();
            let number = history.durable + 1;
            history.undo.push_back((number, old));
            self.live.apply(batch)
        };
        match applied.and_then(|()| self.live.sync()) {
            Ok(()) => {
                let mut history = self.write();
                history.durable += 1;
                self.prune(&mut history);
                Ok(())
            }
            Err(error) => {
                self.write().unsettled = Some(error.clone());
                if let Err(again) = self.take_back() {
                    tracing::error!(error = %again, "the failed commit is not taken back yet");
                }
                Err(error)
            }
        }
    }

    /// Brings the live store back to the last undo record and drops the record.
    fn take_back(&self) -> Result<(), StoreError> {
        let mut history = self.write();
        let Some(cause) = history.unsettled.clone() else { return Ok(()) };
        let stopped = |again: StoreError| StoreError::stopped(&cause, &again);
        self.live.reopen().map_err(stopped)?;
        if let Some((_, old)) = history.undo.back() {
            let back = differing(&self.live, old).map_err(stopped)?;
            if !back.is_empty() {
                self.live.apply(&back).map_err(stopped)?;
            }
        }
        // Under the lock, unlike any other flush: this is the rare path, and nobody should see
        // the store between two states.
        self.live.sync().map_err(stopped)?;
        history.undo.pop_back();
        history.unsettled = None;
        Ok(())
    }

    fn prune(&self, history: &mut History) {
        let oldest = self.views().keys().next().copied().unwrap_or(history.durable);
        while history.undo.front().is_some_and(|(number, _)| *number <= oldest) {
            history.undo.pop_front();
        }
    }

    // The locks guard plain maps that are whole between any two statements, so a panic while one
    // was held leaves nothing half done.
    fn read(&self) -> RwLockReadGuard<'_, History> {
        self.history.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, History> {
        self.history.write().unwrap_or_else(PoisonError::into_inner)
    }
    fn views(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, usize>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writes that bring `state` to `old` for the keys of `old`.
pub(crate) fn differing(state: &dyn Read, old: &Batch) -> Result<Batch, StoreError> {
    let mut writes = Batch::default();
    for (table, key, value) in old.iter() {
        if state.get(table, key)?.as_ref() != value {
            writes.set(table, key.clone(), value.cloned());
        }
    }
    Ok(writes)
}

/// One state of a [`Versioned`] store.
pub(crate) struct VersionedView<'a, S: Live> {
    store: &'a Versioned<S>,
    state: u64,
}

impl<S: Live> VersionedView<'_, S> {
    /// Runs `f` on the state: live store and undo records do not move meanwhile.
    fn with<T>(&self, f: impl FnOnce(&dyn Read) -> T) -> T {
        let history = self.store.read();
        let records: Vec<&Batch> = history
            .undo
            .iter()
            .filter(|(number, _)| *number > self.state)
            .map(|(_, old)| old)
            .collect();
        through(&records, &self.store.live, f)
    }
}

/// Stacks `records` (the first one on top) over `below`.
fn through<T>(records: &[&Batch], below: &dyn Read, f: impl FnOnce(&dyn Read) -> T) -> T {
    match records.split_last() {
        None => f(below),
        Some((newest, older)) => through(older, &Overlay { above: newest, below }, f),
    }
}

impl<S: Live> Read for VersionedView<'_, S> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let history = self.store.read();
        let recorded = history
            .undo
            .iter()
            .filter(|(number, _)| *number > self.state)
            .find_map(|(_, old)| old.get(table, key));
        match recorded {
            Some(value) => Ok(value.cloned()),
            None => self.store.live.get(table, key),
        }
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        let mut all: Vec<Pair> = Vec::new();
        let mut from = start.to_vec();
        while all.len() < limit {
            let want = (limit - all.len()).min(PAGE);
            let page = self.with(|state| state.scan(table, &from, end, want))?;
            let full = page.len() == want;
            all.extend(page);
            match all.last() {
                Some((last, _)) if full => {
                    from.clone_from(last);
                    from.push(0);
                }
                _ => break,
            }
        }
        Ok(all)
    }
}

impl<S: Live> Drop for VersionedView<'_, S> {
    fn drop(&mut self) {
        let mut views = self.store.views();
        if let Some(count) = views.get_mut(&self.state) {
            *count -= 1;
            if *count == 0 {
                views.remove(&self.state);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::memory::Memory;
    use super::*;

    const T: Table = Table("t");

    #[derive(Clone, Debug)]
    enum Step {
        Commit(Vec<(u8, Option<u8>)>),
        Take,
        Drop(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => vec((0u8..12, any::<Option<u8>>()), 1..6).prop_map(Step::Commit),
            2 => Just(Step::Take),
            1 => (0usize..8).prop_map(Step::Drop),
        ]
    }

    proptest! {
        #[test]
        fn every_view_stays_where_it_was(steps in vec(step(), 1..40)) {
            let store = Versioned::new(Memory::default());
            let mut model: BTreeMap<u8, u8> = BTreeMap::new();
            let mut views = Vec::new();
            for step in steps {
                match step {
                    Step::Commit(writes) => {
                        let mut batch = Batch::default();
                        for (key, value) in &writes {
                            batch.set(T, vec![*key], value.map(|value| vec![value]));
                            match value {
                                Some(value) => drop(model.insert(*key, *value)),
                                None => drop(model.remove(key)),
                            }
                        }
                        let old = batch.old_values(&store.view()).unwrap();
                        store.commit(&batch, old).unwrap();
                    }
                    Step::Take => views.push((store.view(), model.clone())),
                    Step::Drop(n) if n < views.len() => drop(views.remove(n)),
                    Step::Drop(_) => {}
                }
                for (view, then) in &views {
                    let expected: Vec<Pair> =
                        then.iter().map(|(key, value)| (vec![*key], vec![*value])).collect();
                    prop_assert_eq!(view.scan(T, &[], None, usize::MAX).unwrap(), expected);
                    for key in 0..12 {
                        let got = view.get(T, &[key]).unwrap();
                        prop_assert_eq!(got, then.get(&key).map(|value| vec![*value]));
                    }
                }
            }
            drop(views);
            let old = Batch::default();
            store.commit(&Batch::default(), old).unwrap();
            prop_assert!(store.read().undo.is_empty(), "records outlive the views");
        }
    }
}
