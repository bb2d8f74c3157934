//! What a mounted snapshot shows. Mounts for real, so these cases need root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use gantry_core::snapshot::Usage;
use rustix::fs::{CWD, Mode, XattrFlags};

use super::mounted::Mounted;
use super::{World, key};

impl World {
    /// Commits the layer `name` on `parent`, with what `fill` makes in it.
    async fn filled(&self, name: &str, parent: Option<&str>, fill: impl FnOnce(&Mounted)) {
        let active = format!("making {name}");
        let mounts = self.prepare(&active, parent).await;
        let mounted = self.mount(&mounts);
        fill(&mounted);
        drop(mounted);
        self.commit(name, &active).await;
    }

    /// Mounts a view of `parent`.
    async fn look(&self, parent: &str) -> Mounted {
        let mounts = self.view(&format!("view of {parent}"), Some(parent)).await;
        self.mount(&mounts)
    }

    async fn usage(&self, name: &str) -> Usage {
        self.snapshotter.usage(&self.cx, &key(name)).await.unwrap()
    }
}

/// Each layer adds to and changes what the ones below it show.
pub async fn layers_show_through(world: World) {
    if !world.can_mount() {
        return;
    }
    world
        .filled("1", None, |m| {
            m.write("etc/one", "1");
            m.write("etc/all", "1");
        })
        .await;
    world
        .filled("2", Some("1"), |m| {
            assert_eq!(m.read("etc/one").as_deref(), Some("1"));
            m.write("etc/two", "2");
            m.write("etc/all", "2");
        })
        .await;
    world.filled("3", Some("2"), |m| m.write("etc/all", "3")).await;
    world.filled("4", Some("3"), |m| m.write("etc/four", "4")).await;
    let top = world.look("4").await;
    assert_eq!(top.names("etc"), ["all", "four", "one", "two"]);
    assert_eq!(top.read("etc/all").as_deref(), Some("3"));
    let middle = world.look("2").await;
    assert_eq!(middle.names("etc"), ["all", "one", "two"]);
    assert_eq!(middle.read("etc/all").as_deref(), Some("2"));
    assert_eq!(world.look("1").await.read("etc/all").as_deref(), Some("1"));
}

/// What a layer deletes is gone above it and there below it.
pub async fn deletions_hide_what_lies_below(world: World) {
    if !world.can_mount() {
        return;
    }
    world
        .filled("1", None, |m| {
            m.write("file", "1");
            m.write("folder/deep/file", "1");
            m.write("stays", "1");
        })
        .await;
    world
        .filled("2", Some("1"), |m| {
            fs::remove_file(m.path("file")).unwrap();
            fs::remove_dir_all(m.path("folder")).unwrap();
        })
        .await;
    world.filled("3", Some("2"), |m| m.write("file", "again")).await;
    assert_eq!(world.look("2").await.names(""), ["stays"]);
    let top = world.look("3").await;
    assert_eq!(top.names(""), ["file", "stays"]);
    assert_eq!(top.read("file").as_deref(), Some("again"));
    assert_eq!(world.look("1").await.names(""), ["file", "folder", "stays"]);
}

/// A folder deleted and made again does not show what lies below.
pub async fn a_folder_made_anew_is_empty(world: World) {
    if !world.can_mount() {
        return;
    }
    world.filled("1", None, |m| m.write("folder/old", "1")).await;
    world
        .filled("2", Some("1"), |m| {
            fs::remove_dir_all(m.path("folder")).unwrap();
            m.write("folder/new", "2");
        })
        .await;
    world.filled("3", Some("2"), |m| m.write("folder/newer", "3")).await;
    assert_eq!(world.look("3").await.names("folder"), ["new", "newer"]);
}

/// mv(1) of a folder that lies in lower layers.
pub async fn a_folder_moves_over_layers(world: World) {
    if !world.can_mount() {
        return;
    }
    world
        .filled("1", None, |m| {
            m.write("a/one", "1");
            m.write("b/old", "1");
        })
        .await;
    world.filled("2", Some("1"), |m| m.write("a/two", "2")).await;
    world
        .filled("3", Some("2"), |m| {
            fs::remove_dir_all(m.path("b")).unwrap();
            // Where rename(2) is EXDEV, as on overlayfs, it copies.
            assert!(
                Command::new("mv").arg(m.path("a")).arg(m.path("b")).status().unwrap().success()
            );
        })
        .await;
    let top = world.look("3").await;
    assert_eq!(top.names(""), ["b"]);
    assert_eq!(top.names("b"), ["one", "two"]);
}

/// A view refuses writes, whatever it looks at.
pub async fn a_view_cannot_be_written(world: World) {
    if !world.can_mount() {
        return;
    }
    world.filled("1", None, |m| m.write("file", "1")).await;
    world.filled("2", Some("1"), |m| m.write("other", "2")).await;
    for (number, parent) in [None, Some("1"), Some("2")].into_iter().enumerate() {
        let view = world.mount(&world.view(&format!("v{number}"), parent).await);
        let written = fs::write(view.path("new"), "x").unwrap_err();
        assert_eq!(written.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        if parent.is_some() {
            let removed = fs::remove_file(view.path("file")).unwrap_err();
            assert_eq!(removed.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        }
    }
    assert_eq!(world.look("2").await.names(""), ["file", "other"]);
}

/// Two active snapshots of one parent, mounted at once, do not see each other's files.
pub async fn siblings_do_not_meet(world: World) {
    if !world.can_mount() {
        return;
    }
    world.filled("1", None, |m| m.write("file", "1")).await;
    let left = world.mount(&world.prepare("left", Some("1")).await);
    let right = world.mount(&world.prepare("right", Some("1")).await);
    left.write("file", "left");
    right.write("new", "right");
    assert_eq!(right.read("file").as_deref(), Some("1"));
    assert_eq!(left.names(""), ["file"]);
    assert_eq!(world.look("1").await.read("file").as_deref(), Some("1"));
}

/// Modes, owners, times, links, attributes, devices and holes are those of the parent.
pub async fn attributes_live_on_in_children(world: World) {
    if !world.can_mount() {
        return;
    }
    world.filled("1", None, make_odd_files).await;
    world.filled("2", Some("1"), |m| m.write("new", "2")).await;
    let active = world.mount(&world.prepare("a", Some("2")).await);
    check_odd_files(&active);
    // A change of owner copies the file up; all else must come along.
    std::os::unix::fs::lchown(active.path("odd/file"), Some(7), Some(8)).unwrap();
    let changed = fs::metadata(active.path("odd/file")).unwrap();
    assert_eq!((changed.uid(), changed.gid()), (7, 8));
    assert_eq!(fs::read(active.path("odd/file")).unwrap(), b"text");
    drop(active);
    check_odd_files(&world.look("1").await);
}

const LONG_AGO: i64 = 1_000_000_000;

fn make_odd_files(m: &Mounted) {
    m.write("odd/file", "text");
    fs::hard_link(m.path("odd/file"), m.path("odd/link")).unwrap();
    symlink("/absent/target", m.path("odd/symlink")).unwrap();
    std::os::unix::fs::lchown(m.path("odd/symlink"), Some(5), Some(6)).unwrap();
    let (fifo, char_device) = (rustix::fs::FileType::Fifo, rustix::fs::FileType::CharacterDevice);
    let mode = Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(CWD, m.path("odd/fifo"), fifo, mode, 0).unwrap();
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(CWD, m.path("odd/null"), char_device, mode, null).unwrap();
    let sparse = fs::File::create(m.path("odd/sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    rustix::io::pwrite(&sparse, b"end", (64 << 20) - 3).unwrap();
    std::os::unix::fs::lchown(m.path("odd/file"), Some(1000), Some(1001)).unwrap();
    fs::set_permissions(m.path("odd/file"), Permissions::from_mode(0o4751)).unwrap();
    let file = m.path("odd/file");
    rustix::fs::setxattr(&file, "user.note", b"kept\0so", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(&file, "trusted.note", b"kept", XattrFlags::empty()).unwrap();
    std::os::unix::fs::lchown(m.path("odd"), Some(3), Some(4)).unwrap();
    fs::set_permissions(m.path("odd"), Permissions::from_mode(0o1770)).unwrap();
    for name in ["odd/file", "odd"] {
        let time = rustix::fs::Timespec { tv_sec: LONG_AGO, tv_nsec: 5 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let flags = rustix::fs::AtFlags::empty();
        rustix::fs::utimensat(CWD, m.path(name), &times, flags).unwrap();
    }
}

fn check_odd_files(m: &Mounted) {
    let stat = |name: &str| fs::symlink_metadata(m.path(name)).unwrap();
    let file = stat("odd/file");
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (1000, 1001, 0o4751));
    assert_eq!((file.mtime(), file.mtime_nsec()), (LONG_AGO, 5));
    assert_eq!((file.nlink(), file.ino()), (2, stat("odd/link").ino()));
    let folder = stat("odd");
    assert_eq!((folder.uid(), folder.gid(), folder.mode() & 0o7777), (3, 4, 0o1770));
    assert_eq!(folder.mtime(), LONG_AGO);
    let link = stat("odd/symlink");
    assert_eq!((link.uid(), link.gid()), (5, 6));
    assert_eq!(fs::read_link(m.path("odd/symlink")).unwrap(), Path::new("/absent/target"));
    assert!(stat("odd/fifo").file_type().is_fifo());
    assert_eq!(stat("odd/fifo").mode() & 0o7777, 0o640);
    assert!(stat("odd/null").file_type().is_char_device());
    assert_eq!(stat("odd/null").rdev(), rustix::fs::makedev(1, 3));
    let sparse = stat("odd/sparse");
    assert_eq!(sparse.size(), 64 << 20);
    assert!(sparse.blocks() * 512 < 1 << 20, "holes were filled: {} blocks", sparse.blocks());
    assert!(fs::read(m.path("odd/sparse")).unwrap().ends_with(b"\0end"));
    for (name, value) in [("user.note", b"kept\0so".as_slice()), ("trusted.note", b"kept")] {
        let mut buffer = [0; 64];
        let length = rustix::fs::getxattr(m.path("odd/file"), name, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], value);
    }
}

/// The root of the first layer is 0755; children's roots are as their parents'.
pub async fn the_root_keeps_mode_and_owner(world: World) {
    if !world.can_mount() {
        return;
    }
    world
        .filled("1", None, |m| {
            let root = fs::metadata(m.path("")).unwrap();
            assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o755, 0, 0));
            std::os::unix::fs::lchown(m.path(""), Some(100), Some(200)).unwrap();
            fs::set_permissions(m.path(""), Permissions::from_mode(0o1751)).unwrap();
        })
        .await;
    world.filled("2", Some("1"), |m| m.write("file", "2")).await;
    for mounted in [world.look("2").await, world.mount(&world.prepare("a", Some("2")).await)] {
        let root = fs::metadata(mounted.path("")).unwrap();
        assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o1751, 100, 200));
    }
}

/// A commit while the snapshot is still mounted keeps what was written before it.
pub async fn a_commit_keeps_what_was_written(world: World) {
    if !world.can_mount() {
        return;
    }
    world.layer("1", None).await;
    let mounted = world.mount(&world.prepare("a", Some("1")).await);
    mounted.write("deep/er/file", "kept");
    world.commit("2", "a").await;
    drop(mounted);
    assert_eq!(world.look("2").await.read("deep/er/file").as_deref(), Some("kept"));
}

/// The deepest image that registries hold.
pub async fn a_chain_of_127_layers_mounts(world: World) {
    if !world.can_mount() {
        return;
    }
    let mut parent: Option<String> = None;
    for number in 0..127 {
        let name = format!("{number}");
        world
            .filled(&name, parent.as_deref(), |m| {
                m.write(&format!("each/{number}"), "same");
                m.write("last", &name);
                if number > 0 {
                    fs::remove_dir_all(m.path("only")).unwrap();
                }
                m.write(&format!("only/{number}"), "mine");
            })
            .await;
        parent = Some(name);
    }
    let top = world.look("126").await;
    assert_eq!(top.names("each").len(), 127);
    assert_eq!(top.read("last").as_deref(), Some("126"));
    assert_eq!(top.names("only"), ["126"]);
}

/// A snapshot's usage is what it added.
pub async fn usage_leaves_parents_out(world: World) {
    if !world.can_mount() {
        return;
    }
    world.filled("1", None, |m| m.write("large", &"x".repeat(4 << 20))).await;
    assert!(world.usage("1").await.size >= 4 << 20);
    let copies = {
        let mounts = world.prepare("probe", Some("1")).await;
        mounts[0].kind == "bind"
    };
    if copies {
        // A snapshotter that binds a child has copied the parent into it.
        assert!(world.usage("probe").await.size >= 4 << 20);
    } else {
        assert!(world.usage("probe").await.size < 1 << 20);
    }
}

/// An active snapshot is measured now, a committed one as it was at its commit.
pub async fn usage_is_live_until_the_commit(world: World) {
    if !world.can_mount() {
        return;
    }
    let mounted = world.mount(&world.prepare("a", None).await);
    let empty = world.usage("a").await;
    assert_eq!(empty.inodes, 1, "the root");
    mounted.write("one/file", &"x".repeat(1 << 20));
    fs::hard_link(mounted.path("one/file"), mounted.path("one/again")).unwrap();
    rustix::fs::syncfs(fs::File::open(mounted.path("")).unwrap()).unwrap();
    let full = world.usage("a").await;
    assert_eq!(full.inodes, 3, "root, folder and one file with two names");
    assert!(full.size >= 1 << 20 && full.size < 2 << 20, "{}", full.size);
    drop(mounted);
    world.commit("c", "a").await;
    assert_eq!(world.usage("c").await, full);
    world.view("v", Some("c")).await;
    assert_eq!(world.usage("v").await, Usage::default());
}
