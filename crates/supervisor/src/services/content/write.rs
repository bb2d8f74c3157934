//! The write stream: one request, one reply, until a commit.
//!
//! ```text
//! first message    needs a ref; opens the writer, which locks the ref until the stream ends
//! STAT             tells offset, total, digest, times
//! WRITE            appends; at offset 0 with data present starts over
//! COMMIT           as WRITE, then makes the blob and ends the stream
//! ```
//!
//! A `total` or `expected` in any message replaces the earlier one; an `expected` blob that exists
//! by now ends the write with AlreadyExists and leases the blob.
//!
//! Invariant: the writer goes with the session, in whatever way the stream ends, so a client that
//! died cannot keep a ref locked.

use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use gantry_api::containerd::services::content::v1 as wire;
use gantry_core::content::{ContentStore, Writer, WriterOpts};
use gantry_core::{ContentRef, Cx, Digest, Error, Kind, Result};
use tonic::Status;
use wire::WriteAction;

use crate::convert::{self, content};
use crate::rpc;

/// One write stream.
pub(super) struct Session<S> {
    store: Arc<dyn ContentStore>,
    cx: Cx,
    requests: S,
    /// The request to be worked on next; later ones are read as they come.
    first: Option<wire::WriteContentRequest>,
    writer: Box<dyn Writer>,
    reference: ContentRef,
    total: u64,
    expected: Option<Digest>,
    reply: wire::WriteContentResponse,
}

type Requests = std::result::Result<wire::WriteContentRequest, Status>;

impl<S> Session<S>
where
    S: Stream<Item = Requests> + Unpin + Send + 'static,
{
    /// Reads the first message and opens the writer that it names.
    ///
    /// # Errors
    /// `InvalidArgument` without a ref; those of [`ContentStore::writer`].
    pub(super) async fn open(
        store: Arc<dyn ContentStore>,
        cx: Cx,
        mut requests: S,
    ) -> Result<Self> {
        let first = match requests.next().await {
            Some(Ok(first)) => first,
            Some(Err(status)) => return Err(broken(&status)),
            None => return Err(Error::invalid_argument("no message was sent")),
        };
        if first.r#ref.is_empty() {
            return Err(Error::invalid_argument("first message must have a reference"));
        }
        rpc::about(&first.r#ref);
        let reference = ContentRef::new(first.r#ref.as_str())?;
        let total = total(&first)?;
        let expected = content::digest_if_sent(&first.expected)?;
        let opts = WriterOpts { reference: reference.clone(), total, expected: expected.clone() };
        let writer = store.writer(&cx, opts).await?;
        Ok(Self {
            store,
            cx,
            requests,
            first: Some(first),
            writer,
            reference,
            total,
            expected,
            reply: wire::WriteContentResponse::default(),
        })
    }

    /// The replies, ending after a commit, a failure, or the client's last message.
    pub(super) fn replies(self) -> impl Stream<Item = Result<wire::WriteContentResponse>> + Send {
        stream::unfold(Some(self), |session| async move {
            let mut session = session?;
            let request = match session.first.take() {
                Some(first) => Some(Ok(first)),
                None => session.requests.next().await,
            };
            match request? {
                Err(status) => Some((Err(broken(&status)), None)),
                Ok(request) => match session.step(request).await {
                    Ok(Step::Go(session)) => Some((Ok(session.reply.clone()), Some(*session))),
                    Ok(Step::Done(reply)) => Some((Ok(reply), None)),
                    Err(error) => Some((Err(error), None)),
                },
            }
        })
    }

    async fn step(mut self, mut request: wire::WriteContentRequest) -> Result<Step<S>> {
        if let Some(expected) = content::digest_if_sent(&request.expected)? {
            if self.store.info(&self.cx, &expected).await.is_ok() {
                return Err(self.exists(expected).await);
            }
            self.expected = Some(expected);
        }
        self.total = match total(&request)? {
            0 => self.total,
            total => total,
        };
        let action = WriteAction::try_from(request.action).map_err(|_| {
            Error::invalid_argument(format!("unknown write action {}", request.action))
        })?;
        match action {
            WriteAction::Stat => self.told(action),
            WriteAction::Write => {
                self.append(request.offset, request.data).await?;
                self.told(action);
            }
            WriteAction::Commit => {
                self.append(request.offset, std::mem::take(&mut request.data)).await?;
                let labels = convert::labels_checked("info.Labels", request.labels)?;
                self.told(action);
                let (cx, total, expected) = (&self.cx, self.total, self.expected.as_ref());
                let digest = self.writer.commit(cx, total, expected, labels).await?;
                digest.as_str().clone_into(&mut self.reply.digest);
                return Ok(Step::Done(self.reply));
            }
        }
        Ok(Step::Go(Box::new(self)))
    }

    async fn append(&mut self, offset: i64, data: bytes::Bytes) -> Result<()> {
        let current = self.writer.status().offset;
        let asked = u64::try_from(offset).map_err(|_| {
            Error::invalid_argument(format!("offset must not be negative, but is {offset}"))
        })?;
        if asked > 0 && asked != current {
            return Err(Error::out_of_range(format!(
                "write @{asked} must occur at current offset {current}"
            )));
        }
        if asked == 0 && current > 0 {
            self.writer.truncate(0).await.map_err(|error| error.context("truncate failed"))?;
        }
        if data.is_empty() { Ok(()) } else { self.writer.write(data).await }
    }

    /// Fills the reply with where the write stands.
    fn told(&mut self, action: WriteAction) {
        let status = self.writer.status();
        self.reply = wire::WriteContentResponse {
            action: action.into(),
            started_at: convert::time(status.started_at),
            updated_at: convert::time(status.updated_at),
            offset: content::bytes(status.offset),
            total: content::bytes(self.total),
            digest: self.writer.digest().as_str().to_owned(),
        };
    }

    /// Gives up a write whose blob exists by now, and has the blob leased all the same.
    async fn exists(self, expected: Digest) -> Error {
        let Self { store, cx, writer, reference, .. } = self;
        drop(writer);
        if let Err(error) = store.abort(&cx, &reference).await
            && !error.is(Kind::NotFound)
        {
            return error.context("abort write of an existing blob");
        }
        // Opening a write of an existing blob is what leases it.
        let opts =
            WriterOpts { reference: reference.clone(), total: 0, expected: Some(expected.clone()) };
        match store.writer(&cx, opts).await {
            Err(error) if error.is(Kind::AlreadyExists) => {
                Error::already_exists(format!("blob with expected digest {expected} exists"))
            }
            Err(error) => error,
            // Deleted between the two looks; the next attempt writes it.
            Ok(_) => Error::unavailable(format!("blob with expected digest {expected} is gone")),
        }
    }
}

enum Step<S> {
    Go(Box<Session<S>>),
    Done(wire::WriteContentResponse),
}

fn total(request: &wire::WriteContentRequest) -> Result<u64> {
    u64::try_from(request.total).map_err(|_| {
        Error::invalid_argument(format!("total must not be negative, but is {}", request.total))
    })
}

/// The client's side of the stream failed.
fn broken(status: &Status) -> Error {
    match status.code() {
        // tonic's word for a message beyond the configured limit.
        tonic::Code::OutOfRange => Error::resource_exhausted(status.message()),
        tonic::Code::Internal => Error::invalid_argument(status.message()),
        _ => Error::cancelled(status.message()),
    }
}
