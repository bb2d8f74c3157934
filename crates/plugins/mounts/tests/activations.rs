//! Activations on the real kernel.

#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gantry_core::snapshot::Mount;
use gantry_core::{Error, Kind, Labels};
use gantry_metadata::stores::Activation;
use gantry_plugin_mounts::Manager;
use support::{Home, activate, cx, leased, mount, name, request, temporary, tmpfs};

fn fails<T: std::fmt::Debug>(result: Result<T, Error>, kind: Kind, text: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{}", error.message());
    assert!(error.message().contains(text), "{}", error.message());
}

async fn down(home: &Home, manager: &Arc<Manager>, of: &str) {
    manager.deactivate(&cx(), name(of)).await.unwrap();
    home.assert_bare(of);
}

/// An overlay in upper and work folders that are made, over two tmpfs that are mounted.
fn overlay(home: &Home) -> Vec<Mount> {
    let (upper, work) = (home.at("upper"), home.at("work"));
    let options = [
        format!("X-containerd.mkdir.path={upper}:755"),
        format!("X-containerd.mkdir.path={work}"),
        format!("upperdir={upper}"),
        format!("workdir={work}"),
        "lowerdir={{ overlay 1 0 }}".to_owned(),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    vec![tmpfs(), tmpfs(), mount("format/mkdir/overlay", "overlay", &options)]
}

#[tokio::test]
async fn what_the_client_cannot_mount_is_mounted_and_the_rest_is_handed_out() {
    let home = Home::new();
    let manager = home.open();
    let info = activate(&manager, request("c", overlay(&home))).await.unwrap();
    let points: Vec<&str> = info.active.iter().map(|a| a.mount_point.as_str()).collect();
    assert_eq!(points.len(), 2);
    assert!(points[0].ends_with("/mounts/1/0") && points[1].ends_with("/mounts/1/1"), "{points:?}");
    let [system] = &info.system[..] else { panic!("{info:?}") };
    assert_eq!(system.kind, "overlay");
    let lower = format!("lowerdir={}:{}", points[1], points[0]);
    let upper = format!("upperdir={}", home.at("upper"));
    let work = format!("workdir={}", home.at("work"));
    assert_eq!(system.options, [upper, work, lower]);
    assert_eq!(std::fs::metadata(home.at("upper")).unwrap().permissions().mode() & 0o777, 0o755);

    // What is handed out can be mounted as it stands.
    let target = tempfile::tempdir().unwrap();
    std::fs::write(Path::new(points[0]).join("below"), "x").unwrap();
    let instruction = gantry_sys::mount::Mount {
        kind: system.kind.clone(),
        source: system.source.clone(),
        target: system.target.clone(),
        options: system.options.clone(),
    };
    gantry_sys::mount::all(&[instruction], target.path()).unwrap();
    assert!(target.path().join("below").exists());
    // Even while that is in use, it comes down.
    down(&home, &manager, "c").await;
    gantry_sys::mount::unmount_all(target.path()).unwrap();
}

#[tokio::test]
async fn a_temporary_activation_mounts_everything_and_hands_out_a_bind() {
    let home = Home::new();
    let manager = home.open();
    let info = activate(&manager, temporary("t", overlay(&home))).await.unwrap();
    assert_eq!(info.active.len(), 3);
    let [bind] = &info.system[..] else { panic!("{info:?}") };
    assert_eq!((bind.kind.as_str(), &bind.options[..]), ("bind", &["rbind".to_owned()][..]));
    assert_eq!(bind.source, info.active[2].mount_point);
    std::fs::write(Path::new(&bind.source).join("file"), "x").unwrap();
    assert!(Path::new(&home.at("upper")).join("file").exists());
    assert_eq!(home.mounted().len(), 3);
    down(&home, &manager, "t").await;
}

#[tokio::test]
async fn a_list_that_needs_nothing_leaves_nothing_behind() {
    let home = Home::new();
    let manager = home.open();
    fails(activate(&manager, request("x", vec![tmpfs()])).await, Kind::NotImplemented, "");
    fails(activate(&manager, request("x", vec![])).await, Kind::NotImplemented, "");
    home.assert_bare("x");
}

#[tokio::test]
async fn a_name_is_one_activation_until_it_ends() {
    let home = Home::new();
    let manager = home.open();
    let made = activate(&manager, temporary("x", vec![tmpfs()])).await.unwrap();
    let again = activate(&manager, temporary("x", vec![tmpfs()])).await;
    assert_eq!(again.unwrap_err().message(), "mount \"x\": already exists");
    let label = ("k".to_owned(), "v".to_owned());
    let other = gantry_plugin_mounts::Request {
        labels: Labels::unchecked([label]),
        ..temporary("a", vec![tmpfs()])
    };
    activate(&manager, other).await.unwrap();
    assert_eq!(manager.info(&cx(), name("x")).await.unwrap(), made);
    let listed = manager.list(&cx()).await.unwrap();
    let names: Vec<&str> = listed.iter().map(|a: &Activation| a.name.as_str()).collect();
    assert_eq!(names, ["a", "x"]);
    assert_eq!(listed[0].labels.get("k"), Some("v"));
    manager.deactivate(&cx(), name("a")).await.unwrap();
    down(&home, &manager, "x").await;
    fails(manager.deactivate(&cx(), name("x")).await, Kind::NotFound, "mount \"x\"");
    fails(manager.info(&cx(), name("x")).await, Kind::NotFound, "mount \"x\"");
    // The name is free, its number is not.
    let again = activate(&manager, temporary("x", vec![tmpfs()])).await.unwrap();
    assert!(again.number > made.number);
    down(&home, &manager, "x").await;
}

#[tokio::test]
async fn what_fails_half_way_is_taken_down() {
    let home = Home::new();
    let manager = home.open();
    let after = |last: Mount| temporary("x", vec![tmpfs(), last]);
    for (last, kind, text) in [
        (mount("no-such-type", "x", &[]), Kind::FailedPrecondition, "mount failed"),
        (mount("tmpfs", "tmpfs", &["no-such-option"]), Kind::InvalidArgument, "mount failed"),
        (mount("bind", "/no/such/folder", &["bind"]), Kind::FailedPrecondition, "mount failed"),
        (mount("format/bind", "{{ mount 5 }}", &["bind"]), Kind::InvalidArgument, "out of bounds"),
        (
            mount("mkdir/bind", "/", &["X-containerd.mkdir.path=/etc/x"]),
            Kind::NotImplemented,
            "root",
        ),
        (
            mount("bind", "/", &["X-containerd.mkdir.path=/etc/x"]),
            Kind::InvalidArgument,
            "consumed",
        ),
        (
            mount("mkfs/ext4", "/etc/x", &["X-containerd.mkfs.size=1m"]),
            Kind::NotImplemented,
            "root",
        ),
        (mount("mkfs/ext4", &home.at("x"), &[]), Kind::InvalidArgument, "mkfs.size"),
        (Mount { target: "absent".into(), ..tmpfs() }, Kind::FailedPrecondition, "absent"),
    ] {
        fails(activate(&manager, after(last)).await, kind, text);
        home.assert_bare(text);
    }
    let unknown = manager.activate(&leased("no-such-lease"), temporary("x", vec![tmpfs()])).await;
    assert_eq!(unknown.unwrap_err().message(), "lease does not exist: not found");
    let cancelled = cx();
    cancelled.cancellation().cancel();
    let result = manager.activate(&cancelled, temporary("x", vec![tmpfs()])).await;
    assert_eq!(result.unwrap_err().kind(), Kind::Cancelled);
    home.assert_bare("at the end");
}

#[tokio::test]
async fn a_file_system_is_made_once_and_keeps_its_files() {
    let home = Home::new();
    let manager = home.open();
    if !Path::new("/usr/sbin/mkfs.ext4").exists() || !Path::new("/dev/loop-control").exists() {
        eprintln!("skipped: needs mkfs.ext4 and loop devices");
        return;
    }
    let image = home.at("rwlayer.img");
    let options = ["loop", "X-containerd.mkfs.size=8MiB", "X-containerd.mkfs.fs=ext4"];
    let mounts = || vec![mount("mkfs/ext4", &image, &options)];
    let info = activate(&manager, temporary("fs", mounts())).await.unwrap();
    let kept = Path::new(&info.active[0].mount_point).join("kept");
    std::fs::write(&kept, "x").unwrap();
    down(&home, &manager, "fs").await;
    assert_eq!(std::fs::metadata(&image).unwrap().len(), 8 << 20);
    assert_eq!(std::fs::read_dir(home.root()).unwrap().count(), 1, "only the image");
    let info = activate(&manager, temporary("fs", mounts())).await.unwrap();
    assert!(Path::new(&info.active[0].mount_point).join("kept").exists());
    down(&home, &manager, "fs").await;
    // Without a mount of ours the file is made and its mount handed out.
    let info = activate(&manager, request("fs", mounts())).await.unwrap();
    assert_eq!((info.active.len(), info.system[0].kind.as_str()), (0, "ext4"));
    assert_eq!(info.system[0].options, ["loop"]);
    down(&home, &manager, "fs").await;
}

#[tokio::test]
async fn a_program_that_fails_hangs_or_is_absent_leaves_no_file() {
    let mut home = Home::new();
    let bin = tempfile::tempdir().unwrap();
    home.options.programs = format!("{}:/usr/bin:/bin", bin.path().display());
    home.options.program_bound = Duration::from_millis(300);
    let manager = home.open();
    let image = home.at("image");
    let mounts = || vec![mount("mkfs/ext4", &image, &["X-containerd.mkfs.size=1m"])];
    let program = |text: &str| {
        // Copied by another process: a descriptor open for writing here, which a child of another
        // test inherits for a moment, would make its start fail with ETXTBSY.
        let text_path = bin.path().join("text");
        std::fs::write(&text_path, text).unwrap();
        let install = std::process::Command::new("install")
            .args(["-m", "755"])
            .args([text_path, bin.path().join("mkfs.ext4")])
            .status();
        assert!(install.unwrap().success());
    };
    let result = activate(&manager, request("x", mounts())).await;
    fails(result, Kind::FailedPrecondition, "mkfs.ext4: not found on PATH");
    program("#!/bin/sh\necho no room for an inode >&2; exit 3\n");
    let result = activate(&manager, request("x", mounts())).await;
    fails(result, Kind::FailedPrecondition, "mkfs.ext4 failed with 3: no room for an inode");
    program("#!/bin/sh\nexec sleep 1000\n");
    let result = activate(&manager, request("x", mounts())).await;
    fails(result, Kind::DeadlineExceeded, "killed");
    assert_eq!(std::fs::read_dir(home.root()).unwrap().count(), 0);
    home.assert_bare("at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_get_one_activation_per_name() {
    let home = Home::new();
    let manager = home.open();
    let mut calls = Vec::new();
    for call in 0..24 {
        let manager = Arc::clone(&manager);
        let of = format!("m{}", call % 4);
        calls.push(tokio::spawn(async move {
            activate(&manager, temporary(&of, vec![tmpfs()])).await.map_err(|e| e.kind())
        }));
    }
    let mut made = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => made += 1,
            Err(kind) => assert_eq!(kind, Kind::AlreadyExists),
        }
    }
    assert_eq!((made, home.mounted().len()), (4, 4));
    for of in ["m0", "m1", "m2", "m3"] {
        manager.deactivate(&cx(), name(of)).await.unwrap();
    }
    home.assert_bare("at the end");
}
