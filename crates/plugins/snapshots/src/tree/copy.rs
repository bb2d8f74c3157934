//! Copies a folder with everything that belongs to it: modes, owners, times, extended attributes,
//! links, devices, pipes, sockets and holes.
//!
//! Data is shared (FICLONE) where the file system can; else copied in the kernel
//! (copy_file_range(2)), extent by extent, so that holes stay holes.

use std::collections::HashMap;
use std::ffi::{CStr, CString};

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, chmodat,
    chownat, copy_file_range, fstat, ftruncate, ioctl_ficlone, linkat, mkdirat, mknodat, openat,
    readlinkat, seek, symlinkat, utimensat,
};
use rustix::io::{Errno, Result};

use super::{Visitor, lstat, open_dir, remove, walk};

/// Where inodes with several names wait for the next one; removed at the end.
const LINKS: &CStr = c"links";

/// Most bytes handed to one copy_file_range(2), so that none blocks for long.
const COPY_BYTES_MAX: usize = 64 << 20;

/// Copies what lies in `from` to the folder `to`, which is empty, and gives `to` itself the mode,
/// owner, times and attributes of `from`. `scratch` is a folder on the same file system as `to`.
pub(crate) fn copy(from: &OwnedFd, to: &OwnedFd, scratch: BorrowedFd<'_>) -> Result<()> {
    mkdirat(scratch, LINKS, Mode::RWXU)?;
    let links = open_dir(scratch, LINKS)?;
    let mut copier = Copier { to: open_dir(to, c".")?, links, linked: HashMap::new() };
    walk(open_dir(from, c".")?, &mut copier)?;
    copy_xattrs(&own_path(from), &own_path(to))?;
    set_attributes(to.as_fd(), c".", &fstat(from)?)?;
    remove(scratch, LINKS)
}

struct Copier {
    /// The folder that corresponds to the one being walked.
    to: OwnedFd,
    links: OwnedFd,
    linked: HashMap<(u64, u64), CString>,
}

impl Visitor for Copier {
    fn file(&mut self, dir: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<()> {
        let stat = lstat(dir, name)?;
        if stat.st_nlink > 1
            && let Some(first) = self.linked.get(&(stat.st_dev, stat.st_ino))
        {
            return linkat(&self.links, first.as_c_str(), &self.to, name, AtFlags::empty());
        }
        match kind {
            FileType::RegularFile => self.regular(dir, name, &stat)?,
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new())?;
                symlinkat(target.as_c_str(), &self.to, name)?;
            }
            _ => mknodat(&self.to, name, kind, Mode::RUSR, stat.st_rdev)?,
        }
        chown(self.to.as_fd(), name, &stat)?;
        copy_xattrs(&path_below(dir, name), &path_below(self.to.as_fd(), name))?;
        set_attributes(self.to.as_fd(), name, &stat)?;
        if stat.st_nlink > 1 {
            let kept = number(self.linked.len())?;
            linkat(&self.to, name, &self.links, kept.as_c_str(), AtFlags::empty())?;
            self.linked.insert((stat.st_dev, stat.st_ino), kept);
        }
        Ok(())
    }

    fn enter(&mut self, _: BorrowedFd<'_>, name: &CStr, _: BorrowedFd<'_>) -> Result<()> {
        mkdirat(&self.to, name, Mode::RWXU)?;
        self.to = open_dir(&self.to, name)?;
        Ok(())
    }

    fn leave(&mut self, _: BorrowedFd<'_>, name: &CStr, dir: BorrowedFd<'_>) -> Result<()> {
        let above = open_dir(&self.to, c"..")?;
        let stat = fstat(dir)?;
        chown(above.as_fd(), name, &stat)?;
        copy_xattrs(&own_path(dir), &own_path(&self.to))?;
        set_attributes(above.as_fd(), name, &stat)?;
        self.to = above;
        Ok(())
    }

    fn mounted(&mut self) -> Result<()> {
        Err(Errno::BUSY)
    }
}

impl Copier {
    fn regular(&self, dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<()> {
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let make = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let from = openat(dir, name, read, Mode::empty())?;
        let to = openat(&self.to, name, make, Mode::RUSR | Mode::WUSR)?;
        if stat.st_size == 0 || ioctl_ficlone(&to, &from).is_ok() {
            return Ok(());
        }
        copy_extents(&from, &to, u64::try_from(stat.st_size).unwrap_or(0))?;
        ftruncate(&to, u64::try_from(stat.st_size).unwrap_or(0))
    }
}

/// Copies every extent that holds data.
fn copy_extents(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<()> {
    let mut at = 0;
    while at < size {
        let start = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(()), // Only a hole is left.
            Err(Errno::INVAL) => at,           // The file system does not tell holes from data.
            Err(error) => return Err(error),
        };
        let end = seek(from, SeekFrom::Hole(start)).unwrap_or(size).clamp(start, size);
        copy_range(from, to, start, end)?;
        at = end.max(start + 1);
    }
    Ok(())
}

fn copy_range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<()> {
    let (mut read, mut written) = (start, start);
    while read < end {
        let left = usize::try_from(end - read).unwrap_or(COPY_BYTES_MAX).min(COPY_BYTES_MAX);
        match copy_file_range(from, Some(&mut read), to, Some(&mut written), left) {
            Ok(0) => return Ok(()), // Shorter than it said: the length is set afterwards.
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                return copy_by_hand(from, to, read, end);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &OwnedFd, to: &OwnedFd, mut at: u64, end: u64) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(buffer.len()).min(buffer.len());
        let got = rustix::io::pread(from, &mut buffer[..want], at)?;
        if got == 0 {
            return Ok(());
        }
        let mut done = 0;
        while done < got {
            done += rustix::io::pwrite(to, &buffer[done..got], at + done as u64)?;
        }
        at += got as u64;
    }
    Ok(())
}

fn number(number: usize) -> Result<CString> {
    CString::new(number.to_string()).map_err(|_| Errno::INVAL)
}

fn own_path(dir: impl AsFd) -> CString {
    path_below(dir.as_fd(), c".")
}

/// A path to `name` of `dir` for the calls that take no descriptor (xattr(7)). Resolved through
/// the descriptor, so it does not matter where the folder lies; the last part is never followed.
fn path_below(dir: BorrowedFd<'_>, name: &CStr) -> CString {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    CString::new(path).unwrap_or_default()
}

fn chown(dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<()> {
    let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(dir, name, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)
}

/// Mode and times, in that order and after the owner: chown(2) clears set-user-ID.
fn set_attributes(dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<()> {
    if name == c"." {
        chown(dir, name, stat)?;
    }
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        chmodat(dir, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
    }
    let times = Timestamps {
        last_access: timespec(stat.st_atime, stat.st_atime_nsec),
        last_modification: timespec(stat.st_mtime, stat.st_mtime_nsec),
    };
    utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

fn timespec(seconds: impl TryInto<i64>, nanos: impl TryInto<i64>) -> Timespec {
    Timespec { tv_sec: seconds.try_into().unwrap_or(0), tv_nsec: nanos.try_into().unwrap_or(0) }
}

/// Copies extended attributes after the owner: chown(2) drops file capabilities.
fn copy_xattrs(from: &CStr, to: &CStr) -> Result<()> {
    let mut names = Vec::new();
    match grow(|buffer| rustix::fs::llistxattr(from, buffer), &mut names) {
        Err(Errno::NOTSUP) => return Ok(()),
        outcome => outcome?,
    }
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let mut value = Vec::new();
        match grow(|buffer| rustix::fs::lgetxattr(from, name, buffer), &mut value) {
            Err(Errno::NODATA) => continue,
            outcome => outcome?,
        }
        match rustix::fs::lsetxattr(to, name, &value, rustix::fs::XattrFlags::empty()) {
            // Labels of a security module are given by its policy, not by us.
            Err(Errno::NOTSUP | Errno::PERM | Errno::INVAL)
                if name.to_bytes().starts_with(b"security.") => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Largest list of names and largest value, xattr(7).
const XATTR_BYTES_MAX: usize = 64 << 10;

fn grow(read: impl FnOnce(&mut [u8]) -> Result<usize>, bytes: &mut Vec<u8>) -> Result<()> {
    bytes.resize(XATTR_BYTES_MAX, 0);
    let length = read(bytes)?;
    bytes.truncate(length);
    Ok(())
}
