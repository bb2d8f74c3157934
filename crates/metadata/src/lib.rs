//! Gantry's metadata: the sole owner of the key-value store.
//!
//! From below: [`kv`] is the embedded store with one writer thread; [`schema`] draws its tables and
//! keys; `codec` turns records into messages; [`Metadata`] opens the store and runs transactions
//! ([`Tx`]) that may span several tables, report events ([`journal`]) and keep what they touch
//! under a lease; [`stores`] are the namespaced stores that services call.
//!
//! Invariants: a reply follows its transaction's arrival on disk; an event that reports a
//! transaction is written in it; every namespaced store takes a [`gantry_core::Cx`].
//! Must not: know tonic; do I/O or read the clock within a transaction.

pub mod check;
mod codec;
pub mod collect;
pub mod intent;
pub mod journal;
pub mod kv;
mod metadata;
pub mod migrate;
pub mod schema;
pub mod stores;
mod tx;
mod values;

pub use collect::{Collected, Collector, Reclaim, Schedule, Scheduler};
pub use intent::{IntentId, Recoverer};
pub use journal::{Journal, Recorded, Subscription};
pub use metadata::{LAST_EXPORT, Metadata, OpenOptions};
pub use tx::{Tx, View};
