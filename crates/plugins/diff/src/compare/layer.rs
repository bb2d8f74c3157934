//! Writes changes as a layer (OCI image-spec, layer.md): entries for what is there, whiteouts for
//! what is gone, and the directories that lead to either.
//!
//! A file of several names is written once, in full, under the first name that is new; the others
//! become hard links to it, those that were there before included, or the link would be lost.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _, Write};

use gantry_core::{Cx, Error, Result};
use rustix::fs::{FileType, Stat};

use super::same::{open_file, xattrs};
use super::walk::{Changed, open_path};
use super::{Change, at};
use crate::apply::{Dir, WHITEOUT_PREFIX, file_type};
use crate::archive::{Entry, EntryKind, Time, Writer};
use crate::pipe::CHUNK_BYTES;

type Inode = (u64, u64);

/// What a layer is made from.
pub(crate) struct Source<'a> {
    pub(crate) cx: &'a Cx,
    /// Root of the upper tree.
    pub(crate) upper: &'a Dir,
    /// Latest time, in seconds since the epoch, that a file of the layer may have.
    pub(crate) latest: Option<i64>,
}

/// A layer being written.
pub(crate) struct LayerWriter<'a, W> {
    source: Source<'a>,
    tar: Writer<W>,
    /// Directories that have their entry.
    dirs: HashSet<Vec<u8>>,
    /// Where a file of several names was written.
    written: HashMap<Inode, Vec<u8>>,
    /// Names of such files that have not changed and wait for one that has.
    waiting: HashMap<Inode, Vec<Vec<u8>>>,
    buffer: Vec<u8>,
}

impl<'a, W: Write> LayerWriter<'a, W> {
    pub(crate) fn new(source: Source<'a>, out: W) -> Self {
        Self {
            source,
            tar: Writer::new(out),
            dirs: HashSet::new(),
            written: HashMap::new(),
            waiting: HashMap::new(),
            buffer: vec![0; CHUNK_BYTES],
        }
    }

    /// Ends the layer.
    pub(crate) fn finish(self) -> io::Result<W> {
        self.tar.finish()
    }

    /// Writes one change.
    pub(crate) fn change(&mut self, change: Change, changed: &Changed<'_>) -> Result<()> {
        let path = changed.path;
        let stat = match (change, changed.stat) {
            (Change::Deleted, _) | (_, None) => return self.whiteout(changed),
            (_, Some(stat)) => stat,
        };
        if changed.name.starts_with(WHITEOUT_PREFIX) {
            let name = String::from_utf8_lossy(path);
            tracing::warn!(%name, "left out of the layer, which would read it as a whiteout");
            return Ok(());
        }
        let Some(kind) = entry_kind(stat) else { return Ok(()) };
        let inode = (stat.st_dev, stat.st_ino);
        let linked = kind != EntryKind::Directory && stat.st_nlink > 1;
        if change == Change::Unmodified && !self.written.contains_key(&inode) {
            if linked {
                self.waiting.entry(inode).or_default().push(path.to_vec());
            }
            return Ok(());
        }
        let (mut entry, file) = self.describe(changed.dir, changed.name, path, kind, stat)?;
        let source = self.written.get(&inode).filter(|_| linked).cloned();
        if let Some(source) = source {
            return self.link(&entry, path, source);
        }
        self.parents(path)?;
        self.begin(&entry, path)?;
        match (kind, file) {
            (EntryKind::Directory, _) => drop(self.dirs.insert(path.to_vec())),
            (EntryKind::Regular, Some(file)) => self.copy(file.into(), entry.size, path)?,
            _ => {}
        }
        if linked {
            self.written.insert(inode, path.to_vec());
            entry.size = 0;
            for waiting in self.waiting.remove(&inode).unwrap_or_default() {
                self.link(&entry, &waiting, path.to_vec())?;
            }
        }
        Ok(())
    }

    fn whiteout(&mut self, changed: &Changed<'_>) -> Result<()> {
        let dir = &changed.path[..changed.path.len() - changed.name.len()];
        let name = [dir, WHITEOUT_PREFIX, changed.name].concat();
        self.parents(&name)?;
        let entry = Entry { name, ..empty(EntryKind::Regular) };
        self.begin(&entry, changed.path)
    }

    /// Writes `path` as another name of the file at `source`, which `like` describes.
    fn link(&mut self, like: &Entry, path: &[u8], source: Vec<u8>) -> Result<()> {
        self.parents(path)?;
        let entry = Entry {
            kind: EntryKind::HardLink,
            name: path.to_vec(),
            link: source,
            size: 0,
            ..like.clone()
        };
        self.begin(&entry, path)
    }

    /// Writes the directories that lead to `path` and have no entry yet.
    fn parents(&mut self, path: &[u8]) -> Result<()> {
        let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i);
        for end in slashes.collect::<Vec<_>>() {
            let parent = &path[..end];
            if !self.dirs.insert(parent.to_vec()) {
                continue;
            }
            let dir = open_path(self.source.upper, parent)?;
            let stat = rustix::fs::fstat(&dir).map_err(|e| at("stat", parent, e.into()))?;
            let (entry, _) = self.describe(&dir, b".", parent, EntryKind::Directory, &stat)?;
            self.begin(&entry, parent)?;
        }
        Ok(())
    }

    /// The entry of a file, and the file itself where it was opened.
    fn describe(
        &self,
        dir: &Dir,
        name: &[u8],
        path: &[u8],
        kind: EntryKind,
        stat: &Stat,
    ) -> Result<(Entry, Option<std::os::fd::OwnedFd>)> {
        let fail = |e| at("read", path, e);
        let secs = self.source.latest.map_or(stat.st_mtime, |latest| stat.st_mtime.min(latest));
        let mut entry = Entry {
            name: path.to_vec(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid.into(),
            gid: stat.st_gid.into(),
            mtime: Time { secs, nanos: 0 },
            ..empty(kind)
        };
        let mut file = None;
        match kind {
            EntryKind::Directory | EntryKind::Regular => {
                let opened = open_file(dir, name).map_err(fail)?;
                let now = rustix::fs::fstat(&opened).map_err(|e| fail(e.into()))?;
                if (now.st_dev, now.st_ino) != (stat.st_dev, stat.st_ino) {
                    return Err(changed_meanwhile(path));
                }
                entry.xattrs = xattrs(&opened).map_err(fail)?;
                if kind == EntryKind::Directory {
                    entry.name.push(b'/');
                } else {
                    entry.size = now.st_size.cast_unsigned();
                    file = Some(opened);
                }
            }
            EntryKind::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new());
                entry.link = target.map_err(|e| fail(e.into()))?.into_bytes();
            }
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                entry.major = rustix::fs::major(stat.st_rdev).into();
                entry.minor = rustix::fs::minor(stat.st_rdev).into();
            }
            _ => {}
        }
        Ok((entry, file))
    }

    fn copy(&mut self, file: File, size: u64, path: &[u8]) -> Result<()> {
        let mut file = file.take(size);
        let mut copied = 0;
        loop {
            self.source.cx.check()?;
            let count = file.read(&mut self.buffer).map_err(|e| at("read", path, e))?;
            if count == 0 {
                break;
            }
            self.tar.data(&self.buffer[..count]).map_err(|e| at("write", path, e))?;
            copied += count as u64;
        }
        if copied == size { Ok(()) } else { Err(changed_meanwhile(path)) }
    }

    fn begin(&mut self, entry: &Entry, path: &[u8]) -> Result<()> {
        self.tar.begin(entry).map_err(|e| at("write", path, e))
    }
}

fn changed_meanwhile(path: &[u8]) -> Error {
    let path = String::from_utf8_lossy(path);
    Error::aborted(format!("{path:?} was changed while it was read; pause the container"))
}

/// What a file becomes in a layer; sockets become nothing.
fn entry_kind(stat: &Stat) -> Option<EntryKind> {
    match file_type(stat) {
        FileType::RegularFile => Some(EntryKind::Regular),
        FileType::Directory => Some(EntryKind::Directory),
        FileType::Symlink => Some(EntryKind::Symlink),
        FileType::CharacterDevice => Some(EntryKind::CharDevice),
        FileType::BlockDevice => Some(EntryKind::BlockDevice),
        FileType::Fifo => Some(EntryKind::Fifo),
        _ => None,
    }
}

fn empty(kind: EntryKind) -> Entry {
    Entry {
        kind,
        name: Vec::new(),
        link: Vec::new(),
        size: 0,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        atime: None,
        major: 0,
        minor: 0,
        xattrs: Vec::new(),
        sparse: None,
    }
}
