//! `containerd.services.leases.v1`.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use gantry_api::containerd::services::leases::v1 as wire;
use gantry_api::containerd::services::leases::v1::leases_server::Leases;
use gantry_core::model::Lease;
use gantry_core::{Clock, LeaseId, Timestamp};
use gantry_metadata::{Scheduler, stores};
use tonic::{Request, Response, Status, async_trait};

use crate::convert::{self, lease};
use crate::rpc;

/// The service.
#[derive(Clone, Debug)]
pub struct LeasesService {
    leases: stores::Leases,
    gc: Arc<Scheduler>,
    clock: Arc<dyn Clock>,
}

impl LeasesService {
    /// The service over a store; `gc` runs for a synchronous delete.
    pub fn new(leases: stores::Leases, gc: Arc<Scheduler>, clock: Arc<dyn Clock>) -> Self {
        Self { leases, gc, clock }
    }
}

/// An id for a client that gave none: nanoseconds and a random tail, as containerd makes them.
fn random_id(now: Timestamp) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // Every `RandomState` has keys of its own; it need be unlikely to repeat, not secret.
    let random = RandomState::new().build_hasher().finish();
    let tail: String =
        (0..4).map(|i| char::from(ALPHABET[(random >> (6 * i)) as usize & 63])).collect();
    format!("{}-{tail}", now.nanos)
}

#[async_trait]
impl Leases for LeasesService {
    async fn create(
        &self,
        request: Request<wire::CreateRequest>,
    ) -> Result<Response<wire::CreateResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            let id = match message.id.is_empty() {
                true => random_id(self.clock.now()),
                false => message.id,
            };
            rpc::about(&id);
            let lease = Lease {
                id: LeaseId::new(id)?,
                created_at: Timestamp::UNSET,
                labels: convert::labels_unchecked(message.labels),
            };
            let created = self.leases.create(&cx, lease).await?;
            Ok(wire::CreateResponse { lease: Some(lease::to_wire(created)) })
        })
        .await
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Result<Response<()>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.id);
            self.leases.delete(&cx, &lease::existing(message.id)?).await?;
            if message.sync {
                self.gc.collect_now(&cx).await?;
            }
            Ok(())
        })
        .await
    }

    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<wire::ListResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            let found = self.leases.list(&cx, convert::filters(&message.filters)?).await?;
            Ok(wire::ListResponse { leases: found.into_iter().map(lease::to_wire).collect() })
        })
        .await
    }

    async fn add_resource(
        &self,
        request: Request<wire::AddResourceRequest>,
    ) -> Result<Response<()>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.id);
            let resource = lease::resource(message.resource)?;
            self.leases.add_resource(&cx, &lease::existing(message.id)?, resource).await
        })
        .await
    }

    async fn delete_resource(
        &self,
        request: Request<wire::DeleteResourceRequest>,
    ) -> Result<Response<()>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.id);
            let resource = lease::resource(message.resource)?;
            self.leases.delete_resource(&cx, &lease::existing(message.id)?, resource).await
        })
        .await
    }

    async fn list_resources(
        &self,
        request: Request<wire::ListResourcesRequest>,
    ) -> Result<Response<wire::ListResourcesResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.id);
            let held = self.leases.list_resources(&cx, &lease::existing(message.id)?).await?;
            let resources = held.into_iter().map(lease::resource_to_wire).collect();
            Ok(wire::ListResourcesResponse { resources })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_id_has_containerds_form() {
        let id = random_id(Timestamp { seconds: 5, nanos: 123 });
        let (nanos, tail) = id.split_once('-').unwrap();
        assert_eq!((nanos, tail.len()), ("123", 4));
        assert_ne!(id, random_id(Timestamp { seconds: 5, nanos: 124 }));
    }
}
