//! Removes a folder with all that it holds, but nothing that is mounted below it.

use std::ffi::CStr;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{
    AtFlags, FileType, IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags, openat, unlinkat,
};
use rustix::io::{Errno, Result};

use super::{Visitor, open_dir, walk};

/// How often a folder is gone over again that does not turn out empty: unlinking while reading may
/// make readdir(3) pass over entries.
const ROUNDS: usize = 4;

/// Removes the folder `name` of `parent`; one that is gone is success. `EBUSY` when something is
/// mounted below it.
pub(crate) fn remove(parent: impl AsFd, name: &CStr) -> Result<()> {
    for round in 0.. {
        let dir = match open_dir(&parent, name) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::XDEV) => return Err(Errno::BUSY),
            Err(error) => return Err(error),
        };
        walk(dir, &mut Remover)?;
        match unlink(parent.as_fd(), name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) if round < ROUNDS => {}
            outcome => return outcome,
        }
    }
    Ok(())
}

struct Remover;

impl Visitor for Remover {
    fn file(&mut self, dir: BorrowedFd<'_>, name: &CStr, _kind: FileType) -> Result<()> {
        unlink(dir, name, AtFlags::empty())
    }
    fn enter(&mut self, _: BorrowedFd<'_>, _: &CStr, _: BorrowedFd<'_>) -> Result<()> {
        Ok(())
    }
    fn leave(&mut self, parent: BorrowedFd<'_>, name: &CStr, _: BorrowedFd<'_>) -> Result<()> {
        match unlink(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) => Ok(()), // The next round finds what this one passed over.
            outcome => outcome,
        }
    }
    fn mounted(&mut self) -> Result<()> {
        Err(Errno::BUSY)
    }
}

fn unlink(dir: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<()> {
    match unlinkat(dir, name, flags) {
        Err(Errno::PERM) => {
            // A container may have made it immutable or append-only, chattr(1).
            thaw(dir, c".");
            thaw(dir, name);
            absent_is_done(unlinkat(dir, name, flags))
        }
        outcome => absent_is_done(outcome),
    }
}

fn absent_is_done(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(Errno::NOENT) => Ok(()),
        outcome => outcome,
    }
}

/// Clears the flags that forbid removal. Failures show in the unlink that follows.
fn thaw(dir: BorrowedFd<'_>, name: &CStr) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = openat(dir, name, flags, Mode::empty()) else { return };
    let frozen = IFlags::IMMUTABLE | IFlags::APPEND;
    if let Ok(flags) = ioctl_getflags(&file)
        && flags.intersects(frozen)
    {
        let _ = ioctl_setflags(&file, flags - frozen);
    }
}
