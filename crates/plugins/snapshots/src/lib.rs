//! Snapshotters: the built-in ones and what they are made of.
//!
//! [`BuiltinSnapshotter`] keeps records in the metadata store and leaves the folders to a driver:
//! [`Overlay`] stacks them with overlayfs, [`Native`] copies them. Both make numbered [`folders`]
//! that appear and disappear whole; `tree` holds the walks below them. [`ProxySnapshotter`] reaches
//! a snapshotter in another process, and [`SnapshotService`] is the other end of that wire.
//!
//! Invariants: a folder is made before its record and removed after it, so a folder without a
//! record is always garbage; the files of a committed snapshot are on disk before its record.
//! Must not: mount anything that outlives the call; keep a second database.

#[macro_use]
mod failpoint;
mod builtin;
pub mod folders;
mod native;
mod overlay;
mod proxy;
mod serve;
mod tree;
mod wire;

pub use builtin::BuiltinSnapshotter;
pub use failpoint::FAILPOINTS;
pub use native::Native;
pub use overlay::{HostOptions, Overlay};
pub use proxy::{Bounds, ProxyOptions, ProxySnapshotter, Recovery};
pub use serve::SnapshotService;
