//! One daemon per root, per state folder and per socket.
//!
//! A lock is a flock(2) on a file that holds the pid of its holder. The kernel drops it with the
//! process, so a crash leaves nothing to clean up; the file itself stays, for removing it would
//! let two daemons lock two different files of the same name.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// Why a lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{what} is in use by process {holder} (lock {path}); stop it or use another {what}")]
    Held {
        /// What the lock stands for.
        what: &'static str,
        /// The lock's file.
        path: PathBuf,
        /// The pid of the holder as it wrote it.
        holder: String,
    },
    /// The file cannot be opened, locked or written.
    #[error("cannot lock {path}")]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock `path` that stands for `what`, without waiting.
    ///
    /// # Errors
    /// [`LockError::Held`] with the holder's pid, or what the file system says.
    pub fn take(what: &'static str, path: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: path.to_owned(), source };
        // Close-on-exec is std's default: a shim that inherited the file would hold the lock.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                (&file).take(32).read_to_string(&mut text).map_err(io)?;
                let holder = match text.trim() {
                    "" => "unknown (it is just starting)".to_owned(),
                    pid => pid.to_owned(),
                };
                return Err(LockError::Held { what, path: path.to_owned(), holder });
            }
            Err(errno) => return Err(io(errno.into())),
        }
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_told_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::fs::write(&path, "999999999999\n").unwrap(); // left by a daemon that is gone
        let held = Lock::take("root", &path).unwrap();
        let error = Lock::take("root", &path).unwrap_err();
        let LockError::Held { holder, .. } = &error else { panic!("{error}") };
        assert_eq!(holder, &std::process::id().to_string());
        assert!(error.to_string().starts_with("root is in use by process"), "{error}");
        drop(held);
        Lock::take("root", &path).unwrap();
    }

    #[test]
    fn a_lock_that_cannot_be_made_names_its_file() {
        let error = Lock::take("root", Path::new("/nonexistent/lock")).unwrap_err();
        assert_eq!(error.to_string(), "cannot lock /nonexistent/lock");
    }
}
