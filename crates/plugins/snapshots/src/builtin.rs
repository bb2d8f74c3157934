//! A snapshotter over a driver and the records in the metadata store.
//!
//! ```text
//! prepare  read records -> make folder ------------------> record (one transaction) -> reply
//! commit   read record  -> measure -> sync, shared ------> record (one transaction) -> reply
//! remove   record (one transaction) -> reply ........ folder goes behind it
//! ```
//!
//! Each call that changes something is one job on a blocking thread that runs to its end even if
//! its caller goes away, so a folder and its record never part.
//!
//! Invariants: on any failure of a prepare its folder is removed; after a crash
//! [`BuiltinSnapshotter::open`] removes folders without a record; a commit's files are on disk
//! before its record; what was being written when a sync failed is never committed.
//! Must not: hold a lock while a transaction runs; give a number out twice.

mod ids;
mod removals;
mod shared_sync;
mod sweep;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use gantry_core::filter::Filters;
use gantry_core::snapshot::{
    Driver, Mount, SnapshotId, SnapshotInfo, SnapshotKind, Snapshotter, Usage,
};
use gantry_core::{Cx, Error, FieldMask, Kind, Labels, Result, SnapshotKey, SnapshotterName};
use gantry_metadata::stores::{SNAPSHOT_REF, SnapshotCommit, SnapshotEntry, SnapshotRecords};
use gantry_metadata::{Metadata, View};

use ids::Ids;
use removals::Removals;
use shared_sync::SharedSync;

/// See the module.
pub struct BuiltinSnapshotter<D: Driver + 'static> {
    inner: Arc<Inner<D>>,
}

struct Inner<D> {
    metadata: Arc<Metadata>,
    records: SnapshotRecords,
    driver: Arc<D>,
    ids: Arc<Ids>,
    sync: SharedSync,
    removals: Arc<Removals<D>>,
    /// Snapshots below this number were open when a sync failed: the kernel has forgotten which
    /// of their writes are lost, so none of them may be committed.
    suspect_below: AtomicU64,
}

impl<D: Driver + 'static> std::fmt::Debug for BuiltinSnapshotter<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuiltinSnapshotter")
            .field("name", self.inner.records.snapshotter())
            .finish_non_exhaustive()
    }
}

/// What a prepare or a view asks for.
struct Request {
    cx: Cx,
    key: SnapshotKey,
    parent: Option<SnapshotKey>,
    kind: SnapshotKind,
    labels: Labels,
}

impl<D: Driver + 'static> BuiltinSnapshotter<D> {
    /// Runs `work` to its end on a blocking thread.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner<D>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .map_err(|e| Error::caused(Kind::Internal, format!("snapshotter {}", self.name()), e))?
    }

    /// The name under which it is loaded.
    pub fn name(&self) -> &SnapshotterName {
        self.inner.records.snapshotter()
    }

    async fn open_snapshot(&self, request: Request) -> Result<Vec<Mount>> {
        request.cx.check()?;
        self.blocking(move |inner| inner.open_snapshot(&request)).await
    }

    async fn entry(&self, cx: &Cx, key: &SnapshotKey) -> Result<SnapshotEntry> {
        let (records, ns, key) = (self.inner.records.clone(), cx.namespace().clone(), key.clone());
        self.inner.metadata.read(move |view| records.get(view, &ns, &key)).await
    }
}

impl<D: Driver + 'static> Inner<D> {
    /// The parents' numbers if nothing is in the way.
    fn parents_if_free(
        &self,
        view: View<'_>,
        request: &Request,
    ) -> Result<Option<Vec<SnapshotId>>> {
        let ns = request.cx.namespace();
        if let Some(target) = request.labels.get(SNAPSHOT_REF)
            && self.records.find(view, ns, &SnapshotKey::new(target)?)?.is_some()
        {
            return Ok(None);
        }
        if self.records.find(view, ns, &request.key)?.is_some() {
            return Ok(None);
        }
        self.records.chain(view, ns, request.parent.as_ref()).map(Some)
    }

    fn open_snapshot(&self, request: &Request) -> Result<Vec<Mount>> {
        try_fail_point!("snapshot.prepare/before-folder");
        let parents = match self.metadata.read_blocking(|v| self.parents_if_free(v, request))? {
            Some(parents) => parents,
            None => self.lease_what_is_in_the_way(request)?,
        };
        let flight = self.ids.take();
        let opened = self.make_and_record(request, flight.id, &parents);
        if opened.is_err()
            && let Err(error) = self.driver.remove(flight.id)
        {
            // The first failure is the one to report; what this leaves, the next sweep removes.
            tracing::warn!(id = flight.id.0, error = error.message(), "snapshot folder stays");
        }
        opened
    }

    /// Leases the object that makes a prepare fail, and fails. Returns the parents' numbers if it
    /// has gone away meanwhile.
    fn lease_what_is_in_the_way(&self, request: &Request) -> Result<Vec<SnapshotId>> {
        let records = self.records.clone();
        let (cx, key) = (request.cx.clone(), request.key.clone());
        let (labels, parent) = (request.labels.clone(), request.parent.clone());
        self.metadata.update_blocking(move |tx| {
            records.check_free(tx, &cx, &key, &labels)?;
            records.chain(tx.view(), cx.namespace(), parent.as_ref())
        })
    }

    fn make_and_record(
        &self,
        request: &Request,
        id: SnapshotId,
        parents: &[SnapshotId],
    ) -> Result<Vec<Mount>> {
        if let Err(error) = self.driver.create(id, request.kind, parents) {
            // Removed meanwhile, a parent's folder may be what was missing.
            let (ns, parent) = (request.cx.namespace(), request.parent.as_ref());
            self.metadata.read_blocking(|view| self.records.chain(view, ns, parent))?;
            return Err(error);
        }
        let mounts = self.driver.mounts(id, request.kind, parents)?;
        try_fail_point!("snapshot.prepare/before-record");
        let now = self.metadata.clock().now();
        let entry = SnapshotEntry {
            info: SnapshotInfo {
                kind: request.kind,
                name: request.key.clone(),
                parent: request.parent.clone(),
                labels: request.labels.clone(),
                created_at: now,
                updated_at: now,
            },
            id,
            usage: Usage::default(),
            backend_key: String::new(),
        };
        let (records, cx) = (self.records.clone(), request.cx.clone());
        self.metadata.update_blocking(move |tx| records.insert(tx, &cx, entry))?;
        fail::fail_point!("snapshot.prepare/after-record");
        Ok(mounts)
    }

    fn commit(&self, cx: Cx, commit: SnapshotCommit) -> Result<()> {
        let found = self.metadata.read_blocking(|view| {
            let taken = self.records.find(view, cx.namespace(), &commit.name)?.is_some();
            let found = self.records.find(view, cx.namespace(), &commit.key)?;
            Ok(found.filter(|e| !taken && e.info.kind == SnapshotKind::Active))
        })?;
        // Where the transaction is going to refuse, there is nothing to measure and to sync.
        let ready = match &found {
            Some(active) => self.make_durable(&cx, active, commit.parent.as_ref())?,
            None => None,
        };
        let durable = ready.map(|(id, _)| id);
        let usage = ready.map_or_else(Usage::default, |(_, usage)| usage);
        try_fail_point!("snapshot.commit/before-record");
        let records = self.records.clone();
        let commit = SnapshotCommit { usage, ..commit };
        self.metadata.update_blocking(move |tx| {
            let key = commit.key.clone();
            let now = records.find(tx.view(), cx.namespace(), &key)?.map(|e| e.id);
            records.commit(tx, &cx, commit)?;
            if now != durable {
                return Err(Error::aborted(format!(
                    "snapshot {key} was replaced while it was being committed: try again"
                )));
            }
            Ok(())
        })?;
        fail::fail_point!("snapshot.commit/after-record");
        Ok(())
    }

    /// Measures `active` and brings its files to disk. `None` when it has gone away meanwhile.
    fn make_durable(
        &self,
        cx: &Cx,
        active: &SnapshotEntry,
        parent: Option<&SnapshotKey>,
    ) -> Result<Option<(SnapshotId, Usage)>> {
        let key = &active.info.name;
        let rebases = active.info.parent.is_none() && parent.is_some();
        if rebases && !self.driver.capabilities().contains(&"rebase") {
            return Err(Error::not_implemented(format!(
                "snapshotter {} cannot give snapshot {key} a parent at its commit",
                self.records.snapshotter()
            )));
        }
        let usage = match self.driver.usage(active.id) {
            Err(_) if !self.names(cx, key, active.id)? => return Ok(None),
            usage => usage?,
        };
        try_fail_point!("snapshot.commit/before-sync");
        self.sync.run(|| {
            let synced = self.sync_driver();
            if synced.is_err() {
                self.suspect_below.fetch_max(self.ids.next(), Ordering::SeqCst);
            }
            synced
        })?;
        if active.id.0 < self.suspect_below.load(Ordering::SeqCst) {
            return Err(Error::data_loss(format!(
                "writes to snapshot {key} may be lost, for a sync of its file system has failed: \
                 remove it and prepare it again"
            )));
        }
        Ok(Some((active.id, usage)))
    }

    /// Whether `key` still names the snapshot `id`.
    fn names(&self, cx: &Cx, key: &SnapshotKey, id: SnapshotId) -> Result<bool> {
        let now = self.metadata.read_blocking(|v| self.records.find(v, cx.namespace(), key))?;
        Ok(now.is_some_and(|entry| entry.id == id))
    }

    fn usage(&self, cx: &Cx, entry: &SnapshotEntry) -> Result<Usage> {
        let usage = self.driver.usage(entry.id);
        if usage.is_err() && !self.names(cx, &entry.info.name, entry.id)? {
            // Removed while it was being measured.
            let (ns, key) = (cx.namespace(), &entry.info.name);
            return self.metadata.read_blocking(|v| self.records.get(v, ns, key)).map(|e| e.usage);
        }
        usage
    }

    fn sync_driver(&self) -> Result<()> {
        try_fail_point!("snapshot.commit/sync");
        self.driver.sync()
    }

    fn remove(&self, cx: Cx, key: SnapshotKey) -> Result<()> {
        try_fail_point!("snapshot.remove/before-record");
        let records = self.records.clone();
        let entry = self.metadata.update_blocking(move |tx| records.remove(tx, &cx, &key))?;
        fail::fail_point!("snapshot.remove/after-record");
        self.removals.push(entry.id);
        Ok(())
    }
}

#[async_trait]
impl<D: Driver + 'static> Snapshotter for BuiltinSnapshotter<D> {
    fn capabilities(&self) -> &[&'static str] {
        self.inner.driver.capabilities()
    }

    async fn stat(&self, cx: &Cx, key: &SnapshotKey) -> Result<SnapshotInfo> {
        self.entry(cx, key).await.map(|entry| entry.info)
    }

    async fn update(
        &self,
        cx: &Cx,
        key: &SnapshotKey,
        labels: Labels,
        mask: &FieldMask,
    ) -> Result<SnapshotInfo> {
        let records = self.inner.records.clone();
        let (cx, key, mask) = (cx.clone(), key.clone(), mask.clone());
        self.inner.metadata.update(move |tx| records.update(tx, &cx, &key, &labels, &mask)).await
    }

    async fn usage(&self, cx: &Cx, key: &SnapshotKey) -> Result<Usage> {
        let entry = self.entry(cx, key).await?;
        match entry.info.kind {
            SnapshotKind::Active => {
                let cx = cx.clone();
                self.blocking(move |inner| inner.usage(&cx, &entry)).await
            }
            SnapshotKind::Committed | SnapshotKind::View => Ok(entry.usage),
        }
    }

    async fn mounts(&self, cx: &Cx, key: &SnapshotKey) -> Result<Vec<Mount>> {
        let (records, ns, key) = (self.inner.records.clone(), cx.namespace().clone(), key.clone());
        let (entry, parents) = self
            .inner
            .metadata
            .read(move |view| {
                let entry = records.get(view, &ns, &key)?;
                if entry.info.kind == SnapshotKind::Committed {
                    return Err(Error::failed_precondition(format!(
                        "failed to get active mount: requested snapshot {key} not active or view"
                    )));
                }
                let parents = records.chain(view, &ns, entry.info.parent.as_ref())?;
                Ok((entry, parents))
            })
            .await?;
        self.inner.driver.mounts(entry.id, entry.info.kind, &parents)
    }

    async fn prepare(
        &self,
        cx: &Cx,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let (cx, key, parent) = (cx.clone(), key.clone(), parent.cloned());
        let kind = SnapshotKind::Active;
        self.open_snapshot(Request { cx, key, parent, kind, labels }).await
    }

    async fn view(
        &self,
        cx: &Cx,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let (cx, key, parent) = (cx.clone(), key.clone(), parent.cloned());
        let kind = SnapshotKind::View;
        self.open_snapshot(Request { cx, key, parent, kind, labels }).await
    }

    async fn commit(
        &self,
        cx: &Cx,
        name: &SnapshotKey,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<()> {
        cx.check()?;
        let cx = cx.clone();
        let (name, key, parent) = (name.clone(), key.clone(), parent.cloned());
        let (usage, backend_key) = (Usage::default(), String::new());
        let commit = SnapshotCommit { name, key, parent, labels, usage, backend_key };
        self.blocking(move |inner| inner.commit(cx, commit)).await
    }

    async fn remove(&self, cx: &Cx, key: &SnapshotKey) -> Result<()> {
        cx.check()?;
        let (cx, key) = (cx.clone(), key.clone());
        self.blocking(move |inner| inner.remove(cx, key)).await
    }

    async fn list(&self, cx: &Cx, filters: &Filters) -> Result<Vec<SnapshotInfo>> {
        let (records, ns, filters) =
            (self.inner.records.clone(), cx.namespace().clone(), filters.clone());
        let found = self.inner.metadata.read(move |view| records.list(view, &ns, &filters)).await?;
        Ok(found.into_iter().map(|entry| entry.info).collect())
    }
}
