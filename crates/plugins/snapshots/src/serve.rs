//! Serves a snapshotter as `containerd.services.snapshots.v1`, for another daemon to use.
//!
//! The name of the snapshotter in requests is not looked at: a socket serves one. Deadlines of
//! requests are kept by tonic's server, which drops the call; its cancellation fires then.

use std::sync::Arc;

use gantry_api::containerd::services::snapshots::v1 as wire;
use gantry_api::containerd::services::snapshots::v1::snapshots_server::Snapshots;
use gantry_core::filter::Filters;
use gantry_core::snapshot::Snapshotter;
use gantry_core::{CallCx, Cx, Error, LeaseId, Namespace, Result, SnapshotKey};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status};

use crate::wire as convert;

/// How many snapshots one message of a list carries.
const BATCH: usize = 100;

type Answer<T> = std::result::Result<Response<T>, Status>;

/// See the module.
#[derive(Clone)]
pub struct SnapshotService(Arc<dyn Snapshotter>);

impl SnapshotService {
    /// Serves `snapshotter`.
    pub fn new(snapshotter: Arc<dyn Snapshotter>) -> Self {
        Self(snapshotter)
    }
}

impl std::fmt::Debug for SnapshotService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotService").finish_non_exhaustive()
    }
}

/// The call that a request makes; cancelled when the guard goes.
fn open<T>(request: &Request<T>) -> Result<(Cx, DropGuard)> {
    let text = |header| request.metadata().get(header).and_then(|value| value.to_str().ok());
    let namespace = text(convert::NAMESPACE_HEADER).unwrap_or_default();
    if namespace.is_empty() {
        return Err(Error::failed_precondition("namespace is required"));
    }
    let cancel = CancellationToken::new();
    let lease = text(convert::LEASE_HEADER).map(LeaseId::new).transpose()?;
    let cx = CallCx::background(cancel.clone()).in_namespace(Namespace::new(namespace)?, lease);
    Ok((cx, cancel.drop_guard()))
}

async fn answer<Req, Res>(
    request: Request<Req>,
    handler: impl AsyncFnOnce(Cx, Req) -> Result<Res>,
) -> Answer<Res> {
    let (cx, _guard) = open(&request).map_err(|e| convert::status(&e))?;
    let answered = handler(cx, request.into_inner()).await;
    answered.map(Response::new).map_err(|e| convert::status(&e))
}

#[tonic::async_trait]
impl Snapshots for SnapshotService {
    async fn prepare(
        &self,
        request: Request<wire::PrepareSnapshotRequest>,
    ) -> Answer<wire::PrepareSnapshotResponse> {
        answer(request, async |cx, sent| {
            let (key, parent) = (SnapshotKey::new(sent.key)?, convert::parent(sent.parent));
            let labels = convert::labels(sent.labels);
            let mounts = self.0.prepare(&cx, &key, parent.as_ref(), labels).await?;
            Ok(wire::PrepareSnapshotResponse { mounts: convert::mounts_to_wire(mounts) })
        })
        .await
    }

    async fn view(
        &self,
        request: Request<wire::ViewSnapshotRequest>,
    ) -> Answer<wire::ViewSnapshotResponse> {
        answer(request, async |cx, sent| {
            let (key, parent) = (SnapshotKey::new(sent.key)?, convert::parent(sent.parent));
            let labels = convert::labels(sent.labels);
            let mounts = self.0.view(&cx, &key, parent.as_ref(), labels).await?;
            Ok(wire::ViewSnapshotResponse { mounts: convert::mounts_to_wire(mounts) })
        })
        .await
    }

    async fn mounts(&self, request: Request<wire::MountsRequest>) -> Answer<wire::MountsResponse> {
        answer(request, async |cx, sent| {
            let mounts = self.0.mounts(&cx, &SnapshotKey::new(sent.key)?).await?;
            Ok(wire::MountsResponse { mounts: convert::mounts_to_wire(mounts) })
        })
        .await
    }

    async fn commit(&self, request: Request<wire::CommitSnapshotRequest>) -> Answer<()> {
        answer(request, async |cx, sent| {
            let (name, key) = (SnapshotKey::new(sent.name)?, SnapshotKey::new(sent.key)?);
            let parent = convert::parent(sent.parent);
            let labels = convert::labels(sent.labels);
            self.0.commit(&cx, &name, &key, parent.as_ref(), labels).await
        })
        .await
    }

    async fn remove(&self, request: Request<wire::RemoveSnapshotRequest>) -> Answer<()> {
        answer(request, async |cx, sent| self.0.remove(&cx, &SnapshotKey::new(sent.key)?).await)
            .await
    }

    async fn stat(
        &self,
        request: Request<wire::StatSnapshotRequest>,
    ) -> Answer<wire::StatSnapshotResponse> {
        answer(request, async |cx, sent| {
            let info = self.0.stat(&cx, &SnapshotKey::new(sent.key)?).await?;
            Ok(wire::StatSnapshotResponse { info: Some(convert::info_to_wire(info)) })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<wire::UpdateSnapshotRequest>,
    ) -> Answer<wire::UpdateSnapshotResponse> {
        answer(request, async |cx, sent| {
            let info = sent.info.unwrap_or_default();
            let (key, labels) = (SnapshotKey::new(info.name)?, convert::labels(info.labels));
            let mask = convert::mask(sent.update_mask);
            let updated = self.0.update(&cx, &key, labels, &mask).await?;
            Ok(wire::UpdateSnapshotResponse { info: Some(convert::info_to_wire(updated)) })
        })
        .await
    }

    type ListStream = tokio_stream::Iter<
        std::vec::IntoIter<std::result::Result<wire::ListSnapshotsResponse, Status>>,
    >;

    async fn list(&self, request: Request<wire::ListSnapshotsRequest>) -> Answer<Self::ListStream> {
        answer(request, async |cx, sent| {
            let found = self.0.list(&cx, &Filters::parse(&sent.filters)?).await?;
            let infos: Vec<_> = found.into_iter().map(convert::info_to_wire).collect();
            let batches: Vec<_> = infos
                .chunks(BATCH)
                .map(|batch| Ok(wire::ListSnapshotsResponse { info: batch.to_vec() }))
                .collect();
            Ok(tokio_stream::iter(batches))
        })
        .await
    }

    async fn usage(&self, request: Request<wire::UsageRequest>) -> Answer<wire::UsageResponse> {
        answer(request, async |cx, sent| {
            let usage = self.0.usage(&cx, &SnapshotKey::new(sent.key)?).await?;
            Ok(convert::usage_to_wire(usage))
        })
        .await
    }

    async fn cleanup(&self, request: Request<wire::CleanupRequest>) -> Answer<()> {
        answer(request, async |_, _| {
            Err(Error::not_implemented("snapshotter does not implement Cleanup method"))
        })
        .await
    }
}
