//! Walks below a folder whose content nobody vouches for.
//!
//! A container may nest folders deeper than any path is long, mount things below its root, or swap
//! a folder for a link while it is being looked at. So a walk holds one open folder at a time, goes
//! down with openat2(2) that follows no link and crosses no mount, and goes up by `..`, checking
//! that it arrives where it came from. Depth costs memory, not descriptors.
//!
//! Must not: follow a link; leave the file system; recurse.

mod copy;
mod remove;
mod usage;

pub(crate) use copy::copy;
pub(crate) use remove::remove;
pub(crate) use usage::usage;

use std::ffi::{CStr, CString};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2, statat,
};
use rustix::io::{Errno, Result};

/// What a walk does at each step.
pub(crate) trait Visitor {
    /// Something other than a folder.
    fn file(&mut self, dir: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<()>;
    /// Before going down into `name` of `parent`, open as `dir`.
    fn enter(&mut self, parent: BorrowedFd<'_>, name: &CStr, dir: BorrowedFd<'_>) -> Result<()>;
    /// After everything below `name` of `parent`, open as `dir`, was visited.
    fn leave(&mut self, parent: BorrowedFd<'_>, name: &CStr, dir: BorrowedFd<'_>) -> Result<()>;
    /// What to do about a folder on which something is mounted.
    fn mounted(&mut self) -> Result<()>;
}

/// Opens the folder `name` of `dir`.
pub(crate) fn open_dir(dir: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    openat2(dir, name, flags, Mode::empty(), resolve)
}

/// lstat(2) below a folder.
pub(crate) fn lstat(dir: impl AsFd, name: &CStr) -> Result<Stat> {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// A folder on the way down.
struct Level {
    /// Its name in its parent.
    name: CString,
    /// The parent's identity, to be found again at `..`.
    parent: (u64, u64),
    /// The parent's folders that are still to be visited.
    siblings: Vec<CString>,
}

fn identity(dir: impl AsFd) -> Result<(u64, u64)> {
    let stat = fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Visits everything below `root`, folders after what they hold. What disappears meanwhile is
/// passed over; a folder that moves away while the walk is below it is `ESTALE`.
pub(crate) fn walk(root: OwnedFd, visitor: &mut impl Visitor) -> Result<()> {
    let mut dir = root;
    let mut levels: Vec<Level> = Vec::new();
    let mut pending = list(&dir, visitor)?;
    loop {
        while let Some(name) = pending.pop() {
            let below = match open_dir(&dir, name.as_c_str()) {
                Ok(below) => below,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(Errno::XDEV) => {
                    visitor.mounted()?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            visitor.enter(dir.as_fd(), &name, below.as_fd())?;
            let parent = identity(&dir)?;
            dir = below;
            let siblings = std::mem::replace(&mut pending, list(&dir, visitor)?);
            levels.push(Level { name, parent, siblings });
        }
        let Some(level) = levels.pop() else { return Ok(()) };
        let above = open_dir(&dir, c"..")?;
        if identity(&above)? != level.parent {
            return Err(Errno::STALE);
        }
        visitor.leave(above.as_fd(), &level.name, dir.as_fd())?;
        dir = above;
        pending = level.siblings;
    }
}

/// Shows the visitor all that is no folder in `dir` and returns the names of the folders.
fn list(dir: &OwnedFd, visitor: &mut impl Visitor) -> Result<Vec<CString>> {
    let mut folders = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match lstat(dir, name) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error),
            },
            known => known,
        };
        if kind == FileType::Directory {
            folders.push(name.to_owned());
        } else {
            visitor.file(dir.as_fd(), name, kind)?;
        }
    }
    Ok(folders)
}
