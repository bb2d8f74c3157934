//! A content store in memory, for one namespace, just true enough for the differ.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use gantry_core::content::{ContentStore, Info, Reader, Status, Writer, WriterOpts};
use gantry_core::filter::Filters;
use gantry_core::id::ContentRef;
use gantry_core::{Cx, Digest, Error, FieldMask, Labels, Result, Timestamp};

#[derive(Default)]
struct Inner {
    blobs: BTreeMap<Digest, (Bytes, Labels)>,
    ingests: BTreeMap<ContentRef, Vec<u8>>,
    /// Bytes after which every read fails.
    broken_at: Option<u64>,
}

#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Inner>>);

impl Memory {
    pub(crate) fn put(&self, data: impl Into<Bytes>) -> Digest {
        let data = data.into();
        let digest = Digest::of(&data);
        let mut inner = self.0.lock().unwrap();
        inner.blobs.entry(digest.clone()).or_insert_with(|| (data, Labels::default()));
        digest
    }
    pub(crate) fn get(&self, digest: &Digest) -> Bytes {
        self.0.lock().unwrap().blobs[digest].0.clone()
    }
    pub(crate) fn ingests(&self) -> usize {
        self.0.lock().unwrap().ingests.len()
    }
    pub(crate) fn break_at(&self, offset: u64) {
        self.0.lock().unwrap().broken_at = Some(offset);
    }
}

fn info(digest: &Digest, size: usize, labels: Labels) -> Info {
    let (created_at, updated_at) = (Timestamp::UNSET, Timestamp::UNSET);
    Info { digest: digest.clone(), size: size as u64, created_at, updated_at, labels }
}

#[async_trait]
impl ContentStore for Memory {
    async fn info(&self, _: &Cx, digest: &Digest) -> Result<Info> {
        let inner = self.0.lock().unwrap();
        let (data, labels) =
            inner.blobs.get(digest).ok_or_else(|| Error::not_found(format!("content {digest}")))?;
        Ok(info(digest, data.len(), labels.clone()))
    }
    async fn update(
        &self,
        cx: &Cx,
        digest: &Digest,
        labels: Labels,
        mask: &FieldMask,
    ) -> Result<Info> {
        {
            let mut inner = self.0.lock().unwrap();
            let (_, stored) = inner.blobs.get_mut(digest).unwrap();
            for (head, rest) in mask.paths() {
                assert_eq!(head, "labels");
                let key = rest.unwrap();
                stored.set(key, labels.get(key).unwrap_or_default());
            }
        }
        self.info(cx, digest).await
    }
    async fn list(&self, _: &Cx, _: &Filters) -> Result<Vec<Info>> {
        unreachable!("the differ lists nothing")
    }
    async fn delete(&self, _: &Cx, _: &Digest) -> Result<()> {
        unreachable!("the differ deletes nothing")
    }
    async fn reader(&self, _: &Cx, digest: &Digest) -> Result<Box<dyn Reader>> {
        let inner = self.0.lock().unwrap();
        let (data, _) =
            inner.blobs.get(digest).ok_or_else(|| Error::not_found(format!("content {digest}")))?;
        Ok(Box::new(Blob(data.clone(), inner.broken_at)))
    }
    async fn writer(&self, _: &Cx, opts: WriterOpts) -> Result<Box<dyn Writer>> {
        let mut inner = self.0.lock().unwrap();
        let data = inner.ingests.entry(opts.reference.clone()).or_default().clone();
        Ok(Box::new(Ingest { store: self.clone(), reference: opts.reference, data }))
    }
    async fn status(&self, _: &Cx, _: &ContentRef) -> Result<Status> {
        unreachable!("the differ asks for no status")
    }
    async fn list_statuses(&self, _: &Cx, _: &Filters) -> Result<Vec<Status>> {
        unreachable!("the differ lists nothing")
    }
    async fn abort(&self, _: &Cx, reference: &ContentRef) -> Result<()> {
        let removed = self.0.lock().unwrap().ingests.remove(reference);
        removed.map(|_| ()).ok_or_else(|| Error::not_found(reference.as_str()))
    }
}

struct Blob(Bytes, Option<u64>);

#[async_trait]
impl Reader for Blob {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        if self.1.is_some_and(|at| offset >= at) {
            return Err(Error::data_loss("disk on fire"));
        }
        let start = self.0.len().min(offset as usize);
        Ok(self.0.slice(start..self.0.len().min(start + len)))
    }
}

struct Ingest {
    store: Memory,
    reference: ContentRef,
    data: Vec<u8>,
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Some(kept) = self.store.0.lock().unwrap().ingests.get_mut(&self.reference) {
            *kept = std::mem::take(&mut self.data);
        }
    }
}

#[async_trait]
impl Writer for Ingest {
    fn status(&self) -> Status {
        Status {
            reference: self.reference.clone(),
            offset: self.data.len() as u64,
            total: 0,
            expected: None,
            started_at: Timestamp::UNSET,
            updated_at: Timestamp::UNSET,
        }
    }
    fn digest(&self) -> Digest {
        Digest::of(&self.data)
    }
    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.data.extend_from_slice(&data);
        Ok(())
    }
    async fn truncate(&mut self, size: u64) -> Result<()> {
        assert_eq!(size, 0);
        self.data.clear();
        Ok(())
    }
    async fn commit(
        &mut self,
        _: &Cx,
        size: u64,
        expected: Option<&Digest>,
        labels: Labels,
    ) -> Result<Digest> {
        let digest = self.digest();
        assert!(size == 0 || size == self.data.len() as u64);
        assert!(expected.is_none_or(|expected| *expected == digest));
        let mut inner = self.store.0.lock().unwrap();
        inner.ingests.remove(&self.reference);
        if inner.blobs.contains_key(&digest) {
            return Err(Error::already_exists(format!("content {digest}")));
        }
        let data = Bytes::from(std::mem::take(&mut self.data));
        inner.blobs.insert(digest.clone(), (data, labels));
        Ok(digest)
    }
}
