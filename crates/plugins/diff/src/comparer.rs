//! The comparer: from two lists of mounts to a blob in the store.
//!
//! A thread walks, archives, hashes and compresses; a task writes what comes out. The blob is
//! committed only when the thread has said that it is whole, and appears with its labels at once.

use std::hash::{BuildHasher as _, Hasher as _};

use async_trait::async_trait;
use gantry_core::content::{Writer, WriterOpts};
use gantry_core::diff::{Comparer, DiffOpts};
use gantry_core::error::ResultExt as _;
use gantry_core::id::ContentRef;
use gantry_core::model::Descriptor;
use gantry_core::snapshot::Mount;
use gantry_core::{CallCx, Cx, Digest, Error, FieldMask, Kind, Labels, Result};

use crate::Walking;
use crate::apply::Dir;
use crate::compare::{Encoder, LayerWriter, Source, Trees, walk};
use crate::media::{self, Compression};
use crate::mounts;
use crate::pipe::{PipeReader, PipeWriter, into_error, pipe};

/// The label that names the digest of the uncompressed layer; BuildKit and commits need it.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

#[async_trait]
impl Comparer for Walking {
    async fn diff(
        &self,
        cx: &Cx,
        lower: &[Mount],
        upper: &[Mount],
        opts: DiffOpts,
    ) -> Result<Descriptor> {
        let (media_type, compression) = media::diff_type(&opts.media_type)?;
        if upper.is_empty() {
            return Err(Error::invalid_argument("a diff needs the mounts of its upper side"));
        }
        let own = opts.reference.is_none();
        let reference = opts.reference.map_or_else(unique_ref, Ok)?;
        let writer = WriterOpts { reference: reference.clone(), total: 0, expected: None };
        let mut writer = self.store.writer(cx, writer).await.context("failed to open writer")?;
        let job = Job {
            cx: cx.clone(),
            walking: self.clone(),
            lower: lower.to_vec(),
            upper: upper.to_vec(),
            compression,
            latest: opts.source_date_epoch,
        };
        let written = write(cx, job, &mut *writer).await;
        let digest = match written {
            Ok(diff_id) => self.commit(cx, &mut *writer, diff_id, opts.labels).await,
            Err(error) => Err(error),
        };
        drop(writer);
        match digest {
            Ok(digest) => {
                let info = self.store.info(cx, &digest).await;
                let info = info.context("failed to get info from content store")?;
                Ok(Descriptor {
                    media_type: media_type.to_owned(),
                    digest,
                    size: info.size.cast_signed(),
                    annotations: Default::default(),
                })
            }
            Err(error) => {
                if own {
                    self.drop_ingest(cx, &reference).await;
                }
                Err(error)
            }
        }
    }
}

impl Walking {
    /// Makes the blob, or finds that it is there, and sees to its label.
    async fn commit(
        &self,
        cx: &Cx,
        writer: &mut dyn Writer,
        diff_id: Digest,
        mut labels: Labels,
    ) -> Result<Digest> {
        labels.set(UNCOMPRESSED, diff_id.as_str());
        crate::failpoint("diff.write/before-commit")?;
        let digest = writer.digest();
        match writer.commit(cx, 0, Some(&digest), labels.clone()).await {
            Ok(digest) => return Ok(digest),
            Err(error) if error.is(Kind::AlreadyExists) => {}
            Err(error) => return Err(error.context("failed to commit")),
        }
        let info = self.store.info(cx, &digest).await;
        let info = info.context("failed to get info from content store")?;
        if info.labels.get(UNCOMPRESSED).is_none() {
            let mask = FieldMask::new(vec![format!("labels.{UNCOMPRESSED}")]);
            let updated = self.store.update(cx, &digest, labels, &mask).await;
            updated.context("error setting uncompressed label")?;
        }
        Ok(digest)
    }

    /// Drops an ingest nobody else knows the name of, even when the call was stopped.
    async fn drop_ingest(&self, cx: &Cx, reference: &ContentRef) {
        let cx = CallCx::default().in_namespace(cx.namespace().clone(), cx.lease().cloned());
        match self.store.abort(&cx, reference).await {
            Err(error) if !error.is(Kind::NotFound) => {
                tracing::warn!(%reference, error = error.message(), "cannot drop a diff's ingest");
            }
            _ => {}
        }
    }
}

/// Runs the job and writes what it sends; returns the digest of the uncompressed layer.
async fn write(cx: &Cx, job: Job, writer: &mut dyn Writer) -> Result<Digest> {
    writer.truncate(0).await.context("failed to truncate")?;
    let (sender, mut receiver) = pipe();
    let thread = tokio::task::spawn_blocking(move || job.run(sender));
    let copied = crate::until_stopped(cx, copy(&mut receiver, writer)).await;
    drop(receiver);
    let made = thread
        .await
        .map_err(|e| Error::caused(Kind::Internal, "the thread that writes a diff died", e))?;
    match (copied, made) {
        (Ok(()), Ok(diff_id)) => Ok(diff_id),
        // The thread fails too when nobody takes what it writes; the cause is ours then.
        (Err(error), _) => cx.check().and(Err(error)),
        (Ok(()), Err(error)) => Err(error),
    }
}

async fn copy(from: &mut PipeReader, to: &mut dyn Writer) -> Result<()> {
    while let Some(chunk) = from.receive().await? {
        to.write(chunk).await.context("write diff")?;
    }
    Ok(())
}

/// The blocking part of a diff.
struct Job {
    cx: Cx,
    walking: Walking,
    lower: Vec<Mount>,
    upper: Vec<Mount>,
    compression: Compression,
    latest: Option<i64>,
}

impl Job {
    fn run(self, out: PipeWriter) -> Result<Digest> {
        let mut encoder = Encoder::new(out, self.compression).map_err(into_error)?;
        match self.archive(&mut encoder) {
            Ok(()) => {
                let (diff_id, out) = encoder.finish().map_err(into_error)?;
                out.finish(Ok(())).map_err(into_error)?;
                Ok(diff_id)
            }
            Err(error) => {
                // The stream is cut; its reader hears why.
                let told = Error::new(error.kind(), error.message());
                if let Ok((_, out)) = encoder.finish() {
                    let _ = out.finish(Err(error));
                }
                Err(told)
            }
        }
    }

    fn archive(&self, encoder: &mut Encoder<PipeWriter>) -> Result<()> {
        let trees = self.trees()?;
        let source = Source { cx: &self.cx, upper: &trees.upper, latest: self.latest };
        let mut layer = LayerWriter::new(source, encoder);
        walk(&self.cx, &trees, |change, changed| layer.change(change, changed))?;
        layer.finish().map_err(into_error)?;
        Ok(())
    }

    fn trees(&self) -> Result<Trees> {
        let open = |mounts: &[Mount]| {
            let root = mounts::open(&mounts::read_only(mounts), &self.walking.temp)?;
            let root = Dir::new(root).map_err(into_error)?;
            // Listing takes a descriptor that is open for reading.
            root.child(b".").map_err(into_error)
        };
        let lower = if self.lower.is_empty() { None } else { Some(open(&self.lower)?) };
        let hint = match mounts::upper_above(&self.upper, &self.lower) {
            Some(dir) => Some(Dir::new(mounts::open_dir(dir)?).map_err(into_error)?),
            None => None,
        };
        Ok(Trees { lower, upper: open(&self.upper)?, hint })
    }
}

/// A ref that no other diff has.
fn unique_ref() -> Result<ContentRef> {
    let random = || std::hash::RandomState::new().build_hasher().finish();
    ContentRef::new(format!("diff-{:016x}{:016x}", random(), random()))
}
