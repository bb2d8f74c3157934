//! The store: records looked up, files opened, writers handed out.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use gantry_core::content::{ContentStore, Info, Reader, Status, Writer, WriterOpts};
use gantry_core::digest::Algorithm;
use gantry_core::filter::Filters;
use gantry_core::{ContentRef, Cx, Digest, Error, FieldMask, Labels, Result};
use gantry_metadata::Metadata;
use gantry_metadata::stores::content::{self as records, Ingest, Sharing};

use crate::body::Body;
use crate::layout::{self, Layout};
use crate::locks::{Digests, Refs};
use crate::reader::BlobReader;
use crate::writer::{LocalWriter, Opened, State};
use crate::{Swept, blocking};

/// What the store's parts share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) layout: Layout,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) refs: Arc<Refs>,
    pub(crate) digests: Digests,
    sharing: Sharing,
}

/// The content store on this machine's disk.
#[derive(Clone, Debug)]
pub struct LocalStore {
    pub(crate) shared: Arc<Shared>,
}

impl LocalStore {
    /// Opens the store below `root`, making its folders, and removes what no record names. One
    /// store at a time may be open on a root. Blocks.
    ///
    /// # Errors
    /// What the file system or the metadata store fails with.
    pub fn open(root: &Path, metadata: Arc<Metadata>, sharing: Sharing) -> Result<Self> {
        let shared = Shared {
            layout: Layout::create(root)?,
            metadata,
            refs: Arc::default(),
            digests: Digests::default(),
            sharing,
        };
        let store = Self { shared: Arc::new(shared) };
        let Swept { blobs, ingests } = store.sweep_blocking()?;
        if blobs + ingests > 0 {
            tracing::info!(blobs, ingests, "removed content that no record names");
        }
        Ok(store)
    }

    /// What the disk says of a recorded ingest; `None` while it has no file of its own.
    fn status_of(&self, ingest: &Ingest) -> Result<Option<Status>> {
        let path = self.shared.layout.ingest(ingest.number);
        let found = match fs::metadata(&path) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(format!("stat {}", path.display()), e)),
        };
        let updated_at = found.modified().unwrap_or(SystemTime::UNIX_EPOCH).into();
        Ok(Some(Status {
            reference: ingest.reference.clone(),
            offset: found.len(),
            total: ingest.total,
            expected: None,
            started_at: ingest.started_at,
            updated_at: ingest.started_at.max(updated_at),
        }))
    }

    fn open_blob(&self, cx: &Cx, digest: &Digest) -> Result<BlobReader> {
        let read =
            || self.shared.metadata.read_blocking(|v| records::info(v, cx.namespace(), digest));
        let info = read()?;
        let path = self.shared.layout.blob(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // Deleted and swept since, or lost.
                read()?;
                return Err(Error::data_loss(format!("blob {digest} has no file")));
            }
            Err(e) => return Err(Error::io(format!("open {}", path.display()), e)),
        };
        let size = file.metadata().map_err(|e| Error::io(format!("stat {}", path.display()), e))?;
        if size.len() != info.size {
            return Err(Error::data_loss(format!(
                "blob {digest} has {} bytes, {} are recorded",
                size.len(),
                info.size
            )));
        }
        Ok(BlobReader { file: Arc::new(file), digest: digest.clone(), size: info.size })
    }

    async fn begin(&self, cx: &Cx, opts: &WriterOpts) -> Result<records::Begun> {
        let (cx, opts, sharing) = (cx.clone(), opts.clone(), self.shared.sharing);
        self.shared.metadata.update(move |tx| records::begin(tx, &cx, &opts, sharing)).await
    }
}

#[async_trait]
impl ContentStore for LocalStore {
    async fn info(&self, cx: &Cx, digest: &Digest) -> Result<Info> {
        let (namespace, digest) = (cx.namespace().clone(), digest.clone());
        self.shared.metadata.read(move |view| records::info(view, &namespace, &digest)).await
    }

    async fn update(
        &self,
        cx: &Cx,
        digest: &Digest,
        labels: Labels,
        mask: &FieldMask,
    ) -> Result<Info> {
        let (cx, digest, mask) = (cx.clone(), digest.clone(), mask.clone());
        self.shared
            .metadata
            .update(move |tx| records::update(tx, &cx, &digest, &labels, &mask))
            .await
    }

    async fn list(&self, cx: &Cx, filters: &Filters) -> Result<Vec<Info>> {
        let (namespace, filters) = (cx.namespace().clone(), filters.clone());
        self.shared.metadata.read(move |view| records::list(view, &namespace, &filters)).await
    }

    async fn delete(&self, cx: &Cx, digest: &Digest) -> Result<()> {
        let (cx, digest) = (cx.clone(), digest.clone());
        self.shared.metadata.update(move |tx| records::delete(tx, &cx, &digest)).await
    }

    async fn reader(&self, cx: &Cx, digest: &Digest) -> Result<Box<dyn Reader>> {
        let (store, cx, digest) = (self.clone(), cx.clone(), digest.clone());
        blocking(move || Ok(Box::new(store.open_blob(&cx, &digest)?) as Box<dyn Reader>)).await
    }

    async fn writer(&self, cx: &Cx, opts: WriterOpts) -> Result<Box<dyn Writer>> {
        let now = self.shared.metadata.clock().now();
        let held = match self.shared.refs.hold(cx.namespace(), &opts.reference, now) {
            Ok(held) => Arc::new(held),
            Err(locked) => {
                // That the blob is here already is the better news, also while the ref is held.
                if let Some(expected) = opts.expected {
                    let cx = cx.clone();
                    let lease = move |tx: &mut gantry_metadata::Tx<'_, '_>| {
                        records::lease_existing(tx, &cx, &expected)
                    };
                    self.shared.metadata.update(lease).await?;
                }
                return Err(locked);
            }
        };
        let begun = self.begin(cx, &opts).await?;
        let algorithm = opts.expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let (shared, cx) = (Arc::clone(&self.shared), cx.clone());
        let opened = blocking(move || {
            fail::fail_point!("content.begin/after-record", |_| Err(Error::unknown("failpoint")));
            if let Some(number) = begun.discarded {
                layout::remove(&shared.layout.ingest(number))?;
            }
            let state = match begun.blob {
                Some(blob) => State::Linked(blob),
                None => {
                    let path = shared.layout.ingest(begun.ingest.number);
                    State::Private(Box::new(Body::open(&cx, path, algorithm, now)?))
                }
            };
            Ok(Opened { shared, held, ingest: begun.ingest, algorithm, state })
        })
        .await?;
        let updated_at = match opened.state {
            State::Linked(_) => now,
            _ => self.status_of(&opened.ingest)?.map_or(now, |status| status.updated_at),
        };
        Ok(Box::new(LocalWriter::new(opened, opts.expected, updated_at)))
    }

    async fn status(&self, cx: &Cx, reference: &ContentRef) -> Result<Status> {
        let (store, namespace, reference) =
            (self.clone(), cx.namespace().clone(), reference.clone());
        blocking(move || {
            let metadata = &store.shared.metadata;
            let ingest = metadata.read_blocking(|v| records::ingest(v, &namespace, &reference))?;
            store
                .status_of(&ingest)?
                .ok_or_else(|| Error::not_found(format!("reference {reference}")))
        })
        .await
    }

    async fn list_statuses(&self, cx: &Cx, filters: &Filters) -> Result<Vec<Status>> {
        let (store, namespace, filters) = (self.clone(), cx.namespace().clone(), filters.clone());
        blocking(move || {
            let metadata = &store.shared.metadata;
            let ingests = metadata.read_blocking(|v| records::ingests(v, &namespace))?;
            let mut found = Vec::new();
            for ingest in ingests {
                found.extend(store.status_of(&ingest)?.filter(|status| filters.matches(status)));
            }
            Ok(found)
        })
        .await
    }

    async fn abort(&self, cx: &Cx, reference: &ContentRef) -> Result<()> {
        let (cx, reference) = (cx.clone(), reference.clone());
        let ingest =
            self.shared.metadata.update(move |tx| records::abort(tx, &cx, &reference)).await?;
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            fail::fail_point!("content.abort/after-record", |_| Err(Error::unknown("failpoint")));
            layout::remove(&shared.layout.ingest(ingest.number))
        })
        .await
    }
}
