//! What a daemon left in the kernel after its end, and its removal.
//!
//! A leak fails its test, but is cleaned up all the same: the next test must not pay for it.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::mount::{UnmountFlags, unmount};

use crate::home::Home;

/// How deep below a cgroup file system tasks may lie.
const CGROUP_DEPTH_MAX: usize = 6;

/// Everything of `home` that is still there.
#[derive(Debug, Default)]
pub struct Leaks {
    /// Processes whose command line, environment or directory names the home: pid and command.
    pub processes: Vec<(i32, String)>,
    /// Mount points below the home, in the order they were made.
    pub mounts: Vec<PathBuf>,
    /// Control groups named with the home's mark.
    pub cgroups: Vec<PathBuf>,
    /// Named network namespaces with the home's mark.
    pub networks: Vec<PathBuf>,
}

impl Leaks {
    /// Looks for what is left of `home`.
    pub fn of(home: &Home) -> Self {
        Self {
            processes: processes(home.path()),
            mounts: mounts(|point, _| point.starts_with(home.path())),
            cgroups: cgroups(home.mark()),
            networks: networks(home.mark()),
        }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
            && self.mounts.is_empty()
            && self.cgroups.is_empty()
            && self.networks.is_empty()
    }

    /// Kills, unmounts and removes what was found; says whether every mount is gone.
    pub fn remove(&self) -> bool {
        for (pid, _) in &self.processes {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        let mut unmounted = true;
        for point in self.mounts.iter().chain(&self.networks).rev() {
            unmounted &= unmount(point, UnmountFlags::DETACH).is_ok();
        }
        for group in self.cgroups.iter().rev() {
            let _ = fs::remove_dir(group);
        }
        unmounted || self.mounts.is_empty()
    }
}

fn processes(home: &Path) -> Vec<(i32, String)> {
    let home = home.to_string_lossy();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if pid == std::process::id().cast_signed() {
            continue;
        }
        // A process that ends while we look is no leak: its files then read as absent.
        let read = |name| fs::read(entry.path().join(name)).unwrap_or_default();
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let environment = String::from_utf8_lossy(&read("environ")).into_owned();
        let directory = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let named = command.contains(&*home) || environment.contains(&*home);
        if named || directory.starts_with(&*home) {
            found.push((pid, command));
        }
    }
    found
}

fn mounts(wanted: impl Fn(&Path, &str) -> bool) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let points = table.lines().filter_map(|line| {
        let point = Path::new(line.split(' ').nth(4)?);
        let kind = line.split(" - ").nth(1)?.split(' ').next()?;
        wanted(point, kind).then(|| point.to_owned())
    });
    points.collect()
}

fn cgroups(mark: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for root in mounts(|_, kind| kind == "cgroup" || kind == "cgroup2") {
        named_below(&root, mark, CGROUP_DEPTH_MAX, &mut found);
    }
    found
}

fn named_below(dir: &Path, mark: &str, depth: usize, found: &mut Vec<PathBuf>) {
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.file_name().to_string_lossy().contains(mark) {
                found.push(entry.path());
            }
            named_below(&entry.path(), mark, depth - 1, found);
        }
    }
}

fn networks(mark: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().contains(mark));
    named.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll::{SOON, poll_until};
    use std::process::Command;

    #[test]
    fn a_process_that_names_the_home_is_found_and_killed() {
        let home = Home::new();
        let mut child = Command::new("sleep").arg("600").env("WHERE", home.path()).spawn().unwrap();
        let leaks = poll_until("the process to show", SOON, || {
            let leaks = Leaks::of(&home);
            if leaks.processes.is_empty() { Err("no process") } else { Ok(leaks) }
        });
        assert_eq!(leaks.processes[0].0, child.id().cast_signed());
        assert!(leaks.remove());
        assert!(!child.wait().unwrap().success());
        assert!(Leaks::of(&home).is_empty());
        home.remove();
    }

    #[test]
    fn a_mount_below_the_home_is_found_and_undone() {
        let home = Home::new();
        let point = home.join("m");
        fs::create_dir(&point).unwrap();
        let mounted = rustix::mount::mount(
            "none",
            &point,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            None::<&std::ffi::CStr>,
        );
        mounted.unwrap();
        let leaks = Leaks::of(&home);
        assert_eq!(leaks.mounts, [point]);
        assert!(leaks.remove());
        assert!(Leaks::of(&home).is_empty());
        home.remove();
    }

    #[test]
    fn a_cgroup_with_the_mark_is_found_and_removed() {
        let home = Home::new();
        let Some(root) = mounts(|_, kind| kind == "cgroup" || kind == "cgroup2").pop() else {
            return crate::skip::skip("cgroup leak", "no cgroup file system");
        };
        let group = root.join(format!("{}-x", home.mark()));
        fs::create_dir(&group).unwrap();
        let leaks = Leaks::of(&home);
        assert_eq!(leaks.cgroups, [group]);
        leaks.remove();
        assert!(Leaks::of(&home).is_empty());
        home.remove();
    }
}
