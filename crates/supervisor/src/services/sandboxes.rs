//! `containerd.services.sandbox.v1.Store`: records only; what runs a sandbox is its controller.

use gantry_api::containerd::services::sandbox::v1 as wire;
use gantry_api::containerd::services::sandbox::v1::store_server::Store;
use gantry_core::FieldMask;
use gantry_metadata::stores;
use tonic::{Request, Response, Status, async_trait};

use crate::convert::{self, sandbox};
use crate::rpc;

/// The service.
#[derive(Clone, Debug)]
pub struct SandboxesService {
    sandboxes: stores::Sandboxes,
}

impl SandboxesService {
    /// The service over a store.
    pub fn new(sandboxes: stores::Sandboxes) -> Self {
        Self { sandboxes }
    }
}

#[async_trait]
impl Store for SandboxesService {
    async fn create(
        &self,
        request: Request<wire::StoreCreateRequest>,
    ) -> Result<Response<wire::StoreCreateResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            let sent = convert::required("sandbox", message.sandbox)?;
            rpc::about(&sent.sandbox_id);
            let sent = sandbox::from_wire(sent)
                .map_err(|error| error.context("failed to validate sandbox"))?;
            let created = self.sandboxes.create(&cx, sent).await?;
            Ok(wire::StoreCreateResponse { sandbox: Some(sandbox::to_wire(created)) })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<wire::StoreUpdateRequest>,
    ) -> Result<Response<wire::StoreUpdateResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            let sent = convert::required("sandbox", message.sandbox)?;
            rpc::about(&sent.sandbox_id);
            sandbox::existing(&sent.sandbox_id)?;
            let mask = FieldMask::new(message.fields);
            let updated = self.sandboxes.update(&cx, sandbox::from_wire(sent)?, mask).await?;
            Ok(wire::StoreUpdateResponse { sandbox: Some(sandbox::to_wire(updated)) })
        })
        .await
    }

    async fn delete(
        &self,
        request: Request<wire::StoreDeleteRequest>,
    ) -> Result<Response<wire::StoreDeleteResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.sandbox_id);
            let id = sandbox::existing(&message.sandbox_id).map_err(|error| {
                error.context(format!("failed to delete sandbox {:?}", message.sandbox_id))
            })?;
            self.sandboxes.delete(&cx, &id).await?;
            Ok(wire::StoreDeleteResponse {})
        })
        .await
    }

    async fn list(
        &self,
        request: Request<wire::StoreListRequest>,
    ) -> Result<Response<wire::StoreListResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            let found = self.sandboxes.list(&cx, convert::filters(&message.filters)?).await?;
            Ok(wire::StoreListResponse { list: found.into_iter().map(sandbox::to_wire).collect() })
        })
        .await
    }

    async fn get(
        &self,
        request: Request<wire::StoreGetRequest>,
    ) -> Result<Response<wire::StoreGetResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.sandbox_id);
            let found = self.sandboxes.get(&cx, &sandbox::existing(&message.sandbox_id)?).await?;
            Ok(wire::StoreGetResponse { sandbox: Some(sandbox::to_wire(found)) })
        })
        .await
    }
}
