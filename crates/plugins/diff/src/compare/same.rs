//! Whether a file is the same in two trees, by containerd's rule: equal type, mode, owner, device
//! and kept attributes; for all but directories also size and time; and content, where both times
//! are whole seconds, for an archive may have cut the rest off and a second is long.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::kept_xattr;
use crate::apply::{Dir, file_type};

const COMPARE_BYTES: usize = 128 * 1024;

pub(super) fn same(lower: (&Dir, &Stat), upper: (&Dir, &Stat), name: &[u8]) -> io::Result<bool> {
    let (l, u) = (lower.1, upper.1);
    if (l.st_dev, l.st_ino) == (u.st_dev, u.st_ino) {
        return Ok(true);
    }
    if (l.st_mode, l.st_uid, l.st_gid, l.st_rdev) != (u.st_mode, u.st_uid, u.st_gid, u.st_rdev) {
        return Ok(false);
    }
    let kind = file_type(u);
    if kind != FileType::Directory {
        let times = |s: &Stat| (s.st_size, s.st_mtime, s.st_mtime_nsec);
        if times(l) != times(u) {
            return Ok(false);
        }
    }
    match kind {
        FileType::RegularFile | FileType::Directory => {
            let (l_file, u_file) = (open_file(lower.0, name)?, open_file(upper.0, name)?);
            if xattrs(&l_file)? != xattrs(&u_file)? {
                return Ok(false);
            }
            let whole = kind == FileType::RegularFile && u.st_mtime_nsec == 0 && u.st_size > 0;
            if whole { same_content(l_file.into(), u_file.into()) } else { Ok(true) }
        }
        FileType::Symlink if u.st_mtime_nsec == 0 => {
            let target = |dir: &Dir| rustix::fs::readlinkat(dir, name, Vec::new());
            Ok(target(lower.0)? == target(upper.0)?)
        }
        _ => Ok(true),
    }
}

/// Opens a file or directory to read it, leaving its access time alone where we may.
pub(super) fn open_file(dir: &Dir, name: &[u8]) -> io::Result<OwnedFd> {
    // Not blocking, should the file have become a fifo since it was looked at.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?),
        result => Ok(result?),
    }
}

/// The attributes that belong into a layer.
pub(super) fn xattrs(file: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut xattrs = crate::xattr::list(file)?;
    xattrs.retain(|(name, _)| kept_xattr(name));
    Ok(xattrs)
}

fn same_content(mut lower: File, mut upper: File) -> io::Result<bool> {
    let (mut l, mut u) = (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]);
    loop {
        let (l_count, u_count) = (fill(&mut lower, &mut l)?, fill(&mut upper, &mut u)?);
        if l[..l_count] != u[..u_count] {
            return Ok(false);
        }
        if l_count < l.len() {
            return Ok(true);
        }
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}
