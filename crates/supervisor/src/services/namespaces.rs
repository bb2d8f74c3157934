//! `containerd.services.namespaces.v1`. None of its calls needs a namespace of its own.

use gantry_api::containerd::services::namespaces::v1 as wire;
use gantry_api::containerd::services::namespaces::v1::namespaces_server::Namespaces;
use gantry_core::{Error, Namespace};
use gantry_metadata::stores;
use tonic::{Request, Response, Status, async_trait};

use crate::convert::{self, namespace};
use crate::rpc;

/// The service.
#[derive(Clone, Debug)]
pub struct NamespacesService {
    namespaces: stores::Namespaces,
}

impl NamespacesService {
    /// The service over a store.
    pub fn new(namespaces: stores::Namespaces) -> Self {
        Self { namespaces }
    }
}

#[async_trait]
impl Namespaces for NamespacesService {
    async fn get(
        &self,
        request: Request<wire::GetNamespaceRequest>,
    ) -> Result<Response<wire::GetNamespaceResponse>, Status> {
        rpc::plain(request, async |cx, message| {
            let found = match Namespace::new(message.name.as_str()) {
                Ok(name) => namespace::to_wire(self.namespaces.get(&cx, &name).await?),
                // No namespace can have such a name, and one that does not exist has no labels.
                Err(_) => wire::Namespace { name: message.name, ..wire::Namespace::default() },
            };
            Ok(wire::GetNamespaceResponse { namespace: Some(found) })
        })
        .await
    }

    async fn list(
        &self,
        request: Request<wire::ListNamespacesRequest>,
    ) -> Result<Response<wire::ListNamespacesResponse>, Status> {
        rpc::plain(request, async |cx, _| {
            let found = self.namespaces.list(&cx).await?;
            let namespaces = found.into_iter().map(namespace::to_wire).collect();
            Ok(wire::ListNamespacesResponse { namespaces })
        })
        .await
    }

    async fn create(
        &self,
        request: Request<wire::CreateNamespaceRequest>,
    ) -> Result<Response<wire::CreateNamespaceResponse>, Status> {
        rpc::plain(request, async |cx, message| {
            let sent = convert::required("namespace", message.namespace)?;
            let created = self.namespaces.create(&cx, namespace::from_wire(sent)?).await?;
            Ok(wire::CreateNamespaceResponse { namespace: Some(namespace::to_wire(created)) })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<wire::UpdateNamespaceRequest>,
    ) -> Result<Response<wire::UpdateNamespaceResponse>, Status> {
        rpc::plain(request, async |cx, message| {
            let sent = convert::required("namespace", message.namespace)?;
            let mask = convert::mask(message.update_mask);
            let updated = self.namespaces.update(&cx, namespace::from_wire(sent)?, mask).await?;
            Ok(wire::UpdateNamespaceResponse { namespace: Some(namespace::to_wire(updated)) })
        })
        .await
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteNamespaceRequest>,
    ) -> Result<Response<()>, Status> {
        rpc::plain(request, async |cx, message| {
            let name = Namespace::new(message.name.as_str())
                .map_err(|_| Error::not_found(format!("namespace {:?}", message.name)))?;
            self.namespaces.delete(&cx, &name).await
        })
        .await
    }
}
