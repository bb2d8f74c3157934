//! The snapshotter that needs nothing of the kernel: every snapshot is a full copy.
//!
//! ```text
//! <root>/<id>/fs    the snapshot; absent for a view of a parent, which shows the parent's
//! ```
//!
//! A copy shares its data with the parent where the file system can reflink.

use std::path::Path;

use gantry_core::snapshot::{Driver, Mount, SnapshotId, SnapshotKind, Usage};
use gantry_core::{Error, Result};
use rustix::fs::AtFlags;
use rustix::fs::{Mode, chmodat, mkdirat};

use crate::folders::Folders;
use crate::tree;

const FS: &std::ffi::CStr = c"fs";

/// Snapshots as full copies.
#[derive(Debug)]
pub struct Native {
    folders: Folders,
}

impl Native {
    /// Opens `root`, making it where it is missing.
    ///
    /// # Errors
    /// What the file system fails with.
    pub fn open(root: &Path) -> Result<Self> {
        Ok(Self { folders: Folders::open(root)? })
    }
}

impl Driver for Native {
    fn capabilities(&self) -> &[&'static str] {
        &[]
    }

    fn create(&self, id: SnapshotId, kind: SnapshotKind, parents: &[SnapshotId]) -> Result<()> {
        let io = |e: rustix::io::Errno| Error::io("", e.into());
        self.folders.create(id, |folder| {
            let parent = match (kind, parents.first()) {
                (SnapshotKind::View, Some(_)) => return Ok(()),
                (_, parent) => parent,
            };
            mkdirat(folder, FS, Mode::RWXU).map_err(io)?;
            let Some(parent) = parent else {
                // mkdir(2) applies the umask, chmod(2) does not.
                return chmodat(folder, FS, Mode::from_raw_mode(0o755), AtFlags::empty())
                    .map_err(io);
            };
            let from = self.folders.open_below(*parent, FS)?;
            let to = tree::open_dir(folder, FS).map_err(io)?;
            tree::copy(&from, &to, rustix::fd::AsFd::as_fd(folder))
                .map_err(|e| io(e).context(format!("copy snapshot folder {}", parent.0)))?;
            // The record of this snapshot must not outlive its files.
            self.folders.sync()
        })
    }

    fn mounts(
        &self,
        id: SnapshotId,
        kind: SnapshotKind,
        parents: &[SnapshotId],
    ) -> Result<Vec<Mount>> {
        let (shown, access) = match (kind, parents.first()) {
            (SnapshotKind::View, Some(parent)) => (*parent, "ro"),
            (SnapshotKind::View, None) => (id, "ro"),
            _ => (id, "rw"),
        };
        let source = self.folders.path(shown).join("fs");
        Ok(vec![Mount {
            kind: "bind".into(),
            source: source.to_string_lossy().into_owned(),
            target: String::new(),
            options: vec!["rbind".into(), access.into()],
        }])
    }

    fn usage(&self, id: SnapshotId) -> Result<Usage> {
        let dir = self.folders.open_below(id, FS)?;
        tree::usage(&dir)
            .map_err(|e| Error::io(format!("measure snapshot folder {}", id.0), e.into()))
    }

    fn sync(&self) -> Result<()> {
        self.folders.sync()
    }

    fn remove(&self, id: SnapshotId) -> Result<()> {
        self.folders.remove(id)
    }

    fn contains(&self, id: SnapshotId) -> bool {
        self.folders.contains(id)
    }

    fn list(&self) -> Result<Vec<SnapshotId>> {
        self.folders.list()
    }
}
