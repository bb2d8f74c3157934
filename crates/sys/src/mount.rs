//! Carrying out containerd's mount instructions, and undoing them.
//!
//! A [`Mount`] is what a snapshotter hands out: type, source, target below the root, and options as
//! in fstab(5). [`all`] makes a list of them in order and undoes what it made when one fails;
//! [`unmount_all`] removes every layer of everything at or below a path, deepest first.
//!
//! Targets are resolved inside the root with openat2(2): no symbolic link of an image leads out.
//! Must not: follow links of the root's content to the outside; leave a half-made list behind.

mod idmap;
mod loopdev;
mod options;
mod overlay;
mod table;

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{MountFlags, UnmountFlags};

pub use options::Options;
pub use table::{Entry, at_or_below, table};

/// Options may not be longer than a page: mount(2) reads no more.
const PAGE: usize = 4096;

/// One mount instruction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// File system type, or `bind`.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Where below the root; empty for the root itself.
    pub target: String,
    /// As in fstab(5).
    pub options: Vec<String>,
}

/// A mount that could not be made or undone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An instruction that means nothing.
    #[error("{0}")]
    Invalid(String),
    /// The system refused.
    #[error("{context}")]
    Io {
        /// What was tried.
        context: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    fn io(context: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { context: context.into(), source: source.into() }
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mount {} {:?}", self.kind, self.source)
    }
}

/// Makes `mounts` in order below `root`. When one fails, those made before are undone.
///
/// # Errors
/// The first failure.
pub fn all(mounts: &[Mount], root: &Path) -> Result<(), Error> {
    for (made, mount) in mounts.iter().enumerate() {
        if let Err(error) = one(mount, root) {
            for mount in mounts[..made].iter().rev() {
                // The failure that matters is the first one.
                let _ = target_of(mount, root).map(|target| unmount_all(&target));
            }
            return Err(error);
        }
    }
    Ok(())
}

fn target_of(mount: &Mount, root: &Path) -> Result<PathBuf, Error> {
    if mount.target.is_empty() {
        return Ok(root.to_owned());
    }
    // O_PATH and /proc rather than joining: links inside the root must stay inside.
    let fd = open_inside(root, Path::new(&mount.target))?;
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .map_err(|e| Error::io("resolve mount target", e))
}

fn open_inside(root: &Path, target: &Path) -> Result<OwnedFd, Error> {
    let context = || format!("open mount target {} in {}", target.display(), root.display());
    let dir = File::open(root).map_err(|e| Error::io(context(), e))?;
    let relative = target.strip_prefix("/").unwrap_or(target);
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    openat2(dir, relative, flags, Mode::empty(), ResolveFlags::IN_ROOT)
        .map_err(|e| Error::io(context(), e))
}

fn one(mount: &Mount, root: &Path) -> Result<(), Error> {
    let target = target_of(mount, root)?;
    let helpers = [("fuse3.", "mount.fuse3"), ("fuse.", "mount.fuse")];
    for (prefix, helper) in helpers {
        if let Some(kind) = mount.kind.strip_prefix(prefix) {
            return by_helper(helper, kind, mount, &target);
        }
    }
    let mut options = Options::parse(&mount.options)?;
    let user_ns = options.id_map()?.map(|map| map.user_namespace()).transpose()?;
    let mut mapped_lower = None;
    if let Some(user_ns) = user_ns.as_ref()
        && mount.kind == "overlay"
    {
        let lower = idmap::MappedLower::new(&mut options.data, user_ns)?;
        mapped_lower = Some(lower);
    }
    let chdir = if mount.kind == "overlay" { overlay::compact(&mut options.data) } else { None };
    let data = options.data.join(",");
    if data.len() >= PAGE {
        return Err(Error::Invalid(format!(
            "{mount}: options are {} bytes long, at most {} work: use fewer layers or a shorter root",
            data.len(),
            PAGE - 1
        )));
    }
    let result = mount_with(mount, &target, &options, chdir.as_deref(), &data);
    drop(mapped_lower);
    result?;
    if let Some(user_ns) = user_ns
        && mount.kind != "overlay"
        && let Err(error) = idmap::remap(&target, &user_ns)
    {
        let _ = unmount_all(&target);
        return Err(error);
    }
    Ok(())
}

fn mount_with(
    mount: &Mount,
    target: &Path,
    options: &Options,
    chdir: Option<&Path>,
    data: &str,
) -> Result<(), Error> {
    let flags = options.flags;
    let context = |what: &str| format!("{what}{mount} on {}", target.display());
    if !flags.contains(MountFlags::from_bits_retain(libc::MS_REMOUNT as _)) || !data.is_empty() {
        let device = match options.loop_device {
            false => None,
            true => {
                let read_only = flags.contains(MountFlags::RDONLY);
                let device =
                    loopdev::attach(Path::new(&mount.source), read_only, options.direct_io)
                        .map_err(|e| Error::io(context("attach loop device for "), e))?;
                Some(device)
            }
        };
        let source = device.as_ref().map_or(Path::new(&mount.source), |d| d.path.as_path());
        raw_mount(source, target, &mount.kind, flags, data, chdir)
            .map_err(|e| Error::io(context(""), e))?;
    }
    if !options.propagation.is_empty() {
        rustix::mount::mount_change(target, options.propagation)
            .map_err(|e| Error::io(context("propagation of "), e))?;
    }
    if flags.contains(MountFlags::BIND | MountFlags::RDONLY) {
        // The first call of a bind ignores `ro`; the second keeps flags that a user namespace locks.
        let locked = locked_flags(target).map_err(|e| Error::io(context("statfs "), e))?;
        let again = (flags | locked).difference(MountFlags::REC);
        rustix::mount::mount_remount(target, again, "")
            .map_err(|e| Error::io(context("remount read-only: "), e))?;
    }
    Ok(())
}

/// The flags of the mount at `path` that an unprivileged remount must repeat (mount_namespaces(7)).
fn locked_flags(path: &Path) -> io::Result<MountFlags> {
    use rustix::fs::StatVfsMountFlags as Has;
    let has = rustix::fs::statvfs(path)?.f_flag;
    let pairs = [
        (Has::NODEV, MountFlags::NODEV),
        (Has::NOEXEC, MountFlags::NOEXEC),
        (Has::NOSUID, MountFlags::NOSUID),
        (Has::NOATIME, MountFlags::NOATIME),
        (Has::RELATIME, MountFlags::RELATIME),
        (Has::NODIRATIME, MountFlags::NODIRATIME),
    ];
    Ok(pairs.into_iter().filter(|(h, _)| has.contains(*h)).map(|(_, f)| f).collect())
}

fn raw_mount(
    source: &Path,
    target: &Path,
    kind: &str,
    flags: MountFlags,
    data: &str,
    chdir: Option<&Path>,
) -> io::Result<()> {
    let c = |bytes: &[u8]| {
        CString::new(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
    };
    let (source, target) = (c(source.as_os_str().as_bytes())?, c(target.as_os_str().as_bytes())?);
    let (kind, data) = (c(kind.as_bytes())?, c(data.as_bytes())?);
    match chdir {
        None => Ok(rustix::mount::mount(&source, &target, &kind, flags, data.as_c_str())?),
        Some(dir) => overlay::mount_in(&c(dir.as_os_str().as_bytes())?, || {
            rustix::mount::mount(&source, &target, &kind, flags, data.as_c_str())
        }),
    }
}

/// Runs a FUSE mount helper; it has the mount in place when it returns.
fn by_helper(helper: &str, kind: &str, mount: &Mount, target: &Path) -> Result<(), Error> {
    let output = crate::fd::memory_file("mount").map_err(|e| Error::io("memory file", e))?;
    let mut command = crate::process::Command::new(helper).arg(&mount.source).arg(target);
    for option in &mount.options {
        command = command.arg("-o").arg(option);
    }
    let child = command
        .args(["-t", kind])
        .fd(output.as_fd(), 1)
        .fd(output.as_fd(), 2)
        .spawn()
        .map_err(|e| Error::io(format!("start {helper}"), e))?;
    let ending = child.wait_blocking().map_err(|e| Error::io(format!("wait for {helper}"), e))?;
    if ending.success() {
        return Ok(());
    }
    let said = crate::fd::contents(&output, PAGE).unwrap_or_default();
    Err(Error::Invalid(format!(
        "{mount}: {helper} failed with {}: {}",
        ending.status(),
        String::from_utf8_lossy(&said).trim()
    )))
}

/// Unmounts everything mounted at or below `path`, all layers, deepest first. A busy mount is
/// detached: it vanishes from the tree now and is gone when its last user is.
///
/// # Errors
/// The first mount that can neither be unmounted nor detached; the others are tried all the same.
pub fn unmount_all(path: &Path) -> Result<(), Error> {
    let path = match std::fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(format!("resolve {}", path.display()), error)),
    };
    let entries = table().map_err(|e| Error::io("read mountinfo", e))?;
    let mut result = Ok(());
    for target in at_or_below(&entries, &path) {
        if let Err(error) = unmount_one(&target)
            && result.is_ok()
        {
            result = Err(Error::io(format!("unmount {}", target.display()), error));
        }
    }
    result
}

fn unmount_one(target: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        // Not a mount point any more: what was wanted.
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(Errno::BUSY) => {
            Ok(rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?)
        }
        Err(error) => Err(error.into()),
    }
}
