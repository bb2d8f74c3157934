//! The order in which a snapshot reaches the disk, as the kernel sees it.
//!
//! The test runs a part of itself under strace(1) and reads the trace. Renames of marker files
//! show where one call ends and the next begins.

#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use gantry_core::snapshot::Snapshotter;
use gantry_core::{Labels, SystemClock};
use gantry_metadata::kv::BackendKind;
use gantry_metadata::{Metadata, OpenOptions};
use gantry_plugin_snapshots::Overlay;
use support::{cx, key};

const ROOT: &str = "GANTRY_TEST_ROOT";
const CALLS: &str = "trace=syncfs,fdatasync,fsync,sync_file_range,rename";

/// Renames a file so that the trace shows `name`.
fn mark(root: &Path, name: &str) {
    std::fs::write(root.join("mark"), "").unwrap();
    std::fs::rename(root.join("mark"), root.join(format!("mark-{name}"))).unwrap();
}

/// Not a test by itself: what runs under strace.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs under strace, started by the_files_of_a_commit_reach_the_disk_before_its_record"]
async fn traced() {
    let Some(root) = std::env::var_os(ROOT).map(std::path::PathBuf::from) else { return };
    let backend = match std::env::var("GANTRY_TEST_BACKEND").as_deref() {
        Ok("redb") => BackendKind::Redb,
        _ => BackendKind::Sled,
    };
    let options = OpenOptions { folder: root.join("meta"), backend };
    let metadata = Metadata::open(&options, Arc::new(SystemClock)).unwrap();
    let s = support::open(&metadata, Overlay::open(&root.join("snapshots")).unwrap()).await;
    let none = Labels::default;
    s.prepare(&cx(), &key("first"), None, none()).await.unwrap();
    s.commit(&cx(), &key("base"), &key("first"), None, none()).await.unwrap();
    mark(&root, "prepare");
    s.prepare(&cx(), &key("a"), Some(&key("base")), none()).await.unwrap();
    mark(&root, "commit");
    s.commit(&cx(), &key("c"), &key("a"), None, none()).await.unwrap();
    mark(&root, "remove");
    s.remove(&cx(), &key("c")).await.unwrap();
    mark(&root, "end");
    s.wait_idle().await;
}

/// The sync calls between the markers `from` and `to`.
fn between<'a>(trace: &'a str, from: &str, to: &str) -> Vec<&'a str> {
    let at =
        |name: &str| trace.lines().position(|l| l.contains(&format!("mark-{name}\""))).unwrap();
    let calls = trace.lines().take(at(to)).skip(at(from) + 1);
    // `[pid 7] fdatasync(5) = 0`, or `fdatasync(5 <unfinished ...>`, then `<... resumed>`.
    let begun = calls.filter(|line| !line.contains("resumed>"));
    let names = ["syncfs", "fdatasync", "fsync", "sync_file_range"];
    begun.filter_map(|line| names.into_iter().find(|n| line.contains(&format!(" {n}(")))).collect()
}

fn traced_with(backend: &str) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("trace");
    let status = Command::new("strace")
        .args(["-f", "-e", CALLS, "-o"])
        .arg(&out)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "traced", "--ignored"])
        .env(ROOT, dir.path())
        .env("GANTRY_TEST_BACKEND", backend)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let trace = std::fs::read_to_string(out).unwrap();

    let commits = |calls: &[&str]| calls.iter().filter(|c| **c != "sync_file_range").count();
    let prepare = between(&trace, "prepare", "commit");
    assert_eq!(commits(&prepare), 1, "{backend}: a prepare is one store commit\n{trace}");
    let commit = between(&trace, "commit", "remove");
    // sled pushes its log out (sync_file_range) before it makes it durable.
    assert_eq!(commit.first(), Some(&"syncfs"), "{backend}: files, then record\n{trace}");
    assert_eq!(commit.last(), Some(&"fdatasync"), "{backend}: files, then record\n{trace}");
    assert_eq!(commits(&commit), 2, "{backend}: one sync and one store commit\n{trace}");
    let remove = between(&trace, "remove", "end");
    assert_eq!(commits(&remove), 1, "{backend}: a removal is one store commit\n{trace}");
}

#[test]
fn the_files_of_a_commit_reach_the_disk_before_its_record() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: strace is not installed");
        return;
    }
    for backend in ["sled", "redb"] {
        traced_with(backend);
    }
}
