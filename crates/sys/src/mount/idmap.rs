//! Id-mapped mounts (mount_setattr(2)): a tree whose owners look shifted, without a chown.
//!
//! The mapping is given to the kernel as a user namespace; one is made for it by a child that does
//! nothing else. An overlay cannot be mapped itself, its lower directories can: they are reached
//! through a mapped copy of their common parent that is only needed while the overlay is mounted.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree};

use super::{Error, overlay};

/// Mappings of users and groups: lines of `/proc/PID/uid_map`, user_namespaces(7).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct IdMap {
    users: String,
    groups: String,
}

impl IdMap {
    /// `inside:outside:length`, several separated by commas or colons' triples, as containerd writes
    /// them.
    pub(super) fn parse(users: &str, groups: &str) -> Result<Self, Error> {
        Ok(Self { users: lines(users)?, groups: lines(groups)? })
    }

    /// A user namespace with this mapping.
    pub(super) fn user_namespace(&self) -> Result<OwnedFd, Error> {
        let child = Holder::start().map_err(|e| Error::io("make user namespace", e))?;
        let proc = PathBuf::from(format!("/proc/{}", child.pid));
        let write = |name: &str, text: &str| {
            fs::write(proc.join(name), text).map_err(|e| Error::io(format!("write {name}"), e))
        };
        write("uid_map", &self.users)?;
        write("gid_map", &self.groups)?;
        let file = fs::File::open(proc.join("ns/user"))
            .map_err(|e| Error::io("open user namespace", e))?;
        Ok(file.into())
    }
}

fn lines(map: &str) -> Result<String, Error> {
    let bad = || Error::Invalid(format!("id map {map:?} is not of the form inside:outside:length"));
    let mut text = String::new();
    for entry in map.split(',') {
        let numbers = entry.split(':').map(str::parse::<u32>).collect::<Result<Vec<_>, _>>();
        let [inside, outside, length] = numbers.map_err(|_| bad())?[..] else { return Err(bad()) };
        if length == 0
            || inside.checked_add(length).is_none()
            || outside.checked_add(length).is_none()
        {
            return Err(bad());
        }
        text.push_str(&format!("{inside} {outside} {length}\n"));
    }
    Ok(text)
}

/// A child in a user namespace of its own that waits to be killed.
struct Holder {
    pid: i32,
}

impl Holder {
    fn start() -> io::Result<Self> {
        // SAFETY: an all-zero clone_args is a valid value of that plain C struct.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = libc::CLONE_NEWUSER as u64;
        args.exit_signal = libc::SIGCHLD as u64;
        // SAFETY: clone3(2) reads `args` of the given size. The child has a copy of this memory and
        // makes system calls only.
        let pid = unsafe {
            libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>())
        };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        if pid == 0 {
            // SAFETY: system calls on integers; pause(2) returns only to a handler, which the
            // child's dying with its parent makes pointless.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                loop {
                    libc::pause();
                }
            }
        }
        Ok(Self { pid: i32::try_from(pid).unwrap_or(-1) })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid) {
            // Our own unreaped child: the number cannot mean another process.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            let _ = rustix::io::retry_on_intr(|| {
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
            });
        }
    }
}

fn mapped_copy(of: &Path, user_ns: &OwnedFd, read_only: bool) -> Result<OwnedFd, Error> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(rustix::fs::CWD, of, flags)
        .map_err(|e| Error::io(format!("open_tree {}", of.display()), e))?;
    let set = libc::MOUNT_ATTR_IDMAP | if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_ns.as_raw_fd() as u64,
    };
    // SAFETY: mount_setattr(2) reads an empty C string and one struct mount_attr of the given size;
    // both descriptors are open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        return Err(Error::io(format!("id-map {}", of.display()), error));
    }
    Ok(tree)
}

fn attach(tree: &OwnedFd, at: &Path) -> Result<(), Error> {
    move_mount(tree.as_fd(), "", rustix::fs::CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| Error::io(format!("move_mount to {}", at.display()), e))
}

/// Puts an id-mapped copy of what is mounted at `target` in its place.
pub(super) fn remap(target: &Path, user_ns: &OwnedFd) -> Result<(), Error> {
    let tree = mapped_copy(target, user_ns, false)?;
    rustix::mount::unmount(target, UnmountFlags::DETACH)
        .map_err(|e| Error::io(format!("unmount {}", target.display()), e))?;
    attach(&tree, target)
}

/// A mapped, read-only copy of the parent of an overlay's lower directories; gone when dropped.
pub(super) struct MappedLower {
    at: PathBuf,
}

impl MappedLower {
    /// Rewrites `lowerdir=` of `data` to lead through the copy.
    pub(super) fn new(data: &mut [String], user_ns: &OwnedFd) -> Result<Self, Error> {
        let invalid = |why: &str| Error::Invalid(format!("id-mapped overlay: {why}"));
        let option = data
            .iter_mut()
            .find(|option| option.starts_with("lowerdir="))
            .ok_or_else(|| invalid("no lowerdir"))?;
        let lower: Vec<String> =
            option["lowerdir=".len()..].split(':').map(str::to_owned).collect();
        let names: Vec<&str> = lower.iter().map(String::as_str).collect();
        let parent = overlay::common_parent(&names)
            .ok_or_else(|| invalid("its lower directories have no common parent"))?;
        let tree = mapped_copy(&parent, user_ns, true)?;
        let at =
            temporary_dir().map_err(|e| Error::io("make directory for id-mapped layers", e))?;
        let copy = Self { at };
        attach(&tree, &copy.at)?;
        let through = lower
            .iter()
            .map(|dir| Path::new(dir).strip_prefix(&parent).map(|rest| copy.at.join(rest)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| invalid("a lower directory lies outside their common parent"))?;
        let through: Vec<String> = through.iter().map(|p| p.display().to_string()).collect();
        *option = format!("lowerdir={}", through.join(":"));
        Ok(copy)
    }
}

impl Drop for MappedLower {
    fn drop(&mut self) {
        // The overlay keeps what it uses; only the name goes.
        let _ = rustix::mount::unmount(&self.at, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.at);
    }
}

fn temporary_dir() -> io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let (pid, mut attempts) = (std::process::id(), 0);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ovl-idmapped-{pid}-{count}"));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempts < 1000 => {
                attempts += 1;
            }
            result => return result.map(|()| path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_checked() {
        let map = IdMap::parse("0:100000:65536,65536:0:1", "0:1:2").unwrap();
        assert_eq!(map.users, "0 100000 65536\n65536 0 1\n");
        for bad in ["", "0", "0:1", "0:1:0", "a:b:c", "0:1:2:3", "4294967295:0:2"] {
            assert!(IdMap::parse(bad, "0:0:1").is_err(), "{bad}");
        }
    }
}
