//! Names from archives and the directories they lead to.
//!
//! A name is cleaned in text first (`a/../b` is `b`, a leading `/` or `..` means the root), as
//! containerd does, then resolved by the kernel below the root's file descriptor: openat2(2) with
//! `RESOLVE_IN_ROOT`, so that a symlink or `..` in the tree leads nowhere else. Missing parents,
//! also those behind a dangling symlink, are made on the way.
//!
//! Must not: hand the kernel a path that is not relative to a descriptor of ours.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Symlinks followed for one name; the kernel's own bound (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// Tries of an openat2 that lost against a rename elsewhere in the system (EAGAIN).
const TRIES_MAX: usize = 128;

/// Identity of a directory while it is open or was open without being removed.
pub(crate) type DirId = (u64, u64);

/// An open directory.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    pub(crate) id: DirId,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self { fd, id: (stat.st_dev, stat.st_ino) })
    }

    /// The child directory `name`, never through a symlink.
    pub(crate) fn child(&self, name: &[u8]) -> io::Result<Self> {
        Self::new(rustix::fs::openat(&self.fd, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?)
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Whether a path does not lead to a directory because something is absent, a file, or a symlink
/// that is not to be followed or has no end.
pub(crate) fn leads_nowhere(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// The components of `name` after cleaning; none when it means the root.
pub(crate) fn clean(name: &[u8]) -> Vec<&[u8]> {
    let mut components = Vec::new();
    for component in name.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop()),
            component => components.push(component),
        }
    }
    components
}

/// openat2 that cannot leave `root`, follows no magic link, and tries again where the kernel
/// could not tell whether a `..` stayed inside.
pub(crate) fn open_in_root(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < TRIES_MAX => tries += 1,
            result => return Ok(result?),
        }
    }
}

/// The directory that `components` lead to below `root`.
pub(crate) fn open_dir(root: BorrowedFd<'_>, components: &[&[u8]]) -> io::Result<Dir> {
    let path = components.join(&b'/');
    Dir::new(open_in_root(root, &path, DIRECTORY, ResolveFlags::empty())?)
}

/// Stat without following a symlink; `None` when there is nothing.
pub(crate) fn stat(dir: impl AsFd, name: &[u8]) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Walks to the directory that `components` lead to and lets `missing` make what is not there.
///
/// `missing` gets the parent and its path without symlinks, the name, and what stands in its
/// place, if anything does; it returns whether a directory stands there now.
pub(crate) fn make_dirs(
    root: BorrowedFd<'_>,
    components: &[&[u8]],
    mut missing: impl FnMut(&Dir, &[Vec<u8>], &[u8], Option<&Stat>) -> io::Result<bool>,
) -> io::Result<Dir> {
    let mut resolved: Vec<Vec<u8>> = Vec::new();
    let mut pending: VecDeque<Vec<u8>> = components.iter().map(|c| c.to_vec()).collect();
    let mut current = open_dir(root, &[])?;
    let mut links = 0;
    while let Some(name) = pending.pop_front() {
        if name == b".." {
            resolved.pop();
            current = reopen(root, &resolved)?;
            continue;
        }
        let found = stat(&current, &name)?;
        match found.as_ref().map(file_type) {
            Some(FileType::Directory) => {}
            Some(FileType::Symlink) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP.into());
                }
                let target = rustix::fs::readlinkat(&current, &name, Vec::new())?.into_bytes();
                if target.first() == Some(&b'/') {
                    resolved.clear();
                    current = open_dir(root, &[])?;
                }
                for part in target.split(|b| *b == b'/').rev() {
                    if !part.is_empty() && part != b"." {
                        pending.push_front(part.to_vec());
                    }
                }
                continue;
            }
            _ => {
                if !missing(&current, &resolved, &name, found.as_ref())? {
                    return Err(Errno::NOTDIR.into());
                }
            }
        }
        current = current.child(&name)?;
        resolved.push(name);
    }
    Ok(current)
}

/// The directory of a path known to hold no symlinks.
fn reopen(root: BorrowedFd<'_>, resolved: &[Vec<u8>]) -> io::Result<Dir> {
    let path = resolved.join(&b'/');
    Dir::new(open_in_root(root, &path, DIRECTORY, ResolveFlags::NO_SYMLINKS)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: &str) {
        assert_eq!(clean(name.as_bytes()).join(&b'/'), expected.as_bytes(), "{name}");
    }

    #[test]
    fn names_are_cleaned_in_text() {
        check("a/b", "a/b");
        check("./a//b/.", "a/b");
        check("/a", "a");
        check("a/../b", "b");
        check("../../a", "a");
        check("a/../../..", "");
        check("...", "...");
        check("", "");
        check(".wh...", ".wh...");
    }
}
