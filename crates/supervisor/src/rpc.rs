//! The one way from the wire to a handler and back.
//!
//! A service method hands its request to [`plain`] or [`namespaced`] (for a stream of replies:
//! [`plain_stream`], [`namespaced_stream`]) and gets a [`CallCx`] or a [`Cx`]. What every call
//! needs is done here and nowhere else: namespace, lease and deadline are read from the metadata,
//! the peer's credentials from the connection; the handler is stopped at its deadline; a panic
//! becomes an answer; a failure is logged once, in the call's span, and becomes a status.
//!
//! Clients prepend metadata, so a key may come several times: the first value counts.
//!
//! Cancel safety: a handler is dropped when its client goes away or its deadline passes, at
//! whatever await it stands; the call's cancellation fires at that moment, for work that goes on
//! on other threads.

mod deadline;
mod layer;
mod status;
mod stream;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use gantry_core::cx::PeerCredentials;
use gantry_core::{CallCx, Cx, Error, Kind, LeaseId, Namespace, Result};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::metadata::MetadataMap;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};
use tracing::{Instrument, Span, debug, error, field, info_span, warn};

pub use layer::{CallInfo, CallLayer};
pub use status::{code, status};
pub use stream::Replies;

/// The header that carries the namespace.
pub const NAMESPACE_HEADER: &str = "containerd-namespace";
/// The header that carries the lease.
pub const LEASE_HEADER: &str = "containerd-lease";

/// Answers a call that needs no namespace.
///
/// # Errors
/// What `handler` fails with, as a status.
pub async fn plain<Req, Res>(
    request: Request<Req>,
    handler: impl AsyncFnOnce(CallCx, Req) -> Result<Res>,
) -> std::result::Result<Response<Res>, Status> {
    let call = Call::open(&request);
    let cx = call.cx.clone();
    let message = request.into_inner();
    call.answer(async move { handler(cx, message).await }).await
}

/// Answers a call within a namespace.
///
/// # Errors
/// `FailedPrecondition` without a namespace, `InvalidArgument` with a malformed one, or what
/// `handler` fails with, as a status.
pub async fn namespaced<Req, Res>(
    request: Request<Req>,
    handler: impl AsyncFnOnce(Cx, Req) -> Result<Res>,
) -> std::result::Result<Response<Res>, Status> {
    let call = Call::open(&request);
    let cx = call.namespaced(request.metadata());
    let message = request.into_inner();
    call.answer(async move { handler(cx?, message).await }).await
}

/// Answers a call that needs no namespace by a stream.
///
/// # Errors
/// What `handler` fails with before the stream begins, as a status.
pub async fn plain_stream<Req, Item, S>(
    request: Request<Req>,
    handler: impl AsyncFnOnce(CallCx, Req) -> Result<S>,
) -> std::result::Result<Response<Replies<Item>>, Status>
where
    S: futures_util::Stream<Item = Result<Item>> + Send + 'static,
{
    let call = Call::open(&request);
    let cx = call.cx.clone();
    let message = request.into_inner();
    call.stream(async move { handler(cx, message).await }).await
}

/// Answers a call within a namespace by a stream.
///
/// # Errors
/// As [`namespaced`].
pub async fn namespaced_stream<Req, Item, S>(
    request: Request<Req>,
    handler: impl AsyncFnOnce(Cx, Req) -> Result<S>,
) -> std::result::Result<Response<Replies<Item>>, Status>
where
    S: futures_util::Stream<Item = Result<Item>> + Send + 'static,
{
    let call = Call::open(&request);
    let cx = call.namespaced(request.metadata());
    let message = request.into_inner();
    call.stream(async move { handler(cx?, message).await }).await
}

/// Says what the call is about; shown with everything it logs.
pub fn about(id: impl std::fmt::Display) {
    Span::current().record("id", field::display(id));
}

/// A call on its way.
struct Call {
    cx: CallCx,
    span: Span,
    /// Fires the call's cancellation when the call ends in any way.
    guard: DropGuard,
    stop: CancellationToken,
}

impl Call {
    fn open<T>(request: &Request<T>) -> Self {
        let info = request.extensions().get::<CallInfo>().cloned().unwrap_or_default();
        let metadata = request.metadata();
        let text = |key| metadata.get(key).and_then(|value| value.to_str().ok());
        let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| {
            let cred = info.peer_cred?;
            Some(PeerCredentials { pid: cred.pid()?, uid: cred.uid(), gid: cred.gid() })
        });
        let deadline = text("grpc-timeout")
            .and_then(deadline::parse)
            .and_then(|left| Instant::now().checked_add(left.saturating_sub(deadline::LEAD)));
        let cancel = info.stop.child_token();
        let span = info_span!(
            "rpc",
            method = info.method(),
            namespace = text(NAMESPACE_HEADER),
            id = field::Empty,
            trace = text("traceparent"),
            peer = peer.map(|peer| peer.pid),
        );
        let cx = CallCx::background(cancel.clone())
            .with_deadline(deadline)
            .with_peer(peer)
            .with_trace(text("traceparent").map(Arc::from));
        Self { cx, span, guard: cancel.drop_guard(), stop: info.stop }
    }

    fn namespaced(&self, metadata: &MetadataMap) -> Result<Cx> {
        let text = |key: &'static str| match metadata.get(key).map(|value| value.to_str()) {
            Some(Ok(text)) => Ok(text),
            None => Ok(""),
            Some(Err(_)) => {
                Err(Error::invalid_argument(format!("metadata {key}: must be visible ASCII")))
            }
        };
        let name = text(NAMESPACE_HEADER)?;
        if name.is_empty() {
            return Err(Error::failed_precondition("namespace is required"));
        }
        let namespace = Namespace::new(name)?;
        let lease = match text(LEASE_HEADER)? {
            "" => None,
            id => Some(LeaseId::new(id)?),
        };
        Ok(self.cx.in_namespace(namespace, lease))
    }

    /// Runs `work` to its end, its deadline or its panic.
    async fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let work = AssertUnwindSafe(work).catch_unwind();
        let outcome = match self.cx.deadline() {
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), work).await {
                Ok(outcome) => outcome,
                Err(_) => return Err(Error::deadline_exceeded("")),
            },
            None => work.await,
        };
        // The panic itself was logged where it happened.
        outcome.unwrap_or_else(|_| Err(Error::internal("the call ran into a defect of the daemon")))
    }

    async fn answer<T>(
        self,
        work: impl Future<Output = Result<T>>,
    ) -> std::result::Result<Response<T>, Status> {
        let span = self.span.clone();
        async {
            match self.run(work).await {
                Ok(reply) => Ok(Response::new(reply)),
                Err(error) => Err(failed(error, &self.stop)),
            }
        }
        .instrument(span)
        .await
    }

    async fn stream<S, Item>(
        self,
        work: impl Future<Output = Result<S>>,
    ) -> std::result::Result<Response<Replies<Item>>, Status>
    where
        S: futures_util::Stream<Item = Result<Item>> + Send + 'static,
    {
        let span = self.span.clone();
        let opened = async { self.run(work).await.map_err(|error| failed(error, &self.stop)) }
            .instrument(span)
            .await?;
        let deadline = self.cx.deadline();
        Ok(Response::new(Replies::new(opened, deadline, self.span, self.guard, self.stop)))
    }
}

/// Logs a failed call, once, and makes its status. To be called within the call's span.
fn failed(error: Error, stop: &CancellationToken) -> Status {
    let error = match error.kind() {
        // The caller did not give up: we did. Unavailable tells it to try again.
        Kind::Cancelled if stop.is_cancelled() => Error::unavailable("the daemon is stopping"),
        _ => error,
    };
    let (kind, text) = (error.kind(), error.message());
    match kind {
        Kind::Internal | Kind::DataLoss => error!(?kind, error = text, "call failed"),
        Kind::Unknown | Kind::ResourceExhausted | Kind::DeadlineExceeded => {
            warn!(?kind, error = text, "call failed");
        }
        // The ordinary answers of an API; clients ask for what may not exist all the time.
        Kind::InvalidArgument
        | Kind::NotFound
        | Kind::AlreadyExists
        | Kind::PermissionDenied
        | Kind::FailedPrecondition
        | Kind::Aborted
        | Kind::OutOfRange
        | Kind::NotImplemented
        | Kind::Unavailable
        | Kind::Unauthenticated
        | Kind::Cancelled => debug!(?kind, error = text, "call refused"),
    }
    status(&error)
}

#[cfg(test)]
mod tests;
