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
//! Must not: know what the bytes mean; do I/O in a closure's name other than the store's own.

mod backend;
mod db;
mod error;
mod memory;
mod overlay;
mod queue;
mod read;
mod txn;
mod versioned;
mod writer;

pub use backend::{BackendKind, MetaStore};
pub use db::{Db, Options};
pub use error::StoreError;
pub use overlay::{Batch, Overlay};
pub use read::{Pair, Read, Table, prefix_end};
pub use txn::{KEY_BYTES_MAX, Txn, VALUE_BYTES_MAX, Verdict};
