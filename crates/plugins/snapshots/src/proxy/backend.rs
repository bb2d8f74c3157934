//! The calls to a snapshotter in another process, each with a bound.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use gantry_api::containerd::services::snapshots::v1 as wire;
use gantry_api::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use gantry_core::snapshot::{Mount, SnapshotInfo, Usage};
use gantry_core::{Cx, Error, FieldMask, Kind, Labels, Result};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use super::Bounds;
use crate::wire as convert;

/// Longest message either way, as containerd's.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A snapshotter behind a unix socket.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    client: SnapshotsClient<Channel>,
    /// What requests call it.
    snapshotter: String,
    socket: PathBuf,
    bounds: Bounds,
}

/// Whether a call that failed so may have had its effect all the same.
pub(super) fn is_unclear(error: &Error) -> bool {
    match error.kind() {
        Kind::Unknown
        | Kind::Internal
        | Kind::Unavailable
        | Kind::Cancelled
        | Kind::DeadlineExceeded => true,
        Kind::InvalidArgument
        | Kind::NotFound
        | Kind::AlreadyExists
        | Kind::PermissionDenied
        | Kind::ResourceExhausted
        | Kind::FailedPrecondition
        | Kind::Aborted
        | Kind::OutOfRange
        | Kind::NotImplemented
        | Kind::DataLoss
        | Kind::Unauthenticated => false,
    }
}

impl Backend {
    /// Connects when the first call is made, and again after each loss.
    pub(super) fn new(snapshotter: &str, socket: PathBuf, bounds: Bounds) -> Result<Self> {
        let bad = || {
            Error::invalid_argument(format!(
                "proxy snapshotter {snapshotter}: address {} is no absolute path of a unix socket",
                socket.display()
            ))
        };
        let path = socket.to_str().filter(|path| path.starts_with('/')).ok_or_else(bad)?;
        let endpoint = Endpoint::from_shared(format!("unix://{path}"))
            .map_err(|_| bad())?
            .connect_timeout(bounds.quick);
        let client = SnapshotsClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { client, snapshotter: snapshotter.to_owned(), socket, bounds })
    }

    fn name(&self) -> String {
        self.snapshotter.clone()
    }

    /// Makes one call within `bound` and the caller's deadline.
    async fn call<Req, Res>(
        &self,
        cx: &Cx,
        (what, bound): (&str, Duration),
        message: Req,
        call: impl AsyncFnOnce(
            SnapshotsClient<Channel>,
            Request<Req>,
        ) -> std::result::Result<Res, tonic::Status>,
    ) -> Result<Res> {
        let bound = cx.remaining(bound);
        let mut request = Request::new(message);
        request.set_timeout(bound);
        let namespace = cx.namespace().as_str().parse();
        let namespace = namespace.map_err(|_| Error::invalid_argument("namespace"))?;
        request.metadata_mut().insert(convert::NAMESPACE_HEADER, namespace);
        let end = Instant::now() + bound;
        match tokio::time::timeout(bound, call(self.client.clone(), request)).await {
            Ok(Ok(answer)) => Ok(answer),
            // The channel keeps the same bound and calls its end a cancellation.
            Ok(Err(status)) if Instant::now() < end => Err(convert::error(&status)),
            Ok(Err(_)) | Err(_) => Err(Error::deadline_exceeded(format!(
                "snapshotter {} at {} did not answer {what} within {bound:?}",
                self.snapshotter,
                self.socket.display()
            ))),
        }
    }

    pub(super) async fn prepare(
        &self,
        cx: &Cx,
        key: String,
        parent: String,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let labels = labels.into_iter().collect();
        let message =
            wire::PrepareSnapshotRequest { snapshotter: self.name(), key, parent, labels };
        let sent = self
            .call(cx, ("Prepare", self.bounds.slow), message, async |mut c, r| c.prepare(r).await);
        Ok(convert::mounts(sent.await?.into_inner().mounts))
    }

    pub(super) async fn view(
        &self,
        cx: &Cx,
        key: String,
        parent: String,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let labels = labels.into_iter().collect();
        let message = wire::ViewSnapshotRequest { snapshotter: self.name(), key, parent, labels };
        let sent =
            self.call(cx, ("View", self.bounds.slow), message, async |mut c, r| c.view(r).await);
        Ok(convert::mounts(sent.await?.into_inner().mounts))
    }

    pub(super) async fn commit(
        &self,
        cx: &Cx,
        name: String,
        key: String,
        parent: String,
        labels: Labels,
    ) -> Result<()> {
        let (snapshotter, labels) = (self.name(), labels.into_iter().collect());
        let message = wire::CommitSnapshotRequest { snapshotter, name, key, labels, parent };
        let sent = self
            .call(cx, ("Commit", self.bounds.slow), message, async |mut c, r| c.commit(r).await);
        sent.await.map(drop)
    }

    pub(super) async fn remove(&self, cx: &Cx, key: String) -> Result<()> {
        let message = wire::RemoveSnapshotRequest { snapshotter: self.name(), key };
        let sent = self
            .call(cx, ("Remove", self.bounds.slow), message, async |mut c, r| c.remove(r).await);
        sent.await.map(drop)
    }

    pub(super) async fn mounts(&self, cx: &Cx, key: String) -> Result<Vec<Mount>> {
        let message = wire::MountsRequest { snapshotter: self.name(), key };
        let sent = self
            .call(cx, ("Mounts", self.bounds.quick), message, async |mut c, r| c.mounts(r).await);
        Ok(convert::mounts(sent.await?.into_inner().mounts))
    }

    pub(super) async fn stat(&self, cx: &Cx, key: String) -> Result<SnapshotInfo> {
        let message = wire::StatSnapshotRequest { snapshotter: self.name(), key };
        let sent =
            self.call(cx, ("Stat", self.bounds.quick), message, async |mut c, r| c.stat(r).await);
        convert::info(sent.await?.into_inner().info.unwrap_or_default())
    }

    pub(super) async fn update(
        &self,
        cx: &Cx,
        key: String,
        labels: Labels,
        mask: &FieldMask,
    ) -> Result<SnapshotInfo> {
        let labels = labels.into_iter().collect();
        let message = wire::UpdateSnapshotRequest {
            snapshotter: self.name(),
            info: Some(wire::Info { name: key, labels, ..wire::Info::default() }),
            update_mask: Some(convert::mask_to_wire(mask)),
        };
        let sent = self
            .call(cx, ("Update", self.bounds.quick), message, async |mut c, r| c.update(r).await);
        convert::info(sent.await?.into_inner().info.unwrap_or_default())
    }

    pub(super) async fn usage(&self, cx: &Cx, key: String) -> Result<Usage> {
        let message = wire::UsageRequest { snapshotter: self.name(), key };
        let sent =
            self.call(cx, ("Usage", self.bounds.slow), message, async |mut c, r| c.usage(r).await);
        Ok(convert::usage(&sent.await?.into_inner()))
    }

    pub(super) async fn list(&self, cx: &Cx, filters: Vec<String>) -> Result<Vec<SnapshotInfo>> {
        let message = wire::ListSnapshotsRequest { snapshotter: self.name(), filters };
        let sent = self.call(cx, ("List", self.bounds.slow), message, async |mut c, r| {
            let mut batches = c.list(r).await?.into_inner();
            let mut all = Vec::new();
            while let Some(batch) = batches.message().await? {
                all.extend(batch.info);
            }
            Ok(all)
        });
        sent.await?.into_iter().map(convert::info).collect()
    }
}
