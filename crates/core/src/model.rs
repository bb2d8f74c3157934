//! The records that clients see: plain data without behaviour.
//!
//! Fields keep containerd's names (`api/services/*` of its wire protocol) so that a reader of
//! either finds the other. Nothing here is validated but what its type says; the stores validate.

mod container;
mod event;
mod image;
mod lease;

pub use container::{Container, RuntimeInfo};
pub use event::{Envelope, Event};
pub use image::{Descriptor, Image};
pub use lease::{Lease, Resource};

use crate::clock::Timestamp;
use crate::id::{ContainerId, Namespace, SandboxId};
use crate::labels::Labels;
use std::collections::BTreeMap;

/// A typed value whose bytes are kept as they came (`google.protobuf.Any` on the wire).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypedAny {
    /// The type's URL, bare (`containerd.events.TaskExit`) unless the client sent another form.
    pub type_url: String,
    /// The encoded value, never re-encoded.
    pub value: Vec<u8>,
}

/// A namespace and its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// The name.
    pub name: Namespace,
    /// Labels; `containerd.io/defaults/*` steer clients.
    pub labels: Labels,
}

/// A sandbox as stored: metadata only, its process belongs to a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The id.
    pub id: SandboxId,
    /// Runtime name and options.
    pub runtime: RuntimeInfo,
    /// The OCI spec, as sent.
    pub spec: Option<TypedAny>,
    /// Labels.
    pub labels: Labels,
    /// Extensions by name, as sent.
    pub extensions: BTreeMap<String, TypedAny>,
    /// The controller that runs it.
    pub sandboxer: String,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// Names one container across namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerName {
    /// The namespace.
    pub namespace: Namespace,
    /// The container within it.
    pub id: ContainerId,
}
