//! Counts what a folder takes on disk.

use std::collections::HashSet;
use std::ffi::CStr;

use gantry_core::snapshot::Usage;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Stat, fstat};
use rustix::io::{Errno, Result};

use super::{Visitor, lstat, open_dir, walk};

/// How often a count begins anew because a folder moved under it.
const TRIES: usize = 3;

/// The unit of `st_blocks`, stat(3type).
const BLOCK_BYTES: i64 = 512;

/// Inodes and allocated bytes of `root` and all below it on the same file system. An inode with
/// several names counts once.
pub(crate) fn usage(root: &OwnedFd) -> Result<Usage> {
    let mut tries = 0;
    loop {
        let mut count = Count::default();
        count.add(&fstat(root)?);
        match walk(open_dir(root, c".")?, &mut count) {
            Ok(()) => return Ok(count.usage),
            Err(Errno::STALE) if tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

#[derive(Default)]
struct Count {
    usage: Usage,
    /// Inodes with several names that were met.
    linked: HashSet<(u64, u64)>,
}

impl Count {
    fn add(&mut self, stat: &Stat) {
        let folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if !folder && stat.st_nlink > 1 && !self.linked.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        self.usage.inodes += 1;
        self.usage.size += stat.st_blocks * BLOCK_BYTES;
    }
}

impl Visitor for Count {
    fn file(&mut self, dir: BorrowedFd<'_>, name: &CStr, _kind: FileType) -> Result<()> {
        match lstat(dir, name) {
            Ok(stat) => self.add(&stat),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
    fn enter(&mut self, _: BorrowedFd<'_>, _: &CStr, dir: BorrowedFd<'_>) -> Result<()> {
        self.add(&fstat(dir)?);
        Ok(())
    }
    fn leave(&mut self, _: BorrowedFd<'_>, _: &CStr, _: BorrowedFd<'_>) -> Result<()> {
        Ok(())
    }
    fn mounted(&mut self) -> Result<()> {
        Ok(()) // What is mounted there takes its space elsewhere.
    }
}
