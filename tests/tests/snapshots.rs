//! Snapshots under unmodified clients: the life of one, misuse, crashes.
#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

use gantry_api::containerd::services::snapshots::v1::ViewSnapshotRequest;
use gantry_api::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use gantry_tests::wire::within;
use gantry_tests::{Ctr, Daemon};

const SNAPSHOTTERS: [&str; 2] = ["overlayfs", "native"];

async fn ok(ctr: &Ctr, daemon: &Daemon, snapshotter: &str, args: &[&str]) -> String {
    let all = [&["snapshots", "--snapshotter", snapshotter], args].concat();
    ctr.ok(daemon, &all).await
}

async fn fails(ctr: &Ctr, daemon: &Daemon, snapshotter: &str, args: &[&str]) -> String {
    let all = [&["snapshots", "--snapshotter", snapshotter], args].concat();
    ctr.fails(daemon, &all).await
}

/// A view that no collection takes.
async fn view(daemon: &Daemon, snapshotter: &str, key: &str, parent: &str) {
    let request = ViewSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        labels: [("containerd.io/gc.root".to_owned(), "test".to_owned())].into(),
    };
    let request = within(daemon.namespace(), request);
    SnapshotsClient::new(daemon.channel()).view(request).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_is_prepared_committed_viewed_and_removed_over_crashes() {
    for ctr in Ctr::all("snapshots") {
        for own in SNAPSHOTTERS {
            let mut daemon = Daemon::start().await;
            ok(&ctr, &daemon, own, &["prepare", "active"]).await;
            daemon.crash().await;
            ok(&ctr, &daemon, own, &["commit", "base", "active"]).await;
            daemon.crash().await;
            ok(&ctr, &daemon, own, &["prepare", "above", "base"]).await;
            // ctr makes roots of what it prepares, and leaves a view to the next collection.
            view(&daemon, own, "seen", "base").await;
            daemon.crash().await;
            let shown = ok(&ctr, &daemon, own, &["ls"]).await;
            for (key, kind) in [("base", "Committed"), ("above", "Active"), ("seen", "View")] {
                let row = shown.lines().find(|line| line.starts_with(key));
                assert!(row.is_some_and(|row| row.contains(kind)), "{} {own}: {shown}", ctr.name);
            }
            let said = fails(&ctr, &daemon, own, &["rm", "base"]).await;
            assert!(said.contains("failed precondition"), "{} {own}: {said}", ctr.name);
            for key in ["seen", "above", "base"] {
                ok(&ctr, &daemon, own, &["rm", key]).await;
            }
            daemon.crash().await;
            let shown = ok(&ctr, &daemon, own, &["ls"]).await;
            assert_eq!(shown.lines().count(), 1, "{} {own}: {shown}", ctr.name);
        }
    }
}

#[tokio::test]
async fn misuse_is_told_by_kind() {
    let daemon = Daemon::start().await;
    for ctr in Ctr::all("snapshot misuse") {
        for own in SNAPSHOTTERS {
            let key = |name: &str| format!("{name}-{}-{own}", ctr.name.replace(' ', ""));
            let (active, base) = (key("active"), key("base"));
            ok(&ctr, &daemon, own, &["prepare", &active]).await;
            let said = fails(&ctr, &daemon, own, &["prepare", &active]).await;
            assert!(said.contains("already exists"), "{} {own}: {said}", ctr.name);
            let said = fails(&ctr, &daemon, own, &["prepare", &key("x"), "absent"]).await;
            assert!(said.contains("not found"), "{} {own}: {said}", ctr.name);
            fails(&ctr, &daemon, own, &["prepare", &key("x"), &active]).await;
            ok(&ctr, &daemon, own, &["commit", &base, &active]).await;
            let said = fails(&ctr, &daemon, own, &["mounts", "/var/empty", &base]).await;
            assert!(said.contains("failed precondition"), "{} {own}: {said}", ctr.name);
            ok(&ctr, &daemon, own, &["rm", &base]).await;
        }
        let said = fails(&ctr, &daemon, "none", &["ls"]).await;
        assert!(said.contains("snapshotter") && said.contains("none"), "{}: {said}", ctr.name);
    }
}
