//! `containerd.services.mounts.v1`: mounts that clients cannot make from the instruction alone.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use gantry_api::containerd::services::mounts::v1 as wire;
use gantry_api::containerd::services::mounts::v1::mounts_server::Mounts;
use gantry_core::{Error, MountName};
use gantry_plugin_mounts::{Manager, Request as Wanted};
use tonic::{Request, Response, Status, async_trait};

use crate::convert::{self, mount};
use crate::rpc;

/// The service.
#[derive(Clone, Debug)]
pub struct MountsService {
    manager: Arc<Manager>,
}

impl MountsService {
    /// The service over a manager.
    pub fn new(manager: Arc<Manager>) -> Self {
        Self { manager }
    }
}

#[async_trait]
impl Mounts for MountsService {
    async fn activate(
        &self,
        request: Request<wire::ActivateRequest>,
    ) -> Result<Response<wire::ActivateResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.name);
            let wanted = Wanted {
                name: MountName::new(message.name)?,
                mounts: mount::from_wire(message.mounts),
                labels: convert::labels_checked("labels", message.labels)?,
                temporary: message.temporary,
                allowed: Vec::new(),
            };
            let made = self.manager.activate(&cx, wanted).await?;
            Ok(wire::ActivateResponse { info: Some(mount::activation(made)) })
        })
        .await
    }

    async fn deactivate(
        &self,
        request: Request<wire::DeactivateRequest>,
    ) -> Result<Response<()>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.name);
            self.manager.deactivate(&cx, mount::existing(message.name)?).await
        })
        .await
    }

    async fn info(
        &self,
        request: Request<wire::InfoRequest>,
    ) -> Result<Response<wire::InfoResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.name);
            let found = self.manager.info(&cx, mount::existing(message.name)?).await?;
            Ok(wire::InfoResponse { info: Some(mount::activation(found)) })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<wire::UpdateRequest>,
    ) -> Result<Response<wire::UpdateResponse>, Status> {
        // As in containerd: labels decide how long a mount lives, and are given once.
        rpc::namespaced(request, async |_, _| Err(Error::not_implemented(""))).await
    }

    type ListStream = rpc::Replies<wire::ListMessage>;

    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        // As in containerd, filters select nothing: all are sent.
        rpc::namespaced_stream(request, async |cx, _| {
            let found = self.manager.list(&cx).await?;
            Ok(stream::iter(found)
                .map(|found| Ok(wire::ListMessage { info: Some(mount::activation(found)) })))
        })
        .await
    }
}
