//! Whiteouts, in the layer's words and in the overlay's.
//!
//! In a layer (OCI image-spec, layer.md): an empty file `.wh.NAME` hides NAME of the layers below,
//! `.wh..wh..opq` hides all of them in its directory. In an overlay's upper directory (kernel,
//! filesystems/overlayfs): a character device 0/0, and an attribute `overlay.opaque` of the
//! directory.

use std::io;
use std::os::fd::AsFd as _;

use rustix::fs::{FileType, Mode, Stat, XattrFlags};

use super::path::{self, Dir, file_type};
use super::{Upper, tree};
use crate::xattr;

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

/// The lower directories that an overlay shows together with one of its upper directory, nearest
/// first. In a directory that has none, the overlay lists whiteouts as names that lead nowhere.
pub(super) struct Merged(Vec<Dir>);

impl Merged {
    /// Those of the directory at `names`, which must lead through no symlink; else `None`.
    pub(super) fn at<'a>(
        upper: &Upper,
        root: &Dir,
        names: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<Option<Self>> {
        let lowers = upper.lowers.iter().map(|lower| path::open_dir(lower.as_fd(), &[]));
        let mut merged = Self(lowers.collect::<io::Result<_>>()?);
        let mut here = root.child(b".")?;
        for name in names {
            here = match here.child(name) {
                Err(error) if path::leads_nowhere(&error) => return Ok(None),
                result => result?,
            };
            merged = if is_opaque(&here)? { Self::nothing() } else { merged.child(name)? };
        }
        Ok(Some(merged))
    }

    /// Those of a directory in the one that these belong to.
    pub(super) fn child(&self, name: &[u8]) -> io::Result<Self> {
        let mut found = Vec::new();
        for lower in &self.0 {
            match lower.child(name) {
                Ok(dir) => {
                    let last = is_opaque(&dir)?;
                    found.push(dir);
                    if last {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // A file or whiteout hides what lies further below.
                Err(error) if path::leads_nowhere(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Self(found))
    }

    /// None of them.
    pub(super) fn nothing() -> Self {
        Self(Vec::new())
    }

    /// The one whose attributes the overlay shows where the upper directory has none.
    pub(super) fn nearest(&self) -> Option<&Dir> {
        self.0.first()
    }
}

fn is_opaque(dir: &Dir) -> io::Result<bool> {
    let marked = |key: &[u8]| Ok::<_, io::Error>(xattr::get(dir, key)?.as_deref() == Some(b"y"));
    Ok(marked(b"trusted.overlay.opaque")? || marked(b"user.overlay.opaque")?)
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
