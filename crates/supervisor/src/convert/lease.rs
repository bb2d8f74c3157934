//! Leases and what they hold.

use gantry_api::containerd::services::leases::v1 as wire;
use gantry_core::model::{Lease, Resource};
use gantry_core::{Error, LeaseId, Result};

/// The id of a lease that should exist. An empty one names none.
///
/// # Errors
/// `NotFound`.
pub fn existing(id: String) -> Result<LeaseId> {
    LeaseId::new(id).map_err(|_| Error::not_found("lease \"\""))
}

/// As clients get it.
pub fn to_wire(lease: Lease) -> wire::Lease {
    wire::Lease {
        id: lease.id.into_string(),
        created_at: super::time(lease.created_at),
        labels: super::labels(lease.labels),
    }
}

/// As a client names it; the store checks the type.
///
/// # Errors
/// `InvalidArgument` when it is missing.
pub fn resource(sent: Option<wire::Resource>) -> Result<Resource> {
    let sent = super::required("resource", sent)?;
    Ok(Resource { kind: sent.r#type, id: sent.id })
}

/// As clients get it.
pub fn resource_to_wire(resource: Resource) -> wire::Resource {
    wire::Resource { id: resource.id, r#type: resource.kind }
}
