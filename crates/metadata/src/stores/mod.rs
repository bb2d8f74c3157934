//! The namespaced stores: what services call.
//!
//! Each is a thin handle on [`crate::Metadata`] whose calls take a [`gantry_core::Cx`]. Rules,
//! error texts and codes are containerd's, so that its clients' loops work.

mod containers;
pub mod content;
pub(crate) mod images;
pub mod leases;
mod mask;
mod mounts;
mod namespaces;
mod sandboxes;
mod snapshots;
mod tasks;
pub(crate) mod touched;

pub use containers::Containers;
pub use images::{ImageUpdate, Images};
pub use leases::{LeaseResources, Leases};
pub use mounts::{Activation, ActivationState, ActiveMount, BegunActivation};
pub use namespaces::Namespaces;
pub use sandboxes::Sandboxes;
pub use snapshots::{
    BACKEND_GARBAGE, SNAPSHOT_REF, SnapshotCommit, SnapshotEntry, SnapshotRecords, backend_garbage,
};
pub use tasks::{Shim, Stdio, Task, Told};
