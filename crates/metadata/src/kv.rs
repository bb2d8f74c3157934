//! The embedded store under the metadata: tables of ordered bytes with durable transactions.
//!
//! ```text
//! read(closure)   -> a view: one durable state, never moves            [`Db::read`], [`Read`]
//! update(closure) -> queue -> the writer thread, in groups:             [`Db::update`], [`Txn`]
//!                      each closure on an overlay over the group's overlay over the last state
//!                      commit merges into the group, abort or panic drops that overlay alone
//!                    one apply, one fdatasync                           [`MetaStore::commit`]
//!                    after-commit callbacks, then the replies
//! ```
//!
//! Invariants: a state that a reader or a reply shows is on disk; the writes of one transaction
//! are all there or not at all, over every table, also after a crash; a transaction that fails
//! takes nothing of its group with it; whatever fails leaves the state before it.
//!
//! [`export`] writes the whole store to a file and reads it back.
//!
//! Must not: know what the bytes mean; do I/O in a closure's name other than the store's own.

mod backend;
mod compact;
mod db;
mod dir;
mod error;
pub mod export;
mod flush;
mod hex;
mod job;
mod memory;
mod overlay;
mod queue;
mod read;
mod redb_store;
mod reserve;
mod seal;
mod sled_store;
mod txn;
mod versioned;
mod views;
mod writer;

pub use backend::{BackendKind, MetaStore};
pub use db::{Db, Options};
pub use dir::quarantine;
pub use error::StoreError;
pub use overlay::{Batch, Overlay};
pub use read::{Pair, Read, Table, prefix_end};
pub use txn::{KEY_BYTES_MAX, Txn, VALUE_BYTES_MAX, Verdict};

/// The places where tests make the store fail or stop; an errno is the argument of all but
/// `after-commit`. `apply`: nothing is written yet; `flush`: handing the data to the kernel fails;
/// `fdatasync`: the disk fails; `after-commit`: all is on disk, nobody knows yet.
pub const FAILPOINTS: &[&str] = &[
    "kv.commit/apply",
    "kv.commit/flush",
    "kv.commit/fdatasync",
    "kv.commit/after-commit",
    "kv.compact/copied",
    "kv.compact/unindexed",
    "kv.compact/renamed",
    "kv.export/sync",
    "kv.export/rename",
];

/// The message of a panic.
fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()
}
