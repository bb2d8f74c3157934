//! Walks two trees at once and tells what differs.
//!
//! Where the upper tree is an overlay on the lower one, its upper directory serves as a *hint*:
//! what has no entry there cannot have changed, so a container's few changes are found without
//! reading its whole image. The hint only says where to look; what is there is always asked of
//! the mounted trees.
//!
//! Descriptors are held for the last [`OPEN_LEVELS`] levels; above that they are opened again by
//! a path without symlinks.

use std::os::fd::AsFd;

use gantry_core::{Cx, Result};
use rustix::fs::{FileType, OFlags, ResolveFlags, Stat};

use super::{Change, at, same};
use crate::apply::{Dir, file_type, list, open_in_root, stat};

/// Levels of a tree whose directories stay open.
const OPEN_LEVELS: usize = 32;

/// The trees to compare, by their roots.
pub(crate) struct Trees {
    /// `None` for nothing at all.
    pub(crate) lower: Option<Dir>,
    pub(crate) upper: Dir,
    /// The upper directory of the overlay that `upper` is, when `lower` is what lies below it.
    pub(crate) hint: Option<Dir>,
}

/// A changed name: its directory in the upper tree, its path, and what it is now.
pub(crate) struct Changed<'a> {
    pub(crate) dir: &'a Dir,
    /// From the root, without a leading slash.
    pub(crate) path: &'a [u8],
    pub(crate) name: &'a [u8],
    /// Absent when it was deleted.
    pub(crate) stat: Option<&'a Stat>,
}

/// One directory, open in each tree that has it.
struct Open {
    lower: Option<Dir>,
    upper: Dir,
    hint: Option<Dir>,
}

/// One directory being compared.
struct Level {
    path: Vec<u8>,
    names: std::vec::IntoIter<Vec<u8>>,
    has: (bool, bool),
    /// `None` while deeper levels need the descriptors.
    open: Option<Open>,
}

/// Calls `tell` for each change, in order.
///
/// # Errors
/// What the file system or `tell` says; `Cancelled` and the like.
pub(crate) fn walk(
    cx: &Cx,
    trees: &Trees,
    mut tell: impl FnMut(Change, &Changed<'_>) -> Result<()>,
) -> Result<()> {
    let open = |dir: &Dir| dir.child(b".").map_err(|e| at("open", b"/", e));
    let root = Open {
        lower: trees.lower.as_ref().map(open).transpose()?,
        upper: open(&trees.upper)?,
        hint: trees.hint.as_ref().map(open).transpose()?,
    };
    let mut levels = vec![Level::new(Vec::new(), root)?];
    while let Some(level) = levels.last_mut() {
        cx.check()?;
        let Some(name) = level.names.next() else {
            levels.pop();
            continue;
        };
        let path = join(&level.path, &name);
        let open = level.reopen(trees)?;
        let below = open.compare(&path, &name, &mut tell)?;
        if let Some(below) = below {
            levels.push(Level::new(path, below)?);
            if let Some(above) = levels.len().checked_sub(OPEN_LEVELS + 1) {
                levels[above].open = None;
            }
        }
    }
    Ok(())
}

impl Open {
    /// Tells what became of `name`; returns the directory to go on in, if it is one.
    fn compare(
        &self,
        path: &[u8],
        name: &[u8],
        tell: &mut impl FnMut(Change, &Changed<'_>) -> Result<()>,
    ) -> Result<Option<Self>> {
        let fail = |e| at("compare", path, e);
        let lower = match &self.lower {
            Some(dir) => stat(dir, name).map_err(fail)?,
            None => None,
        };
        let upper = stat(&self.upper, name).map_err(fail)?;
        let mut report =
            |change, stat| tell(change, &Changed { dir: &self.upper, path, name, stat });
        let Some(upper) = &upper else {
            if lower.is_some() {
                report(Change::Deleted, None)?;
            }
            return Ok(None);
        };
        let is_dir = |stat: &Stat| file_type(stat) == FileType::Directory;
        match (&self.lower, &lower) {
            (Some(dir), Some(lower)) => {
                if !same::same((dir, lower), (&self.upper, upper), name).map_err(fail)? {
                    report(Change::Modified, Some(upper))?;
                } else if upper.st_nlink > 1 && !is_dir(upper) {
                    report(Change::Unmodified, Some(upper))?;
                }
            }
            _ => report(Change::Added, Some(upper))?,
        }
        if !is_dir(upper) {
            return Ok(None);
        }
        let both = lower.as_ref().is_some_and(is_dir);
        let lower = match &self.lower {
            Some(dir) if both => Some(dir.child(name).map_err(fail)?),
            _ => None,
        };
        let hint = match &self.hint {
            Some(dir) if both => hint(dir, name).map_err(fail)?,
            _ => None,
        };
        Ok(Some(Self { lower, upper: self.upper.child(name).map_err(fail)?, hint }))
    }
}

/// The hint for the directory `name`: none when its entries in the upper directory are not all
/// that differs, since it hides what lies below or came from elsewhere.
fn hint(dir: &Dir, name: &[u8]) -> std::io::Result<Option<Dir>> {
    if !stat(dir, name)?.is_some_and(|stat| file_type(&stat) == FileType::Directory) {
        return Ok(None);
    }
    let child = dir.child(name)?;
    for (key, _) in crate::xattr::list(&child)? {
        let mark = key.strip_prefix(b"trusted.overlay.").or(key.strip_prefix(b"user.overlay."));
        if matches!(mark, Some(b"opaque" | b"redirect")) {
            return Ok(None);
        }
    }
    Ok(Some(child))
}

impl Level {
    fn new(path: Vec<u8>, open: Open) -> Result<Self> {
        let read = |dir: &Dir| list(dir).map_err(|e| at("read directory", &path, e));
        let listed = match (&open.hint, &open.lower) {
            (Some(hint), _) => vec![read(hint)?],
            (None, Some(lower)) => vec![read(lower)?, read(&open.upper)?],
            (None, None) => vec![read(&open.upper)?],
        };
        let mut names: Vec<_> = listed.into_iter().flatten().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        let has = (open.lower.is_some(), open.hint.is_some());
        Ok(Self { path, names: names.into_iter(), has, open: Some(open) })
    }

    fn reopen(&mut self, trees: &Trees) -> Result<&Open> {
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                let dir = |root: &Option<Dir>, wanted: bool| match root {
                    Some(root) if wanted => open_path(root, &self.path).map(Some),
                    _ => Ok(None),
                };
                Open {
                    lower: dir(&trees.lower, self.has.0)?,
                    upper: open_path(&trees.upper, &self.path)?,
                    hint: dir(&trees.hint, self.has.1)?,
                }
            }
        };
        Ok(self.open.insert(open))
    }
}

/// The directory at `path` of a tree, through no symlink.
pub(super) fn open_path(root: &Dir, path: &[u8]) -> Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    open_in_root(root.as_fd(), path, flags, ResolveFlags::NO_SYMLINKS)
        .and_then(Dir::new)
        .map_err(|e| at("open directory", path, e))
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}
