//! Replies that come one after another, with the same care as a single one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::Stream;
use gantry_core::{Error, Result};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::Status;
use tracing::Span;

/// A stream of replies: ends at the call's deadline and when the daemon stops, turns a panic into
/// an answer, logs its failure once. Nothing follows a failure.
pub struct Replies<T> {
    /// `None` once it has ended.
    open: Option<Open<T>>,
}

struct Open<T> {
    items: Pin<Box<dyn Stream<Item = Result<T>> + Send>>,
    deadline: Option<Pin<Box<Sleep>>>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    span: Span,
    stop: CancellationToken,
    _guard: DropGuard,
}

impl<T> Replies<T> {
    pub(super) fn new(
        items: impl Stream<Item = Result<T>> + Send + 'static,
        deadline: Option<Instant>,
        span: Span,
        guard: DropGuard,
        stop: CancellationToken,
    ) -> Self {
        Self {
            open: Some(Open {
                items: Box::pin(items),
                deadline: deadline.map(|at| Box::pin(tokio::time::sleep_until(at.into()))),
                stopped: Box::pin(stop.clone().cancelled_owned()),
                span,
                stop,
                _guard: guard,
            }),
        }
    }
}

impl<T> Open<T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T>>> {
        let items = self.items.as_mut();
        // The stream is not polled again after a panic, so nobody sees a half-changed one.
        match catch_unwind(AssertUnwindSafe(|| items.poll_next(cx))) {
            Ok(Poll::Ready(item)) => return Poll::Ready(item),
            Ok(Poll::Pending) => {}
            Err(_) => {
                let error = Error::internal("the call ran into a defect of the daemon");
                return Poll::Ready(Some(Err(error)));
            }
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(Error::deadline_exceeded(""))));
        }
        if self.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(Error::cancelled(""))));
        }
        Poll::Pending
    }
}

impl<T> Stream for Replies<T> {
    type Item = std::result::Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(open) = &mut self.open else { return Poll::Ready(None) };
        let span = open.span.clone();
        let _entered = span.enter();
        match open.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(item))) => Poll::Ready(Some(Ok(item))),
            Poll::Ready(None) => {
                self.open = None;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let status = super::failed(error, &open.stop);
                self.open = None;
                Poll::Ready(Some(Err(status)))
            }
        }
    }
}
