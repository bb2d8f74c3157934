//! Opening, and bringing folders and records together.
//!
//! A folder without a record is removed. A record without a folder is what a power cut may leave
//! of a snapshot that was opened and never committed: its folder is made again, empty as it was.
//! A committed snapshot's folder was on disk before its record; one that is missing is lost.
//!
//! The order of looking is what makes a sweep safe while snapshots are prepared: first the
//! folders, then the numbers in flight, then the records. A folder seen first is in flight until
//! its record is on disk, so one that is neither in flight later nor recorded later still is
//! garbage.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use gantry_core::filter::Filters;
use gantry_core::snapshot::{Driver, SnapshotId, SnapshotInfo, SnapshotKind};
use gantry_core::{CallCx, Error, Kind, Namespace, Result, SnapshotterName};
use gantry_metadata::collect::Reclaim;
use gantry_metadata::stores::{Namespaces, SnapshotRecords};
use gantry_metadata::{Metadata, View};
use tokio::runtime::Handle;

use super::ids::Ids;
use super::removals::Removals;
use super::shared_sync::SharedSync;
use super::{BuiltinSnapshotter, Inner};

impl<D: Driver + 'static> BuiltinSnapshotter<D> {
    /// Opens the snapshotter `name` over `driver`. Folders that no record names are removed in the
    /// background; folders that open snapshots lack are made again.
    ///
    /// # Errors
    /// What the records or the driver fail with.
    pub async fn open(
        metadata: Arc<Metadata>,
        name: SnapshotterName,
        driver: D,
    ) -> Result<Arc<Self>> {
        let runtime = Handle::current();
        let namespaces = Namespaces::new(Arc::clone(&metadata)).list(&CallCx::default()).await?;
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
            for namespace in namespaces {
                inner.heal(&namespace.name)?;
            }
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

#[async_trait]
impl<D: Driver + 'static> Reclaim for BuiltinSnapshotter<D> {
    fn name(&self) -> &str {
        self.name().as_str()
    }
    async fn reclaim(&self) -> Result<()> {
        self.reclaim().await
    }
}

impl<D: Driver + 'static> Inner<D> {
    /// Makes the folders anew that a power cut took from open snapshots of `namespace`.
    fn heal(&self, namespace: &Namespace) -> Result<()> {
        let everything = Filters::default();
        let list = |view: View<'_>| self.records.list(view, namespace, &everything);
        for entry in self.metadata.read_blocking(list)? {
            if self.driver.contains(entry.id) {
                continue;
            }
            let SnapshotInfo { name, kind, parent, .. } = &entry.info;
            if *kind == SnapshotKind::Committed {
                tracing::error!(%namespace, %name, id = entry.id.0, "snapshot's files are lost");
                continue;
            }
            let chain = |view: View<'_>| self.records.chain(view, namespace, parent.as_ref());
            let made = self
                .metadata
                .read_blocking(chain)
                .and_then(|parents| self.driver.create(entry.id, *kind, &parents));
            match made {
                Ok(()) => tracing::warn!(%namespace, %name, "snapshot's folder was made again"),
                Err(error) => {
                    let error = error.message();
                    tracing::error!(%namespace, %name, error, "snapshot has no folder");
                }
            }
        }
        Ok(())
    }

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
