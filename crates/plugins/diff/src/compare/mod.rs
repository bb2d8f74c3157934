//! The differ: two trees in, the archive of what changed out.
//!
//! The order is that of names, directory by directory, a directory before what is in it, so the
//! same trees give the same bytes. Only what a layer can say is compared and written: type, mode,
//! owner, device, content, times to the second, and the attributes of [`kept_xattr`].
//!
//! Blocking: for a thread of its own.

mod encode;
mod layer;
mod same;
mod walk;

pub(crate) use encode::Encoder;
pub(crate) use layer::{LayerWriter, Source};
pub(crate) use walk::{Trees, walk};

use std::io;

use gantry_core::Error;

/// How a name differs between the trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
    /// Not at all; told for files of several names, of which another may be new.
    Unmodified,
}

/// Whether an extended attribute belongs into a layer. Labels of security modules and marks of an
/// overlay belong to the host.
pub(crate) fn kept_xattr(name: &[u8]) -> bool {
    name == b"security.capability"
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// An error at one name of a tree.
fn at(doing: &str, path: &[u8], error: io::Error) -> Error {
    let error = crate::pipe::into_error(error);
    error.context(format!("cannot {doing} {:?}", String::from_utf8_lossy(path)))
}
