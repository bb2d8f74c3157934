//! Events: published facts.
//!
//! [`Event`] is what the daemon itself reports, in domain terms; the metadata crate turns it into
//! an [`Envelope`] in the transaction that it reports. What clients and shims publish arrives as
//! an envelope and is passed on with its payload untouched.

use super::{RuntimeInfo, TypedAny};
use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::id::Namespace;
use crate::labels::Labels;

/// An event on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// When it happened.
    pub timestamp: Timestamp,
    /// The namespace it happened in.
    pub namespace: Namespace,
    /// `/` and identifiers, such as `/tasks/exit`.
    pub topic: String,
    /// The payload.
    pub event: TypedAny,
}

/// What the daemon's own stores report; fields are those of containerd's `api/events`.
#[allow(missing_docs)] // one sentence for all fields stands above
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `/namespaces/create`
    NamespaceCreate { name: Namespace, labels: Labels },
    /// `/namespaces/update`
    NamespaceUpdate { name: Namespace, labels: Labels },
    /// `/namespaces/delete`
    NamespaceDelete { name: Namespace },
    /// `/containers/create`
    ContainerCreate { id: String, image: String, runtime: RuntimeInfo },
    /// `/containers/update`
    ContainerUpdate { id: String, image: String, labels: Labels, snapshot_key: String },
    /// `/containers/delete`
    ContainerDelete { id: String },
    /// `/images/create`
    ImageCreate { name: String, labels: Labels },
    /// `/images/update`
    ImageUpdate { name: String, labels: Labels },
    /// `/images/delete`
    ImageDelete { name: String },
    /// `/content/create`
    ContentCreate { digest: Digest, size: i64 },
    /// `/content/delete`
    ContentDelete { digest: Digest },
    /// `/snapshot/prepare`
    SnapshotPrepare { key: String, parent: String, snapshotter: String },
    /// `/snapshot/commit`
    SnapshotCommit { key: String, name: String, snapshotter: String },
    /// `/snapshot/remove`
    SnapshotRemove { key: String, snapshotter: String },
}
