//! `containerd.services.containers.v1`: records only; whether a task runs is not asked here.

use futures_util::stream::{self, StreamExt};
use gantry_api::containerd::services::containers::v1 as wire;
use gantry_api::containerd::services::containers::v1::containers_server::Containers;
use gantry_core::Error;
use gantry_metadata::stores;
use tonic::{Request, Response, Status, async_trait};

use crate::convert::{self, container};
use crate::rpc;

/// The service.
#[derive(Clone, Debug)]
pub struct ContainersService {
    containers: stores::Containers,
}

impl ContainersService {
    /// The service over a store.
    pub fn new(containers: stores::Containers) -> Self {
        Self { containers }
    }
}

#[async_trait]
impl Containers for ContainersService {
    async fn get(
        &self,
        request: Request<wire::GetContainerRequest>,
    ) -> Result<Response<wire::GetContainerResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.id);
            let found = self.containers.get(&cx, &container::existing(&cx, &message.id)?).await?;
            Ok(wire::GetContainerResponse { container: Some(container::to_wire(found)) })
        })
        .await
    }

    async fn list(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Result<Response<wire::ListContainersResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            let found = self.containers.list(&cx, convert::filters(&message.filters)?).await?;
            let containers = found.into_iter().map(container::to_wire).collect();
            Ok(wire::ListContainersResponse { containers })
        })
        .await
    }

    type ListStreamStream = rpc::Replies<wire::ListContainerMessage>;

    async fn list_stream(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Result<Response<Self::ListStreamStream>, Status> {
        rpc::namespaced_stream(request, async |cx, message| {
            let found = self.containers.list(&cx, convert::filters(&message.filters)?).await?;
            Ok(stream::iter(found).map(|found| {
                Ok(wire::ListContainerMessage { container: Some(container::to_wire(found)) })
            }))
        })
        .await
    }

    async fn create(
        &self,
        request: Request<wire::CreateContainerRequest>,
    ) -> Result<Response<wire::CreateContainerResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            let sent = convert::required("container", message.container)?;
            rpc::about(&sent.id);
            let sent = container::from_wire(sent)
                .map_err(|error| error.context("create container failed validation"))?;
            let created = self.containers.create(&cx, sent).await?;
            Ok(wire::CreateContainerResponse { container: Some(container::to_wire(created)) })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<wire::UpdateContainerRequest>,
    ) -> Result<Response<wire::UpdateContainerResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            let sent = convert::required("container", message.container)?;
            rpc::about(&sent.id);
            if sent.id.is_empty() {
                return Err(Error::invalid_argument("Container.ID required"));
            }
            container::existing(&cx, &sent.id)?;
            let mask = convert::mask(message.update_mask);
            let updated = self.containers.update(&cx, container::from_wire(sent)?, mask).await?;
            Ok(wire::UpdateContainerResponse { container: Some(container::to_wire(updated)) })
        })
        .await
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteContainerRequest>,
    ) -> Result<Response<()>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.id);
            self.containers.delete(&cx, &container::existing(&cx, &message.id)?).await
        })
        .await
    }
}
