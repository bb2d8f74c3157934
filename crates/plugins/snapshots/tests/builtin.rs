//! What the built-in snapshotter promises beyond the contract: folders and records never part.

#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

mod support;

use std::path::Path;
use std::sync::Arc;

use gantry_core::filter::Filters;
use gantry_core::snapshot::{Driver, SnapshotId, SnapshotKind, Snapshotter};
use gantry_core::{Kind, Labels};
use gantry_metadata::Metadata;
use gantry_plugin_snapshots::{BuiltinSnapshotter, Native, Overlay};
use support::{cx, folders, key, metadata};

async fn overlay(metadata: &Arc<Metadata>, root: &Path) -> Arc<BuiltinSnapshotter<Overlay>> {
    support::open(metadata, Overlay::open(root).unwrap()).await
}

async fn prepare(s: &dyn Snapshotter, name: &str, parent: Option<&str>) {
    let parent = parent.map(key);
    s.prepare(&cx(), &key(name), parent.as_ref(), Labels::default()).await.unwrap();
}

async fn commit(s: &dyn Snapshotter, name: &str, from: &str) {
    s.commit(&cx(), &key(name), &key(from), None, Labels::default()).await.unwrap();
}

#[tokio::test]
async fn mount_shapes_are_those_that_clients_take_apart() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    let s = overlay(&metadata(), dir.path()).await;
    let cx = cx();
    let none = Labels::default;
    let show = |mounts: Vec<gantry_core::snapshot::Mount>| {
        let mount = &mounts[0];
        format!("{} {} {}", mount.kind, mount.source, mount.options.join(",")).replace(root, "R")
    };

    let first = s.prepare(&cx, &key("a1"), None, none()).await.unwrap();
    assert_eq!(show(first), "bind R/1/fs rw,rbind");
    commit(&*s, "c1", "a1").await;
    let c1 = key("c1");
    let second = s.prepare(&cx, &key("a2"), Some(&c1), none()).await.unwrap();
    assert_eq!(
        show(second),
        "overlay overlay workdir=R/2/work,upperdir=R/2/fs,lowerdir=R/1/fs,index=off"
    );
    commit(&*s, "c2", "a2").await;
    let c2 = key("c2");
    let of_one = s.view(&cx, &key("v1"), Some(&c1), none()).await.unwrap();
    assert_eq!(show(of_one), "bind R/1/fs ro,rbind");
    let of_two = s.view(&cx, &key("v2"), Some(&c2), none()).await.unwrap();
    assert_eq!(show(of_two), "overlay overlay lowerdir=R/2/fs:R/1/fs,index=off");
    let of_none = s.view(&cx, &key("v0"), None, none()).await.unwrap();
    assert_eq!(show(of_none), "bind R/5/fs ro,rbind");
    let again = s.mounts(&cx, &key("v2")).await.unwrap();
    assert_eq!(show(again), "overlay overlay lowerdir=R/2/fs:R/1/fs,index=off");
}

#[tokio::test]
async fn a_refused_prepare_leaves_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    let s = overlay(&metadata(), dir.path()).await;
    prepare(&*s, "a", None).await;
    let before = folders(dir.path());
    for parent in ["none", "a"] {
        let refused = s.prepare(&cx(), &key("b"), Some(&key(parent)), Labels::default()).await;
        assert!(refused.is_err());
    }
    let taken = s.prepare(&cx(), &key("a"), None, Labels::default()).await.unwrap_err();
    assert_eq!(taken.message(), "snapshot \"a\": already exists");
    assert_eq!(folders(dir.path()), before);
}

#[tokio::test]
async fn removed_folders_are_gone_once_idle() {
    let dir = tempfile::tempdir().unwrap();
    let s = overlay(&metadata(), dir.path()).await;
    for number in 0..20 {
        prepare(&*s, &format!("a{number}"), None).await;
    }
    for number in 0..20 {
        s.remove(&cx(), &key(&format!("a{number}"))).await.unwrap();
    }
    s.wait_idle().await;
    assert_eq!(folders(dir.path()), [""; 0]);
}

#[tokio::test]
async fn opening_removes_what_no_record_names_and_keeps_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let metadata = metadata();
    let s = overlay(&metadata, dir.path()).await;
    prepare(&*s, "a", None).await;
    drop(s);
    for name in ["2", "new-3", "rm-4", "17"] {
        std::fs::create_dir_all(dir.path().join(name).join("fs/etc")).unwrap();
    }
    let s = overlay(&metadata, dir.path()).await;
    s.reclaim().await.unwrap();
    assert_eq!(folders(dir.path()), ["1"]);
    prepare(&*s, "b", None).await;
    assert_eq!(folders(dir.path()), ["1", "18"], "the number of a folder is not given out again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sweep_beside_prepares_takes_no_live_folder() {
    let dir = tempfile::tempdir().unwrap();
    let s = overlay(&metadata(), dir.path()).await;
    let sweeping = tokio::spawn({
        let s = Arc::clone(&s);
        async move {
            for _ in 0..200 {
                s.reclaim().await.unwrap();
            }
        }
    });
    for number in 0..100 {
        prepare(&*s, &format!("a{number}"), None).await;
    }
    sweeping.await.unwrap();
    let live = s.list(&cx(), &Filters::default()).await.unwrap();
    assert_eq!((live.len(), folders(dir.path()).len()), (100, 100));
}

#[tokio::test]
async fn a_driver_call_made_again_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let drivers: [Box<dyn Driver>; 2] = [
        Box::new(Overlay::open(&dir.path().join("o")).unwrap()),
        Box::new(Native::open(&dir.path().join("n")).unwrap()),
    ];
    for driver in drivers {
        let (one, two) = (SnapshotId(1), SnapshotId(2));
        for _ in 0..2 {
            driver.create(one, SnapshotKind::Active, &[]).unwrap();
            driver.create(two, SnapshotKind::Active, &[one]).unwrap();
        }
        assert_eq!(driver.list().unwrap(), [one, two]);
        assert_eq!(driver.usage(one).unwrap().inodes, 1);
        for _ in 0..2 {
            driver.remove(two).unwrap();
        }
        assert_eq!(driver.list().unwrap(), [one]);
    }
}

#[test]
fn a_root_that_overlayfs_cannot_take_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let error = Overlay::open(&dir.path().join("a:b")).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    let proc = Overlay::open(Path::new("/proc/sys")).unwrap_err();
    assert_ne!(proc.kind(), Kind::Internal, "{}", proc.message());
}
