//! The harness: a real gantryd per test, real clients, and nothing left behind.
//!
//! [`Daemon`] is a process with a root, state, socket and containerd namespace of its own below a
//! short directory in the temporary folder. When it is dropped the test fails if the daemon said
//! WARN or ERROR without the test having announced it ([`Daemon::allow_log`]), or if anything of
//! it remains: a process, a mount, a cgroup, a network namespace.
//!
//! Tests wait for conditions ([`poll`]) and never sleep. A client that is not installed makes its
//! case skip with one line ([`ctr`]).
//!
//! Must not: reach into the daemon's crates. What these tests see is what any client sees.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a harness reports by panicking: its callers are tests"
)]

pub mod ctr;
pub mod daemon;
pub mod home;
pub mod image;
pub mod leak;
pub mod log;
pub mod poll;
pub mod skip;
pub mod wire;

pub use ctr::Ctr;
pub use daemon::{Daemon, Setup};
pub use poll::poll_until;
