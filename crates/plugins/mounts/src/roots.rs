//! Where files and folders may be made: below the allowed roots, and in what this activation has
//! mounted itself.
//!
//! A root is opened by its path; from there on openat2(2) goes down without following a symbolic
//! link, so content that somebody else wrote leads nowhere.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use gantry_core::{Error, Result};
use gantry_metadata::stores::ActiveMount;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// The roots of one activation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roots<'a> {
    pub(crate) allowed: &'a [PathBuf],
    pub(crate) active: &'a [ActiveMount],
}

/// A place for a file or folder: the folder that holds it, and its name there.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) folder: OwnedFd,
    pub(crate) name: OsString,
}

impl Roots<'_> {
    /// The place `path` for what `transform` makes.
    ///
    /// # Errors
    /// `NotImplemented` outside the roots, as containerd says; `InvalidArgument` for a path that
    /// goes up or over a link; `FailedPrecondition` when its folder is absent.
    pub(crate) fn place(&self, transform: &str, path: &str) -> Result<Place> {
        let path = Path::new(path);
        if !path.is_absolute() || path.components().any(|c| c == Component::ParentDir) {
            return Err(Error::invalid_argument(format!(
                "{transform} {path:?}: the path must be absolute and without \"..\""
            )));
        }
        let points = self.active.iter().map(|active| Path::new(&active.mount_point));
        // The innermost: what is mounted below a root is a root of its own.
        let root = (self.allowed.iter().map(PathBuf::as_path).chain(points))
            .filter(|root| path.starts_with(root))
            .max_by_key(|root| root.components().count())
            .ok_or_else(|| {
                Error::not_implemented(format!("no root {path:?} configured for {transform}"))
            })?;
        let below = path.strip_prefix(root).unwrap_or(path);
        let (Some(parent), Some(name)) = (below.parent(), below.file_name()) else {
            return Err(Error::invalid_argument(format!("{transform} {path:?}: that is a root")));
        };
        let fail = |error| refused(&format!("{transform} {path:?}: open its folder"), error);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty()).map_err(fail)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let folder = openat2(&root, parent, flags, Mode::empty(), BELOW).map_err(fail)?;
        Ok(Place { folder, name: name.to_owned() })
    }
}

/// How a path below a root is resolved.
pub(crate) const BELOW: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// What the kernel refused, as the fault of the request where it is one.
pub(crate) fn refused(context: &str, error: Errno) -> Error {
    let source = io::Error::from(error);
    match error {
        Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG => {
            Error::caused(gantry_core::Kind::InvalidArgument, context, source)
        }
        Errno::NOENT | Errno::NOTDIR => {
            Error::caused(gantry_core::Kind::FailedPrecondition, context, source)
        }
        _ => Error::io(context, source),
    }
}

#[cfg(test)]
mod tests {
    use gantry_core::Kind;

    use super::*;

    fn kind(allowed: &Path, path: &Path) -> Result<OsString, Kind> {
        let allowed = [allowed.to_owned()];
        let roots = Roots { allowed: &allowed, active: &[] };
        roots.place("mkdir", path.to_str().unwrap()).map(|p| p.name).map_err(|e| e.kind())
    }

    #[test]
    fn only_what_lies_below_a_root_is_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::create_dir(dir.path().join("root2")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("out")).unwrap();
        std::os::unix::fs::symlink("a", root.join("in")).unwrap();
        assert_eq!(kind(&root, &root.join("x")), Ok("x".into()));
        assert_eq!(kind(&root, &root.join("a/b/x")), Ok("x".into()));
        assert_eq!(kind(&root, &root), Err(Kind::InvalidArgument));
        assert_eq!(kind(&root, &dir.path().join("root2/x")), Err(Kind::NotImplemented));
        assert_eq!(kind(&root, Path::new("/etc/x")), Err(Kind::NotImplemented));
        assert_eq!(kind(&root, &root.join("a/../../x")), Err(Kind::InvalidArgument));
        assert_eq!(kind(&root, Path::new("x")), Err(Kind::InvalidArgument));
        assert_eq!(kind(&root, Path::new("")), Err(Kind::InvalidArgument));
        assert_eq!(kind(&root, &root.join("out/x")), Err(Kind::InvalidArgument));
        assert_eq!(kind(&root, &root.join("in/x")), Err(Kind::InvalidArgument));
        assert_eq!(kind(&root, &root.join("no/x")), Err(Kind::FailedPrecondition));
        assert_eq!(
            kind(&root.join("absent"), &root.join("absent/x")),
            Err(Kind::FailedPrecondition)
        );
    }
}
