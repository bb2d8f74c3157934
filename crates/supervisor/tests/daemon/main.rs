//! The daemon as a process, spoken to through its sockets.

#![allow(clippy::unwrap_used, clippy::panic)] // a test's way to fail

mod content;
mod events;
mod lifecycle;
mod process;
mod records;
mod snapshots;
