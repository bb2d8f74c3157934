//! Diff and apply: from a layer's archive to a file system and back.

use async_trait::async_trait;

use crate::cx::Cx;
use crate::error::Result;
use crate::id::ContentRef;
use crate::labels::Labels;
use crate::model::{Descriptor, TypedAny};
use crate::snapshot::Mount;
use std::collections::BTreeMap;

/// What an apply reports: the uncompressed archive.
pub type AppliedDescriptor = Descriptor;

/// How a layer is applied.
#[derive(Clone, Debug, Default)]
pub struct ApplyOpts {
    /// Payloads for stream processors, by processor id.
    pub payloads: BTreeMap<String, TypedAny>,
    /// Whether to make the files durable before replying.
    pub sync_fs: bool,
}

/// How a diff is written.
#[derive(Clone, Debug, Default)]
pub struct DiffOpts {
    /// Media type to produce; empty means gzip-compressed tar.
    pub media_type: String,
    /// The content ref to use (earlier data is cut); `None` takes a random one.
    pub reference: Option<ContentRef>,
    /// Labels for the new content.
    pub labels: Labels,
    /// Upper bound for the times in the archive, as seconds since the epoch.
    pub source_date_epoch: Option<i64>,
}

/// Applies layers to mounts.
#[async_trait]
pub trait Applier: Send + Sync {
    /// Applies the blob `descriptor` to `mounts` and returns the descriptor of the uncompressed
    /// archive, trailing bytes included. A media type that no processor reads is `NotImplemented`.
    async fn apply(
        &self,
        cx: &Cx,
        descriptor: &Descriptor,
        mounts: &[Mount],
        opts: ApplyOpts,
    ) -> Result<AppliedDescriptor>;
}

/// Writes the difference of two file systems.
#[async_trait]
pub trait Comparer: Send + Sync {
    /// Stores the archive that turns `lower` into `upper` and returns its descriptor. The content
    /// gets the label `containerd.io/uncompressed`.
    async fn diff(
        &self,
        cx: &Cx,
        lower: &[Mount],
        upper: &[Mount],
        opts: DiffOpts,
    ) -> Result<Descriptor>;
}
