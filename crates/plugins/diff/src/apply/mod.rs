//! Applies an archive to a tree below one directory descriptor.
//!
//! Invariants:
//! - nothing outside the root is made, changed or removed, whatever the archive says; every name
//!   is resolved by the kernel in the root ([`path`]), every last component without following it;
//! - the result is that of containerd's `archive.Apply`, and the same merged tree comes out of
//!   either [`Layout`]; where the two differ in containerd, the OCI image-spec (layer.md) decides;
//! - an error leaves a half-applied tree: the caller discards the snapshot.
//!
//! Blocking: for a thread of its own. Stops between entries and chunks when the call is cancelled.

mod meta;
mod path;
mod state;
mod tree;
mod whiteout;

use std::fs::File;
use std::io::{self, BufRead, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use gantry_core::{Cx, Error};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::archive::{ArchiveError, Entry, EntryKind, Reader};
use crate::limits::Limits;
use meta::Meta;
use state::State;

pub(crate) use path::{Dir, file_type, open_in_root, stat};
pub(crate) use tree::list;
pub(crate) use whiteout::PREFIX as WHITEOUT_PREFIX;

/// What the tree below the root is.
#[derive(Debug)]
pub(crate) enum Layout {
    /// The whole file system: whiteouts remove.
    Merged,
    /// The upper directory of an overlay: whiteouts become what the overlay reads as such.
    Upper(Upper),
}

/// An overlay's upper directory and what lies below it.
#[derive(Debug)]
pub(crate) struct Upper {
    /// Lower directories, nearest first.
    pub(crate) lowers: Vec<OwnedFd>,
    /// Whether the overlay keeps its marks in `user.overlay.*` (mount option `userxattr`).
    pub(crate) user_xattr: bool,
}

/// How an apply runs.
pub(crate) struct Options<'a> {
    pub(crate) layout: Layout,
    pub(crate) limits: &'a Limits,
    /// Whether device nodes can be made; not in a user namespace, where they are left out.
    pub(crate) devices: bool,
}

/// Why an apply failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("invalid archive: entry {name:?}: {what}")]
    Entry { name: String, what: String },
    #[error("cannot {doing} {name:?}")]
    Io { doing: &'static str, name: String, source: io::Error },
    #[error("stopped")]
    Stopped(#[source] Error),
}

impl From<ApplyError> for Error {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Archive(error) => error.into(),
            ApplyError::Stopped(error) => error,
            ApplyError::Entry { .. } => Self::invalid_argument(error.to_string()),
            ApplyError::Io { doing, name, source } => {
                crate::pipe::into_error(source).context(format!("cannot {doing} {name:?}"))
            }
        }
    }
}

type Result<T, E = ApplyError> = std::result::Result<T, E>;

/// Applies the archive in `stream` below `root`. What follows the archive is left in the stream.
pub(crate) fn apply<R: BufRead>(
    cx: &Cx,
    root: impl AsFd,
    stream: R,
    options: Options<'_>,
) -> Result<()> {
    let mut reader = Reader::new(stream);
    let mut apply = Apply { cx, limits: options.limits, devices: options.devices, bytes: 0 };
    let mut state = State::new(root.as_fd(), options.layout).map_err(io_error("open", b"/"))?;
    let mut entries = 0;
    loop {
        cx.check().map_err(ApplyError::Stopped)?;
        let Some(entry) = reader.next()? else { break };
        entries += 1;
        if entries > options.limits.entries_max {
            let what = format!("more than {} entries", options.limits.entries_max);
            return Err(entry_error(&entry.name, what));
        }
        crate::failpoint("diff.apply/entry").map_err(ApplyError::Stopped)?;
        apply.entry(&mut state, &entry, &mut reader)?;
    }
    state.finish(cx).map_err(io_error("finish", b"directories"))
}

struct Apply<'a> {
    cx: &'a Cx,
    limits: &'a Limits,
    devices: bool,
    /// File bytes written so far.
    bytes: u64,
}

impl Apply<'_> {
    fn entry<R: BufRead>(
        &mut self,
        state: &mut State<'_>,
        entry: &Entry,
        data: &mut Reader<R>,
    ) -> Result<()> {
        self.check(entry)?;
        let components = path::clean(&entry.name);
        // The root itself belongs to the snapshot, not to the layer.
        let Some((base, parents)) = components.split_last() else { return Ok(()) };
        let device = matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        if device && !self.devices {
            tracing::warn!(name = %shown(&entry.name), "device left out: in a user namespace");
            return Ok(());
        }
        let fail = |doing| io_error(doing, &entry.name);
        let meta = Meta::of(entry, state.reserved_xattrs())
            .map_err(|what| entry_error(&entry.name, what))?;
        state.enter(parents).map_err(fail("make the parents of"))?;
        if let Some(hidden) = base.strip_prefix(whiteout::PREFIX) {
            if *base == whiteout::OPAQUE {
                return state.make_opaque().map_err(fail("make opaque"));
            }
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(entry_error(&entry.name, "invalid whiteout name".into()));
            }
            return state.hide(hidden, meta.uid, meta.gid).map_err(fail("hide"));
        }
        match entry.kind {
            EntryKind::Regular => {
                let file: File = state
                    .replace(base, |dir| create_file(dir, base))
                    .map_err(fail("create"))?
                    .into();
                self.fill(&file, entry, data)?;
                meta.apply_open(&file, &entry.name)
                    .and_then(|()| Ok(rustix::fs::futimens(&file, &meta.times)?))
                    .map_err(fail("set the attributes of"))?;
            }
            EntryKind::Directory => {
                let dir = state.make_dir(base).map_err(fail("create directory"))?;
                meta.apply_open(&dir, &entry.name).map_err(fail("set the attributes of"))?;
                state.remember_times(&components.join(&b'/'), dir.id, meta.times);
            }
            EntryKind::HardLink => {
                self.hard_link(state, entry, base)?;
                state
                    .with_parent(|dir| meta.apply_named(dir, base))
                    .map_err(fail("set the attributes of"))?;
            }
            _ => {
                state
                    .replace(base, |dir| create_special(dir, base, entry))
                    .map_err(fail("create"))?;
                state
                    .with_parent(|dir| meta.apply_named(dir, base))
                    .map_err(fail("set the attributes of"))?;
            }
        }
        state.unpacked(base);
        Ok(())
    }

    /// What can be told from the entry alone.
    fn check(&self, entry: &Entry) -> Result<()> {
        let fail = |what: String| Err(entry_error(&entry.name, what));
        let max = self.limits.path_bytes_max;
        if entry.name.len() > max || entry.link.len() > max {
            return fail(format!("name or link target longer than {max} bytes"));
        }
        if entry.size > self.limits.file_bytes_max {
            return fail(format!("larger than {} bytes", self.limits.file_bytes_max));
        }
        if let EntryKind::Other(flag) = entry.kind {
            return fail(format!("unsupported type flag {flag:#04x}"));
        }
        // Linux takes 12 bits of major and 20 of minor and cuts off the rest.
        let fits = (0..1 << 12).contains(&entry.major) && (0..1 << 20).contains(&entry.minor);
        if matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice) && !fits {
            return fail(format!("device number {}:{} out of range", entry.major, entry.minor));
        }
        Ok(())
    }

    /// Copies the entry's data to `file`, holes left open.
    fn fill<R: BufRead>(&mut self, file: &File, entry: &Entry, data: &mut Reader<R>) -> Result<()> {
        let fail = |e| io_error("write", &entry.name)(e);
        let mut segments = entry.sparse.as_deref().map(<[_]>::iter);
        let mut segment = segments.as_mut().and_then(Iterator::next).copied();
        loop {
            self.cx.check().map_err(ApplyError::Stopped)?;
            let ready = data.data()?;
            if ready.is_empty() {
                break;
            }
            let mut count = ready.len();
            match &mut segment {
                None => (&*file).write_all(ready).map_err(fail)?,
                Some(place) => {
                    count = usize::try_from(place.len).unwrap_or(count).min(count);
                    file.write_all_at(&ready[..count], place.offset).map_err(fail)?;
                    place.offset += count as u64;
                    place.len -= count as u64;
                }
            }
            data.consume(count);
            while segment.is_some_and(|place| place.len == 0) {
                segment = segments.as_mut().and_then(Iterator::next).copied();
            }
            self.bytes += count as u64;
            if let Some(max) = self.limits.bytes_max.filter(|max| self.bytes > *max) {
                let what = format!("the layer holds more than {max} bytes");
                return Err(entry_error(&entry.name, what));
            }
        }
        if entry.sparse.is_some() {
            file.set_len(entry.size).map_err(fail)?;
        }
        Ok(())
    }

    fn hard_link(&self, state: &mut State<'_>, entry: &Entry, base: &[u8]) -> Result<()> {
        let components = path::clean(&entry.link);
        let Some((target, parents)) = components.split_last() else {
            return Err(entry_error(&entry.name, "hard link to the root".into()));
        };
        let linked = state.existing(parents, target).and_then(|(dir, target_stat)| {
            let same = state.with_parent(|parent| path::stat(parent, base))?.is_some_and(|there| {
                (there.st_dev, there.st_ino) == (target_stat.st_dev, target_stat.st_ino)
            });
            if same {
                return Ok(());
            }
            state.replace(base, |parent| {
                Ok(rustix::fs::linkat(&dir, *target, parent, base, AtFlags::empty())?)
            })
        });
        linked.map_err(|source| ApplyError::Io {
            doing: "hard-link",
            name: format!("{} to {}", shown(&entry.name), shown(&entry.link)),
            source,
        })
    }
}

fn create_file(dir: &Dir, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?)
}

fn create_special(dir: &Dir, name: &[u8], entry: &Entry) -> io::Result<()> {
    let kind = match entry.kind {
        EntryKind::Symlink if entry.link.is_empty() => return Err(Errno::NOENT.into()),
        EntryKind::Symlink => return Ok(rustix::fs::symlinkat(&entry.link[..], dir, name)?),
        EntryKind::CharDevice => FileType::CharacterDevice,
        EntryKind::BlockDevice => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    // Checked by `Apply::check`: no cast cuts anything off.
    let device = rustix::fs::makedev(entry.major as u32, entry.minor as u32);
    let mode = Mode::from_raw_mode(entry.mode & 0o777);
    Ok(rustix::fs::mknodat(dir, name, kind, mode, device)?)
}

fn io_error(doing: &'static str, name: &[u8]) -> impl Fn(io::Error) -> ApplyError {
    move |source| ApplyError::Io { doing, name: shown(name), source }
}

fn entry_error(name: &[u8], what: String) -> ApplyError {
    ApplyError::Entry { name: shown(name), what }
}

/// A name as an error shows it: readable, and not longer than is useful.
fn shown(name: &[u8]) -> String {
    const SHOWN_BYTES: usize = 256;
    let cut = name.len().min(SHOWN_BYTES);
    let tail = if cut < name.len() { "..." } else { "" };
    format!("{}{tail}", String::from_utf8_lossy(&name[..cut]))
}
