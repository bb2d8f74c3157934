//! Whiteouts, in the layer's words and in the overlay's.
//!
//! In a layer (OCI image-spec, layer.md): an empty file `.wh.NAME` hides NAME of the layers below,
//! `.wh..wh..opq` hides all of them in its directory. In an overlay's upper directory (kernel,
//! filesystems/overlayfs): a character device 0/0, and an attribute `overlay.opaque` of the
//! directory.

use std::io;

use rustix::fs::{FileType, Mode, Stat, XattrFlags};

use super::path::{self, Dir, file_type};
use super::{Upper, tree};

/// What the name of a whiteout begins with.
pub(crate) const PREFIX: &[u8] = b".wh.";
/// The name of an opaque whiteout.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// Whether an overlay takes a file for a whiteout.
pub(crate) fn is(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Makes the overlay's whiteout of `name`.
pub(super) fn make(dir: &Dir, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)?)
}

/// Makes the overlay hide what lies below `dir`.
pub(super) fn mark_opaque(upper: &Upper, dir: &Dir) -> io::Result<()> {
    let key = if upper.user_xattr { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
    Ok(rustix::fs::fsetxattr(dir, key, b"y", XattrFlags::empty())?)
}

/// Hides all that lies below the root. An overlay does not heed the attribute there, so each name
/// gets a whiteout of its own.
pub(super) fn hide_lowers(upper: &Upper, root: &Dir) -> io::Result<()> {
    for lower in &upper.lowers {
        for (name, _) in tree::list(lower)? {
            match path::stat(root, &name)? {
                None => make(root, &name)?,
                Some(stat) if file_type(&stat) == FileType::Directory => {
                    mark_opaque(upper, &root.child(&name)?)?;
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}
