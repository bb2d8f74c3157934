//! Tasks that could not be made, or whose making was given up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use gantry_core::Kind as ErrorKind;
use gantry_metadata::intent;

use crate::world::{Kind, SOON, World, call, eventually, processes};

async fn nothing_is_left(world: &World, id: &str) {
    assert!(!world.bundle(id).exists());
    assert_eq!(intent::pending(world.metadata()).await.unwrap(), []);
    let found = processes(&world.path("state"));
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(world.metadata().read(|view| view.tasks()).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_missing_is_told_and_leaves_nothing() {
    let case = "a_program_that_is_missing_is_told_and_leaves_nothing";
    for kind in [Kind::Own, Kind::Foreign] {
        let Some(world) = World::new(case, kind).await else { continue };
        let id = world.container("c", "true").await;
        // No file system: no program.
        let request = gantry_plugin_runtime::CreateTask::default();
        let error = world.tasks().create(&world.cx, &id, request).await.unwrap_err();
        let text = error.message();
        assert_eq!(error.kind(), ErrorKind::Unknown, "{text}");
        assert!(
            text.starts_with("failed to create shim task: OCI runtime create failed: "),
            "{text}"
        );
        nothing_is_left(&world, "c").await;
        let unknown = world.container_of("d", "true", "io.containerd.nosuch.v9").await;
        let error = world.tasks().create(&world.cx, &unknown, world.request()).await.unwrap_err();
        assert_eq!(
            error.message(),
            "failed to start shim: failed to resolve runtime path: runtime \
             \"io.containerd.nosuch.v9\" binary not installed \"containerd-shim-nosuch-v9\": \
             file does not exist"
        );
        nothing_is_left(&world, "d").await;
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_task_is_made_there_is_none_and_giving_up_leaves_nothing() {
    let case = "while_a_task_is_made_there_is_none_and_giving_up_leaves_nothing";
    let Some(world) = World::new(case, Kind::Own).await else { return };
    // A shim that never answers, and leaves a process behind that looks like one.
    let slow = world.path("containerd-shim-slow-v1");
    let marker = world.path("started");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *start) : > {}; exec sleep 1000;; *info) exit 2;; esac\n",
        marker.display()
    );
    fs::write(&slow, script).unwrap();
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
    let id = world.container_of("c", "true", slow.to_str().unwrap()).await;
    let (cx, cancel) = call(&world);
    let making = {
        let (tasks, id, request) = (world.tasks().clone(), id.clone(), world.request());
        tokio::spawn(async move { tasks.create(&cx, &id, request).await })
    };
    eventually("the shim's start", || marker.exists()).await;
    let asked = tokio::time::Instant::now();
    let absent = world.tasks().get(&world.cx, &id, None).await.unwrap_err();
    assert_eq!(absent.message(), "task c not found: not found");
    assert!(asked.elapsed() < Duration::from_secs(1));
    let twice = world.tasks().create(&world.cx, &id, world.request()).await.unwrap_err();
    assert!(twice.is(ErrorKind::AlreadyExists));
    assert_eq!(world.tasks().list(&world.cx).await.unwrap(), []);
    cancel.cancel();
    let given_up = tokio::time::timeout(SOON, making).await.unwrap().unwrap().unwrap_err();
    assert!(given_up.is(ErrorKind::Cancelled), "{}", given_up.message());
    nothing_is_left(&world, "c").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_nobody_knows_is_in_nobodys_way() {
    let case = "a_bundle_that_nobody_knows_is_in_nobodys_way";
    let Some(mut world) = World::new(case, Kind::Own).await else { return };
    fs::create_dir_all(world.bundle("c").join("rootfs")).unwrap();
    fs::create_dir_all(world.bundle("old").join("rootfs")).unwrap();
    fs::create_dir_all(world.bundle(".gone")).unwrap();
    let (id, _) = world.run("c", "true").await;
    world.tasks().wait(&world.cx, &id, None).await.unwrap();
    world.restart().await;
    eventually("the sweep", || !world.bundle("old").exists() && !world.bundle(".gone").exists())
        .await;
    assert!(world.bundle("c").exists());
    world.end().await;
}
