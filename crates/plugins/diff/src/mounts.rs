//! Mount instructions as a directory descriptor, without leaving a mount behind.
//!
//! A single bind needs no mount at all: its source is opened. Anything else is mounted on a
//! private folder, cloned with open_tree(2) and unmounted at once; the clone belongs to the
//! descriptor and goes with it, whatever becomes of this process. Only a crash within those few
//! calls leaves a mount, on a folder that [`sweep`] clears at the next start.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use gantry_core::snapshot::Mount;
use gantry_core::{Error, Result};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, OpenTreeFlags, UnmountFlags};

use crate::apply::open_in_root;

/// Most bytes of mount data; the kernel copies one page (mount(2)).
const DATA_BYTES_MAX: usize = 4095;
const FOLDER_PREFIX: &str = "gantry-view-";

/// Opens a directory that the caller of the API named.
pub(crate) fn open_dir(path: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| Error::io(format!("cannot open directory {path:?}"), e.into()))
}

/// The file system that `mounts` make, seen through a descriptor of its root.
///
/// # Errors
/// `NotImplemented` for loop devices and id mapping, else what the kernel says.
pub(crate) fn open(mounts: &[Mount], temp: &Path) -> Result<OwnedFd> {
    let special =
        |o: &&String| *o == "loop" || o.starts_with("uidmap=") || o.starts_with("gidmap=");
    if let Some(option) = mounts.iter().flat_map(|mount| &mount.options).find(special) {
        return Err(Error::not_implemented(format!(
            "mount option {option:?} in a layer's mounts; mount it and pass a bind"
        )));
    }
    if let [mount] = mounts
        && is_bind(mount)
        && mount.target.is_empty()
    {
        return open_dir(&mount.source);
    }
    if let [mount] = mounts
        && mount.kind == "overlay"
        && mount.target.is_empty()
        && option(mount, "upperdir=").is_none()
        && let [only] = &lower_dirs(option(mount, "lowerdir=").unwrap_or_default())[..]
    {
        // The kernel makes no overlay of a single layer.
        return open_dir(only);
    }
    let folder = Folder::create(temp)?;
    for mount in mounts {
        folder.mount(mount)?;
    }
    folder.detach()
}

/// Unmounts and removes what a crash left below `temp`.
///
/// # Errors
/// When `temp` cannot be listed.
pub(crate) fn sweep(temp: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(temp)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(FOLDER_PREFIX) {
            drop(Folder { path: entry.path() });
        }
    }
    Ok(())
}

/// `mounts` so that nothing can be written through them and nothing of an overlay is taken.
pub(crate) fn read_only(mounts: &[Mount]) -> Vec<Mount> {
    let convert = |mount: &Mount| {
        let mut mount = mount.clone();
        if mount.kind == "overlay" {
            let upper = option(&mount, "upperdir=").map(str::to_owned);
            mount.options.retain(|o| {
                !["upperdir=", "workdir=", "uidmap=", "gidmap="].iter().any(|p| o.starts_with(p))
            });
            if let Some(upper) = upper {
                for option in &mut mount.options {
                    if let Some(lower) = option.strip_prefix("lowerdir=") {
                        *option = format!("lowerdir={upper}:{lower}");
                    }
                }
            }
        } else {
            mount.options.retain(|o| o != "rw" && o != "ro");
            mount.options.push("ro".to_owned());
        }
        mount
    };
    mounts.iter().map(convert).collect()
}

/// The upper directory of the overlay that `upper` is, when `lower` shows just what lies below it.
pub(crate) fn upper_above<'a>(upper: &'a [Mount], lower: &[Mount]) -> Option<&'a str> {
    let ([upper], [lower]) = (upper, lower) else { return None };
    let overlay = upper.kind == "overlay" && upper.target.is_empty() && lower.target.is_empty();
    let below = match lower.kind.as_str() {
        "overlay" => {
            let lower = &read_only(std::slice::from_ref(lower))[0];
            lower_dirs(option(lower, "lowerdir=")?)
        }
        _ if is_bind(lower) => vec![lower.source.clone()],
        _ => return None,
    };
    let same = lower_dirs(option(upper, "lowerdir=")?) == below;
    option(upper, "upperdir=").filter(|_| overlay && same)
}

/// Whether `mount` shows a folder as it is.
pub(crate) fn is_bind(mount: &Mount) -> bool {
    matches!(mount.kind.as_str(), "bind" | "rbind")
        || mount.options.iter().any(|o| o == "bind" || o == "rbind")
}

/// The value of the last option that begins with `key`.
pub(crate) fn option<'a>(mount: &'a Mount, key: &str) -> Option<&'a str> {
    mount.options.iter().rev().find_map(|o| o.strip_prefix(key))
}

/// The folders of a `lowerdir` value, nearest first; a backslash takes the next byte as it is.
pub(crate) fn lower_dirs(value: &str) -> Vec<String> {
    let mut dirs = vec![String::new()];
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match (c, dirs.last_mut()) {
            (':', _) => dirs.push(String::new()),
            ('\\', Some(dir)) => dir.extend(chars.next()),
            (c, Some(dir)) => dir.push(c),
            (_, None) => {}
        }
    }
    dirs.retain(|dir| !dir.is_empty());
    dirs
}

/// A private folder to mount on; dropping it undoes everything.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn create(temp: &Path) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let fail = |e: io::Error| {
            Error::io(format!("cannot create a folder to mount on in {}", temp.display()), e)
        };
        loop {
            let name = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = temp.join(format!("{FOLDER_PREFIX}{}-{name}", std::process::id()));
            match rustix::fs::mkdir(&path, Mode::RWXU) {
                Ok(()) => return Ok(Self { path }),
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(fail(error.into())),
            }
        }
    }

    fn mount(&self, mount: &Mount) -> Result<()> {
        let fail = |e: io::Error| {
            Error::io(format!("cannot mount {} ({:?})", mount.kind, mount.source), e)
        };
        let root = open_dir(&self.path.to_string_lossy())?;
        let target = mount.target.as_bytes();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let target =
            open_in_root(root.as_fd(), target, flags, ResolveFlags::empty()).map_err(fail)?;
        let target = format!("/proc/self/fd/{}", target.as_raw_fd());
        if is_bind(mount) {
            let recursive = mount.kind == "rbind" || mount.options.iter().any(|o| o == "rbind");
            return if recursive {
                rustix::mount::mount_bind_recursive(&mount.source, &target)
            } else {
                rustix::mount::mount_bind(&mount.source, &target)
            }
            .map_err(|e| fail(e.into()));
        }
        let (flags, data) = flags_and_data(&mount.options);
        let (data, _lowers) = shortened(data)?;
        let data = CString::new(data)
            .map_err(|_| Error::invalid_argument("mount options contain a NUL byte"))?;
        rustix::mount::mount(&mount.source, &target, &mount.kind, flags, data.as_c_str())
            .map_err(|e| fail(e.into()))
    }

    /// The mounts as a descriptor of their own; the folder goes.
    fn detach(self) -> Result<OwnedFd> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        rustix::mount::open_tree(CWD, &self.path, flags)
            .map_err(|e| Error::io("cannot detach a mount", e.into()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // One mount may lie on the other; EINVAL says that none is left.
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        while rustix::mount::unmount(&self.path, flags).is_ok() {}
        // Never with its content: that might be a mount's.
        if let Err(error) = rustix::fs::rmdir(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a mount folder");
        }
    }
}

/// Splits options into the kernel's flags and the file system's own.
fn flags_and_data(options: &[String]) -> (MountFlags, Vec<String>) {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for option in options {
        let (set, flag) = match option.as_str() {
            "ro" => (true, MountFlags::RDONLY),
            "rw" => (false, MountFlags::RDONLY),
            "nosuid" => (true, MountFlags::NOSUID),
            "suid" => (false, MountFlags::NOSUID),
            "nodev" => (true, MountFlags::NODEV),
            "dev" => (false, MountFlags::NODEV),
            "noexec" => (true, MountFlags::NOEXEC),
            "exec" => (false, MountFlags::NOEXEC),
            "sync" => (true, MountFlags::SYNCHRONOUS),
            "async" => (false, MountFlags::SYNCHRONOUS),
            "dirsync" => (true, MountFlags::DIRSYNC),
            "noatime" => (true, MountFlags::NOATIME),
            "atime" => (false, MountFlags::NOATIME),
            "nodiratime" => (true, MountFlags::NODIRATIME),
            "diratime" => (false, MountFlags::NODIRATIME),
            "relatime" => (true, MountFlags::RELATIME),
            "norelatime" => (false, MountFlags::RELATIME),
            "strictatime" => (true, MountFlags::STRICTATIME),
            "nostrictatime" => (false, MountFlags::STRICTATIME),
            // An overlay mounted so cannot be mounted again: fit for containers, not for us.
            "defaults" | "volatile" | "fsync=volatile" => continue,
            other => {
                data.push(other.to_owned());
                continue;
            }
        };
        flags.set(flag, set);
    }
    (flags, data)
}

/// Joins options; where they exceed the kernel's page, lower folders are named by descriptors,
/// which the caller keeps open until the mount is made.
fn shortened(mut data: Vec<String>) -> Result<(String, Vec<OwnedFd>)> {
    let joined = data.join(",");
    if joined.len() <= DATA_BYTES_MAX {
        return Ok((joined, Vec::new()));
    }
    let mut open = Vec::new();
    for option in &mut data {
        if let Some(value) = option.strip_prefix("lowerdir=") {
            let mut short = Vec::new();
            for dir in lower_dirs(value) {
                let fd = open_dir(&dir)?;
                short.push(format!("/proc/self/fd/{}", fd.as_raw_fd()));
                open.push(fd);
            }
            *option = format!("lowerdir={}", short.join(":"));
        }
    }
    let joined = data.join(",");
    if joined.len() > DATA_BYTES_MAX {
        return Err(Error::invalid_argument("mount options are too long"));
    }
    Ok((joined, open))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(options: &[&str]) -> Mount {
        let options = options.iter().map(|o| (*o).to_owned()).collect();
        Mount { kind: "overlay".into(), source: "overlay".into(), options, ..Mount::default() }
    }

    #[test]
    fn a_view_takes_nothing_of_the_overlay() {
        let mounts = [overlay(&["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/b:/a"])];
        assert_eq!(read_only(&mounts)[0].options, ["index=off", "lowerdir=/u:/b:/a"]);
    }

    #[test]
    fn lower_folders_may_hold_colons() {
        assert_eq!(lower_dirs(r"/a\:b:/c\\d"), ["/a:b", r"/c\d"]);
    }

    #[test]
    fn more_layers_than_a_page_holds_are_mounted_and_leave_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let mut lowers = Vec::new();
        for layer in 0..60 {
            let dir = temp.path().join(format!("{layer:0>100}"));
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join(format!("f{layer}")), "").unwrap();
            lowers.push(dir.to_str().unwrap().to_owned());
        }
        let mount = overlay(&[&format!("lowerdir={}", lowers.join(":"))]);
        let folder = temp.path().join("mounts");
        std::fs::create_dir(&folder).unwrap();
        let root = open(&[mount], &folder).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        let mounted = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounted.contains(folder.to_str().unwrap()));
        let path = format!("/proc/self/fd/{}", root.as_raw_fd());
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 60);
    }

    #[test]
    fn a_sweep_unmounts_what_a_crash_left() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::create(temp.path()).unwrap();
        let options = vec!["size=64k".to_owned()];
        let tmpfs = Mount { kind: "tmpfs".into(), options, ..Mount::default() };
        folder.mount(&tmpfs).unwrap();
        folder.mount(&tmpfs).unwrap();
        std::mem::forget(folder);
        sweep(temp.path()).unwrap();
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}
