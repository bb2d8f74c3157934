//! Diff and apply: the tar applier and the walking differ.
//!
//! [`Walking`] implements [`gantry_core::diff::Applier`] and [`gantry_core::diff::Comparer`] over
//! a content store. An apply reads a blob, inflates and hashes it on one thread and unpacks it on
//! another; a diff walks two trees on a thread and streams the archive into the store.
//!
//! Layers are written by strangers. Whatever one contains, nothing outside the directory it is
//! applied to is made, changed or removed, and memory stays within [`Limits`].
//!
//! Must not: run blocking work on the reactor; trust a name, number or size from an archive; know
//! tonic or the metadata store.

mod applier;
mod apply;
mod archive;
mod compare;
mod comparer;
mod inflate;
mod limits;
mod media;
mod mounts;
mod pipe;
mod processor;
mod xattr;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use gantry_core::content::ContentStore;
use gantry_core::{Cx, Error, Result};

pub use archive::EXTENSION_BYTES_MAX;
pub use inflate::ZSTD_WINDOW_LOG_MAX;
pub use limits::Limits;
pub use media::{LAYER, LAYER_GZIP, LAYER_ZSTD};
pub use processor::StreamProcessor;

/// The applier and differ over a content store. Cheap to clone.
#[derive(Clone)]
pub struct Walking {
    store: Arc<dyn ContentStore>,
    temp: PathBuf,
    limits: Limits,
    processors: Arc<[StreamProcessor]>,
}

impl Walking {
    /// Reads and writes blobs in `store`. `temp` is an existing private folder for mounts that
    /// live for an instant; leftovers of a crash in it are cleared now.
    ///
    /// # Errors
    /// When `temp` cannot be read.
    pub fn new(store: Arc<dyn ContentStore>, temp: impl Into<PathBuf>) -> Result<Self> {
        let temp = temp.into();
        mounts::sweep(&temp)
            .map_err(|e| Error::io(format!("cannot read {}", temp.display()), e))?;
        Ok(Self { store, temp, limits: Limits::default(), processors: Arc::new([]) })
    }

    /// The same with other bounds on what a layer may ask for.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The same with these executables for media types; a later one wins over an earlier one, and
    /// all win over what is built in.
    #[must_use]
    pub fn with_processors(self, processors: Vec<StreamProcessor>) -> Self {
        Self { processors: processors.into(), ..self }
    }
}

/// Waits for `work`, but no longer than the call lives.
///
/// Cancel safety: `work` is dropped when the call is stopped.
async fn until_stopped<T>(cx: &Cx, work: impl Future<Output = Result<T>>) -> Result<T> {
    let deadline = async {
        match cx.deadline() {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = work => result,
        () = cx.cancellation().cancelled() => Err(Error::cancelled("")),
        () = deadline => Err(Error::deadline_exceeded("")),
    }
}

/// Failpoints of this crate (feature `failpoints`), for tests that break things on purpose.
pub const FAILPOINTS: &[&str] = &[
    "diff.apply/entry",
    "diff.apply/before-sync",
    "diff.processor/before-spawn",
    "diff.write/before-commit",
];

/// Fails where a test asked for it.
pub(crate) fn failpoint(name: &str) -> gantry_core::Result<()> {
    fail::fail_point!(name, |reason: Option<String>| Err(gantry_core::Error::unknown(
        reason.unwrap_or_else(|| format!("failpoint {name}"))
    )));
    let _ = name;
    Ok(())
}
