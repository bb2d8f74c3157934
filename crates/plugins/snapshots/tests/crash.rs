//! At whatever step the daemon dies or a step fails, folders and records come together again.

#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gantry_core::filter::Filters;
use gantry_core::snapshot::{SnapshotKind, Snapshotter};
use gantry_core::{Kind, Labels, Result};
use gantry_metadata::Metadata;
use gantry_plugin_snapshots::{BuiltinSnapshotter, FAILPOINTS, Overlay};
use support::{cx, folders, key};

type Overlayfs = Arc<BuiltinSnapshotter<Overlay>>;

async fn open(metadata: &Arc<Metadata>, root: &Path) -> Overlayfs {
    support::open(metadata, Overlay::open(root).unwrap()).await
}

async fn prepare(s: &Overlayfs, name: &str, parent: Option<&str>) -> Result<()> {
    let parent = parent.map(key);
    s.prepare(&cx(), &key(name), parent.as_ref(), Labels::default()).await.map(drop)
}

async fn commit(s: &Overlayfs, name: &str, from: &str) -> Result<()> {
    s.commit(&cx(), &key(name), &key(from), None, Labels::default()).await
}

/// One life of a snapshot, as far as it gets: `child` on `base`, committed as `done`, removed.
async fn live(s: &Overlayfs) {
    let _ = prepare(s, "child", Some("base")).await;
    let _ = commit(s, "done", "child").await;
    let _ = s.remove(&cx(), &key("done")).await;
    s.wait_idle().await;
}

/// Each record has its folder and each folder its record.
async fn check(s: &Overlayfs, root: &Path, at: &str) {
    let records = s.list(&cx(), &Filters::default()).await.unwrap();
    assert_eq!(folders(root).len(), records.len(), "{at}: {records:?} and {:?}", folders(root));
    for record in records {
        if record.kind != SnapshotKind::Committed {
            let mounts = s.mounts(&cx(), &record.name).await.unwrap();
            let options = mounts[0].options.join(",");
            let upper = options.split("upperdir=").nth(1).unwrap().split(',').next().unwrap();
            assert!(Path::new(upper).is_dir(), "{at}: {upper}");
        }
    }
    assert!(root.join("1/fs/file").is_file(), "{at}: the committed base");
}

/// Sets up a committed base, runs a life with `step` behaving as `how`, then what comes after.
async fn interrupted(step: &str, how: &str, hit: &Arc<AtomicBool>, restart: bool) {
    let dir = tempfile::tempdir().unwrap();
    let (root, metadata) = (dir.path(), support::metadata());
    let s = open(&metadata, root).await;
    prepare(&s, "making base", None).await.unwrap();
    std::fs::write(root.join("1/fs/file"), "base").unwrap();
    commit(&s, "base", "making base").await.unwrap();

    let told = Arc::clone(hit);
    if how == "panic" {
        let crash = move || assert!(told.swap(true, Ordering::SeqCst), "crash");
        fail::cfg_callback(step, crash).unwrap();
    } else {
        fail::cfg(step, how).unwrap();
    }
    live(&s).await;
    fail::remove(step);

    let s = if restart {
        drop(s);
        open(&metadata, root).await
    } else {
        s
    };
    s.reclaim().await.unwrap();
    check(&s, root, step).await;
    // All keys that are free can be used, and those in use can be removed.
    for name in ["child", "done"] {
        let _ = s.remove(&cx(), &key(name)).await;
    }
    prepare(&s, "child", Some("base")).await.unwrap();
    commit(&s, "done", "child").await.unwrap();
    s.remove(&cx(), &key("done")).await.unwrap();
    s.wait_idle().await;
    check(&s, root, step).await;
    assert_eq!(folders(root), ["1"], "{step}");
}

/// Failpoints are of the whole process, so one test goes through them all.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_or_failure_at_any_step_leaves_folders_and_records_together() {
    let scenario = fail::FailScenario::setup();
    for step in FAILPOINTS.iter().filter(|name| !name.contains(".proxy-")) {
        for restart in [true, false] {
            let hit = Arc::new(AtomicBool::new(false));
            interrupted(step, "panic", &hit, restart).await;
            assert!(hit.load(Ordering::SeqCst), "{step} was not reached");
            if !step.ends_with("/after-record") {
                interrupted(step, "1*return", &hit, restart).await;
            }
        }
    }
    what_a_failed_sync_may_have_lost_is_not_committed().await;
    a_full_disk_is_told_as_such().await;
    a_prepare_that_fails_late_leaves_no_folder().await;
    scenario.teardown();
}

async fn what_a_failed_sync_may_have_lost_is_not_committed() {
    let dir = tempfile::tempdir().unwrap();
    let s = open(&support::metadata(), dir.path()).await;
    prepare(&s, "one", None).await.unwrap();
    prepare(&s, "two", None).await.unwrap();
    fail::cfg("snapshot.commit/sync", "1*return").unwrap();
    commit(&s, "c", "one").await.unwrap_err();
    for open_then in ["one", "two"] {
        let error = commit(&s, "c", open_then).await.unwrap_err();
        assert_eq!(error.kind(), Kind::DataLoss, "{}", error.message());
    }
    prepare(&s, "three", None).await.unwrap();
    commit(&s, "c", "three").await.unwrap();
}

async fn a_prepare_that_fails_late_leaves_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    let s = open(&support::metadata(), dir.path()).await;
    for step in ["snapshot.make-folder/after-rename", "snapshot.prepare/before-record"] {
        fail::cfg(step, "1*return").unwrap();
        prepare(&s, "a", None).await.unwrap_err();
        assert_eq!(folders(dir.path()), [""; 0], "{step}");
    }
}

async fn a_full_disk_is_told_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let s = open(&support::metadata(), dir.path()).await;
    for step in ["snapshot.make-folder/before-rename", "snapshot.commit/sync"] {
        fail::cfg(step, "1*return(enospc)").unwrap();
        let outcome = match prepare(&s, "a", None).await {
            Ok(()) => commit(&s, "c", "a").await,
            refused => refused,
        };
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), Kind::ResourceExhausted, "{}", error.message());
    }
}

#[tokio::test]
async fn folders_that_a_power_cut_took_from_open_snapshots_are_made_again() {
    let _no_failpoints = fail::FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    let (root, metadata) = (dir.path(), support::metadata());
    let s = open(&metadata, root).await;
    prepare(&s, "making base", None).await.unwrap();
    std::fs::write(root.join("1/fs/file"), "base").unwrap();
    commit(&s, "base", "making base").await.unwrap();
    prepare(&s, "a", Some("base")).await.unwrap();
    prepare(&s, "b", Some("base")).await.unwrap();
    drop(s);
    std::fs::remove_dir_all(root.join("2")).unwrap();
    // As when the folder was on disk and its last name not yet.
    std::fs::rename(root.join("3"), root.join("new-3")).unwrap();
    let s = open(&metadata, root).await;
    s.reclaim().await.unwrap();
    check(&s, root, "after the cut").await;
    commit(&s, "c", "a").await.unwrap();
}
