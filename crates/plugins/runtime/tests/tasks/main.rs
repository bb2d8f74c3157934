//! The task manager against real shims, runtimes and processes: our own shim, and a foreign one
//! where one is installed.
//!
//! Needs root, `runc`, a static `busybox`, and our shim built beside the test
//! (`cargo build -p gantry-shim`); what is missing makes a case skip with one line.

#![allow(clippy::unwrap_used, clippy::panic)]

mod death;
mod lifecycle;
mod making;
mod restart;
mod world;
