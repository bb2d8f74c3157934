//! Removal of trees, however deep, with two open descriptors and no recursion.
//!
//! Trees come from archives: one may nest deeper than any stack or descriptor table. Going down
//! opens the child without following symlinks; going up opens `..` and compares what it finds
//! with what was left, so a directory moved meanwhile is an error, never a detour.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::path::{self, Dir, DirId};

/// Removes `name` in `dir` and all below it; tells whether there was anything.
pub(crate) fn remove(dir: &Dir, name: &[u8]) -> io::Result<bool> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => return Ok(true),
        Err(Errno::NOENT) => return Ok(false),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    prune(dir.child(name)?, |_, _| false)?;
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
    Ok(true)
}

/// One directory on the way down.
struct Level {
    name: Vec<u8>,
    id: DirId,
    /// Directories in it not yet seen.
    subdirs: Vec<Vec<u8>>,
    /// Whether something in it stays.
    kept: bool,
}

/// Removes everything below `top` but what `keep` wants, given its directory and name, and the
/// directories that lead there. Tells whether anything is left.
pub(crate) fn prune(top: Dir, keep: impl Fn(DirId, &[u8]) -> bool) -> io::Result<bool> {
    let mut levels = vec![scan(&top, Vec::new(), &keep)?];
    let mut current = top;
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.subdirs.pop() {
            let child = current.child(&name)?;
            levels.push(scan(&child, name, &keep)?);
            current = child;
            continue;
        }
        let Some(done) = levels.pop() else { break };
        let Some(above) = levels.last_mut() else { return Ok(done.kept) };
        current = current.child(b"..")?;
        if current.id != above.id {
            return Err(io::Error::other("a directory was moved while it was being removed"));
        }
        if done.kept || keep(above.id, &done.name) {
            above.kept = true;
        } else {
            rustix::fs::unlinkat(&current, &done.name[..], AtFlags::REMOVEDIR)?;
        }
    }
    Ok(false)
}

/// Removes the files of one directory and lists its directories.
fn scan(dir: &Dir, name: Vec<u8>, keep: &impl Fn(DirId, &[u8]) -> bool) -> io::Result<Level> {
    let mut level = Level { name, id: dir.id, subdirs: Vec::new(), kept: false };
    let mut files = Vec::new();
    for (name, kind) in list(dir)? {
        if kind == FileType::Directory {
            level.subdirs.push(name);
        } else if keep(dir.id, &name) {
            level.kept = true;
        } else {
            files.push(name);
        }
    }
    for name in files {
        rustix::fs::unlinkat(dir, &name[..], AtFlags::empty())?;
    }
    Ok(level)
}

/// Names and types in a directory, in the kernel's order.
pub(crate) fn list(dir: impl AsFd) -> io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match path::stat(&dir, name)? {
                Some(stat) => path::file_type(&stat),
                None => continue,
            },
            kind => kind,
        };
        names.push((name.to_vec(), kind));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn open(path: &Path) -> Dir {
        Dir::new(std::fs::File::open(path).unwrap().into()).unwrap()
    }

    #[test]
    fn a_tree_deeper_than_any_path_goes() {
        let temp = tempfile::tempdir().unwrap();
        let root = open(temp.path());
        let mut current = open(temp.path());
        for _ in 0..3000 {
            rustix::fs::mkdirat(&current, "deep", 0o755.into()).unwrap();
            current = current.child(b"deep").unwrap();
        }
        std::fs::write(temp.path().join("deep/file"), "").unwrap();
        assert!(remove(&root, b"deep").unwrap());
        assert!(!remove(&root, b"deep").unwrap());
        assert_eq!(list(&root).unwrap(), []);
    }

    #[test]
    fn what_is_kept_keeps_its_parents() {
        let temp = tempfile::tempdir().unwrap();
        for dir in ["a/b/c", "a/d", "e/f"] {
            std::fs::create_dir_all(temp.path().join(dir)).unwrap();
        }
        for file in ["a/b/keep", "a/b/c/x", "a/d/x", "top"] {
            std::fs::write(temp.path().join(file), "").unwrap();
        }
        std::os::unix::fs::symlink("/", temp.path().join("a/out")).unwrap();
        assert!(prune(open(temp.path()), |_, name| name == b"keep").unwrap());
        assert!(temp.path().join("a/b/keep").exists());
        let left = |dir: &str| std::fs::read_dir(temp.path().join(dir)).unwrap().count();
        assert_eq!((left(""), left("a"), left("a/b")), (1, 1, 1));
        assert!(!prune(open(temp.path()), |_, _| false).unwrap());
        assert_eq!(left(""), 0);
    }
}
