//! Where a shim listens: a name that another process can work out, and that two never share.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Where containerd keeps the sockets of shims, whatever its own state directory.
pub const SOCKET_DIR: &str = "/run/containerd/s";

/// The socket of the shim that serves `group` for the daemon at `daemon`: containerd's name.
pub fn socket_path(dir: &Path, daemon: &str, namespace: &str, group: &str) -> PathBuf {
    let name = join(&[daemon, namespace, group]);
    let hash = Sha256::digest(name.as_bytes());
    dir.join(hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Joins as Go's `filepath.Join` does: without empty, `.` and `..` elements.
fn join(parts: &[&str]) -> String {
    let rooted =
        parts.iter().find(|part| !part.is_empty()).is_some_and(|part| part.starts_with('/'));
    let mut clean: Vec<&str> = Vec::new();
    for element in parts.iter().flat_map(|part| part.split('/')) {
        match element {
            "" | "." => {}
            ".." if clean.last().is_some_and(|last| *last != "..") => {
                clean.pop();
            }
            ".." if rooted => {}
            other => clean.push(other),
        }
    }
    format!("{}{}", if rooted { "/" } else { "" }, clean.join("/"))
}

/// The address of a socket as daemons write it.
pub fn of_path(path: &Path) -> String {
    format!("unix://{}", path.display())
}

/// What binding came to.
#[derive(Debug)]
pub enum Bound {
    /// The socket is ours.
    Listener(UnixListener),
    /// A shim listens there already: it serves our group.
    Served,
}

/// Binds `path`, making its directory; a socket left by a dead shim is replaced.
///
/// # Errors
/// Those of mkdir(2) and bind(2), and `InvalidInput` for a path that is too long.
pub fn bind(path: &Path) -> io::Result<Bound> {
    if let Some(dir) = path.parent() {
        make_dir(dir)?;
    }
    match gantry_sys::socket::listen(path) {
        Ok(listener) => Ok(Bound::Listener(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if answers(path) {
                return Ok(Bound::Served);
            }
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            gantry_sys::socket::listen(path).map(Bound::Listener)
        }
        Err(error) => Err(error),
    }
}

/// Connecting to a unix socket either succeeds or fails at once, unless the backlog is full; then
/// somebody owns it.
fn answers(path: &Path) -> bool {
    match UnixStream::connect(path) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_one_that_go_computes() {
        assert_eq!(
            join(&["/run/containerd/containerd.sock", "n", "id"]),
            "/run/containerd/containerd.sock/n/id"
        );
        assert_eq!(join(&["", "n", "id"]), "n/id");
        assert_eq!(join(&["/a//b/./c/", "../n", "id"]), "/a/b/n/id");
        let path =
            socket_path(Path::new("/s"), "/run/containerd/containerd.sock", "default", "test");
        // sha256 of "/run/containerd/containerd.sock/default/test"
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(name.len(), 64);
        assert_eq!(
            path,
            socket_path(Path::new("/s"), "/run/containerd//containerd.sock", "default", "test")
        );
        assert_ne!(
            path,
            socket_path(Path::new("/s"), "/run/containerd/containerd.sock", "moby", "test")
        );
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_respected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/s");
        let Bound::Listener(first) = bind(&path).unwrap() else { panic!("not bound") };
        assert!(matches!(bind(&path).unwrap(), Bound::Served));
        drop(first);
        assert!(path.exists());
        assert!(matches!(bind(&path).unwrap(), Bound::Listener(_)));
    }
}
