//! The store's directory: made, told apart by backend, set aside when damaged.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{BackendKind, StoreError};

impl BackendKind {
    /// The database file within the store's directory.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::Sled => "db",
            Self::Redb => "redb",
        }
    }

    /// The name in configuration and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Redb => "redb",
        }
    }
}

/// Makes `dir` if it is absent (mode 0700, durable), and refuses one that holds the other
/// backend's data: starting empty beside it would look like losing everything.
pub(crate) fn prepare(dir: &Path, kind: BackendKind) -> Result<(), StoreError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => sync(dir.parent().unwrap_or(Path::new("/")))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(StoreError::io(format!("make {}", dir.display()), error)),
    }
    let other = match kind {
        BackendKind::Sled => BackendKind::Redb,
        BackendKind::Redb => BackendKind::Sled,
    };
    if dir.join(other.file()).exists() && !dir.join(kind.file()).exists() {
        return Err(StoreError::OtherBackend {
            path: dir.to_owned(),
            found: other.name(),
            wanted: kind.name(),
        });
    }
    Ok(())
}

/// Makes the entries of `dir` durable.
pub(crate) fn sync(dir: &Path) -> Result<(), StoreError> {
    // An empty parent is what `Path::parent` gives for a plain relative name.
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| StoreError::io(format!("sync {}", dir.display()), error))
}

/// The paths of the files in `dir` whose names `wanted` accepts.
pub(crate) fn files(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, StoreError> {
    let listed = || -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(&wanted) {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    };
    listed().map_err(|error| StoreError::io(format!("list {}", dir.display()), error))
}

/// Bytes occupied by the files of `dir`, one level of subdirectories included.
pub(crate) fn size(dir: &Path) -> Result<u64, StoreError> {
    fn walk(dir: &Path, levels: u32) -> io::Result<u64> {
        let mut bytes = 0;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // A snapshot may be replaced while we look.
            let Ok(meta) = entry.metadata() else { continue };
            bytes += meta.blocks() * 512;
            if meta.is_dir() && levels > 0 {
                bytes += walk(&entry.path(), levels - 1)?;
            }
        }
        Ok(bytes)
    }
    walk(dir, 1).map_err(|error| StoreError::io(format!("list {}", dir.display()), error))
}

/// Moves a damaged store out of the way, durably, and says where to: `<dir>.damaged-<n>`. What
/// follows [`StoreError::Corrupt`] when the last export is to be restored into a new store.
pub fn quarantine(dir: &Path) -> Result<PathBuf, StoreError> {
    let fail = |error| StoreError::io(format!("move {} away", dir.display()), error);
    let mut number = 1;
    let aside = loop {
        let mut name = dir.as_os_str().to_owned();
        name.push(format!(".damaged-{number}"));
        let candidate = PathBuf::from(name);
        if !candidate.try_exists().map_err(fail)? {
            break candidate;
        }
        number += 1;
    };
    fs::rename(dir, &aside).map_err(fail)?;
    sync(dir.parent().unwrap_or(Path::new("/")))?;
    Ok(aside)
}
