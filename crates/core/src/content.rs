//! The content store: digest-addressed blobs and the writes that make them.
//!
//! A blob's life: a *writer* is opened on a ref, data arrives in order, a commit checks size and
//! digest and makes it a blob. Until then it is an *ingest*: listed, resumable, abortable. Blobs
//! are shared between namespaces on disk; labels and times are per namespace.
//!
//! Contract of every implementation (the suite in `gantry-conformance` runs it):
//! - one open writer per ref and namespace; a second one is `Unavailable` until the first is
//!   dropped, in whatever way, or has committed, with whatever outcome;
//! - a dropped writer keeps its data; opening the ref again resumes it;
//! - a failed commit (`FailedPrecondition`) keeps the ingest; a commit of existing content is
//!   `AlreadyExists`, removes the ingest and leases the blob;
//! - once a commit has returned, the blob survives a power cut.

use async_trait::async_trait;
use bytes::Bytes;

use crate::clock::Timestamp;
use crate::cx::Cx;
use crate::digest::Digest;
use crate::error::Result;
use crate::fields::FieldMask;
use crate::filter::Filters;
use crate::id::ContentRef;
use crate::labels::Labels;

/// A blob as one namespace sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// When this namespace got it.
    pub created_at: Timestamp,
    /// When its labels last changed.
    pub updated_at: Timestamp,
    /// This namespace's labels.
    pub labels: Labels,
}

/// An ingest or open writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The ref.
    pub reference: ContentRef,
    /// Bytes written so far.
    pub offset: u64,
    /// Bytes expected in all; 0 when unknown.
    pub total: u64,
    /// The digest expected, where one was given.
    pub expected: Option<Digest>,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When it was last written to.
    pub updated_at: Timestamp,
}

/// How a writer is opened.
#[derive(Clone, Debug)]
pub struct WriterOpts {
    /// The ref, unique among the open writes of a namespace.
    pub reference: ContentRef,
    /// Bytes expected in all; 0 when unknown.
    pub total: u64,
    /// The digest expected, where it is known.
    pub expected: Option<Digest>,
}

/// Blobs and ingests of all namespaces, each call within one.
#[async_trait]
pub trait ContentStore: Send + Sync {
    /// The blob's record in this namespace; `NotFound` when it has none.
    async fn info(&self, cx: &Cx, digest: &Digest) -> Result<Info>;

    /// Changes labels; every other mask path is `InvalidArgument`. Returns the new record.
    async fn update(
        &self,
        cx: &Cx,
        digest: &Digest,
        labels: Labels,
        mask: &FieldMask,
    ) -> Result<Info>;

    /// All blobs of the namespace that match, in byte order of their digests.
    async fn list(&self, cx: &Cx, filters: &Filters) -> Result<Vec<Info>>;

    /// Removes this namespace's record at once; the data goes with the next collection.
    async fn delete(&self, cx: &Cx, digest: &Digest) -> Result<()>;

    /// Opens the blob for reading; `NotFound` when this namespace has none.
    async fn reader(&self, cx: &Cx, digest: &Digest) -> Result<Box<dyn Reader>>;

    /// Opens or resumes a write. `AlreadyExists` when the expected blob is here already (it is
    /// leased then); `Unavailable` when the ref is open elsewhere.
    async fn writer(&self, cx: &Cx, opts: WriterOpts) -> Result<Box<dyn Writer>>;

    /// The status of one ingest; `NotFound` when there is none.
    async fn status(&self, cx: &Cx, reference: &ContentRef) -> Result<Status>;

    /// All ingests of the namespace that match, in byte order of their refs.
    async fn list_statuses(&self, cx: &Cx, filters: &Filters) -> Result<Vec<Status>>;

    /// Drops an ingest and its data, also while a writer holds it; `NotFound` when there is none.
    async fn abort(&self, cx: &Cx, reference: &ContentRef) -> Result<()>;
}

/// An open blob; stays readable when the blob is deleted meanwhile.
#[async_trait]
pub trait Reader: Send + Sync {
    /// Size of the blob in bytes.
    fn size(&self) -> u64;
    /// At most `len` bytes from `offset`; empty only at the end.
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes>;
}

/// An open write. Dropping it releases the ref and keeps the data.
#[async_trait]
pub trait Writer: Send + Sync {
    /// Offset, total, times.
    fn status(&self) -> Status;
    /// The digest of what was written so far.
    fn digest(&self) -> Digest;
    /// Appends `data`.
    async fn write(&mut self, data: Bytes) -> Result<()>;
    /// Cuts the ingest to `size` bytes; only 0 is supported besides the current offset.
    async fn truncate(&mut self, size: u64) -> Result<()>;
    /// Makes the blob. `size` 0 and `expected` `None` are not checked. On success or
    /// `AlreadyExists` the ingest is gone; on any other failure it stays, to be resumed by opening
    /// the ref again. Either way this writer is closed and its ref is free when this returns.
    async fn commit(
        &mut self,
        cx: &Cx,
        size: u64,
        expected: Option<&Digest>,
        labels: Labels,
    ) -> Result<Digest>;
}
