//! At whatever step the daemon dies or a step fails, records and mounts come together again.

#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

mod support;

use std::os::unix::fs::PermissionsExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gantry_plugin_mounts::{FAILPOINTS, Manager};
use support::{Home, activate, cx, mount, name, temporary, tmpfs};

/// One life of an activation that passes every step, as far as it gets.
async fn live(home: &Home, manager: &Arc<Manager>) -> bool {
    let folder = format!("X-containerd.mkdir.path={}", home.at("folder"));
    let image = home.at("image");
    let mounts = vec![
        tmpfs(),
        mount("mkdir/tmpfs", "tmpfs", &[&folder]),
        mount("mkfs/tmpfs", &image, &["X-containerd.mkfs.size=1m"]),
    ];
    let made = activate(manager, temporary("x", mounts)).await.is_ok();
    made && manager.deactivate(&cx(), name("x")).await.is_ok()
}

/// The manager as the next start finds things; `None` if it dies as well.
fn opened(home: &Home) -> Option<Arc<Manager>> {
    std::panic::catch_unwind(AssertUnwindSafe(|| {
        Manager::open(Arc::clone(&home.metadata), home.options.clone()).ok()
    }))
    .ok()
    .flatten()
}

async fn interrupted(step: &str, how: &str, restart: bool, programs: &str) {
    let at = format!("{step}, {how}, restart {restart}");
    let mut home = Home::new();
    home.options.programs = programs.to_owned();
    let kept = home.open();
    activate(&kept, temporary("kept", vec![tmpfs()])).await.unwrap();
    // What a daemon that died half-way has left, for the start to take down.
    std::fs::create_dir_all(home.options.folder.join("77/0")).unwrap();

    let hit = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&hit);
    let first = move || !told.swap(true, Ordering::SeqCst);
    if how == "panic" {
        fail::cfg_callback(step, move || assert!(!first(), "crash")).unwrap();
    } else {
        fail::cfg(step, how).unwrap();
    }
    let manager = match opened(&home) {
        Some(manager) => {
            let whole = live(&home, &manager).await;
            assert!(!whole || how == "panic" || step.contains("folder"), "{at}: nothing failed");
            Some(manager)
        }
        None => None,
    };
    fail::remove(step);
    assert!(how != "panic" || hit.load(Ordering::SeqCst), "{at}: not reached");

    let manager = match manager.filter(|_| !restart) {
        Some(manager) => manager,
        None => {
            let manager = home.open();
            home.assert_whole(&at);
            manager
        }
    };
    manager.reclaimer().reclaim().await.unwrap();
    // The name is taken by something whole, or can be used at once.
    if manager.info(&cx(), name("x")).await.is_ok() {
        manager.deactivate(&cx(), name("x")).await.unwrap();
    }
    assert!(live(&home, &manager).await, "{at}: not usable");
    assert_eq!(home.folders().len(), 1, "{at}");
    assert_eq!(home.mounted().len(), 1, "{at}");
    manager.deactivate(&cx(), name("kept")).await.unwrap();
    home.assert_bare(&at);
    let mut made: Vec<_> =
        std::fs::read_dir(home.root()).unwrap().map(|e| e.unwrap().file_name()).collect();
    made.sort();
    assert_eq!(made, ["folder", "image"], "{at}");
}

/// Failpoints are of the whole process, so one test goes through them all.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_or_failure_at_any_step_leaves_no_mount_behind() {
    let scenario = fail::FailScenario::setup();
    let bin = tempfile::tempdir().unwrap();
    let program = bin.path().join("mkfs.ext4");
    std::fs::write(&program, "#!/bin/sh\nexit 0\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let programs = bin.path().to_str().unwrap();
    for step in FAILPOINTS {
        for restart in [true, false] {
            interrupted(step, "panic", restart, programs).await;
            interrupted(step, "1*return", restart, programs).await;
        }
    }
    scenario.teardown();
}
