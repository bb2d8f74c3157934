//! A whole image under unmodified clients: imported, unpacked, mounted, exported, collected.
#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use gantry_tests::image::{self, NAME};
use gantry_tests::poll::{SOON, poll_until};
use gantry_tests::{Ctr, Daemon};

const SNAPSHOTTERS: [&str; 2] = ["overlayfs", "native"];

/// `ctr images import`, by the client's own code and the daemon's stores.
async fn import(ctr: &Ctr, daemon: &Daemon, snapshotter: &str) -> image::Image {
    let image = image::archive(daemon.home().path());
    let archive = image.archive.to_str().unwrap();
    let mut args = vec!["images", "import", "--snapshotter", snapshotter];
    args.extend(ctr.is_current().then_some("--local"));
    args.push(archive);
    ctr.ok(daemon, &args).await;
    image
}

/// The files of the image's rootfs are what its layers say.
fn is_the_rootfs(root: &Path) {
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    assert_eq!(read("etc/name"), "second");
    let inode = |name: &str| fs::metadata(root.join(name)).unwrap().ino();
    assert_eq!(inode("etc/linked"), inode("etc/target"), "a hard link is one file");
    assert!(!root.join("etc/gone").exists() && !root.join("hidden").exists(), "whiteouts");
    assert!(!root.join("opaque/below").exists(), "an opaque directory hides what lies below");
    assert_eq!(read("opaque/above"), "second");
    let owned = fs::metadata(root.join("etc/owned")).unwrap();
    assert_eq!((owned.uid(), owned.gid(), owned.mode() & 0o7777), (1234, 4321, 0o4750));
    assert_eq!(owned.mtime(), 1_700_000_000);
    assert_eq!(fs::read_link(root.join("out")).unwrap(), Path::new("../../../../etc/passwd"));
    assert!(!root.join("etc/.wh.gone").exists(), "a whiteout is no file");
}

/// ctr 2.4 has the daemon mount under a lease, and ends the lease: the collection that this calls
/// for undoes the mount.
fn is_deactivated(daemon: &Daemon) {
    let below = daemon.state().join("mounts");
    poll_until("the daemon's mounts to go", SOON, || {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        match table.lines().find(|line| line.contains(below.to_str().unwrap())) {
            None => Ok(()),
            Some(line) => Err(line.to_owned()),
        }
    });
}

#[tokio::test]
async fn an_image_is_imported_unpacked_and_mounted_over_crashes() {
    for ctr in Ctr::all("image import") {
        for snapshotter in SNAPSHOTTERS {
            let mut daemon = Daemon::start().await;
            let image = import(&ctr, &daemon, snapshotter).await;
            daemon.crash().await;
            let shown = ctr.ok(&daemon, &["images", "ls", "--quiet"]).await;
            assert_eq!(shown.trim(), NAME, "{}", ctr.name);
            let shown = ctr.ok(&daemon, &["images", "check", "--snapshotter", snapshotter]).await;
            assert!(shown.contains("complete"), "{} {snapshotter}: {shown}", ctr.name);
            let list = ["snapshots", "--snapshotter", snapshotter, "ls"];
            let shown = ctr.ok(&daemon, &list).await;
            assert!(shown.contains(&image.chain), "{} {snapshotter}: {shown}", ctr.name);
            if !ctr.is_current() && snapshotter != SNAPSHOTTERS[0] {
                // 1.6 mounts by its default snapshotter, whatever it is told.
                continue;
            }
            let point = daemon.home().join("rootfs");
            fs::create_dir(&point).unwrap();
            let target = point.to_str().unwrap();
            let mount = ["images", "mount", "--snapshotter", snapshotter, "--rw", NAME, target];
            ctr.ok(&daemon, &mount).await;
            is_the_rootfs(&point);
            fs::write(point.join("etc/name"), "mine").unwrap();
            let unmount = ["images", "unmount", "--snapshotter", snapshotter, "--rm", target];
            ctr.ok(&daemon, &unmount).await;
            is_deactivated(&daemon);
            ctr.ok(&daemon, &mount).await;
            is_the_rootfs(&point);
            ctr.ok(&daemon, &unmount).await;
            is_deactivated(&daemon);
        }
    }
}

#[tokio::test]
async fn a_removed_image_leaves_nothing_on_disk() {
    for ctr in Ctr::all("image removal") {
        let mut daemon = Daemon::start().await;
        for snapshotter in SNAPSHOTTERS {
            import(&ctr, &daemon, snapshotter).await;
        }
        daemon.crash().await;
        ctr.ok(&daemon, &["images", "rm", "--sync", NAME]).await;
        assert_eq!(ctr.ok(&daemon, &["content", "ls", "--quiet"]).await, "", "{}", ctr.name);
        for snapshotter in SNAPSHOTTERS {
            let shown = ctr.ok(&daemon, &["snapshots", "--snapshotter", snapshotter, "ls"]).await;
            assert_eq!(shown.lines().count(), 1, "{} {snapshotter}: {shown}", ctr.name);
        }
        let places = ["content/blobs", "content/ingest"].map(|place| daemon.root().join(place));
        for place in places {
            poll_until("the files to go", SOON, || match files_below(&place) {
                0 => Ok(()),
                n => Err(format!("{n} files below {}", place.display())),
            });
        }
        let directories = poll_until("the snapshots to go", SOON, || {
            let left = files_below(&daemon.root().join("snapshots"));
            if left == 0 { Ok(left) } else { Err(format!("{left} files")) }
        });
        assert_eq!(directories, 0);
    }
}

#[tokio::test]
async fn an_image_is_exported_as_it_was_imported() {
    for ctr in Ctr::all("image export") {
        let daemon = Daemon::start().await;
        let image = import(&ctr, &daemon, "native").await;
        let out = daemon.home().join("out.tar");
        let mut args = vec!["images", "export"];
        args.extend(ctr.is_current().then_some("--local"));
        args.extend([out.to_str().unwrap(), NAME]);
        ctr.ok(&daemon, &args).await;
        let mut archive = tar::Archive::new(fs::File::open(&out).unwrap());
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
            .collect();
        for blob in &image.blobs {
            let name = format!("blobs/{}", blob.replace(':', "/"));
            assert!(names.contains(&name), "{}: no {name} in {names:?}", ctr.name);
        }
    }
}

#[tokio::test]
async fn content_in_use_is_not_collected() {
    let Some(ctr) = Ctr::all("collection").pop() else { return };
    let daemon = Daemon::start().await;
    let image = import(&ctr, &daemon, "native").await;
    ctr.ok(&daemon, &["images", "tag", NAME, "registry.example/test/other:1"]).await;
    ctr.ok(&daemon, &["images", "rm", "--sync", NAME]).await;
    let shown = ctr.ok(&daemon, &["content", "ls", "--quiet"]).await;
    for blob in &image.blobs {
        assert!(shown.contains(blob), "{blob} was collected: {shown}");
    }
}

/// Regular files below `place`, at any depth.
fn files_below(place: &Path) -> usize {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let count = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => files_below(&entry.path()),
        Ok(kind) if kind.is_file() => 1,
        _ => 0,
    };
    entries.map(count).sum()
}
