//! Disk space kept back for the store itself, so that a full disk stops new data and not deletes.
//!
//! Blocks are preallocated to the database file beyond what it uses: nobody else can take them,
//! and the backend's writes land in them without asking the file system for space. Below half of
//! the wanted amount the file is topped up; when that fails the disk is full, and the writer
//! admits only what frees space or must not be lost.
//!
//! Invariant: while [`Reserve::whole`] is true at the start of a group, at least half of the
//! wanted amount lies ahead of the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// Unit of [`MetadataExt::blocks`], stat(2).
const BLOCK: u64 = 512;

/// The blocks kept ahead of one file.
pub(crate) struct Reserve {
    wanted: u64,
    whole: AtomicBool,
    /// The file system cannot preallocate: nothing is kept back.
    unsupported: AtomicBool,
}

impl Reserve {
    pub(crate) fn new(wanted: u64) -> Self {
        Self { wanted, whole: AtomicBool::new(true), unsupported: AtomicBool::new(false) }
    }

    /// Whether enough is kept back; tries to get it when it was not.
    pub(crate) fn whole(&self, file: &File) -> bool {
        self.whole.load(Ordering::Relaxed) || self.top_up(file)
    }

    /// Looks how much is left and fills up.
    pub(crate) fn top_up(&self, file: &File) -> bool {
        if self.wanted == 0 || self.unsupported.load(Ordering::Relaxed) {
            return true;
        }
        let whole = match self.try_top_up(file) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                tracing::warn!(
                    "the metadata file system cannot preallocate: nothing is kept back for \
                     deletes on a full disk"
                );
                self.unsupported.store(true, Ordering::Relaxed);
                true
            }
            Err(error) => {
                if self.whole.load(Ordering::Relaxed) {
                    tracing::warn!(%error, "disk full: only deletes are committed from here on");
                }
                false
            }
        };
        self.whole.store(whole, Ordering::Relaxed);
        whole
    }

    fn try_top_up(&self, file: &File) -> io::Result<()> {
        let meta = file.metadata()?;
        let held = (meta.blocks() * BLOCK).saturating_sub(meta.len());
        if held >= self.wanted / 2 {
            return Ok(());
        }
        // From the start, not from the end: holes in the middle would need blocks, too.
        match fallocate(file, FallocateFlags::KEEP_SIZE, 0, meta.len() + self.wanted) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Err(io::ErrorKind::Unsupported.into()),
            Err(errno) => Err(errno.into()),
        }
    }
}
