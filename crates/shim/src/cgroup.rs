//! The cgroup of a container: its processes, its figures, its want of memory.
//!
//! Found once, from `/proc/PID/cgroup` of the init process; afterwards only files are read. A
//! hybrid machine (v1 controllers beside an empty v2 tree) counts as v1, as in containerd.

pub mod oom;
mod v1;
mod v2;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use gantry_core::{Error, Result};
use prost_types::Any;

/// Where cgroup file systems are mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// A cgroup tree deeper than this is not a container's.
const DEPTH_MAX: usize = 32;

/// A container's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroup {
    /// One directory per controller.
    V1(v1::Paths),
    /// One directory.
    V2(PathBuf),
}

impl Cgroup {
    /// The cgroup of process `pid`.
    ///
    /// # Errors
    /// Those of reading `/proc`; `InvalidData` when no cgroup file system is mounted.
    pub fn of(pid: i32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        Self::parse(&text, Path::new(MOUNT))
    }

    fn parse(text: &str, mount: &Path) -> io::Result<Self> {
        // A pure v2 machine has its tree at the mount point itself.
        if mount.join("cgroup.controllers").exists() {
            let path = text.lines().find_map(|line| line.strip_prefix("0::"));
            let path = path.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
            return Ok(Self::V2(mount.join(path.trim_start_matches('/'))));
        }
        Ok(Self::V1(v1::Paths::parse(text, mount)))
    }

    /// The processes in it and below; none when it is gone.
    pub fn pids(&self) -> Vec<u32> {
        let root = match self {
            Self::V1(paths) => paths.for_pids(),
            Self::V2(path) => Some(path.clone()),
        };
        let mut pids = BTreeSet::new();
        if let Some(root) = root {
            collect_pids(&root, &mut pids, 0);
        }
        pids.into_iter().collect()
    }

    /// Its figures, as `io.containerd.cgroups.v1.Metrics` or `.v2.Metrics`.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    pub fn metrics(&self) -> Result<Any> {
        let gone = || Error::not_found("cgroup does not exist");
        match self {
            Self::V1(paths) if paths.exists() => Ok(crate::wire::any(&paths.metrics())),
            Self::V2(path) if path.exists() => Ok(crate::wire::any(&v2::metrics(path))),
            _ => Err(gone()),
        }
    }
}

fn collect_pids(dir: &Path, pids: &mut BTreeSet<u32>, depth: usize) {
    if let Ok(text) = fs::read_to_string(dir.join("cgroup.procs")) {
        pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    if depth >= DEPTH_MAX {
        return;
    }
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_pids(&entry.path(), pids, depth + 1);
        }
    }
}

/// A file of one number; `max` is the largest.
fn number(dir: &Path, file: &str) -> Option<u64> {
    let text = fs::read_to_string(dir.join(file)).ok()?;
    parse_number(text.trim())
}

fn parse_number(text: &str) -> Option<u64> {
    if text == "max" { Some(u64::MAX) } else { text.parse().ok() }
}

/// A file of lines `key value`.
fn pairs(dir: &Path, file: &str) -> Vec<(String, u64)> {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), parse_number(value.trim())?))
    };
    text.lines().filter_map(pair).collect()
}

fn value(pairs: &[(String, u64)], key: &str) -> u64 {
    pairs.iter().find(|(known, _)| known == key).map_or(0, |(_, value)| *value)
}

/// A line `mlx4_0 hca_handle=2 hca_object=max`: device, handles, objects.
fn rdma_line(line: &str) -> Option<(String, u32, u32)> {
    let mut words = line.split_whitespace();
    let device = words.next()?.to_owned();
    let (mut handles, mut objects) = (0, 0);
    for word in words {
        let (key, count) = word.split_once('=')?;
        let count = if count == "max" { u32::MAX } else { count.parse().ok()? };
        match key {
            "hca_handle" => handles = count,
            "hca_object" => objects = count,
            _ => {}
        }
    }
    Some((device, handles, objects))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_machine_decides_the_kind_of_cgroup() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("memory/c")).unwrap();
        fs::write(dir.path().join("memory/c/cgroup.procs"), "").unwrap();
        let hybrid = "5:memory:/c\n0::/c\n";
        assert!(matches!(Cgroup::parse(hybrid, dir.path()).unwrap(), Cgroup::V1(_)));
        fs::write(dir.path().join("cgroup.controllers"), "memory\n").unwrap();
        let unified = Cgroup::parse("0::/c/d\n", dir.path()).unwrap();
        assert_eq!(unified, Cgroup::V2(dir.path().join("c/d")));
        assert!(Cgroup::parse("5:memory:/c\n", dir.path()).is_err());
    }

    #[test]
    fn processes_of_cgroups_below_count_too() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("cgroup.procs"), "3\n1\n").unwrap();
        fs::write(dir.path().join("a/b/cgroup.procs"), "2\n").unwrap();
        let cgroup = Cgroup::V2(dir.path().to_owned());
        assert_eq!(cgroup.pids(), [1, 2, 3]);
        let gone = Cgroup::V2(dir.path().join("gone"));
        assert_eq!(gone.pids(), [0; 0]);
        assert_eq!(gone.metrics().unwrap_err().message(), "cgroup does not exist: not found");
    }

    #[test]
    fn this_process_has_a_cgroup_with_itself_in_it() {
        let pid = std::process::id();
        let cgroup = Cgroup::of(i32::try_from(pid).unwrap()).unwrap();
        assert!(cgroup.pids().contains(&pid), "{cgroup:?}");
        assert!(!cgroup.metrics().unwrap().value.is_empty());
    }
}
