//! `mkdir/`: folders that a mount needs, an overlay's upper and work folder say.
//!
//! An option `X-containerd.mkdir.path=PATH[:MODE[:UID:GID]]` names each; it is taken off the mount.
//! A folder that is there is kept, and gets the mode and owner if they are given. Folders above it
//! are not made.

use std::os::fd::OwnedFd;

use gantry_core::snapshot::Mount;
use gantry_core::{Error, Result};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::roots::{BELOW, Place, Roots, refused};

const PREFIX: &str = "X-containerd.mkdir.";
const MODE_DEFAULT: u32 = 0o700;

/// A folder to make.
#[derive(Debug, PartialEq, Eq)]
struct Folder<'a> {
    path: &'a str,
    mode: Option<u32>,
    owner: Option<(u32, u32)>,
}

/// Makes the folders that options of `mount` name; the mount without these options.
///
/// # Errors
/// `InvalidArgument` that quotes the option; what [`Roots::place`] refuses.
pub(crate) fn apply(mut mount: Mount, roots: Roots<'_>) -> Result<Mount> {
    for option in &mount.options {
        if let Some(wanted) = option.strip_prefix(PREFIX) {
            let bad = |what| Error::invalid_argument(format!("{what} in mkdir option {option:?}"));
            make(&parse(wanted).map_err(bad)?, roots)?;
        }
    }
    mount.options.retain(|option| !option.starts_with(PREFIX));
    Ok(mount)
}

fn parse(wanted: &str) -> Result<Folder<'_>, &'static str> {
    let value = wanted.strip_prefix("path=").ok_or("other than \"path=\"")?;
    let parts: Vec<&str> = value.splitn(4, ':').collect();
    let id = |text: &str| match text.parse::<u32>() {
        // chown(2) takes the largest number for "leave it".
        Ok(u32::MAX) | Err(_) => Err("invalid uid or gid"),
        Ok(id) => Ok(id),
    };
    let mode = |text: &str| match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("invalid mode"),
    };
    match parts[..] {
        [path] => Ok(Folder { path, mode: None, owner: None }),
        [path, m] => Ok(Folder { path, mode: Some(mode(m)?), owner: None }),
        [path, m, uid, gid] => {
            Ok(Folder { path, mode: Some(mode(m)?), owner: Some((id(uid)?, id(gid)?)) })
        }
        _ => Err("a uid without a gid"),
    }
}

fn make(folder: &Folder<'_>, roots: Roots<'_>) -> Result<()> {
    let context = |what: &str| format!("mkdir {:?}: {what}", folder.path);
    let place = roots.place("mkdir", folder.path)?;
    let made = match rustix::fs::mkdirat(&place.folder, &place.name, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(refused(&context("make it"), error)),
    };
    try_fail_point!("mounts.mkdir/after-make");
    let opened = open(&place).map_err(|error| refused(&context("open it"), error))?;
    let stat = rustix::fs::fstat(&opened).map_err(|e| refused(&context("stat"), e))?;
    if let Some((uid, gid)) = folder.owner
        && (stat.st_uid, stat.st_gid) != (uid, gid)
    {
        rustix::fs::fchown(&opened, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(|error| refused(&context("chown"), error))?;
    }
    let mode = folder.mode.or(made.then_some(MODE_DEFAULT));
    if let Some(mode) = mode
        && stat.st_mode & 0o777 != mode
    {
        rustix::fs::fchmod(&opened, Mode::from_raw_mode(mode))
            .map_err(|error| refused(&context("chmod"), error))?;
    }
    Ok(())
}

fn open(place: &Place) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(&place.folder, &place.name, flags, Mode::empty(), BELOW)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    use gantry_core::Kind;

    use super::*;

    fn run(root: &std::path::Path, options: &[String]) -> Result<Mount> {
        let allowed: [PathBuf; 1] = [root.to_owned()];
        let mount = Mount { options: options.to_vec(), ..Mount::default() };
        apply(mount, Roots { allowed: &allowed, active: &[] })
    }

    #[test]
    fn folders_get_their_mode_and_owner_and_the_options_go() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let options = [
            format!("{PREFIX}path={}", at("a")),
            "upperdir=x".to_owned(),
            format!("{PREFIX}path={}:755", at("b")),
            format!("{PREFIX}path={}:1777", at("c")).replace("1777", "0777"),
            format!("{PREFIX}path={}:711:12:34", at("d")),
        ];
        for _ in 0..2 {
            assert_eq!(run(dir.path(), &options).unwrap().options, ["upperdir=x"]);
        }
        let look = |name: &str| {
            let meta = std::fs::metadata(at(name)).unwrap();
            (meta.mode() & 0o7777, meta.uid(), meta.gid())
        };
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        assert_eq!(look("a"), (0o700, uid, gid));
        assert_eq!(look("b"), (0o755, uid, gid));
        assert_eq!(look("c"), (0o777, uid, gid));
        assert_eq!(look("d"), (0o711, 12, 34));
        // A folder that is there keeps its mode unless one is given.
        run(dir.path(), &[format!("{PREFIX}path={}", at("b"))]).unwrap();
        assert_eq!(look("b").0, 0o755);
        run(dir.path(), &[format!("{PREFIX}path={}:700:5:6", at("b"))]).unwrap();
        assert_eq!(look("b"), (0o700, 5, 6));
    }

    #[test]
    fn what_is_no_folder_or_no_option_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("/tmp", dir.path().join("link")).unwrap();
        let fails = |option: String, kind: Kind| {
            let error = run(dir.path(), std::slice::from_ref(&option)).unwrap_err();
            assert_eq!(error.kind(), kind, "{option}: {}", error.message());
        };
        let at = |rest: &str| format!("{PREFIX}path={}/{rest}", dir.path().display());
        fails(at("file"), Kind::FailedPrecondition);
        fails(at("link"), Kind::InvalidArgument);
        fails(at("no/deeper"), Kind::FailedPrecondition);
        for bad in ["x:", "x:8", "x:1777", "x:-1", "x:700:1", "x:700:a:1", "x:700:1:4294967295"] {
            fails(at(bad), Kind::InvalidArgument);
        }
        fails(format!("{PREFIX}file=x"), Kind::InvalidArgument);
        fails(format!("{PREFIX}path="), Kind::InvalidArgument);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing was made");
    }
}
