//! One suite per extension point, run by every implementation, in process and through the wire.
//!
//! A suite is a specification that runs: its cases read as the contract of the trait, and a case
//! that fails names the promise that was broken. Implementations differ by what their fixture
//! provides, never by name.
//!
//! Must not: know an implementation; sleep.

// Cases are test code that happens to live in a library.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod content;
pub mod snapshots;
