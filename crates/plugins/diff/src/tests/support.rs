//! Archives built entry by entry, a folder to apply them in, and trees as text.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_core::diff::{Applier as _, ApplyOpts};
use gantry_core::model::Descriptor;
use gantry_core::snapshot::Mount;
use gantry_core::{CallCx, Cx, Digest, Namespace, Result};
use tempfile::TempDir;

use super::store::Memory;
use crate::archive::{Entry, EntryKind, Time, Writer};
use crate::{LAYER, Limits, Walking};

pub(super) fn cx() -> Cx {
    CallCx::default().in_namespace(Namespace::new("test").unwrap(), None)
}

/// An archive in the making. Entries are owned by root, from second 1000, with usual modes.
#[derive(Clone)]
pub(super) struct Layer(Vec<u8>);

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut archive = tar::Archive::new(&self.0[..]);
        let entries = archive.entries().unwrap().map(|e| {
            let e = e.unwrap();
            let kind = e.header().entry_type().as_byte() as char;
            format!("{kind} {} {:o}", e.path().unwrap().display(), e.header().mode().unwrap())
        });
        f.debug_list().entries(entries).finish()
    }
}

impl Layer {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }
    pub(super) fn entry(mut self, entry: &Entry, data: &[u8]) -> Self {
        let mut writer = Writer::new(&mut self.0);
        writer.begin(entry).unwrap();
        if entry.size > 0 {
            writer.data(data).unwrap();
        }
        self
    }
    /// A header as no writer of ours makes it, with padded data.
    pub(super) fn raw(
        mut self,
        flag: u8,
        name: &str,
        size: u64,
        data: &[u8],
        change: impl FnOnce(&mut tar::Header),
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len().min(100)]
            .copy_from_slice(&name.as_bytes()[..name.len().min(100)]);
        header.set_entry_type(tar::EntryType::new(flag));
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1000);
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        let padded = self.0.len().next_multiple_of(512);
        self.0.resize(padded, 0);
        self
    }
    /// An extended header with these records.
    pub(super) fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = format!(" {key}={value}\n");
            let length = (1..10).map(|digits| rest.len() + digits);
            let length = length.clone().find(|n| n.to_string().len() + rest.len() == *n).unwrap();
            data.extend_from_slice(format!("{length}{rest}").as_bytes());
        }
        let size = data.len() as u64;
        self.raw(b'x', "PaxHeaders/x", size, &data, |_| {})
    }
    pub(super) fn file(self, name: &str, data: &str) -> Self {
        let size = data.len() as u64;
        self.entry(&Entry { size, ..entry(EntryKind::Regular, name, "") }, data.as_bytes())
    }
    pub(super) fn dir(self, name: &str) -> Self {
        self.entry(&Entry { mode: 0o755, ..entry(EntryKind::Directory, name, "") }, b"")
    }
    pub(super) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(&entry(EntryKind::Symlink, name, target), b"")
    }
    pub(super) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(&entry(EntryKind::HardLink, name, target), b"")
    }
    pub(super) fn hide(self, name: &str) -> Self {
        self.file(name, "")
    }
    pub(super) fn bytes(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub(super) fn entry(kind: EntryKind, name: &str, link: &str) -> Entry {
    Entry {
        kind,
        name: name.into(),
        link: link.into(),
        size: 0,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Time { secs: 1000, nanos: 0 },
        atime: None,
        major: 0,
        minor: 0,
        xattrs: Vec::new(),
        sparse: None,
    }
}

pub(super) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A folder that holds a root to apply to and canaries around it.
pub(super) struct Fixture {
    pub(super) temp: TempDir,
    pub(super) store: Memory,
    pub(super) walking: Walking,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        for dir in ["mounts", "root", "outside/dir"] {
            std::fs::create_dir_all(temp.path().join(dir)).unwrap();
        }
        for canary in ["outside/canary", "outside/dir/canary", "canary"] {
            std::fs::write(temp.path().join(canary), "alive").unwrap();
        }
        let store = Memory::default();
        let walking = Walking::new(Arc::new(store.clone()), temp.path().join("mounts")).unwrap();
        Self { temp, store, walking }
    }
    pub(super) fn with_limits(mut self, limits: Limits) -> Self {
        self.walking = self.walking.with_limits(limits);
        self
    }
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }
    /// All but the root, as text.
    pub(super) fn outside(&self) -> String {
        ["outside", "canary", "mounts"].map(|name| tree(&self.path(name))).concat()
    }
    pub(super) fn bind(&self, name: &str) -> Mount {
        bind(&self.path(name))
    }
    /// An overlay of these folders below the fixture, nearest lower first.
    pub(super) fn overlay(&self, lowers: &[&str], upper: &str) -> Mount {
        let path = |name: &&str| {
            let path = self.path(name);
            std::fs::create_dir_all(&path).unwrap();
            path.display().to_string()
        };
        let work = format!("{upper}.work");
        let lowers: Vec<_> = lowers.iter().map(path).collect();
        let options = vec![
            "index=off".to_owned(),
            format!("workdir={}", path(&work.as_str())),
            format!("upperdir={}", path(&upper)),
            format!("lowerdir={}", lowers.join(":")),
        ];
        let kind = "overlay".to_owned();
        Mount { source: kind.clone(), kind, options, target: String::new() }
    }
    pub(super) async fn apply_to(
        &self,
        mounts: &[Mount],
        media_type: &str,
        blob: Vec<u8>,
    ) -> Result<Descriptor> {
        let size = blob.len() as i64;
        let digest = self.store.put(blob);
        let media_type = media_type.to_owned();
        let descriptor = Descriptor { media_type, digest, size, annotations: Default::default() };
        self.walking.apply(&cx(), &descriptor, mounts, ApplyOpts::default()).await
    }
    /// Applies a tar to the root and checks what the reply says of it.
    pub(super) async fn apply(&self, tar: Vec<u8>) -> Result<()> {
        let applied = self.apply_to(&[self.bind("root")], LAYER, tar.clone()).await?;
        assert_eq!(applied.digest, Digest::of(&tar));
        assert_eq!(applied.size as usize, tar.len());
        assert_eq!(applied.media_type, LAYER);
        Ok(())
    }
    /// The root as text.
    pub(super) fn root(&self) -> String {
        tree(&self.path("root"))
    }
}

pub(super) fn bind(path: &Path) -> Mount {
    Mount {
        kind: "bind".into(),
        source: path.display().to_string(),
        target: String::new(),
        options: vec!["rw".into(), "rbind".into()],
    }
}

/// Everything below `root`, one line each: name, type and mode, owner, time, content or target,
/// attributes. Hard links show as `=` and the first name.
pub(super) fn tree(root: &Path) -> String {
    let mut lines = Vec::new();
    let mut first = std::collections::HashMap::new();
    walk(root, root, &mut first, &mut lines);
    lines.join("\n")
}

fn walk(
    root: &Path,
    path: &Path,
    first: &mut std::collections::HashMap<u64, String>,
    lines: &mut Vec<String>,
) {
    let meta = std::fs::symlink_metadata(path).unwrap();
    let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
    let name = String::from_utf8_lossy(name).into_owned();
    let mode = meta.mode();
    let time = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
    // The root is the snapshot's own; its times change with its content.
    if !name.is_empty() || !meta.is_dir() {
        let mut line = format!("{name} {mode:o} {}:{} {time}", meta.uid(), meta.gid());
        if meta.is_file() {
            let data = std::fs::read(path).unwrap();
            write!(line, " {:?}", String::from_utf8_lossy(&data[..data.len().min(200)])).unwrap();
            write!(line, " {}", data.len()).unwrap();
        } else if meta.is_symlink() {
            write!(line, " -> {:?}", std::fs::read_link(path).unwrap()).unwrap();
        } else if !meta.is_dir() {
            write!(line, " {:x}", meta.rdev()).unwrap();
        }
        if meta.nlink() > 1 && !meta.is_dir() {
            let seen = first.entry(meta.ino()).or_insert_with(|| name.clone());
            if *seen != name {
                write!(line, " = {seen}").unwrap();
            }
        }
        if meta.is_file() || meta.is_dir() {
            for (key, value) in crate::xattr::list(std::fs::File::open(path).unwrap()).unwrap() {
                write!(line, " {}={value:x?}", String::from_utf8_lossy(&key)).unwrap();
            }
        }
        lines.push(line);
    }
    if meta.is_dir() {
        let mut names: Vec<_> =
            std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        for name in names {
            walk(root, &name, first, lines);
        }
    }
}

/// The names in a tree, for tests that care for nothing else.
pub(super) fn names(root: &Path) -> Vec<String> {
    let text = tree(root);
    text.lines().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
}
