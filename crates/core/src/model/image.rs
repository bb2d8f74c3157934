//! An image: a name that points to a descriptor.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::id::ImageName;
use crate::labels::Labels;

/// A typed, checkable pointer to content (OCI image-spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The media type.
    pub media_type: String,
    /// The digest of the bytes.
    pub digest: Digest,
    /// How many bytes.
    pub size: i64,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// An image as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The name.
    pub name: ImageName,
    /// Labels.
    pub labels: Labels,
    /// What it points to.
    pub target: Descriptor,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}
