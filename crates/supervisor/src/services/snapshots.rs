//! `containerd.services.snapshots.v1`: every call names the snapshotter it is for.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream;
use gantry_api::containerd::services::snapshots::v1 as wire;
use gantry_api::containerd::services::snapshots::v1::snapshots_server::Snapshots;
use gantry_core::snapshot::Snapshotter;
use gantry_core::{Error, Result, SnapshotKey};
use tonic::{Request, Response, Status, async_trait};

use crate::convert::{self, mount, snapshot};
use crate::rpc;

/// How many snapshots one reply of a list carries.
const BATCH: usize = 100;

/// The service.
#[derive(Clone)]
pub struct SnapshotsService {
    loaded: Arc<BTreeMap<String, Arc<dyn Snapshotter>>>,
}

impl SnapshotsService {
    /// The service over the loaded snapshotters, by name.
    pub fn new(loaded: BTreeMap<String, Arc<dyn Snapshotter>>) -> Self {
        Self { loaded: Arc::new(loaded) }
    }

    fn named(&self, name: &str) -> Result<&Arc<dyn Snapshotter>> {
        if name.is_empty() {
            return Err(Error::invalid_argument("snapshotter argument missing"));
        }
        let missing = || Error::invalid_argument(format!("snapshotter not loaded: {name}"));
        self.loaded.get(name).ok_or_else(missing)
    }
}

/// The key of a snapshot that should exist. An empty one names none.
fn existing(key: String) -> Result<SnapshotKey> {
    SnapshotKey::new(key).map_err(|_| Error::not_found("snapshot \"\" does not exist"))
}

#[async_trait]
impl Snapshots for SnapshotsService {
    async fn prepare(
        &self,
        request: Request<wire::PrepareSnapshotRequest>,
    ) -> std::result::Result<Response<wire::PrepareSnapshotResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.key);
            let snapshotter = self.named(&message.snapshotter)?;
            let key = SnapshotKey::new(message.key)?;
            let parent = snapshot::parent(message.parent)?;
            let labels = convert::labels_checked("info.Labels", message.labels)?;
            let mounts = snapshotter.prepare(&cx, &key, parent.as_ref(), labels).await?;
            Ok(wire::PrepareSnapshotResponse { mounts: mount::to_wire(mounts) })
        })
        .await
    }

    async fn view(
        &self,
        request: Request<wire::ViewSnapshotRequest>,
    ) -> std::result::Result<Response<wire::ViewSnapshotResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.key);
            let snapshotter = self.named(&message.snapshotter)?;
            let key = SnapshotKey::new(message.key)?;
            let parent = snapshot::parent(message.parent)?;
            let labels = convert::labels_checked("info.Labels", message.labels)?;
            let mounts = snapshotter.view(&cx, &key, parent.as_ref(), labels).await?;
            Ok(wire::ViewSnapshotResponse { mounts: mount::to_wire(mounts) })
        })
        .await
    }

    async fn mounts(
        &self,
        request: Request<wire::MountsRequest>,
    ) -> std::result::Result<Response<wire::MountsResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.key);
            let snapshotter = self.named(&message.snapshotter)?;
            let mounts = snapshotter.mounts(&cx, &existing(message.key)?).await?;
            Ok(wire::MountsResponse { mounts: mount::to_wire(mounts) })
        })
        .await
    }

    async fn commit(
        &self,
        request: Request<wire::CommitSnapshotRequest>,
    ) -> std::result::Result<Response<()>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.key);
            let snapshotter = self.named(&message.snapshotter)?;
            let name = SnapshotKey::new(message.name)?;
            let key = existing(message.key)?;
            let parent = snapshot::parent(message.parent)?;
            let labels = convert::labels_checked("info.Labels", message.labels)?;
            snapshotter.commit(&cx, &name, &key, parent.as_ref(), labels).await
        })
        .await
    }

    async fn remove(
        &self,
        request: Request<wire::RemoveSnapshotRequest>,
    ) -> std::result::Result<Response<()>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.key);
            self.named(&message.snapshotter)?.remove(&cx, &existing(message.key)?).await
        })
        .await
    }

    async fn stat(
        &self,
        request: Request<wire::StatSnapshotRequest>,
    ) -> std::result::Result<Response<wire::StatSnapshotResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.key);
            let snapshotter = self.named(&message.snapshotter)?;
            let found = snapshotter.stat(&cx, &existing(message.key)?).await?;
            Ok(wire::StatSnapshotResponse { info: Some(snapshot::to_wire(found)) })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<wire::UpdateSnapshotRequest>,
    ) -> std::result::Result<Response<wire::UpdateSnapshotResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            let snapshotter = self.named(&message.snapshotter)?;
            let sent = convert::required("info", message.info)?;
            rpc::about(&sent.name);
            let key = existing(sent.name)?;
            let labels = convert::labels_checked("info.Labels", sent.labels)?;
            let mask = convert::mask(message.update_mask);
            let updated = snapshotter.update(&cx, &key, labels, &mask).await?;
            Ok(wire::UpdateSnapshotResponse { info: Some(snapshot::to_wire(updated)) })
        })
        .await
    }

    type ListStream = rpc::Replies<wire::ListSnapshotsResponse>;

    async fn list(
        &self,
        request: Request<wire::ListSnapshotsRequest>,
    ) -> std::result::Result<Response<Self::ListStream>, Status> {
        rpc::namespaced_stream(request, async |cx, message| {
            let snapshotter = self.named(&message.snapshotter)?;
            // A plain error in containerd, so clients see code Unknown.
            let filters = convert::filters(&message.filters)
                .map_err(|error| Error::unknown(error.message()))?;
            let found = snapshotter.list(&cx, &filters).await?;
            let infos: Vec<_> = found.into_iter().map(snapshot::to_wire).collect();
            let batches: Vec<_> = infos
                .chunks(BATCH)
                .map(|batch| Ok(wire::ListSnapshotsResponse { info: batch.to_vec() }))
                .collect();
            Ok(stream::iter(batches))
        })
        .await
    }

    async fn usage(
        &self,
        request: Request<wire::UsageRequest>,
    ) -> std::result::Result<Response<wire::UsageResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.key);
            let snapshotter = self.named(&message.snapshotter)?;
            let usage = snapshotter.usage(&cx, &existing(message.key)?).await?;
            Ok(snapshot::usage_to_wire(usage))
        })
        .await
    }

    async fn cleanup(
        &self,
        request: Request<wire::CleanupRequest>,
    ) -> std::result::Result<Response<()>, Status> {
        rpc::namespaced(request, async |_, message| {
            self.named(&message.snapshotter)?;
            Err(Error::not_implemented("snapshotter does not implement Cleanup method"))
        })
        .await
    }
}
