//! Subjects for the suites: a snapshotter over a store in memory and folders in a temporary place.

#![allow(dead_code, clippy::unwrap_used)] // each test program uses a part of it

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use gantry_api::containerd::services::snapshots::v1::snapshots_server::SnapshotsServer;
use gantry_conformance::snapshots::{Leases, Subject};
use gantry_core::model::Lease;
use gantry_core::snapshot::{Driver, Snapshotter};
use gantry_core::{
    CallCx, Cx, Labels, LeaseId, Namespace, Result, SnapshotKey, SnapshotterName, SystemClock,
    Timestamp,
};
use gantry_metadata::Metadata;
use gantry_metadata::stores;
use gantry_plugin_snapshots::{
    Bounds, BuiltinSnapshotter, ProxyOptions, ProxySnapshotter, SnapshotService,
};

/// A store in memory.
pub(crate) fn metadata() -> Arc<Metadata> {
    Metadata::in_memory(Arc::new(SystemClock)).unwrap()
}

/// A call in the namespace `ns`.
pub(crate) fn cx() -> Cx {
    CallCx::default().in_namespace(Namespace::new("ns").unwrap(), None)
}

/// A key.
pub(crate) fn key(text: &str) -> SnapshotKey {
    SnapshotKey::new(text).unwrap()
}

/// Opens a snapshotter named `test`.
pub(crate) async fn open<D: Driver + 'static>(
    metadata: &Arc<Metadata>,
    driver: D,
) -> Arc<BuiltinSnapshotter<D>> {
    let name = SnapshotterName::new("test").unwrap();
    BuiltinSnapshotter::open(Arc::clone(metadata), name, driver).await.unwrap()
}

/// A subject over the driver that `make` opens in an empty folder.
pub(crate) async fn subject<D: Driver + 'static>(make: impl FnOnce(&Path) -> Result<D>) -> Subject {
    let dir = tempfile::tempdir().unwrap();
    let metadata = metadata();
    let snapshotter = open(&metadata, make(dir.path()).unwrap()).await;
    Subject {
        snapshotter,
        leases: Some(Arc::new(StoreLeases(stores::Leases::new(metadata)))),
        keep: Box::new(dir),
    }
}

/// The leases of the metadata store.
pub(crate) struct StoreLeases(pub(crate) stores::Leases);

#[async_trait]
impl Leases for StoreLeases {
    async fn create(&self, cx: &Cx, id: &LeaseId) -> Result<()> {
        let (id, labels) = (id.clone(), Labels::default());
        let lease = Lease { id, created_at: Timestamp::UNSET, labels };
        self.0.create(cx, lease).await.map(drop)
    }
    async fn held(&self, cx: &Cx, id: &LeaseId) -> Result<Vec<String>> {
        let held = self.0.list_resources(cx, id).await?;
        let mine = held.into_iter().filter(|r| r.kind.starts_with("snapshots/"));
        Ok(mine.map(|r| r.id).collect())
    }
}

/// The names in a folder, in byte order.
pub(crate) fn folders(root: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A server that ends with this, its connections too: it has a runtime of its own.
pub(crate) struct Server(Option<tokio::runtime::Runtime>);

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Serves `snapshotter` on `socket`.
pub(crate) fn serve(snapshotter: Arc<dyn Snapshotter>, socket: &Path) -> Server {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _ = std::fs::remove_file(socket);
    let listener = {
        let _inside = runtime.enter();
        tokio::net::UnixListener::bind(socket).unwrap()
    };
    let service = SnapshotsServer::new(SnapshotService::new(snapshotter));
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    let serving = tonic::transport::Server::builder().add_service(service);
    runtime.spawn(async move { serving.serve_with_incoming(incoming).await.unwrap() });
    Server(Some(runtime))
}

/// A proxy named `test` for what `socket` serves.
pub(crate) fn proxy(
    metadata: &Arc<Metadata>,
    socket: &Path,
    capabilities: &[&'static str],
    bounds: Bounds,
) -> Arc<ProxySnapshotter> {
    proxy_for("test", metadata, socket, capabilities, bounds)
}

/// A proxy for the snapshotter `name` behind `socket`.
pub(crate) fn proxy_for(
    name: &str,
    metadata: &Arc<Metadata>,
    socket: &Path,
    capabilities: &[&'static str],
    bounds: Bounds,
) -> Arc<ProxySnapshotter> {
    let options = ProxyOptions {
        name: SnapshotterName::new(name).unwrap(),
        socket: socket.to_owned(),
        capabilities: capabilities.to_vec(),
        bounds,
    };
    ProxySnapshotter::open(Arc::clone(metadata), options).unwrap()
}
