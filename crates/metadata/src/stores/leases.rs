//! Leases: they keep what nothing refers to yet from being collected.
//!
//! A lease holds resources by kind and id; the objects need not exist. Calls that carry a lease
//! add what they touch with [`hold`], in their own transaction, and drop what they remove with
//! [`release`].

use std::sync::Arc;

use gantry_core::filter::Filters;
use gantry_core::model::{Lease, Resource};
use gantry_core::{Cx, Digest, Error, LeaseId, Namespace, Result};

use super::namespaces;
use crate::schema::{Key, LEASE, LEASE_RESOURCE, Parts};
use crate::{Metadata, Tx, View};

pub(crate) fn key(namespace: &Namespace, id: &LeaseId) -> Vec<u8> {
    Key::of(namespace).last(id.as_str())
}

fn resource_key(namespace: &Namespace, lease: &LeaseId, kind: &str, id: &str) -> Vec<u8> {
    Key::of(namespace).sized(lease.as_str()).sized(kind).last(id)
}

/// Adds a resource to the lease of the call, if it has one.
///
/// # Errors
/// `NotFound` when that lease does not exist.
pub fn hold(tx: &mut Tx<'_, '_>, cx: &Cx, kind: &str, id: &str) -> Result<()> {
    let Some(lease) = cx.lease() else { return Ok(()) };
    if !tx.view().contains(LEASE, &key(cx.namespace(), lease))? {
        return Err(Error::not_found("lease does not exist"));
    }
    tx.mark(LEASE_RESOURCE, &resource_key(cx.namespace(), lease, kind, id))
}

/// Drops a resource from the lease of the call, if it has one and the lease holds it.
///
/// # Errors
/// What the store below fails with.
pub fn release(tx: &mut Tx<'_, '_>, cx: &Cx, kind: &str, id: &str) -> Result<()> {
    if let Some(lease) = cx.lease() {
        tx.unmark(LEASE_RESOURCE, &resource_key(cx.namespace(), lease, kind, id));
    }
    Ok(())
}

/// Checks a resource as a client names it.
fn check(resource: &Resource) -> Result<()> {
    let Resource { kind, id } = resource;
    let mut parts = kind.split('/');
    let (first, rest) = (parts.next().unwrap_or_default(), parts.count());
    match first {
        "content" | "ingests" | "images" if rest > 0 => {
            Err(Error::invalid_argument(format!("invalid resource type {kind}")))
        }
        "content" => Digest::parse(id.as_str())
            .map(drop)
            .map_err(|e| Error::invalid_argument(format!("invalid content resource id {id}: {e}"))),
        "ingests" | "images" => Ok(()),
        "snapshots" if rest == 1 => Ok(()),
        "snapshots" => {
            Err(Error::invalid_argument(format!("invalid snapshot resource type {kind}")))
        }
        _ => Err(Error::not_implemented(format!("resource type {kind} not supported yet"))),
    }
}

fn require(view: View<'_>, namespace: &Namespace, id: &LeaseId) -> Result<()> {
    if view.contains(LEASE, &key(namespace, id))? {
        return Ok(());
    }
    Err(Error::not_found(format!("lease {id:?}")))
}

/// The resources that leases hold, each with its lease's id, for one namespace.
pub type LeaseResources = Vec<(LeaseId, Resource)>;

/// The leases of all namespaces, each call within one.
#[derive(Clone, Debug)]
pub struct Leases(Arc<Metadata>);

impl Leases {
    /// The leases in `metadata`.
    pub fn new(metadata: Arc<Metadata>) -> Self {
        Self(metadata)
    }

    /// Records a lease. Its labels are taken unchecked, as containerd does.
    ///
    /// # Errors
    /// `AlreadyExists`.
    pub async fn create(&self, cx: &Cx, mut lease: Lease) -> Result<Lease> {
        let namespace = cx.namespace().clone();
        self.0
            .update(move |tx| {
                let key = key(&namespace, &lease.id);
                if tx.view().contains(LEASE, &key)? {
                    return Err(Error::already_exists(format!("lease {:?}", lease.id)));
                }
                namespaces::ensure(tx, &namespace)?;
                lease.created_at = tx.now();
                tx.put(LEASE, &key, &lease)?;
                Ok(lease)
            })
            .await
    }

    /// Ends a lease; what only it held goes with the next collection.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete(&self, cx: &Cx, id: &LeaseId) -> Result<()> {
        let (namespace, id) = (cx.namespace().clone(), id.clone());
        self.0.update(move |tx| remove(tx, &namespace, &id)).await
    }

    /// All leases that match, in byte order of their ids.
    ///
    /// # Errors
    /// `DataLoss` when a record is damaged.
    pub async fn list(&self, cx: &Cx, filters: Filters) -> Result<Vec<Lease>> {
        let namespace = cx.namespace().clone();
        self.0
            .read(move |view| {
                let mut found = Vec::new();
                view.each_below(LEASE, &Key::of(&namespace).prefix(), |key, value| {
                    let mut parts = Parts::of(key);
                    parts.identifier();
                    let id = LeaseId::new(parts.last().unwrap_or_default())?;
                    let lease = crate::codec::decode::<Lease>(LEASE, id, &value)?;
                    if filters.matches(&lease) {
                        found.push(lease);
                    }
                    Ok(())
                })?;
                Ok(found)
            })
            .await
    }

    /// Adds a resource; adding it again is success, and it need not exist.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` or `NotImplemented` for the resource's type.
    pub async fn add_resource(&self, cx: &Cx, id: &LeaseId, resource: Resource) -> Result<()> {
        let (namespace, id) = (cx.namespace().clone(), id.clone());
        self.0
            .update(move |tx| {
                require(tx.view(), &namespace, &id)?;
                check(&resource)?;
                let key = resource_key(&namespace, &id, &resource.kind, &resource.id);
                tx.mark(LEASE_RESOURCE, &key)
            })
            .await
    }

    /// Drops a resource; one that is not held is success.
    ///
    /// # Errors
    /// As [`Leases::add_resource`].
    pub async fn delete_resource(&self, cx: &Cx, id: &LeaseId, resource: Resource) -> Result<()> {
        let (namespace, id) = (cx.namespace().clone(), id.clone());
        self.0
            .update(move |tx| {
                require(tx.view(), &namespace, &id)?;
                check(&resource)?;
                let key = resource_key(&namespace, &id, &resource.kind, &resource.id);
                tx.frees();
                tx.unmark(LEASE_RESOURCE, &key);
                Ok(())
            })
            .await
    }

    /// What the lease holds: content, then images, ingests, snapshots.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn list_resources(&self, cx: &Cx, id: &LeaseId) -> Result<Vec<Resource>> {
        let (namespace, id) = (cx.namespace().clone(), id.clone());
        self.0
            .read(move |view| {
                require(view, &namespace, &id)?;
                resources_of(view, &namespace, &id)
            })
            .await
    }
}

/// What one lease holds, ordered by kind and id.
pub(crate) fn resources_of(
    view: View<'_>,
    namespace: &Namespace,
    id: &LeaseId,
) -> Result<Vec<Resource>> {
    let below = Key::of(namespace).sized(id.as_str()).prefix();
    let mut held = Vec::new();
    view.each_key_below(LEASE_RESOURCE, &below, |key| {
        let mut parts = Parts::of(key);
        parts.identifier();
        parts.sized();
        if let (Some(kind), Some(id)) = (parts.sized(), parts.last()) {
            held.push(Resource { kind: kind.to_owned(), id: id.to_owned() });
        }
        Ok(())
    })?;
    // Keys order kinds by length first; clients see them by name.
    held.sort();
    Ok(held)
}

/// Removes a lease with all that it holds.
pub(crate) fn remove(tx: &mut Tx<'_, '_>, namespace: &Namespace, id: &LeaseId) -> Result<()> {
    require(tx.view(), namespace, id)?;
    tx.frees();
    let below = Key::of(namespace).sized(id.as_str()).prefix();
    let mut keys = Vec::new();
    tx.view().each_key_below(LEASE_RESOURCE, &below, |key| {
        keys.push(key.to_vec());
        Ok(())
    })?;
    for key in keys {
        tx.unmark(LEASE_RESOURCE, &key);
    }
    tx.delete(LEASE, &key(namespace, id))
}
