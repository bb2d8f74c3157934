//! What a container may leave in its folder must not hurt those who measure, copy and remove it.

#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

mod support;

use std::fs;
use std::path::Path;

use gantry_conformance::snapshots::mounted::Mounted;
use gantry_core::Kind;
use gantry_core::snapshot::{Driver, Mount, SnapshotId, SnapshotKind};
use gantry_plugin_snapshots::folders::Folders;
use gantry_plugin_snapshots::{Native, Overlay};
use rustix::fs::{CWD, IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags, mkdirat, openat};
use support::folders;

const ONE: SnapshotId = SnapshotId(1);
const TWO: SnapshotId = SnapshotId(2);

/// Deeper than any path is long, PATH_MAX being 4096.
const DEEP: usize = 3000;

fn nest(root: &Path, levels: usize) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = openat(CWD, root, flags, Mode::empty()).unwrap();
    for _ in 0..levels {
        mkdirat(&dir, "d", Mode::RWXU).unwrap();
        dir = openat(&dir, "d", flags, Mode::empty()).unwrap();
    }
    openat(&dir, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
}

#[test]
fn depth_is_no_obstacle() {
    // In memory where possible: a disk takes seconds for that many folders.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let native = Native::open(dir.path()).unwrap();
    native.create(ONE, SnapshotKind::Active, &[]).unwrap();
    nest(&dir.path().join("1/fs"), DEEP);
    assert_eq!(native.usage(ONE).unwrap().inodes, DEEP as i64 + 2);
    native.create(TWO, SnapshotKind::Active, &[ONE]).unwrap();
    assert_eq!(native.usage(TWO).unwrap().inodes, DEEP as i64 + 2);
    native.remove(ONE).unwrap();
    native.remove(TWO).unwrap();
    assert_eq!(folders(dir.path()), [""; 0]);
}

#[test]
fn immutable_files_go_too() {
    let dir = tempfile::tempdir().unwrap();
    let root = Folders::open(dir.path()).unwrap();
    root.create(ONE, |_| Ok(())).unwrap();
    let below = dir.path().join("1/below");
    fs::create_dir(&below).unwrap();
    for (name, flag) in [("fixed", IFlags::IMMUTABLE), ("log", IFlags::APPEND)] {
        fs::write(below.join(name), "x").unwrap();
        let file = fs::File::open(below.join(name)).unwrap();
        ioctl_setflags(&file, ioctl_getflags(&file).unwrap() | flag).unwrap();
    }
    let file = fs::File::open(&below).unwrap();
    ioctl_setflags(&file, ioctl_getflags(&file).unwrap() | IFlags::IMMUTABLE).unwrap();
    root.remove(ONE).unwrap();
    assert_eq!(folders(dir.path()), [""; 0]);
}

fn bind(source: &Path, work: &Path) -> Mounted {
    let mount = Mount {
        kind: "bind".into(),
        source: source.to_str().unwrap().into(),
        target: String::new(),
        options: vec!["rw".into()],
    };
    Mounted::new(&[mount], work).unwrap()
}

#[test]
fn what_is_mounted_below_is_neither_counted_nor_removed() {
    let dir = tempfile::tempdir().unwrap();
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("precious"), "x".repeat(1 << 20)).unwrap();
    let overlay = Overlay::open(dir.path()).unwrap();
    overlay.create(ONE, SnapshotKind::Active, &[]).unwrap();
    let mounted = bind(host.path(), &dir.path().join("1/fs"));

    let usage = overlay.usage(ONE).unwrap();
    assert!(usage.inodes <= 2 && usage.size < 1 << 20, "{usage:?}");
    let error = overlay.remove(ONE).unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition, "{}", error.message());
    assert!(error.message().contains("mounted"), "{}", error.message());
    assert!(host.path().join("precious").exists());
    assert_eq!(overlay.list().unwrap(), [ONE], "the next sweep finds it");
    assert!(!overlay.contains(ONE), "no longer a snapshot");

    // The folder has moved, so its mount has moved with it.
    let moved = fs::read_dir(dir.path().join("rm-1/fs")).unwrap().next().unwrap().unwrap().path();
    rustix::mount::unmount(moved, rustix::mount::UnmountFlags::empty()).unwrap();
    std::mem::forget(mounted);
    overlay.remove(ONE).unwrap();
    assert_eq!(folders(dir.path()), [""; 0]);
}

#[test]
fn a_copy_that_finds_the_disk_full_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let small = Mount {
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        target: String::new(),
        options: vec!["size=1m".into()],
    };
    let disk = Mounted::new(&[small], dir.path()).unwrap();
    let native = Native::open(&disk.path("s")).unwrap();
    native.create(ONE, SnapshotKind::Active, &[]).unwrap();
    fs::write(disk.path("s/1/fs/file"), "x".repeat(700 << 10)).unwrap();
    let error = native.create(TWO, SnapshotKind::Active, &[ONE]).unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted, "{}", error.message());
    assert_eq!(native.list().unwrap(), [ONE]);
    native.remove(ONE).unwrap();
    native.create(TWO, SnapshotKind::Active, &[]).unwrap();
}

#[test]
fn links_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("precious"), "x").unwrap();
    let native = Native::open(dir.path()).unwrap();
    native.create(ONE, SnapshotKind::Active, &[]).unwrap();
    std::os::unix::fs::symlink(host.path(), dir.path().join("1/fs/link")).unwrap();
    native.create(TWO, SnapshotKind::Active, &[ONE]).unwrap();
    assert_eq!(fs::read_link(dir.path().join("2/fs/link")).unwrap(), host.path());
    native.remove(ONE).unwrap();
    native.remove(TWO).unwrap();
    assert!(host.path().join("precious").exists());
}

#[test]
fn a_removal_that_was_interrupted_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let root = Folders::open(dir.path()).unwrap();
    for name in ["1", "rm-1", "new-1"] {
        fs::create_dir_all(dir.path().join(name).join("a/b")).unwrap();
    }
    assert_eq!(root.list().unwrap(), [ONE]);
    root.remove(ONE).unwrap();
    assert_eq!(folders(dir.path()), [""; 0]);
}

#[test]
fn overlayfs_where_it_cannot_work_says_why_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = Overlay::open(&dir.path().join("o")).unwrap();
    for id in [ONE, TWO] {
        let parents: &[SnapshotId] = if id == ONE { &[] } else { &[ONE] };
        overlay.create(id, SnapshotKind::Active, parents).unwrap();
    }
    let mounts = overlay.mounts(TWO, SnapshotKind::Active, &[ONE]).unwrap();
    let mounted = Mounted::new(&mounts, dir.path()).unwrap();
    let error = Overlay::probe(&mounted.path("root")).unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(error.message().contains("ext4"), "{}", error.message());
    assert_eq!(folders(&mounted.path("root")), [""; 0]);
}
