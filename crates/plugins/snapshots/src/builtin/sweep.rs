//! Opening, and removing folders that no record names.
//!
//! The order of looking is what makes a sweep safe while snapshots are prepared: first the
//! folders, then the numbers in flight, then the records. A folder seen first is in flight until
//! its record is on disk, so one that is neither in flight later nor recorded later still is
//! garbage.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use gantry_core::snapshot::{Driver, SnapshotId};
use gantry_core::{Error, Kind, Result, SnapshotterName};
use gantry_metadata::Metadata;
use gantry_metadata::stores::SnapshotRecords;
use tokio::runtime::Handle;

use super::ids::Ids;
use super::removals::Removals;
use super::shared_sync::SharedSync;
use super::{BuiltinSnapshotter, Inner};

impl<D: Driver + 'static> BuiltinSnapshotter<D> {
    /// Opens the snapshotter `name` over `driver`. Folders that no record names are removed in the
    /// background.
    ///
    /// # Errors
    /// What the records or the driver fail with.
    pub async fn open(
        metadata: Arc<Metadata>,
        name: SnapshotterName,
        driver: D,
    ) -> Result<Arc<Self>> {
        let runtime = Handle::current();
        let opened = tokio::task::spawn_blocking(move || {
            let records = SnapshotRecords::new(name);
            let driver = Arc::new(driver);
            let folders = driver.list()?;
            let recorded = metadata.read_blocking(|view| records.ids(view))?;
            let last = folders.iter().chain(&recorded).max().map_or(0, |id| id.0);
            let inner = Inner {
                metadata,
                records,
                ids: Ids::above(last),
                sync: SharedSync::default(),
                removals: Removals::new(Arc::clone(&driver), runtime),
                suspect_below: AtomicU64::new(0),
                driver,
            };
            inner.sweep()?;
            Ok(Arc::new(Self { inner: Arc::new(inner) }))
        });
        opened.await.map_err(|e| Error::caused(Kind::Internal, "open snapshotter", e))?
    }

    /// Removes the folders that no record names, after a collection has removed records; returns
    /// when they are gone.
    ///
    /// # Errors
    /// `FailedPrecondition` when some cannot be removed; what the records or the driver fail with.
    pub async fn reclaim(&self) -> Result<()> {
        let garbage = self.blocking(Inner::sweep).await?;
        self.wait_idle().await;
        self.inner.removals.check(&garbage)
    }

    /// Returns once the folders of all snapshots removed so far are dealt with: for removals whose
    /// caller must find nothing left.
    pub async fn wait_idle(&self) {
        self.inner.removals.idle().await;
    }
}

impl<D: Driver + 'static> Inner<D> {
    /// Has the folders that no record names removed and returns their numbers.
    fn sweep(&self) -> Result<BTreeSet<SnapshotId>> {
        let mut garbage: BTreeSet<_> = self.driver.list()?.into_iter().collect();
        for id in self.ids.in_flight() {
            garbage.remove(&id);
        }
        for id in self.metadata.read_blocking(|view| self.records.ids(view))? {
            garbage.remove(&id);
        }
        for id in &garbage {
            self.removals.push(*id);
        }
        Ok(garbage)
    }
}
