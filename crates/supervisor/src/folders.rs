//! The daemon's folders and who may enter them.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Nobody else needs anything in the root.
pub(crate) const ROOT_MODE: u32 = 0o700;
/// Processes of a user namespace pass through the state folder to their root file system; they
/// may not list it.
pub(crate) const STATE_MODE: u32 = 0o711;

/// A folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The file system refused.
    #[error("cannot prepare folder {path}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Whoever owns a folder can replace what is in it.
    #[error("folder {path} belongs to user {owner}; give it to user {us}, who runs the daemon")]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are.
        us: u32,
    },
}

/// Makes `path` with its parents if it is absent, and gives it `mode`.
pub(crate) fn prepare(path: &Path, mode: u32) -> Result<(), FolderError> {
    let io = |source| FolderError::Io { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io(error)),
        _ => {}
    }
    let meta = fs::metadata(path).map_err(io)?;
    let us = rustix::process::geteuid().as_raw();
    if meta.uid() != us {
        return Err(FolderError::Foreign { path: path.to_owned(), owner: meta.uid(), us });
    }
    // Also for a folder just made: the umask may have taken bits away.
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_with_its_parents_and_an_open_one_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let mode = || fs::metadata(&path).unwrap().mode() & 0o777;
        prepare(&path, ROOT_MODE).unwrap();
        assert_eq!(mode(), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        prepare(&path, STATE_MODE).unwrap();
        assert_eq!(mode(), 0o711);
    }

    #[test]
    fn what_is_no_folder_or_not_ours_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "").unwrap();
        assert!(prepare(&file.join("x"), ROOT_MODE).is_err());
        let foreign = dir.path().join("d");
        fs::create_dir(&foreign).unwrap();
        std::os::unix::fs::chown(&foreign, Some(12345), None).unwrap();
        let error = prepare(&foreign, ROOT_MODE).unwrap_err();
        assert!(matches!(error, FolderError::Foreign { owner: 12345, .. }), "{error}");
    }
}
