//! Bundles: the folder in which a shim finds its task.
//!
//! `<state>/<namespace>/<id>` with `config.json` (the container's spec, byte for byte), `rootfs`,
//! and `work`, a link to `<root>/<namespace>/<id>`. Names that begin with a dot are folders on
//! their way out. Removing is a rename, so an id is free at once; the deletion follows.
//!
//! Must not: delete below a mount. A root file system that cannot be unmounted, or a `rootfs` that
//! holds data, stays.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use gantry_core::model::ContainerName;
use gantry_core::{Error, Kind, Result};
use serde::Deserialize;

use crate::bootstrap::Endpoint;
use crate::config::Config;

/// Makes the names of folders on their way out differ.
static REMOVED: AtomicU64 = AtomicU64::new(0);

/// A bundle and its work directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bundle {
    pub(crate) path: PathBuf,
    pub(crate) work: PathBuf,
}

impl Bundle {
    /// Where the bundle of `name` lies.
    pub(crate) fn of(config: &Config, name: &ContainerName) -> Self {
        let below = Path::new(name.namespace.as_str()).join(name.id.as_str());
        Self { path: config.state.join(&below), work: config.root.join(below) }
    }

    /// Makes it. Blocks.
    ///
    /// # Errors
    /// `AlreadyExists` when something is in the way; what the file system fails with.
    pub(crate) fn create(&self, spec: &[u8]) -> Result<()> {
        let failed = |what: &str, path: &Path, error: io::Error| {
            let text = format!("{what} {}", path.display());
            match error.kind() {
                io::ErrorKind::AlreadyExists => Error::caused(Kind::AlreadyExists, text, error),
                _ => Error::io(text, error),
            }
        };
        for path in [&self.path, &self.work] {
            let parent = path.parent().unwrap_or(path);
            folder(parent, 0o711, true).map_err(|e| failed("create", parent, e))?;
        }
        folder(&self.path, 0o700, false).map_err(|e| failed("create", &self.path, e))?;
        fail::fail_point!("runtime.bundle/half-made", |_| Err(Error::unknown("failpoint")));
        if let Some(group) = mapped_root_group(spec) {
            // A shim in the container's user namespace has to get in.
            std::os::unix::fs::chown(&self.path, None, Some(group))
                .and_then(|()| fs::set_permissions(&self.path, PermissionsExt::from_mode(0o710)))
                .map_err(|e| failed("grant access to", &self.path, e))?;
        }
        let rootfs = self.path.join("rootfs");
        folder(&rootfs, 0o711, false).map_err(|e| failed("create", &rootfs, e))?;
        match folder(&self.work, 0o711, false) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Left by an earlier task: nobody else uses that name.
                fs::remove_dir_all(&self.work).and_then(|()| folder(&self.work, 0o711, false))
            }
            made => made,
        }
        .map_err(|e| failed("create", &self.work, e))?;
        let link = self.path.join("work");
        symlink(&self.work, &link).map_err(|e| failed("link", &link, e))?;
        if !spec.is_empty() {
            let config = self.path.join("config.json");
            write_new(&config, spec, 0o644).map_err(|e| failed("write", &config, e))?;
        }
        let log = self.path.join("log");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &log,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o700),
            0,
        )
        .map_err(|e| failed("create", &log, e.into()))
    }

    /// Notes which program serves the bundle and where. Blocks.
    pub(crate) fn note(&self, binary: &Path, endpoint: &Endpoint) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        replace(&self.path.join("shim-binary-path"), binary.as_os_str().as_bytes(), 0o600)?;
        replace(&self.path.join("bootstrap.json"), &endpoint.to_json(), 0o644)
    }

    /// Where a file of it lies.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Unmounts the root file system and takes the bundle away; what has to be deleted is
    /// returned, for [`delete`]. Nothing there is success. Blocks.
    ///
    /// # Errors
    /// It is still mounted, or has files of its own; then nothing was taken away.
    pub(crate) fn remove(&self) -> Result<Vec<PathBuf>> {
        let rootfs = self.path.join("rootfs");
        unmount_below(&rootfs)?;
        remove_hollow(&rootfs).map_err(|e| Error::io("failed to remove bundle rootfs", e))?;
        let mut gone = Vec::new();
        for path in [&self.path, &self.work] {
            let aside = aside(path);
            fail::fail_point!("runtime.bundle/before-rename", |_| Err(Error::unknown("failpoint")));
            match fs::rename(path, &aside) {
                Ok(()) => gone.push(aside),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(format!("rename {}", path.display()), error)),
            }
        }
        Ok(gone)
    }
}

/// Deletes what [`Bundle::remove`] put aside; what fails is met again by the next start's sweep.
/// Blocks.
pub(crate) fn delete(aside: &[PathBuf]) {
    for path in aside {
        if let Err(error) = fs::remove_dir_all(path) {
            tracing::warn!(path = %path.display(), %error, "cannot delete what is left of a task");
        }
    }
}

/// Removes what a runtime makes to mount on where it found no root file system: folders, empty
/// files, links, devices. Fails at the first file with content, and at another file system.
fn remove_hollow(folder: &Path) -> io::Result<()> {
    let Some(device) = absent_ok(fs::symlink_metadata(folder))?.map(|found| found.dev()) else {
        return Ok(());
    };
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let found = fs::symlink_metadata(&path)?;
        if found.dev() != device {
            return Err(io::Error::other(format!("{} is mounted", path.display())));
        }
        if found.is_dir() {
            remove_hollow(&path)?;
        } else if found.is_file() && found.len() > 0 {
            return Err(io::Error::other(format!("{} holds data", path.display())));
        } else {
            fs::remove_file(&path)?;
        }
    }
    fs::remove_dir(folder)
}

fn absent_ok<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn aside(path: &Path) -> PathBuf {
    let number = REMOVED.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}-{}-{number}", std::process::id()))
}

fn folder(path: &Path, mode: u32, parents: bool) -> io::Result<()> {
    DirBuilder::new().mode(mode).recursive(parents).create(path)?;
    // The mask of the process took away from it.
    fs::set_permissions(path, PermissionsExt::from_mode(mode))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let new = path.with_extension("new");
    let write = || {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        write_new(&new, bytes, mode)?;
        fail::fail_point!("runtime.bundle/before-replace", |_| Err(io::Error::other("failpoint")));
        fs::rename(&new, path)
    };
    write().map_err(|e| Error::io(format!("write {}", path.display()), e))
}

/// Unmounts everything at or below `path`, the latest mount first.
pub(crate) fn unmount_below(path: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| Error::io("read /proc/self/mountinfo", e))?;
    let mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .filter(|mount| mount.starts_with(path))
        .collect();
    for mount in mounts.iter().rev() {
        use rustix::mount::{UnmountFlags, unmount};
        match unmount(mount, UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(rustix::io::Errno::BUSY) => {
                // Somebody's working directory; the file system goes when they leave.
                unmount(mount, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                    .map_err(|e| Error::io(format!("unmount {}", mount.display()), e.into()))?;
            }
            Err(error) => {
                return Err(Error::io(format!("unmount {}", mount.display()), error.into()));
            }
        }
    }
    Ok(())
}

/// Paths in mountinfo have blanks and the like as `\040` (proc(5)).
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let value =
            code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(value.unwrap_or(bytes[at]));
        at += if value.is_some() { 4 } else { 1 };
    }
    std::ffi::OsString::from_vec(plain).into()
}

/// The host's group that is root within the container's user namespace, if it has one.
fn mapped_root_group(spec: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Spec {
        linux: Option<Linux>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    #[derive(Default)]
    struct Linux {
        namespaces: Vec<Ns>,
        gid_mappings: Vec<Mapping>,
    }
    #[derive(Deserialize)]
    struct Ns {
        r#type: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Mapping {
        #[serde(rename = "containerID")]
        container: u32,
        #[serde(rename = "hostID")]
        host: u32,
        size: u32,
    }
    let linux = serde_json::from_slice::<Spec>(spec).ok()?.linux?;
    if !linux.namespaces.iter().any(|ns| ns.r#type == "user") {
        return None;
    }
    let root = linux.gid_mappings.iter().find(|m| m.container == 0 && m.size > 0)?;
    Some(root.host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileTypeExt;

    fn bundle(dir: &Path) -> Bundle {
        Bundle { path: dir.join("state/ns/id"), work: dir.join("root/ns/id") }
    }

    #[test]
    fn a_bundle_has_its_files_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = bundle(dir.path());
        bundle.create(b"{\"spec\": 1}").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&bundle.path), 0o700);
        assert_eq!(mode(bundle.path.parent().unwrap()), 0o711);
        assert_eq!(fs::read(bundle.file("config.json")).unwrap(), b"{\"spec\": 1}");
        assert_eq!(fs::read_link(bundle.file("work")).unwrap(), bundle.work);
        assert!(fs::metadata(bundle.file("log")).unwrap().file_type().is_fifo());
        assert!(bundle.create(b"{}").unwrap_err().is(Kind::AlreadyExists));
        let gone = bundle.remove().unwrap();
        assert!(!bundle.path.exists() && !bundle.work.exists());
        bundle.create(b"{}").unwrap();
        delete(&gone);
        let left: Vec<_> = fs::read_dir(dir.path().join("state/ns")).unwrap().collect();
        assert_eq!(left.len(), 1);
        bundle.remove().unwrap();
        assert_eq!(bundle.remove().unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn data_in_the_rootfs_is_not_deleted_and_mount_points_are() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = bundle(dir.path());
        bundle.create(b"{}").unwrap();
        let rootfs = bundle.file("rootfs");
        fs::create_dir_all(rootfs.join("dev/shm")).unwrap();
        fs::write(rootfs.join("dev/mount-point"), "").unwrap();
        symlink("/proc/self/fd", rootfs.join("dev/fd")).unwrap();
        fs::write(rootfs.join("precious"), "data").unwrap();
        let text = bundle.remove().unwrap_err().message();
        assert!(text.contains("precious holds data"), "{text}");
        assert!(rootfs.join("precious").exists());
        fs::remove_file(rootfs.join("precious")).unwrap();
        delete(&bundle.remove().unwrap());
        assert!(!bundle.path.exists());
    }

    #[test]
    fn a_mounted_rootfs_is_unmounted_first() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious dir");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "").unwrap();
        let bundle = bundle(&dir.path().join("a b"));
        bundle.create(b"{}").unwrap();
        let rootfs = bundle.file("rootfs");
        rustix::mount::mount_bind(&precious, &rootfs).unwrap();
        rustix::mount::mount_bind(&precious, &rootfs).unwrap();
        delete(&bundle.remove().unwrap());
        assert!(precious.join("file").exists());
        assert!(!bundle.path.exists());
    }

    #[test]
    fn where_a_shim_listens_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = bundle(dir.path());
        bundle.create(b"{}").unwrap();
        let endpoint =
            Endpoint { version: 3, address: "unix:///new".into(), protocol: "ttrpc".into() };
        bundle.note(Path::new("/shim"), &endpoint).unwrap();
        bundle.note(Path::new("/shim"), &endpoint).unwrap();
        let noted = fs::read(bundle.file("bootstrap.json")).unwrap();
        assert_eq!(Endpoint::parse(&noted).unwrap(), endpoint);
        assert_eq!(fs::read(bundle.file("shim-binary-path")).unwrap(), b"/shim");
    }

    #[test]
    fn the_group_of_a_user_namespace_is_found() {
        let spec = br#"{"linux":{"namespaces":[{"type":"user"}],
            "gidMappings":[{"containerID":0,"hostID":1000,"size":10}]}}"#;
        assert_eq!(mapped_root_group(spec), Some(1000));
        assert_eq!(mapped_root_group(br#"{"linux":{"namespaces":[{"type":"pid"}]}}"#), None);
        assert_eq!(mapped_root_group(b"not json"), None);
    }
}
