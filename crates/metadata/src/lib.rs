//! Gantry's metadata: the embedded key-value store and everything that is kept in it.
//!
//! [`kv`] is the store itself: tables of bytes, one writer, durable commits. What the tables mean
//! stands in the modules above it.
//!
//! Must not: know tonic.

pub mod kv;
