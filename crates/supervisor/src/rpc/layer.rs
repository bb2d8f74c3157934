//! Gives every call what only the server knows: its method, and when the daemon stops; and counts
//! the calls whose handlers run, so that a stop waits for them and not for idle connections.

use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TrackedFuture;
use tower::{Layer, Service};

/// What the layer adds to a request's extensions.
#[derive(Clone, Debug, Default)]
pub struct CallInfo {
    path: Option<PathAndQuery>,
    /// Fires when the daemon stops.
    pub stop: CancellationToken,
}

impl CallInfo {
    /// `package.Service/Method`.
    pub fn method(&self) -> &str {
        self.path.as_ref().map_or("", |path| path.path().trim_start_matches('/'))
    }
}

/// Adds a [`CallInfo`] to every request.
#[derive(Clone, Debug)]
pub struct CallLayer {
    stop: CancellationToken,
    running: TaskTracker,
}

impl CallLayer {
    /// A layer for a server that ends its calls when `stop` fires; `running` holds the calls.
    pub fn new(stop: CancellationToken, running: TaskTracker) -> Self {
        Self { stop, running }
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;
    fn layer(&self, inner: S) -> CallService<S> {
        CallService { inner, stop: self.stop.clone(), running: self.running.clone() }
    }
}

/// See [`CallLayer`].
#[derive(Clone, Debug)]
pub struct CallService<S> {
    inner: S,
    stop: CancellationToken,
    running: TaskTracker,
}

impl<S, B> Service<http::Request<B>> for CallService<S>
where
    S: Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TrackedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let path = request.uri().path_and_query().cloned();
        request.extensions_mut().insert(CallInfo { path, stop: self.stop.clone() });
        self.running.track_future(self.inner.call(request))
    }
}
