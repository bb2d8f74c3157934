//! An open write.
//!
//! | state | means | becomes |
//! |---|---|---|
//! | linked | another namespace has the blob: nothing to send | private by a write or a truncation |
//! | private | a file of its own | |
//! | ended | committed, or the commit failed; the ref is free | |
//! | lost | a call was cancelled half-way and keeps the file until it ends | |

use std::fs::File;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use gantry_core::content::{Status, Writer};
use gantry_core::digest::{Algorithm, Hasher};
use gantry_core::{CallCx, Cx, Digest, Error, Labels, Result, Timestamp};
use gantry_metadata::stores::content::{Blob, Ingest, IngestNumber};

use crate::blocking;
use crate::body::Body;
use crate::commit::{self, Wanted};
use crate::locks::HeldRef;
use crate::store::Shared;

/// Where a write stands; see the module's table.
#[derive(Debug)]
pub(crate) enum State {
    Linked(Blob),
    Private(Box<Body>),
    Ended { offset: u64, digest: Digest },
    Lost,
}

/// What a writer is made of.
pub(crate) struct Opened {
    pub(crate) shared: Arc<Shared>,
    pub(crate) held: Arc<HeldRef>,
    pub(crate) ingest: Ingest,
    pub(crate) algorithm: Algorithm,
    pub(crate) state: State,
}

pub(crate) struct LocalWriter {
    shared: Arc<Shared>,
    /// Also held by every step on a blocking thread; `None` once the write has ended.
    held: Option<Arc<HeldRef>>,
    ingest: Ingest,
    expected: Option<Digest>,
    algorithm: Algorithm,
    updated_at: Timestamp,
    state: State,
}

impl LocalWriter {
    pub(crate) fn new(opened: Opened, expected: Option<Digest>, updated_at: Timestamp) -> Self {
        let Opened { shared, held, ingest, algorithm, state } = opened;
        Self { shared, held: Some(held), ingest, expected, algorithm, updated_at, state }
    }

    fn closed(&self) -> Error {
        Error::failed_precondition(match self.state {
            State::Lost => "cannot go on with a write that was interrupted; open the ref again",
            _ => "cannot write to or commit a closed writer",
        })
    }

    /// Runs a step on the file, made private first if need be; `keep` says whether the linked
    /// blob's bytes are its beginning.
    async fn on_body(
        &mut self,
        keep: bool,
        step: impl FnOnce(&mut Body, Timestamp) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let Some(held) = self.held.clone() else { return Err(self.closed()) };
        let now = self.shared.metadata.clock().now();
        let state = std::mem::replace(&mut self.state, State::Lost);
        let (shared, number, algorithm) =
            (Arc::clone(&self.shared), self.ingest.number, self.algorithm);
        let (state, outcome) = blocking(move || {
            let _held = held;
            let mut body = match state {
                State::Private(body) => body,
                State::Linked(blob) => {
                    match unshare(&shared, &blob, keep, number, algorithm, now) {
                        Ok(body) => body,
                        Err(e) => return Ok((State::Linked(blob), Err(e))),
                    }
                }
                other => return Ok((other, Ok(false))),
            };
            let outcome = step(&mut body, now).map(|()| true);
            Ok((State::Private(body), outcome))
        })
        .await?;
        self.state = state;
        if !outcome? {
            return Err(self.closed());
        }
        self.updated_at = now;
        Ok(())
    }
}

/// A file of one's own instead of the blob, with its bytes or empty.
fn unshare(
    shared: &Shared,
    blob: &Blob,
    keep: bool,
    number: IngestNumber,
    algorithm: Algorithm,
    now: Timestamp,
) -> Result<Box<Body>> {
    // A write carries no call to ask; how long this takes is bounded by the blob's size.
    let call = CallCx::default();
    let path = shared.layout.ingest(number);
    if keep {
        let source = File::open(shared.layout.blob(&blob.digest))
            .map_err(|e| Error::io(format!("open blob {}", blob.digest), e))?;
        return Body::copy_of(&call, &source, path, algorithm, now).map(Box::new);
    }
    let mut body = Body::open(&call, path, algorithm, now)?;
    body.restart(now)?;
    Ok(Box::new(body))
}

#[async_trait]
impl Writer for LocalWriter {
    fn status(&self) -> Status {
        let offset = match &self.state {
            State::Linked(blob) => blob.size,
            State::Private(body) => body.offset(),
            State::Ended { offset, .. } => *offset,
            State::Lost => 0,
        };
        Status {
            reference: self.ingest.reference.clone(),
            offset,
            total: self.ingest.total,
            expected: self.expected.clone(),
            started_at: self.ingest.started_at,
            updated_at: self.updated_at,
        }
    }

    fn digest(&self) -> Digest {
        match &self.state {
            State::Linked(blob) => blob.digest.clone(),
            State::Private(body) => body.digest(),
            State::Ended { digest, .. } => digest.clone(),
            State::Lost => Hasher::new(self.algorithm).finish(),
        }
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.on_body(true, move |body, now| body.append(&data, now)).await
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        let offset = self.status().offset;
        if size != 0 && size != offset {
            return Err(Error::unknown(format!(
                "Truncate: unsupported size {size}, only 0 and the offset {offset} are"
            )));
        }
        if size == offset && size != 0 {
            return Ok(());
        }
        self.on_body(false, Body::restart).await
    }

    async fn commit(
        &mut self,
        cx: &Cx,
        size: u64,
        expected: Option<&Digest>,
        labels: Labels,
    ) -> Result<Digest> {
        let Some(held) = self.held.take() else { return Err(self.closed()) };
        let wanted = Wanted { size, expected: expected.cloned(), labels };
        let state = std::mem::replace(&mut self.state, State::Lost);
        let (shared, ingest, cx) = (Arc::clone(&self.shared), self.ingest.clone(), cx.clone());
        let (ended, outcome) = blocking(move || {
            let _held = held;
            Ok(match state {
                State::Linked(blob) => {
                    let outcome = commit::link(&shared, &cx, &ingest, &blob, wanted);
                    (Some((blob.size, blob.digest)), outcome)
                }
                State::Private(body) => {
                    let offset = body.offset();
                    let (digest, outcome) = commit::place(&shared, &cx, &ingest, *body, wanted);
                    (Some((offset, digest)), outcome)
                }
                State::Ended { .. } | State::Lost => (None, Ok(())),
            })
        })
        .await?;
        let Some((offset, digest)) = ended else { return Err(self.closed()) };
        self.state = State::Ended { offset, digest: digest.clone() };
        outcome.map(|()| digest)
    }
}
