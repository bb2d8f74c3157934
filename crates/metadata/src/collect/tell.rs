//! Telling the store's rows to the marking.

use gantry_api::gantry::store::v1 as wire;
use gantry_core::model::{Container, Image, Lease, Sandbox};
use gantry_core::snapshot::SnapshotInfo;
use gantry_core::{
    ContainerId, Error, ImageName, Kind, Labels, LeaseId, MountName, Result, SandboxId,
    SnapshotKey, Timestamp,
};
use gantry_gc::{Node, Object};
use prost::Message;

use crate::View;
use crate::codec::{Stored, decode, from_time};
use crate::kv::Table;
use crate::schema::{
    CONTAINER, CONTENT, IMAGE, INGEST, LEASE, LEASE_RESOURCE, MOUNT, Parts, SANDBOX, SNAPSHOT,
};
use crate::stores::{Activation, ActivationState, SnapshotEntry};
use crate::values;

/// Every table whose rows are nodes or edges.
const TOLD: &[Table] =
    &[LEASE, LEASE_RESOURCE, IMAGE, CONTENT, INGEST, SNAPSHOT, CONTAINER, SANDBOX, MOUNT];

/// All rows of one state.
pub(super) fn everything(view: View<'_>, now: Timestamp) -> Result<gantry_gc::View> {
    let mut graph = gantry_gc::View::new(now);
    for table in TOLD {
        if *table == LEASE_RESOURCE {
            view.each_key_below(*table, &[], |key| resource(key, &mut graph).map(drop))?;
        } else {
            view.each_below(*table, &[], |key, value| {
                row(*table, key, &value, &mut graph).map(drop)
            })?;
        }
    }
    Ok(graph)
}

/// A row that was written meanwhile: told again as it is now, and a root. `false` when it is gone
/// or no node.
pub(super) fn noted(
    view: View<'_>,
    table: Table,
    key: &[u8],
    graph: &mut gantry_gc::View,
) -> Result<bool> {
    if !TOLD.contains(&table) {
        return Ok(false);
    }
    if table == LEASE_RESOURCE {
        if !view.contains(table, key)? {
            return Ok(false);
        }
        let (lease, resource) = resource(key, graph)?;
        graph.pin(lease);
        graph.pin(resource);
        return Ok(true);
    }
    let Some(value) = values::get(view.raw(), table, key)? else { return Ok(false) };
    if let Some(node) = row(table, key, &value, graph)? {
        graph.pin(node);
    }
    Ok(true)
}

fn damaged(table: Table) -> Error {
    Error::data_loss(format!("key in table {}", table.0))
}

fn resource(key: &[u8], graph: &mut gantry_gc::View) -> Result<(Node, Node)> {
    let mut parts = Parts::of(key);
    let namespace = parts.identifier().ok_or_else(|| damaged(LEASE_RESOURCE))?;
    let lease = parts.sized().ok_or_else(|| damaged(LEASE_RESOURCE))?;
    let kind = parts.sized().ok_or_else(|| damaged(LEASE_RESOURCE))?;
    let id = parts.last().ok_or_else(|| damaged(LEASE_RESOURCE))?.to_owned();
    let object = match kind.split_once('/') {
        Some(("snapshots", snapshotter)) => {
            Object::Snapshot { snapshotter: snapshotter.to_owned(), key: id }
        }
        None if kind == "content" => Object::Content(id),
        None if kind == "images" => Object::Image(id),
        None if kind == "ingests" => Object::Ingest(id),
        _ => return Err(damaged(LEASE_RESOURCE)),
    };
    graph.leased(namespace, lease, object.clone());
    let of = |object| Node { namespace: namespace.to_owned(), object };
    Ok((of(Object::Lease(lease.to_owned())), of(object)))
}

/// Tells one row; returns its node.
fn row(
    table: Table,
    key: &[u8],
    value: &[u8],
    graph: &mut gantry_gc::View,
) -> Result<Option<Node>> {
    let mut parts = Parts::of(key);
    let namespace = parts.identifier().ok_or_else(|| damaged(table))?;
    let of = |object| Some(Node { namespace: namespace.to_owned(), object });
    if table == SNAPSHOT {
        let snapshotter = parts.sized().ok_or_else(|| damaged(table))?;
        let name = SnapshotKey::new(parts.last().ok_or_else(|| damaged(table))?)?;
        let SnapshotInfo { name, parent, labels, .. } =
            decode::<SnapshotEntry>(table, name, value)?.info;
        let parent = parent.as_ref().map(SnapshotKey::as_str);
        graph.snapshot(namespace, snapshotter, name.as_str(), parent, &labels);
        let key = name.into_string();
        return Ok(of(Object::Snapshot { snapshotter: snapshotter.to_owned(), key }));
    }
    let name = parts.last().ok_or_else(|| damaged(table))?;
    let told = |name: &str| name.to_owned();
    Ok(if table == LEASE {
        let lease = get::<Lease>(table, LeaseId::new(name)?, value)?;
        graph.lease(namespace, name, &lease.labels);
        of(Object::Lease(told(name)))
    } else if table == IMAGE {
        let image = get::<Image>(table, ImageName::new(name)?, value)?;
        graph.image(namespace, name, image.target.digest.as_str(), &image.labels);
        of(Object::Image(told(name)))
    } else if table == CONTAINER {
        let c = get::<Container>(table, ContainerId::new(name)?, value)?;
        graph.container(namespace, name, &c.snapshotter, &c.snapshot_key, &c.labels);
        of(Object::Container(told(name)))
    } else if table == SANDBOX {
        let sandbox = get::<Sandbox>(table, SandboxId::new(name)?, value)?;
        graph.sandbox(namespace, &sandbox.labels);
        None
    } else if table == CONTENT {
        let record = message::<wire::ContentRecord>(table, value)?;
        graph.content(namespace, name, &Labels::unchecked(record.labels));
        of(Object::Content(told(name)))
    } else if table == INGEST {
        let record = message::<wire::IngestRecord>(table, value)?;
        let expires = record.expires_at.map(|at| from_time(Some(at)));
        let shared = Some(record.shared.as_str()).filter(|digest| !digest.is_empty());
        graph.ingest(namespace, name, expires, shared);
        of(Object::Ingest(told(name)))
    } else if table == MOUNT {
        let mount = get::<Activation>(table, MountName::new(name)?, value)?;
        let lease = mount.lease.as_ref().map(LeaseId::as_str);
        graph.mount(namespace, name, lease, &mount.labels);
        let node = of(Object::Mount(told(name)));
        if mount.state == ActivationState::Activating {
            // Whoever makes it ends it too, and must find its record.
            graph.pin(Node { namespace: namespace.to_owned(), object: Object::Mount(told(name)) });
        }
        node
    } else {
        None
    })
}

fn get<T: Stored>(table: Table, name: T::Name, value: &[u8]) -> Result<T> {
    decode::<T>(table, name, value)
}

fn message<M: Message + Default>(table: Table, value: &[u8]) -> Result<M> {
    M::decode(value).map_err(|e| {
        Error::caused(Kind::DataLoss, format!("decode a value of table {}", table.0), e)
    })
}
