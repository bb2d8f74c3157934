//! The snapshotter that stacks folders with overlayfs.
//!
//! ```text
//! <root>/<id>/fs    what this snapshot adds to its parents
//! <root>/<id>/work  overlayfs's own folder beside it; absent for views
//! ```
//!
//! Mount shapes are those that clients take apart: no parent is a bind, a view of one parent is a
//! read-only bind of it, anything else is an overlay with the nearest parent first.

mod probe;

use std::path::Path;

use gantry_core::snapshot::{Driver, Mount, SnapshotId, SnapshotKind, Usage};
use gantry_core::{Error, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Gid, Mode, Uid, chmodat, chownat, fstat, mkdirat};
use rustix::io::Errno;

use crate::folders::Folders;
use crate::tree;

pub use probe::HostOptions;

const FS: &std::ffi::CStr = c"fs";
const WORK: &std::ffi::CStr = c"work";

/// Snapshots as overlayfs layers.
#[derive(Debug)]
pub struct Overlay {
    folders: Folders,
    root: String,
    host: HostOptions,
}

impl Overlay {
    /// Opens `root`, making it where it is missing, and finds out how overlayfs works there.
    ///
    /// # Errors
    /// As [`Overlay::probe`].
    pub fn open(root: &Path) -> Result<Self> {
        let folders = Folders::open(root)?;
        let text = folders.root().to_str().filter(|t| !t.contains([':', ',', '\\', '\n']));
        let root = text.map(str::to_owned).ok_or_else(|| {
            Error::invalid_argument(format!(
                "snapshot root {:?} cannot stand in overlayfs options: choose a path in UTF-8 \
                 without colon, comma, backslash and line break",
                folders.root()
            ))
        })?;
        let host = probe::probe(&folders)?;
        Ok(Self { folders, root, host })
    }

    /// Finds out whether overlayfs works at `root`, and with which options.
    ///
    /// # Errors
    /// `FailedPrecondition` that says what the kernel or the file system lacks and what to do.
    pub fn probe(root: &Path) -> Result<HostOptions> {
        probe::probe(&Folders::open(root)?)
    }

    fn fs(&self, id: SnapshotId) -> String {
        format!("{}/{}/fs", self.root, id.0)
    }

    fn bind(source: String, access: &str) -> Vec<Mount> {
        let options = vec![access.to_owned(), "rbind".to_owned()];
        vec![Mount { kind: "bind".into(), source, target: String::new(), options }]
    }
}

/// Gives the new top the mode and owner that the parent's root has: overlayfs shows the top's.
fn dress(folder: &OwnedFd, parent: Option<OwnedFd>) -> Result<(), Errno> {
    let Some(parent) = parent else {
        // mkdir(2) applies the umask, chmod(2) does not.
        return chmodat(folder, FS, Mode::from_raw_mode(0o755), AtFlags::empty());
    };
    let stat = fstat(parent)?;
    let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(folder, FS, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    chmodat(folder, FS, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())
}

impl Driver for Overlay {
    fn capabilities(&self) -> &[&'static str] {
        // A layer made on nothing is the same folder as one made on a parent.
        &["rebase"]
    }

    fn create(&self, id: SnapshotId, kind: SnapshotKind, parents: &[SnapshotId]) -> Result<()> {
        let io = |e: Errno| Error::io("", e.into());
        self.folders.create(id, |folder| {
            let parent = parents.first().map(|p| self.folders.open_below(*p, FS)).transpose()?;
            mkdirat(folder, FS, Mode::RWXU).map_err(io)?;
            dress(folder, parent).map_err(io)?;
            if kind == SnapshotKind::Active {
                mkdirat(folder, WORK, Mode::from_raw_mode(0o711)).map_err(io)?;
            }
            Ok(())
        })
    }

    fn mounts(
        &self,
        id: SnapshotId,
        kind: SnapshotKind,
        parents: &[SnapshotId],
    ) -> Result<Vec<Mount>> {
        let mut options = match (kind, parents) {
            (SnapshotKind::View, []) => return Ok(Self::bind(self.fs(id), "ro")),
            (SnapshotKind::View, [parent]) => return Ok(Self::bind(self.fs(*parent), "ro")),
            (SnapshotKind::View, _) => Vec::new(),
            (_, []) => return Ok(Self::bind(self.fs(id), "rw")),
            (_, _) => vec![
                format!("workdir={}/{}/work", self.root, id.0),
                format!("upperdir={}", self.fs(id)),
            ],
        };
        let lower: Vec<_> = parents.iter().map(|parent| self.fs(*parent)).collect();
        options.push(format!("lowerdir={}", lower.join(":")));
        options.extend(self.host.options().map(str::to_owned));
        Ok(vec![Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options,
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
