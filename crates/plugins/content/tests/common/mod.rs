//! A local store on a folder of its own, with its metadata in memory.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use gantry_conformance::content::ContentFixture;
use gantry_core::content::{ContentStore, Writer, WriterOpts};
use gantry_core::model::{Lease, Resource};
use gantry_core::{
    CallCx, ContentRef, Cx, Digest, Labels, LeaseId, Namespace, Result, SystemClock, Timestamp,
};
use gantry_metadata::Metadata;
use gantry_metadata::stores::Leases;
use gantry_plugin_content::{LocalStore, Sharing};

pub struct World {
    pub folder: tempfile::TempDir,
    pub metadata: Arc<Metadata>,
    pub store: LocalStore,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let metadata = Metadata::in_memory(Arc::new(SystemClock)).unwrap();
        let store = open(folder.path(), &metadata);
        Self { folder, metadata, store }
    }

    /// The store as a restart finds it: what was only in memory is gone.
    pub fn reopen(&mut self) {
        self.store = open(self.folder.path(), &self.metadata);
    }

    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.folder.path().join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// Files below the store, blobs then ingests.
    pub fn files(&self) -> (usize, usize) {
        let count =
            |folder: &str| std::fs::read_dir(self.folder.path().join(folder)).unwrap().count();
        (count("blobs/sha256") + count("blobs/sha512"), count("ingest"))
    }
}

fn open(folder: &Path, metadata: &Arc<Metadata>) -> LocalStore {
    LocalStore::open(folder, Arc::clone(metadata), Sharing::Shared).unwrap()
}

#[async_trait]
impl ContentFixture for World {
    fn store(&self) -> Arc<dyn ContentStore> {
        Arc::new(self.store.clone())
    }
    async fn lease(&self, cx: &Cx, id: &LeaseId) -> Result<()> {
        let lease =
            Lease { id: id.clone(), created_at: Timestamp::UNSET, labels: Labels::default() };
        Leases::new(Arc::clone(&self.metadata)).create(cx, lease).await.map(drop)
    }
    async fn held(&self, cx: &Cx, id: &LeaseId) -> Result<Vec<Resource>> {
        Leases::new(Arc::clone(&self.metadata)).list_resources(cx, id).await
    }
}

pub fn cx(namespace: &str) -> Cx {
    CallCx::default().in_namespace(Namespace::new(namespace).unwrap(), None)
}

pub fn reference(name: &str) -> ContentRef {
    ContentRef::new(name).unwrap()
}

pub async fn writer(store: &LocalStore, cx: &Cx, name: &str) -> Result<Box<dyn Writer>> {
    store.writer(cx, WriterOpts { reference: reference(name), total: 0, expected: None }).await
}

pub async fn put(store: &LocalStore, cx: &Cx, name: &str, blob: &[u8]) -> Result<Digest> {
    let mut writer = writer(store, cx, name).await?;
    // As clients do, what an earlier try left is not sent again.
    let offset = usize::try_from(writer.status().offset).unwrap();
    writer.write(Bytes::copy_from_slice(&blob[offset..])).await?;
    writer.commit(cx, blob.len() as u64, None, Labels::default()).await
}
