//! Overlay mounts with many layers: their options must fit one page.
//!
//! Lower directories usually share a parent (`.../snapshots/`). When the options are too long they
//! are shortened to paths relative to it, and mount(2) is called from there, in a child process:
//! the working directory is the whole process's, and other threads rely on it.

use std::ffi::CStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::PAGE;

/// Kept free of the page, as containerd does, for what the kernel adds.
const SPARE: usize = 512;

/// Shortens `lowerdir=` of `data` if the options are too long, and says from which directory the
/// mount has to be made then.
pub(super) fn compact(data: &mut [String]) -> Option<PathBuf> {
    if data.iter().map(String::len).sum::<usize>() < PAGE - SPARE {
        return None;
    }
    let option = data.iter_mut().find(|option| option.starts_with("lowerdir="))?;
    let lower: Vec<&str> = option["lowerdir=".len()..].split(':').collect();
    let parent = common_parent(&lower)?;
    let short = lower
        .iter()
        .map(|dir| Path::new(dir).strip_prefix(&parent).ok().and_then(Path::to_str))
        .collect::<Option<Vec<_>>>()?;
    if short.iter().any(|dir| dir.is_empty()) {
        return None;
    }
    *option = format!("lowerdir={}", short.join(":"));
    Some(parent)
}

/// The deepest directory that holds all of `dirs`; `None` when that is the root, or a path is
/// relative already.
pub(super) fn common_parent(dirs: &[&str]) -> Option<PathBuf> {
    let mut common: PathBuf = Path::new(dirs.first()?).parent()?.to_owned();
    for dir in &dirs[1..] {
        while !Path::new(dir).parent()?.starts_with(&common) {
            common = common.parent()?.to_owned();
        }
    }
    (common.is_absolute() && common.as_os_str().as_bytes() != b"/").then_some(common)
}

/// Calls `mount` in a child process whose working directory is `dir`. `mount` must make system
/// calls only: other threads do not exist in the child, their locks may be held for ever.
pub(super) fn mount_in(
    dir: &CStr,
    mount: impl FnOnce() -> rustix::io::Result<()>,
) -> io::Result<()> {
    // SAFETY: the child makes system calls only, on memory prepared by the caller, and leaves by
    // _exit(2).
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        let result = rustix::process::chdir(dir).and_then(|()| mount());
        // Errno numbers are below 256 on Linux where file systems use them; others read as EIO.
        let code = result
            .err()
            .map_or(0, |e| if e.raw_os_error() < 256 { e.raw_os_error() } else { libc::EIO });
        // SAFETY: ends this copy of the process without running anything of the parent's.
        unsafe { libc::_exit(code) }
    }
    let child = rustix::process::Pid::from_raw(pid);
    let status = rustix::io::retry_on_intr(|| {
        rustix::process::waitpid(child, rustix::process::WaitOptions::empty())
    })?;
    match status.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code)),
        None => Err(io::Error::other("mounting child was killed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_options_are_left_alone() {
        let mut data = vec!["lowerdir=/a/1:/a/2".to_owned()];
        assert_eq!(compact(&mut data), None);
        assert_eq!(data, ["lowerdir=/a/1:/a/2"]);
    }

    #[test]
    fn long_options_become_relative_to_the_common_parent() {
        let lower: Vec<String> =
            (0..120).map(|n| format!("/var/lib/gantry/snapshots/overlayfs/{n}/fs")).collect();
        let mut data = vec![format!("lowerdir={}", lower.join(":")), "workdir=/w".into()];
        let parent = compact(&mut data).unwrap();
        assert_eq!(parent, Path::new("/var/lib/gantry/snapshots/overlayfs"));
        assert!(data[0].starts_with("lowerdir=0/fs:1/fs:2/fs:"));
        assert!(data[0].len() < 1000);
    }

    #[test]
    fn without_a_common_parent_nothing_can_be_done() {
        assert_eq!(common_parent(&["/a/1", "/b/1"]), None);
        assert_eq!(common_parent(&["a/1", "a/2"]), None);
        assert_eq!(common_parent(&["/s/12/fs", "/s/1/fs"]), Some("/s".into()));
    }
}
