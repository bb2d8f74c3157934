//! Any sequence of calls fares as in the naive model, and folders follow records.

#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use gantry_conformance::snapshots::model::{self, Call};
use gantry_core::Result;
use gantry_core::snapshot::{Driver, Mount, SnapshotId, SnapshotKind, Usage};
use proptest::prelude::*;

/// Folders in memory.
#[derive(Clone, Default)]
struct Folders {
    ids: Arc<Mutex<BTreeSet<SnapshotId>>>,
    rebases: bool,
}

impl Driver for Folders {
    fn capabilities(&self) -> &[&'static str] {
        if self.rebases { &["rebase"] } else { &[] }
    }
    fn create(&self, id: SnapshotId, _: SnapshotKind, parents: &[SnapshotId]) -> Result<()> {
        let mut ids = self.ids.lock().unwrap();
        assert!(parents.iter().all(|parent| ids.contains(parent)), "a parent's folder is gone");
        assert!(ids.insert(id), "{id:?} was given out twice");
        Ok(())
    }
    fn mounts(&self, _: SnapshotId, _: SnapshotKind, _: &[SnapshotId]) -> Result<Vec<Mount>> {
        Ok(vec![Mount::default()])
    }
    fn usage(&self, _: SnapshotId) -> Result<Usage> {
        Ok(Usage::default())
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn remove(&self, id: SnapshotId) -> Result<()> {
        self.ids.lock().unwrap().remove(&id);
        Ok(())
    }
    fn contains(&self, id: SnapshotId) -> bool {
        self.ids.lock().unwrap().contains(&id)
    }
    fn list(&self) -> Result<Vec<SnapshotId>> {
        Ok(self.ids.lock().unwrap().iter().copied().collect())
    }
}

fn call() -> impl Strategy<Value = Call> {
    let name = || "[a-e]";
    let parent = || proptest::option::of("[a-e]");
    prop_oneof![
        3 => (name(), parent()).prop_map(|(n, p)| Call::Prepare(n, p)),
        1 => (name(), parent()).prop_map(|(n, p)| Call::View(n, p)),
        3 => (name(), name()).prop_map(|(n, k)| Call::Commit(n, k, None)),
        1 => (name(), name(), parent()).prop_map(|(n, k, p)| Call::Commit(n, k, p)),
        2 => name().prop_map(Call::Remove),
    ]
}

proptest! {
    #[test]
    fn calls_fare_as_in_the_model(
        calls in proptest::collection::vec(call(), 0..60),
        rebases: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let folders = Folders { rebases, ..Folders::default() };
            let snapshotter = support::open(&support::metadata(), folders.clone()).await;
            let model = model::agree(&*snapshotter, &support::cx(), &calls).await;
            snapshotter.wait_idle().await;
            assert_eq!(folders.list().unwrap().len(), model.len(), "folders and records");
        });
    }
}
