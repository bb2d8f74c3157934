//! What an apply knows between entries: the directory it is in, what it has unpacked, and the
//! times directories must get when nothing is made in them any more.
//!
//! Invariant: the directory entered is kept open for the next entry only while no removal of a
//! directory or symlink could have changed what its name leads to.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::BorrowedFd;

use gantry_core::Cx;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Stat, Timestamps, Uid, XattrFlags};
use rustix::fs::{FileType, Timespec};
use rustix::io::Errno;

use super::path::{self, Dir, DirId, file_type};
use super::whiteout::{self, Merged};
use super::{Layout, tree};
use crate::pipe::wrap_error;

/// See the module.
pub(super) struct State<'a> {
    root: BorrowedFd<'a>,
    layout: Layout,
    /// The directory entered last.
    parent: Dir,
    /// Its name.
    parent_name: Vec<u8>,
    /// Whether its name may lead elsewhere by now.
    stale: bool,
    made: Made,
}

/// What the apply has made.
#[derive(Default)]
struct Made {
    /// Names by directory; kept by an opaque whiteout, wherever it stands in the archive.
    names: HashMap<DirId, HashSet<Box<[u8]>>>,
    /// Whiteouts of an overlay by the cleaned path of their directory.
    whiteouts: HashMap<Vec<u8>, Vec<Box<[u8]>>>,
    /// Paths and times of directories, set last.
    times: HashMap<DirId, (Vec<u8>, Timestamps)>,
    /// What an overlay merges with the directory made last, while parents are being made.
    merged: Option<(DirId, Merged)>,
}

impl<'a> State<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, layout: Layout) -> io::Result<Self> {
        let parent = path::open_dir(root, &[])?;
        Ok(Self {
            root,
            layout,
            parent,
            parent_name: Vec::new(),
            stale: false,
            made: Made::default(),
        })
    }

    /// Attributes that belong to the overlay the root is a part of.
    pub(super) fn reserved_xattrs(&self) -> Option<&'static [u8]> {
        match &self.layout {
            Layout::Upper(upper) if upper.user_xattr => Some(b"user.overlay."),
            _ => None,
        }
    }

    /// Goes to the directory `components`, making what is missing.
    pub(super) fn enter(&mut self, components: &[&[u8]]) -> io::Result<()> {
        let name = components.join(&b'/');
        if self.parent_name == name && !self.stale {
            return Ok(());
        }
        self.parent = match path::open_dir(self.root, components) {
            Err(error) if path::leads_nowhere(&error) => {
                let root = path::open_dir(self.root, &[])?;
                let (layout, made) = (&self.layout, &mut self.made);
                made.merged = None;
                path::make_dirs(self.root, components, |dir, above, name, found| {
                    make_parent(layout, made, &root, (dir, above), name, found)
                })?
            }
            result => result?,
        };
        self.parent_name = name;
        self.stale = false;
        Ok(())
    }

    /// Calls `act` with the directory entered.
    pub(super) fn with_parent<T>(&self, act: impl FnOnce(&Dir) -> io::Result<T>) -> io::Result<T> {
        act(&self.parent)
    }

    /// Makes `name` in the directory entered; what stands there is removed first.
    pub(super) fn replace<T>(
        &mut self,
        name: &[u8],
        make: impl Fn(&Dir) -> io::Result<T>,
    ) -> io::Result<T> {
        match make(&self.parent) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.remove(name)?;
                make(&self.parent)
            }
            result => result,
        }
    }

    /// Makes the directory `name`, or takes the one that is there.
    pub(super) fn make_dir(&mut self, name: &[u8]) -> io::Result<Dir> {
        match rustix::fs::mkdirat(&self.parent, name, Mode::RWXU) {
            Ok(()) => return self.parent.child(name),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let is_dir = |s: &Stat| file_type(s) == FileType::Directory;
        if path::stat(&self.parent, name)?.as_ref().is_some_and(is_dir) {
            return self.parent.child(name);
        }
        self.remove(name)?;
        rustix::fs::mkdirat(&self.parent, name, Mode::RWXU)?;
        let dir = self.parent.child(name)?;
        if let Layout::Upper(upper) = &self.layout {
            // What stood here hid the lower directory; the new one would show it again.
            whiteout::mark_opaque(upper, &dir)?;
        }
        Ok(dir)
    }

    /// A file that exists, for a hard link: its directory and stat.
    pub(super) fn existing(&self, parents: &[&[u8]], name: &[u8]) -> io::Result<(Dir, Stat)> {
        let dir = path::open_dir(self.root, parents)?;
        let stat = path::stat(&dir, name)?;
        let stat = stat.filter(|s| matches!(self.layout, Layout::Merged) || !whiteout::is(s));
        Ok((dir, stat.ok_or(Errno::NOENT)?))
    }

    /// Carries out the whiteout of `name` in the directory entered.
    pub(super) fn hide(&mut self, name: &[u8], uid: u32, gid: u32) -> io::Result<()> {
        self.remove(name)?;
        if matches!(self.layout, Layout::Merged) {
            return Ok(());
        }
        whiteout::make(&self.parent, name)?;
        let made = self.made.whiteouts.entry(self.parent_name.clone());
        made.or_default().push(name.into());
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::chownat(&self.parent, name, owner.0, owner.1, flags)?)
    }

    /// Carries out an opaque whiteout of the directory entered.
    pub(super) fn make_opaque(&mut self) -> io::Result<()> {
        match &self.layout {
            Layout::Merged => {
                self.stale = true;
                let names = &self.made.names;
                let keep = |dir, name: &[u8]| {
                    names.get(&dir).is_some_and(|names: &HashSet<Box<[u8]>>| names.contains(name))
                };
                tree::prune(self.parent.child(b".")?, keep).map(|_| ())
            }
            Layout::Upper(upper) => {
                let root = path::open_dir(self.root, &[])?;
                if root.id == self.parent.id {
                    whiteout::hide_lowers(upper, &root)
                } else {
                    whiteout::mark_opaque(upper, &self.parent)
                }
            }
        }
    }

    /// Remembers that `name` in the directory entered comes from this archive.
    pub(super) fn unpacked(&mut self, name: &[u8]) {
        // Only an opaque whiteout in a merged tree asks for it.
        if matches!(self.layout, Layout::Merged) {
            self.made.names.entry(self.parent.id).or_default().insert(name.into());
        }
    }

    /// Remembers times for the directory `path`.
    pub(super) fn remember_times(&mut self, path: &[u8], id: DirId, times: Timestamps) {
        self.made.times.insert(id, (path.to_vec(), times));
    }

    /// Ends the apply.
    pub(super) fn finish(&self, cx: &Cx) -> io::Result<()> {
        self.drop_vain_whiteouts(cx)?;
        self.set_dir_times(cx)
    }

    /// Removes whiteouts where nothing of a lower layer could be hidden: the overlay would show
    /// them. Last, since any later entry may change what is hidden.
    fn drop_vain_whiteouts(&self, cx: &Cx) -> io::Result<()> {
        let Layout::Upper(upper) = &self.layout else { return Ok(()) };
        let root = path::open_dir(self.root, &[])?;
        for (path, names) in &self.made.whiteouts {
            cx.check().map_err(wrap_error)?;
            let dir = match path::open_dir(self.root, &[path]) {
                Err(error) if path::leads_nowhere(&error) => continue,
                result => result?,
            };
            let components = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
            let merged = Merged::at(upper, &root, components)?;
            if dir.id == root.id || merged.is_none_or(|merged| merged.nearest().is_some()) {
                continue;
            }
            for name in names {
                if path::stat(&dir, name)?.is_some_and(|stat| whiteout::is(&stat)) {
                    rustix::fs::unlinkat(&dir, &name[..], AtFlags::empty())?;
                }
            }
        }
        Ok(())
    }

    /// Sets the times remembered, but for directories that have been removed or replaced since.
    fn set_dir_times(&self, cx: &Cx) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        for (id, (path, times)) in &self.made.times {
            cx.check().map_err(wrap_error)?;
            match path::open_in_root(self.root, path, flags, ResolveFlags::empty()) {
                Ok(fd) => {
                    let dir = Dir::new(fd)?;
                    if dir.id == *id {
                        rustix::fs::futimens(&dir, times)?;
                    }
                }
                Err(error) if path::leads_nowhere(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn remove(&mut self, name: &[u8]) -> io::Result<()> {
        // Directories and symlinks are what names lead through.
        self.stale = true;
        tree::remove(&self.parent, name).map(|_| ())
    }
}

/// Makes one missing parent directory. In an overlay it looks as it does below, else it is 0755.
fn make_parent(
    layout: &Layout,
    made: &mut Made,
    root: &Dir,
    (dir, above): (&Dir, &[Vec<u8>]),
    name: &[u8],
    found: Option<&Stat>,
) -> io::Result<bool> {
    let hidden = match (layout, found) {
        (_, None) => false,
        (Layout::Upper(_), Some(stat)) if whiteout::is(stat) => true,
        _ => return Ok(false),
    };
    if hidden {
        rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
    }
    rustix::fs::mkdirat(dir, name, Mode::RWXU)?;
    let new = dir.child(name)?;
    rustix::fs::fchmod(&new, Mode::from_raw_mode(0o755))?;
    // The number may have been that of a directory which is gone.
    made.times.remove(&new.id);
    let Layout::Upper(upper) = layout else {
        made.names.entry(dir.id).or_default().insert(name.into());
        return Ok(true);
    };
    let merged = match made.merged.take() {
        _ if hidden => Merged::nothing(),
        Some((id, merged)) if id == dir.id => merged.child(name)?,
        _ => {
            let merged = Merged::at(upper, root, above.iter().map(Vec::as_slice))?;
            merged.map_or_else(|| Ok(Merged::nothing()), |merged| merged.child(name))?
        }
    };
    if hidden {
        whiteout::mark_opaque(upper, &new)?;
    }
    if let Some(below) = merged.nearest() {
        let times = copy_dir(below, &new)?;
        let path = above.iter().map(Vec::as_slice).chain([name]).collect::<Vec<_>>();
        made.times.insert(new.id, (path.join(&b'/'), times));
    }
    made.merged = Some((new.id, merged));
    Ok(true)
}

/// Gives `new` owner, mode and attributes of the directory it covers; returns its times.
fn copy_dir(below: &Dir, new: &Dir) -> io::Result<Timestamps> {
    let stat = rustix::fs::fstat(below)?;
    let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(new, Some(owner.0), Some(owner.1))?;
    for (key, value) in crate::xattr::list(below)? {
        if key.starts_with(b"trusted.") || key.starts_with(b"user.overlay.") {
            continue;
        }
        match rustix::fs::fsetxattr(new, &key[..], &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rustix::fs::fchmod(new, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = |secs, nanos: u64| Timespec { tv_sec: secs, tv_nsec: nanos.cast_signed() };
    Ok(Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    })
}
