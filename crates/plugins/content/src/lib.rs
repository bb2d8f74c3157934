//! The local content store: blobs as files named by digest, records in the metadata store.
//!
//! ```text
//! <root>/blobs/<algorithm>/<hex>   complete blobs, shared by all namespaces, never changed
//! <root>/ingest/<number>           writes in progress; their length says how far they are
//! ```
//!
//! A commit, in the order that a power cut at any point forgives:
//!
//! ```text
//! 1. fsync the ingest's file                  before: the ingest resumes with what is on disk
//! 2. rename it to its digest, fsync the folder before: as above; after: a file without a record
//! 3. one transaction: blob, content, lease, event; the ingest's record goes
//! 4. reply
//! ```
//!
//! Invariants: a file that a blob's record names is complete and durable; a file that no record
//! names is garbage, which [`LocalStore::open`] and the sweep ([`gantry_metadata::Reclaim`])
//! remove; a ref is held by one writer, and free again when that is dropped or has committed.
//!
//! Two locks, both in memory. A *ref* is held by its writer ([`locks::Refs`]). A *digest* is held
//! from the look at its blob until the transaction that names it has ended, and by the sweep while
//! it removes the file ([`locks::Digests`]): neither sees the other's half.
//!
//! Files are read, written and hashed on blocking threads. A call that is cancelled finishes its
//! current step there, still holding its ref, so that a later writer never meets an earlier one.
//!
//! Must not: keep state that a restart would miss; use a ref, which may be any text, in a path.

mod body;
mod commit;
mod elapsed;
mod layout;
mod locks;
mod reader;
mod store;
mod sweep;
mod writer;

pub use gantry_metadata::stores::content::Sharing;
pub use store::LocalStore;
pub use sweep::{Depth, Swept};

/// The failpoints of this crate. Each can panic, pause, or fail the step with `return`.
pub const FAILPOINTS: &[&str] = &[
    "content.begin/after-record",
    "content.write/before-data",
    "content.commit/before-sync",
    "content.commit/before-rename",
    "content.commit/after-rename",
    "content.commit/before-record",
    "content.commit/after-record",
    "content.abort/after-record",
    "content.sweep/before-forget",
    "content.sweep/after-forget",
    "content.sweep/before-remove",
];

/// Runs `f` on a blocking thread.
async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> gantry_core::Result<T> + Send + 'static,
) -> gantry_core::Result<T> {
    tokio::task::spawn_blocking(f).await.unwrap_or_else(|e| {
        Err(gantry_core::Error::caused(gantry_core::Kind::Internal, "content task", e))
    })
}
