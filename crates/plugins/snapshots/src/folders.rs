//! Numbered folders that appear and disappear whole.
//!
//! ```text
//! <root>/<id>       a snapshot
//! <root>/new-<id>   one being made; renamed when complete
//! <root>/rm-<id>    one being removed; renamed before its content goes
//! ```
//!
//! So `<id>` is never half a snapshot, whatever moment the power fails.
//! Must not: know what lies in a folder.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};

use gantry_core::snapshot::SnapshotId;
use gantry_core::{Error, Result};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, mkdirat, open, renameat, renameat_with,
    statat, syncfs,
};
use rustix::io::Errno;

use crate::tree;

/// The folders below one root.
#[derive(Debug)]
pub struct Folders {
    root: PathBuf,
    // Opened once: the kernel reports a failed write-back to each descriptor that was open when it
    // failed, and to none that was opened later.
    dir: OwnedFd,
}

fn name(prefix: &str, id: SnapshotId) -> Result<CString> {
    CString::new(format!("{prefix}{}", id.0)).map_err(|e| Error::unknown(e.to_string()))
}

impl Folders {
    /// Opens `root`, making it (0700) where it is missing.
    ///
    /// # Errors
    /// What the file system fails with.
    pub fn open(root: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let text = || format!("open snapshot root {}", root.display());
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(|e| Error::io(text(), e))?;
        let root = std::path::absolute(root).map_err(|e| Error::io(text(), e))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = open(&root, flags, Mode::empty()).map_err(|e| Error::io(text(), e.into()))?;
        Ok(Self { root, dir })
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of the folder of `id`.
    pub fn path(&self, id: SnapshotId) -> PathBuf {
        self.root.join(id.0.to_string())
    }

    /// Opens `below` in the folder of `id`.
    ///
    /// # Errors
    /// What the file system fails with.
    pub fn open_below(&self, id: SnapshotId, below: &CStr) -> Result<OwnedFd> {
        let text = || format!("open {}/{}", self.path(id).display(), below.to_string_lossy());
        let dir = tree::open_dir(&self.dir, name("", id)?.as_c_str())
            .map_err(|e| Error::io(text(), e.into()))?;
        tree::open_dir(dir, below).map_err(|e| Error::io(text(), e.into()))
    }

    /// Makes the folder of `id` and has `fill` fill it. A folder that is there already stays as it
    /// is.
    ///
    /// # Errors
    /// What `fill` or the file system fails with; nothing of the folder remains then.
    pub fn create(&self, id: SnapshotId, fill: impl FnOnce(&OwnedFd) -> Result<()>) -> Result<()> {
        let (new, done) = (name("new-", id)?, name("", id)?);
        let made = self.make(&new, &done, fill);
        if made.is_err() {
            // The first failure is the one to report; what this leaves, the next sweep removes.
            let _ = tree::remove(&self.dir, &new);
        }
        made.map_err(|e| e.context(format!("create snapshot folder {}", self.path(id).display())))
    }

    fn make(
        &self,
        new: &CStr,
        done: &CStr,
        fill: impl FnOnce(&OwnedFd) -> Result<()>,
    ) -> Result<()> {
        let io = |e: Errno| Error::io("", e.into());
        try_fail_point!("snapshot.make-folder/before-make");
        match mkdirat(&self.dir, new, Mode::RWXU) {
            Err(Errno::EXIST) => {
                tree::remove(&self.dir, new).map_err(io)?;
                mkdirat(&self.dir, new, Mode::RWXU).map_err(io)?;
            }
            outcome => outcome.map_err(io)?,
        }
        fill(&tree::open_dir(&self.dir, new).map_err(io)?)?;
        try_fail_point!("snapshot.make-folder/before-rename");
        match renameat_with(&self.dir, new, &self.dir, done, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => tree::remove(&self.dir, new).map_err(io)?,
            // Not every file system knows the flag; numbers are given out once anyway.
            Err(Errno::INVAL) => renameat(&self.dir, new, &self.dir, done).map_err(io)?,
            outcome => outcome.map_err(io)?,
        }
        try_fail_point!("snapshot.make-folder/after-rename");
        Ok(())
    }

    /// Removes the folder of `id`, in whatever state it is; one that is gone is success.
    ///
    /// # Errors
    /// What the file system fails with; `FailedPrecondition` when something is mounted below it.
    pub fn remove(&self, id: SnapshotId) -> Result<()> {
        let text = || format!("remove snapshot folder {}", self.path(id).display());
        let failed = |e: Errno| match e {
            Errno::BUSY => Error::failed_precondition("something is mounted below it: unmount it")
                .context(text()),
            e => Error::io(text(), e.into()),
        };
        let (new, done, old) = (name("new-", id)?, name("", id)?, name("rm-", id)?);
        try_fail_point!("snapshot.remove-folder/before-rename");
        match renameat(&self.dir, &done, &self.dir, &old) {
            // Left over by an interrupted removal of the same number.
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                tree::remove(&self.dir, &old).map_err(failed)?;
                renameat(&self.dir, &done, &self.dir, &old).map_err(failed)?;
            }
            Err(Errno::NOENT) => {}
            outcome => outcome.map_err(failed)?,
        }
        try_fail_point!("snapshot.remove-folder/after-rename");
        tree::remove(&self.dir, &old).map_err(failed)?;
        tree::remove(&self.dir, &new).map_err(failed)
    }

    /// The numbers that have a folder, in whatever state.
    ///
    /// # Errors
    /// What the file system fails with.
    pub fn list(&self) -> Result<Vec<SnapshotId>> {
        let io = |e: Errno| Error::io(format!("list {}", self.root.display()), e.into());
        let mut ids = std::collections::BTreeSet::new();
        for entry in Dir::read_from(&self.dir).map_err(io)? {
            let entry = entry.map_err(io)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let number = name.strip_prefix("new-").or(name.strip_prefix("rm-")).unwrap_or(name);
            if let Ok(number) = number.parse() {
                ids.insert(SnapshotId(number));
            }
        }
        Ok(ids.into_iter().collect())
    }

    /// Whether the folder of `id` is there, complete.
    pub fn contains(&self, id: SnapshotId) -> bool {
        name("", id).is_ok_and(|name| {
            statat(&self.dir, &name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        })
    }

    /// syncfs(2) on the root.
    ///
    /// # Errors
    /// What the file system fails with.
    pub fn sync(&self) -> Result<()> {
        syncfs(&self.dir).map_err(|e| {
            Error::io(format!("sync the file system of {}", self.root.display()), e.into())
        })
    }
}

impl AsFd for Folders {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.dir.as_fd()
    }
}
