//! A unix socket that is never reachable by more people than it should be.
//!
//! The socket is bound under a hidden name, given its owner and mode, made to listen, and only
//! then renamed to the name clients know. So there is no moment at which it has the mode of the
//! umask, none at which its name does not answer, and a stale socket of a dead daemon is replaced
//! in one step. What still answers, or is no socket, is left alone and told by name.

use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::config::Socket;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Why a socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something answers on it.
    #[error("{path} is served by process {pid}; stop it or set another address")]
    InUse {
        /// The socket.
        path: PathBuf,
        /// Who listens.
        pid: i32,
    },
    /// The name is taken by something that is no socket.
    #[error("{path} exists and is no socket; remove it or set another address")]
    NoSocket {
        /// What is there.
        path: PathBuf,
    },
    /// The file system or the kernel refused.
    #[error("cannot {step} socket {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A listening socket; its name goes when it is dropped, unless somebody else has taken it.
#[derive(Debug)]
pub struct Bound {
    path: PathBuf,
    inode: (u64, u64),
}

impl Bound {
    /// Listens on `path` with the owner and mode of `access`. The listener is non-blocking. The
    /// caller holds the lock of `path`.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn listen(path: &Path, access: &Socket) -> Result<(Self, UnixListener), SocketError> {
        let failed =
            |step| move |source: io::Error| SocketError::Io { step, path: path.to_owned(), source };
        refuse_taken(path)?;
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(failed("name")(io::ErrorKind::InvalidInput.into()));
        };
        let folder = rustix::fs::open(
            folder,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| failed("open the folder of")(e.into()))?;
        let hidden = hidden_name(name);
        // Left by a daemon that was killed between bind and rename; the lock says that it is gone.
        let _ = rustix::fs::unlinkat(&folder, &hidden, AtFlags::empty());
        let listener = bind_hidden(&folder, &hidden, access).map_err(failed("bind"))?;
        let listening = || -> io::Result<(u64, u64)> {
            rustix::net::listen(&listener, BACKLOG)?;
            let stat = rustix::fs::statat(&folder, &hidden, AtFlags::SYMLINK_NOFOLLOW)?;
            crate::failpoint("daemon.socket/before-rename")?;
            rustix::fs::renameat(&folder, &hidden, CWD, path)?;
            Ok((stat.st_dev, stat.st_ino))
        };
        match listening() {
            Ok(inode) => Ok((Self { path: path.to_owned(), inode }, UnixListener::from(listener))),
            Err(source) => {
                let _ = rustix::fs::unlinkat(&folder, &hidden, AtFlags::empty());
                Err(failed("publish")(source))
            }
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.inode);
        if ours {
            // A name that stays is stale and the next daemon replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Short however long `name` is, and the same at each start, so that leftovers are found again.
fn hidden_name(name: &OsStr) -> String {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    format!(".gantry-{:016x}", hasher.finish())
}

fn bind_hidden(folder: &OwnedFd, name: &str, access: &Socket) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    // By way of the folder's descriptor the path is short however long the folder's name is.
    let by_descriptor = format!("/proc/self/fd/{}/{name}", raw(folder));
    rustix::net::bind(&socket, &SocketAddrUnix::new(by_descriptor.as_str())?)?;
    let owned = || -> io::Result<()> {
        rustix::fs::chownat(
            folder,
            name,
            Some(rustix::fs::Uid::from_raw(access.uid)),
            Some(rustix::fs::Gid::from_raw(access.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        rustix::fs::chmodat(folder, name, Mode::from_raw_mode(access.mode.0), AtFlags::empty())?;
        Ok(())
    };
    if let Err(error) = owned() {
        let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
        return Err(error);
    }
    Ok(socket)
}

fn raw(fd: &OwnedFd) -> i32 {
    use std::os::fd::AsRawFd;
    fd.as_raw_fd()
}

/// Fails when `path` is anything but absent or a socket that nobody serves.
fn refuse_taken(path: &Path) -> Result<(), SocketError> {
    let failed =
        |step| move |source: io::Error| SocketError::Io { step, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(SocketError::NoSocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let probe = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(|e| failed("probe")(e.into()))?;
    let address = SocketAddrUnix::new(path).map_err(|e| failed("probe")(e.into()))?;
    match rustix::net::connect(&probe, &address) {
        // A full backlog means a live listener, too.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => {
            let pid = rustix::net::sockopt::socket_peercred(probe.as_fd())
                .map_or(0, |peer| peer.pid.as_raw_nonzero().get());
            Err(SocketError::InUse { path: path.to_owned(), pid })
        }
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("probe")(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::config::value::FileMode;

    fn access() -> Socket {
        Socket { uid: 0, gid: 12, mode: FileMode(0o640) }
    }

    #[test]
    fn owner_and_mode_are_as_set_and_the_name_goes_with_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (bound, listener) = Bound::listen(&path, &access()).unwrap();
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!((meta.mode() & 0o777, meta.uid(), meta.gid()), (0o640, 0, 12));
        UnixStream::connect(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a hidden name stayed");
        drop((listener, bound));
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (bound, listener) = Bound::listen(&path, &access()).unwrap();
        let error = Bound::listen(&path, &access()).unwrap_err();
        let SocketError::InUse { pid, .. } = error else { panic!("{error}") };
        assert_eq!(pid.cast_unsigned(), std::process::id());
        UnixStream::connect(&path).unwrap();
        drop((listener, bound));
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Bound::listen(&path, &access()), Err(SocketError::NoSocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_name_taken_by_another_daemon_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (bound, _listener) = Bound::listen(&path, &access()).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
    }

    #[test]
    fn a_path_of_the_greatest_length_works() {
        let dir = tempfile::tempdir().unwrap();
        let room = crate::config::SOCKET_PATH_BYTES_MAX - dir.path().as_os_str().len() - 3;
        let folder = dir.path().join("d".repeat(room));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("s");
        assert_eq!(path.as_os_str().len(), crate::config::SOCKET_PATH_BYTES_MAX);
        let (_bound, _listener) = Bound::listen(&path, &access()).unwrap();
        UnixStream::connect(&path).unwrap();
    }
}
