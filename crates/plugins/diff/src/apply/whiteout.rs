//! Whiteouts, in the layer's words and in the overlay's.
//!
//! In a layer (OCI image-spec, layer.md): an empty file `.wh.NAME` hides NAME of the layers below,
//! `.wh..wh..opq` hides all of them in its directory. In an overlay's upper directory (kernel,
//! filesystems/overlayfs): a character device 0/0, and an attribute `overlay.opaque` of the
//! directory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

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

/// The nearest lower directory that the overlay shows together with `dir`.
///
/// In a directory that has none, the overlay lists whiteouts as names that lead nowhere.
pub(super) fn merged_with(upper: &Upper, root: &Dir, dir: &Dir) -> io::Result<Option<Dir>> {
    let mut above = dir.child(b".")?;
    while above.id != root.id {
        if is_opaque(&above)? {
            return Ok(None);
        }
        let next = above.child(b"..")?;
        if next.id == above.id {
            // Not below the root any more: removed since.
            return Ok(None);
        }
        above = next;
    }
    let path = path_below(root, dir)?;
    let names = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
    for lower in &upper.lowers {
        match below(lower, names.clone())? {
            Below::Directory(dir) => return Ok(Some(dir)),
            Below::Hidden => return Ok(None),
            Below::Nothing => {}
        }
    }
    Ok(None)
}

/// What one lower layer has at a path.
enum Below {
    Directory(Dir),
    /// Nothing, but it may shine through from a layer further below.
    Nothing,
    /// What hides the layers further below.
    Hidden,
}

fn below<'a>(lower: &OwnedFd, names: impl Iterator<Item = &'a [u8]>) -> io::Result<Below> {
    let mut current = path::open_dir(lower.as_fd(), &[])?;
    let mut opaque = false;
    for name in names {
        current = match current.child(name) {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !opaque => {
                return Ok(Below::Nothing);
            }
            Err(_) => return Ok(Below::Hidden),
        };
        opaque |= is_opaque(&current)?;
    }
    Ok(Below::Directory(current))
}

fn is_opaque(dir: &Dir) -> io::Result<bool> {
    let marked = |key: &[u8]| Ok::<_, io::Error>(xattr::get(dir, key)?.as_deref() == Some(b"y"));
    Ok(marked(b"trusted.overlay.opaque")? || marked(b"user.overlay.opaque")?)
}

/// Where an open directory lies below `root`, without symlinks, by the kernel's word (proc(5)).
pub(super) fn path_below(root: &Dir, dir: &Dir) -> io::Result<Vec<u8>> {
    let path = |dir: &Dir| {
        let link = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
        rustix::fs::readlink(link, Vec::new()).map(std::ffi::CString::into_bytes)
    };
    let path = path(dir)?.strip_prefix(&path(root)?[..]).map(<[u8]>::to_vec);
    path.ok_or_else(|| io::Error::other("a directory left the root while it was being filled"))
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
