//! The folders that mounts stand on: `<n>/<i>`, the number of the activation and that of the mount.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use gantry_core::{Error, Result};
use gantry_sys::mount;

/// The folder of all activations.
#[derive(Debug)]
pub(crate) struct Folders(PathBuf);

impl Folders {
    /// Opens `root`, which is made if it is absent.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let fail = |error| Error::io(format!("make {}", root.display()), error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(fail)?;
        // As the mount table shows it.
        root.canonicalize().map(Self).map_err(fail)
    }

    fn of(&self, number: u64) -> PathBuf {
        self.0.join(number.to_string())
    }

    /// Makes the folder of an activation.
    ///
    /// # Errors
    /// What the file system says; a folder that is there is none of this activation.
    pub(crate) fn make(&self, number: u64) -> Result<()> {
        create(&self.of(number))
    }

    /// Makes the mount point of one of its mounts.
    ///
    /// # Errors
    /// As [`Folders::make`].
    pub(crate) fn make_point(&self, number: u64, index: usize) -> Result<PathBuf> {
        let point = self.of(number).join(index.to_string());
        create(&point)?;
        Ok(point)
    }

    /// Unmounts what stands in the folder of an activation and removes it; one that is gone is
    /// success. Two may do so at once.
    ///
    /// # Errors
    /// What the kernel says; then the folder stays for another try.
    pub(crate) fn remove(&self, number: u64) -> Result<()> {
        let folder = self.of(number);
        let fail = |error| Error::io(format!("remove {}", folder.display()), error);
        mount::unmount_all(&folder)
            .map_err(|error| Error::caused(gantry_core::Kind::Unknown, "unmount", error))?;
        try_fail_point!("mounts.folder/after-unmount");
        let points = match fs::read_dir(&folder) {
            Ok(points) => points,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(fail(error)),
        };
        for point in points {
            // Never with content: a mount made meanwhile would lose its own.
            gone(fs::remove_dir(point.map_err(fail)?.path())).map_err(fail)?;
        }
        gone(fs::remove_dir(&folder)).map_err(fail)
    }

    /// The numbers of all folders.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(crate) fn numbers(&self) -> Result<Vec<u64>> {
        let fail = |error| Error::io(format!("list {}", self.0.display()), error);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            // Anything else is not ours to remove.
            numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        Ok(numbers)
    }
}

fn create(path: &Path) -> Result<()> {
    let fail = |error| Error::io(format!("make {}", path.display()), error);
    fs::DirBuilder::new().mode(0o700).create(path).map_err(fail)
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
