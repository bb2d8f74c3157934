//! The directory of one test: short, since socket paths end at 106 bytes, and marked as ours.

use std::fs;
use std::path::{Path, PathBuf};

/// A fresh directory in the temporary folder. Its path is what the leak check looks for in
/// processes and mounts, its [`Home::mark`] in names of cgroups and network namespaces.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    socket: PathBuf,
    mark: String,
}

impl Home {
    /// Makes the directory.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("g").rand_bytes(8).tempdir_in("/tmp");
        let path = dir.expect("a directory in /tmp").keep();
        let random: String =
            path.to_string_lossy().chars().filter(char::is_ascii_alphanumeric).skip(4).collect();
        let socket = path.join("gantry.sock");
        Self { path, socket, mark: format!("t{}", random.to_ascii_lowercase()) }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the daemon of this test listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A name nobody else has; a valid containerd identifier.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// `<home>/<name>`.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes the directory. The caller has made sure that nothing is mounted below it.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}
