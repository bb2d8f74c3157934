//! Owner, extended attributes, mode and times of one file, in the order the kernel wants them:
//! chown(2) clears set-id bits and capabilities, so it comes first; times come last.
//!
//! Works on descriptors. A file that cannot be opened without side effects (device, fifo, symlink)
//! is reached through an `O_PATH` descriptor and its link below `/proc/self/fd`, which leads to
//! exactly that inode (proc(5)): the only path ever built here, and not from an archive.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use tracing::warn;

use super::path::{self, Dir};
use crate::archive::{Entry, Time};

/// Owner, mode, times and attributes to give to a file.
pub(super) struct Meta<'a> {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    pub(super) times: Timestamps,
    pub(super) xattrs: &'a [(Vec<u8>, Vec<u8>)],
    /// Attributes that begin so are the overlay's own and never come from an archive.
    pub(super) reserved: Option<&'static [u8]>,
}

impl<'a> Meta<'a> {
    /// What `entry` asks for. The ids must be such that no cast changes them, and `u32::MAX`,
    /// which chown takes as "leave it", is none (CVE-2024-40635).
    pub(super) fn of(entry: &'a Entry, reserved: Option<&'static [u8]>) -> Result<Self, String> {
        let id = |what: &str, id: i64| match u32::try_from(id) {
            Ok(id) if id != u32::MAX => Ok(id),
            _ => Err(format!("{what} {id} is outside 0..={}", u32::MAX - 1)),
        };
        Ok(Self {
            uid: id("uid", entry.uid)?,
            gid: id("gid", entry.gid)?,
            mode: entry.mode,
            times: times(entry.mtime, entry.atime),
            xattrs: &entry.xattrs,
            reserved,
        })
    }

    /// Applies everything but times to an open file or directory.
    pub(super) fn apply_open(&self, file: impl AsFd, name: &[u8]) -> io::Result<()> {
        let file = file.as_fd();
        let (uid, gid) = self.owner();
        rustix::fs::fchown(file, Some(uid), Some(gid))?;
        for (key, value) in self.xattrs {
            self.set_xattr(name, key, true, |key| {
                rustix::fs::fsetxattr(file, key, value, XattrFlags::empty())
            })?;
        }
        Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(self.mode))?)
    }

    /// Applies everything, times included, to what stands under `name`, not following it.
    pub(super) fn apply_named(&self, dir: &Dir, name: &[u8]) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: OwnedFd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        let kind = path::file_type(&stat);
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        // Left alone where it is right: chown takes capabilities away, and a hard link's entry
        // need not repeat those of the file it links to.
        if (stat.st_uid, stat.st_gid) != (self.uid, self.gid) {
            let (uid, gid) = self.owner();
            rustix::fs::chownat(&file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
        }
        let plain = matches!(kind, FileType::RegularFile | FileType::Directory);
        for (key, value) in self.xattrs {
            self.set_xattr(name, key, plain, |key| {
                rustix::fs::setxattr(&link, key, value, XattrFlags::empty())
            })?;
        }
        let stat = rustix::fs::fstat(&file)?;
        if kind != FileType::Symlink && stat.st_mode & 0o7777 != self.mode {
            let mode = Mode::from_raw_mode(self.mode);
            rustix::fs::chmodat(rustix::fs::CWD, &link, mode, AtFlags::empty())?;
        }
        Ok(rustix::fs::utimensat(dir, name, &self.times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn owner(&self) -> (Uid, Gid) {
        (Uid::from_raw(self.uid), Gid::from_raw(self.gid))
    }

    /// Sets one attribute; what containerd tolerates is tolerated, with a warning.
    fn set_xattr(
        &self,
        name: &[u8],
        key: &[u8],
        plain: bool,
        set: impl Fn(&[u8]) -> rustix::io::Result<()>,
    ) -> io::Result<()> {
        let reserved = self.reserved.is_some_and(|prefix| key.starts_with(prefix));
        let ignored = if key.starts_with(b"trusted.") || reserved {
            "attributes of the administrator are not taken from archives"
        } else {
            match set(key) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP) => "not supported by the file system",
                // xattr(7): only files and directories have attributes of users.
                Err(Errno::PERM) if key.starts_with(b"user.") && !plain => {
                    "not supported by the type of file"
                }
                Err(error) => return Err(error.into()),
            }
        };
        let (name, key) = (String::from_utf8_lossy(name), String::from_utf8_lossy(key));
        warn!(%name, %key, "extended attribute ignored: {ignored}");
        Ok(())
    }
}

/// Times as containerd sets them: access not before modification, and the epoch for what Go's
/// nanosecond clock cannot hold (before 1970, after 2262).
pub(super) fn times(mtime: Time, atime: Option<Time>) -> Timestamps {
    const LAST: Time = Time { secs: 9_223_372_036, nanos: 854_775_807 };
    let bounded = |time: Time| {
        let held = (Time::default()..=LAST).contains(&time);
        let time = if held { time } else { Time::default() };
        Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() }
    };
    let atime = atime.map_or(mtime, |atime| atime.max(mtime));
    Timestamps { last_access: bounded(atime), last_modification: bounded(mtime) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_outside_of_the_clock_are_the_epoch() {
        let time = |secs| Time { secs, nanos: 5 };
        let mtime = |t: Timestamps| (t.last_modification.tv_sec, t.last_modification.tv_nsec);
        assert_eq!(mtime(times(time(7), None)), (7, 5));
        assert_eq!(mtime(times(time(-7), None)), (0, 0));
        assert_eq!(mtime(times(time(i64::MAX), None)), (0, 0));
        let early = times(time(7), Some(time(3)));
        assert_eq!(early.last_access.tv_sec, 7, "access is not before modification");
    }
}
