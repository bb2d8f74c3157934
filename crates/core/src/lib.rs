//! The nouns of Gantry and the traits of its extension points: pure code.
//!
//! What a thing is stands here ([`model`]), how a request reaches it ([`cx`]), how it fails
//! ([`error`]), and what an implementation of an extension point must keep to ([`content`],
//! [`snapshot`], [`diff`]). How any of it is stored, sent or done stands elsewhere.
//!
//! Must not: know tonic, prost or the key-value store; do I/O; read the clock other than through
//! [`clock::Clock`].

pub mod clock;
pub mod content;
pub mod cx;
pub mod diff;
pub mod digest;
pub mod error;
pub mod fields;
pub mod filter;
pub mod id;
pub mod labels;
pub mod model;
pub mod snapshot;
pub mod task;

pub use clock::{Clock, SystemClock, Timestamp};
pub use cx::{CallCx, Cx};
pub use digest::Digest;
pub use error::{Error, Kind, Result};
pub use fields::FieldMask;
pub use id::{
    ContainerId, ContentRef, ExecId, ImageName, LeaseId, MountName, Namespace, SandboxId,
    SnapshotKey, SnapshotterName,
};
pub use labels::Labels;
pub use model::TypedAny;
