//! Mounts what a snapshotter says, as a client would, and takes it away again.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use gantry_core::snapshot::Mount;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_bind_recursive,
    mount_remount, move_mount, unmount,
};

/// Most bytes of one value, fsconfig(2).
const VALUE_BYTES_MAX: usize = 255;

/// A mounted snapshot.
#[derive(Debug)]
pub struct Mounted {
    target: PathBuf,
}

impl Mounted {
    /// Mounts `mounts` on a new folder below `work`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(mounts: &[Mount], work: &Path) -> io::Result<Self> {
        let target = tempfile::Builder::new().prefix("m").tempdir_in(work)?.keep();
        let [mount] = mounts else { return Err(io::Error::other("expected one mount")) };
        match mount.kind.as_str() {
            "bind" => bind(mount, &target)?,
            _ => file_system(mount, &target)?,
        }
        Ok(Self { target })
    }

    /// `below` in the mounted snapshot.
    pub fn path(&self, below: &str) -> PathBuf {
        self.target.join(below)
    }

    /// Writes a file, making the folders above it.
    pub fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The content of a file; `None` when it is absent.
    pub fn read(&self, below: &str) -> Option<String> {
        match std::fs::read_to_string(self.path(below)) {
            Ok(text) => Some(text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => panic!("{below}: {e}"),
        }
    }

    /// The names in a folder, in byte order.
    pub fn names(&self, below: &str) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.path(below))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.target, UnmountFlags::DETACH).unwrap();
        std::fs::remove_dir(&self.target).unwrap();
    }
}

fn bind(mount: &Mount, target: &Path) -> Result<(), Errno> {
    mount_bind_recursive(&mount.source, target)?;
    if mount.options.iter().any(|o| o == "ro") {
        mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, "")?;
    }
    Ok(())
}

/// By fsopen(2): the option text of mount(2) ends at one page, which many layers exceed.
fn file_system(mount: &Mount, target: &Path) -> Result<(), Errno> {
    let context = fsopen(mount.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", mount.source.as_str())?;
    let mut attributes = MountAttrFlags::empty();
    for option in &mount.options {
        match option.split_once('=') {
            Some(("lowerdir", all)) if all.len() > VALUE_BYTES_MAX => {
                for one in all.split(':') {
                    fsconfig_set_string(&context, "lowerdir+", one)?;
                }
            }
            Some((key, value)) => fsconfig_set_string(&context, key, value)?,
            None if option == "ro" => attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY,
            None if option == "rw" => {}
            None => fsconfig_set_flag(&context, option.as_str())?,
        }
    }
    fsconfig_create(&context)?;
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(mounted.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}
