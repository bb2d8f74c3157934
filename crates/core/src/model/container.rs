//! A container: metadata only; it may exist without any process.

use std::collections::BTreeMap;

use super::TypedAny;
use crate::clock::Timestamp;
use crate::id::ContainerId;
use crate::labels::Labels;

/// Which runtime runs a container, with what options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// The runtime's name such as `io.containerd.runc.v2`, or an absolute path to a shim.
    pub name: String,
    /// Options for the shim, as sent.
    pub options: Option<TypedAny>,
}

/// A container as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The id.
    pub id: ContainerId,
    /// Labels.
    pub labels: Labels,
    /// The image's name; it need not exist. Empty when there is none.
    pub image: String,
    /// Its runtime.
    pub runtime: RuntimeInfo,
    /// The OCI spec, as sent.
    pub spec: Option<TypedAny>,
    /// The snapshotter of `snapshot_key`; empty when there is none.
    pub snapshotter: String,
    /// The snapshot that holds its root file system; it need not exist. Empty when there is none.
    pub snapshot_key: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Extensions by name, as sent.
    pub extensions: BTreeMap<String, TypedAny>,
    /// The sandbox it belongs to; empty when there is none.
    pub sandbox: String,
}
