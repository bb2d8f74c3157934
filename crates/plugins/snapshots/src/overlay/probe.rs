//! Finds out by trying whether overlayfs works on a root, and with which options.
//!
//! The trial overlay is never attached to the mount tree (fsopen(2), fsmount(2)): it goes with its
//! descriptor, also when the process is killed.

use std::ffi::CStr;

use gantry_core::{Error, Result};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::folders::Folders;
use crate::tree;

/// The trial's folder below the root; no number, so no snapshot has it.
const TRIAL: &CStr = c"probe";

/// Options that every overlay on this host gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostOptions {
    /// `index=off`: without it, a layer in use by one mount cannot be used by another.
    pub index_off: bool,
    /// `userxattr`: overlayfs marks in a user namespace.
    pub userxattr: bool,
}

impl HostOptions {
    /// The options as text, in the order in which they are given.
    pub fn options(self) -> impl Iterator<Item = &'static str> {
        let index = self.index_off.then_some("index=off");
        index.into_iter().chain(self.userxattr.then_some("userxattr"))
    }
}

/// In the order of preference: the first that works is taken.
const CANDIDATES: [HostOptions; 4] = [
    HostOptions { index_off: true, userxattr: false },
    HostOptions { index_off: true, userxattr: true },
    HostOptions { index_off: false, userxattr: false },
    HostOptions { index_off: false, userxattr: true },
];

pub(super) fn probe(folders: &Folders) -> Result<HostOptions> {
    let root = folders.root().display();
    let cannot = |why: String| Error::failed_precondition(format!("overlayfs on {root}: {why}"));
    let io = |e: Errno| Error::io(format!("try overlayfs on {root}"), e.into());
    tree::remove(folders, TRIAL).map_err(io)?;
    mkdirat(folders, TRIAL, Mode::RWXU).map_err(io)?;
    let trial = tree::open_dir(folders, TRIAL).map_err(io)?;
    let outcome = if has_entry_types(folders).map_err(io)? {
        try_all(&trial).map_err(|e| cannot(advice(e)))
    } else {
        Err(cannot(
            "the file system does not report entry types (d_type): make it anew with them (XFS: \
             mkfs.xfs -n ftype=1) or use the snapshotter native"
                .into(),
        ))
    };
    tree::remove(folders, TRIAL).map_err(io)?;
    outcome
}

fn advice(error: Errno) -> String {
    let remedy = match error {
        Errno::NODEV => "the kernel has no overlayfs: modprobe overlay",
        Errno::INVAL => {
            "the file system cannot hold an upper layer (as overlayfs, NFS or vfat cannot): put \
             the root on ext4, XFS or btrfs"
        }
        Errno::PERM | Errno::ACCESS => "mounting is not permitted: CAP_SYS_ADMIN is needed",
        Errno::NOSYS => "the kernel lacks fsopen(2): Linux 5.2 is needed",
        _ => "mounting it failed",
    };
    format!("{remedy}, or use the snapshotter native ({error})")
}

/// Whether readdir(3) tells folders from files, which overlayfs needs for whiteouts. Asked of the
/// root's own entries; the trial's folder is one.
fn has_entry_types(root: impl AsFd) -> Result<bool, Errno> {
    for entry in Dir::read_from(root)? {
        let entry = entry?;
        if entry.file_name() == TRIAL {
            return Ok(entry.file_type() == FileType::Directory);
        }
    }
    Ok(false)
}

fn try_all(trial: &OwnedFd) -> Result<HostOptions, Errno> {
    let mut first = None;
    for (number, candidate) in CANDIDATES.into_iter().enumerate() {
        let name = std::ffi::CString::new(number.to_string()).unwrap_or_default();
        mkdirat(trial, &name, Mode::RWXU)?;
        match try_one(&tree::open_dir(trial, name.as_c_str())?, candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or(Errno::INVAL))
}

/// Mounts two lower layers and an upper one, then replaces a lower folder: that needs a whiteout
/// and an attribute, which is what fails where overlayfs is allowed but may not mark.
fn try_one(dir: &OwnedFd, host: HostOptions) -> Result<(), Errno> {
    for name in [c"one", c"one/d", c"one/d/old", c"two", c"upper", c"work"] {
        mkdirat(dir, name, Mode::RWXU)?;
    }
    let open = |name: &CStr| tree::open_dir(dir, name);
    let (one, two, upper, work) = (open(c"one")?, open(c"two")?, open(c"upper")?, open(c"work")?);
    // Through descriptors, since one value is at most 255 bytes, fsconfig(2).
    let path = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());

    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "overlay")?;
    fsconfig_set_string(&context, "lowerdir", format!("{}:{}", path(&one), path(&two)))?;
    fsconfig_set_string(&context, "upperdir", path(&upper))?;
    fsconfig_set_string(&context, "workdir", path(&work))?;
    if host.index_off {
        fsconfig_set_string(&context, "index", "off")?;
    }
    if host.userxattr {
        fsconfig_set_flag(&context, "userxattr")?;
    }
    fsconfig_create(&context)?;
    let merged = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;

    tree::remove(&merged, c"d")?;
    mkdirat(&merged, c"d", Mode::RWXU)?;
    let file = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    openat(&merged, c"d/new", file, Mode::RUSR)?;
    match unlinkat(&merged, c"d/old", AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        // The lower folder shines through: the mark on the new one had no effect.
        _ => Err(Errno::NOTSUP),
    }
}
