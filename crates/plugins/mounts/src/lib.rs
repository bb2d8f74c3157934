//! The mount manager: makes what the kernel cannot mount from an instruction as it stands.
//!
//! Clients send lists of mounts whose types may carry prefixes, `format/mkdir/overlay` say. What
//! each prefix asks for is done before the mount is made, from left to right:
//!
//! | prefix | what it does |
//! |---|---|
//! | `format/` | fills `{{ mount 0 }}` and the like in source, target and options from earlier mounts |
//! | `mkdir/` | makes the folders that options `X-containerd.mkdir.path=` name |
//! | `mkfs/` | makes a file system in the file that is the source, unless the file is there |
//!
//! All mounts before the last one that needs this are made here, on folders `<n>/<i>`; the rest is
//! left for the client, its prefixes taken off. A list that needs nothing is refused as not
//! implemented: its client mounts by itself.
//!
//! Invariants: a record stands before the first side effect and goes before the last one is undone,
//! so whatever has no record is garbage, at whatever moment the daemon died; folders are numbered
//! and numbers never come again; files and folders are only made below the allowed roots, reached
//! without following a symbolic link.
//! Must not: mount in a place that a client chose; run a program without a bound.

#[macro_use]
mod failpoint;
mod folders;
mod format;
mod maker;
mod manager;
mod mkdir;
mod mkfs;
mod names;
mod plan;
mod roots;

pub use failpoint::FAILPOINTS;
pub use manager::{Manager, Options, Request};
