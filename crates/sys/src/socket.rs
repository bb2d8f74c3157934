//! Unix sockets: binding with the right mode, and knowing who is at the other end.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Longest path of a unix socket that every program can dial: `sun_path` less its ending zero,
/// less one, because some count the zero twice.
pub const PATH_BYTES_MAX: usize = 106;

/// Binds a listener at `path`, for its owner only.
///
/// # Errors
/// `InvalidInput` for a path longer than [`PATH_BYTES_MAX`]; `AddrInUse` when there is one, dead or
/// alive; else those of bind(2).
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let length = path.as_os_str().len();
    if length > PATH_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "unix socket path {} is {length} bytes long, at most {PATH_BYTES_MAX} work: \
                 use a shorter state directory",
                path.display()
            ),
        ));
    }
    let listener = UnixListener::bind(path)?;
    if let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(0o600)) {
        // Best effort: the error that matters is the one reported.
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(listener)
}

/// The user and group of the process at the other end of a unix socket when it connected.
///
/// # Errors
/// Those of getsockopt(2).
pub fn peer(socket: impl AsFd) -> io::Result<(u32, u32)> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    Ok((credentials.uid.as_raw(), credentials.gid.as_raw()))
}

/// Whether the process at the other end runs as the same user and group as this one.
///
/// # Errors
/// Those of getsockopt(2).
pub fn peer_is_us(socket: impl AsFd) -> io::Result<bool> {
    let us = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Ok(peer(socket)? == us)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_is_for_its_owner_and_sees_its_peer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let client = UnixStream::connect(&path).unwrap();
        assert!(peer_is_us(&client).unwrap());
        drop(listener);
    }

    #[test]
    fn a_long_path_is_refused_with_the_remedy() {
        let path = Path::new("/tmp").join("x".repeat(120));
        let error = listen(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("shorter state directory"));
    }
}
