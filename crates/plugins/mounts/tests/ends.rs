//! What ends an activation other than its client: a new start, another boot, a collection.

#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

mod support;

use std::sync::Arc;

use gantry_core::model::{Container, Lease, RuntimeInfo};
use gantry_core::{ContainerId, Labels, LeaseId, Namespace, Timestamp, TypedAny};
use gantry_metadata::{Collector, stores};
use gantry_plugin_mounts::{Manager, Request};
use support::{Home, activate, cx, leased, name, temporary, tmpfs};

async fn names(manager: &Manager) -> Vec<String> {
    let listed = manager.list(&cx()).await.unwrap();
    listed.into_iter().map(|activation| activation.name.into_string()).collect()
}

#[tokio::test]
async fn a_start_keeps_what_stands_and_ends_what_does_not() {
    let home = Home::new();
    let manager = home.open();
    let stands = activate(&manager, temporary("stands", vec![tmpfs()])).await.unwrap();
    let gone = activate(&manager, temporary("gone", vec![tmpfs(), tmpfs()])).await.unwrap();
    gantry_sys::mount::unmount_all(gone.active[0].mount_point.as_ref()).unwrap();
    // A folder of a store that is no more.
    std::fs::create_dir_all(home.options.folder.join("99/0")).unwrap();
    drop(manager);
    let manager = home.open();
    assert_eq!(manager.info(&cx(), name("stands")).await.unwrap(), stands);
    assert_eq!(names(&manager).await, ["stands"]);
    assert_eq!(home.folders(), [stands.number.to_string()]);
    assert_eq!(home.mounted().len(), 1);
}

#[tokio::test]
async fn what_another_boot_mounted_is_ended() {
    let mut home = Home::new();
    activate(&home.open(), temporary("x", vec![tmpfs()])).await.unwrap();
    home.options.boot_id = [8; 16];
    home.open();
    home.assert_bare("after the boot");
}

#[tokio::test]
async fn a_collection_takes_down_what_nothing_keeps() {
    let home = Home::new();
    let manager = home.open();
    let collector = Collector::new(Arc::clone(&home.metadata), vec![manager.reclaimer()]);
    let leases = stores::Leases::new(Arc::clone(&home.metadata));
    let containers = stores::Containers::new(Arc::clone(&home.metadata));
    let lease = LeaseId::new("l").unwrap();
    let (id, created_at) = (lease.clone(), Timestamp::UNSET);
    leases.create(&cx(), Lease { id, created_at, labels: Labels::default() }).await.unwrap();
    containers.create(&cx(), container("c")).await.unwrap();

    activate(&manager, temporary("free", vec![tmpfs()])).await.unwrap();
    manager.activate(&leased("l"), temporary("leased", vec![tmpfs()])).await.unwrap();
    let back = |to: &str| {
        Labels::unchecked([("containerd.io/gc.bref.container".to_owned(), to.to_owned())])
    };
    let of = |to: &str, n: &str| Request { labels: back(to), ..temporary(n, vec![tmpfs()]) };
    activate(&manager, of("c", "task")).await.unwrap();
    activate(&manager, of("no-such", "orphan")).await.unwrap();

    collector.collect().await.unwrap();
    assert_eq!(names(&manager).await, ["free", "leased", "task"]);
    assert_eq!(home.mounted().len(), 3);
    leases.delete(&cx(), &lease).await.unwrap();
    collector.collect().await.unwrap();
    assert_eq!(names(&manager).await, ["free", "task"]);
    containers.delete(&cx(), &ContainerId::new("c").unwrap()).await.unwrap();
    collector.collect().await.unwrap();
    assert_eq!(names(&manager).await, ["free"]);
    assert_eq!((home.mounted().len(), home.folders().len()), (1, 1));

    // With its namespace goes what nothing else keeps.
    let namespaces = stores::Namespaces::new(Arc::clone(&home.metadata));
    namespaces
        .delete(&gantry_core::CallCx::default(), &Namespace::new("n").unwrap())
        .await
        .unwrap();
    collector.collect().await.unwrap();
    home.assert_bare("at the end");
}

fn container(id: &str) -> Container {
    Container {
        id: ContainerId::new(id).unwrap(),
        labels: Labels::default(),
        image: String::new(),
        runtime: RuntimeInfo { name: "io.containerd.runc.v2".to_owned(), options: None },
        spec: Some(TypedAny { type_url: "x".to_owned(), value: Vec::new() }),
        snapshotter: String::new(),
        snapshot_key: String::new(),
        created_at: Timestamp::UNSET,
        updated_at: Timestamp::UNSET,
        extensions: Default::default(),
        sandbox: String::new(),
    }
}
