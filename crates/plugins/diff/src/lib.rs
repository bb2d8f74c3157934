//! Diff and apply: the tar applier and the walking differ.
//!
//! [`Walking`] implements [`gantry_core::diff::Applier`] and [`gantry_core::diff::Comparer`] over
//! a content store. An apply reads a blob, inflates it on one thread, and hashes and unpacks it
//! on another; a diff walks two trees on a thread and streams the archive into the store.
//!
//! Layers are written by strangers: see [`apply`] for what holds whatever they contain.
//!
//! Must not: run blocking work on the reactor; trust a name, number or size from an archive; know
//! tonic or the metadata store.

mod apply;
mod archive;
mod inflate;
mod limits;
mod media;
mod pipe;
mod xattr;

pub use archive::EXTENSION_BYTES_MAX;
pub use inflate::ZSTD_WINDOW_LOG_MAX;
pub use limits::Limits;
pub use media::{LAYER, LAYER_GZIP, LAYER_ZSTD};

/// Failpoints of this crate (feature `failpoints`), for tests that break things on purpose.
pub const FAILPOINTS: &[&str] = &["diff.apply/entry", "diff.apply/before-sync", "diff.write/before-commit"];

/// Fails where a test asked for it.
pub(crate) fn failpoint(name: &str) -> gantry_core::Result<()> {
    fail::fail_point!(name, |reason: Option<String>| Err(gantry_core::Error::unknown(
        reason.unwrap_or_else(|| format!("failpoint {name}"))
    )));
    let _ = name;
    Ok(())
}
