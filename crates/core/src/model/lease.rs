//! Leases: they keep what nothing refers to yet from being collected.

use crate::clock::Timestamp;
use crate::id::LeaseId;
use crate::labels::Labels;

/// A lease as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The id.
    pub id: LeaseId,
    /// When it was created.
    pub created_at: Timestamp,
    /// Labels; `containerd.io/gc.expire` and `containerd.io/gc.flat` steer collection.
    pub labels: Labels,
}

/// What a lease holds, as clients name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// `content`, `ingests`, `images` or `snapshots/<snapshotter>`.
    pub kind: String,
    /// The digest, ref, name or key.
    pub id: String,
}
