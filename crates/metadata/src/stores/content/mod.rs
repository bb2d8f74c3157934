//! The records of content: blobs, what namespaces see of them, and writes in progress.
//!
//! Plain functions on a transaction: what must be true before and after, which lease and which
//! event belong to it. What lies on disk is the business of the content store that calls them. It
//! makes a blob's file durable before [`commit`] names it and removes files only when no record
//! names them, so that a file without a record is always garbage and a record without a file is
//! always damage.
//!
//! Three layers of records: a *blob* ([`Blob`], all namespaces) says that the file is there;
//! *content* ([`gantry_core::content::Info`]) gives a namespace its view of it; an *ingest*
//! ([`Ingest`]) is a write in progress. A blob goes when no content and no ingest names it:
//! [`unused`] finds such, [`forget`] removes their records after looking again.
//!
//! Must not: touch files; decide what a collection keeps (that is `gantry-gc`).

mod blobs;
mod ingests;

pub use blobs::{Blob, blob, blobs, damage, delete, forget, info, list, unused, update};
pub use ingests::{
    Begun, Commit, INGEST_LIFE, Ingest, IngestNumber, Sharing, abort, begin, commit, ingest,
    ingests, lease_existing, numbers,
};

/// How leases call content.
const CONTENT_KIND: &str = "content";
/// How leases call ingests.
const INGEST_KIND: &str = "ingests";
