//! The snapshotters' contract, kept through the wire.

#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

mod support;

use gantry_conformance::snapshots::Subject;
use gantry_core::snapshot::Snapshotter;
use gantry_metadata::stores::Leases;
use gantry_plugin_snapshots::{Bounds, Overlay};
use support::StoreLeases;

/// An overlay snapshotter with a store of its own, behind a socket.
async fn proxied() -> Subject {
    let dir = tempfile::tempdir().unwrap();
    let driver = Overlay::open(&dir.path().join("s")).unwrap();
    let there = support::open(&support::metadata(), driver).await;
    let capabilities = there.capabilities().to_vec();
    let socket = dir.path().join("socket");
    let server = support::serve(there, &socket);
    let metadata = support::metadata();
    let proxy = support::proxy(&metadata, &socket, &capabilities, Bounds::default());
    Subject {
        snapshotter: proxy,
        leases: Some(std::sync::Arc::new(StoreLeases(Leases::new(metadata)))),
        keep: Box::new((server, dir)),
    }
}

gantry_conformance::snapshotter_cases!(proxied);
