//! The wrapper as handlers and clients see it, without a connection.

use std::time::Duration;

use futures_util::StreamExt;
use tokio_stream::iter;
use tonic::Code;

use super::*;

fn request(pairs: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::new(());
    for (key, value) in pairs {
        request.metadata_mut().append(*key, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn the_first_namespace_and_lease_count() {
    let request = request(&[
        (NAMESPACE_HEADER, "first"),
        (NAMESPACE_HEADER, "second"),
        (LEASE_HEADER, "l1"),
        (LEASE_HEADER, "l2"),
        ("traceparent", "00-abc"),
    ]);
    let reply = namespaced(request, async |cx, ()| {
        Ok(format!("{} {:?} {:?}", cx.namespace(), cx.lease(), cx.trace()))
    })
    .await
    .unwrap();
    assert_eq!(reply.into_inner(), "first Some(\"l1\") Some(\"00-abc\")");
}

#[tokio::test]
async fn a_missing_or_malformed_namespace_is_refused_as_clients_expect() {
    let refused = |request| async { namespaced(request, async |_, ()| Ok(())).await.unwrap_err() };
    for missing in [request(&[]), request(&[(NAMESPACE_HEADER, "")])] {
        let status = refused(missing).await;
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "namespace is required: failed precondition");
    }
    let status = refused(request(&[(NAMESPACE_HEADER, "a b")])).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("namespace validation: "), "{status}");
    plain(request(&[]), async |_, ()| Ok(())).await.unwrap();
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let status = plain(request(&[]), async |_, ()| -> Result<()> { panic!("boom") }).await;
    assert_eq!(status.unwrap_err().code(), Code::Internal);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_a_handler_and_fires_its_cancellation() {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let status = plain(request(&[("grpc-timeout", "5S")]), async |cx, ()| {
        let _ = sender.send(cx.cancellation().clone());
        assert!(cx.remaining(Duration::from_secs(60)) <= Duration::from_secs(5));
        std::future::pending::<Result<()>>().await
    })
    .await
    .unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(status.message(), "context deadline exceeded");
    assert!(receiver.await.unwrap().is_cancelled());
}

#[tokio::test]
async fn a_stream_fails_once_and_ends() {
    let items = iter(vec![Ok(1), Err(Error::not_found("x")), Ok(2)]);
    let replies = plain_stream(request(&[]), async |_, ()| Ok(items)).await.unwrap();
    let all: Vec<_> = replies.into_inner().collect().await;
    assert_eq!(all.len(), 2);
    assert_eq!(*all[0].as_ref().unwrap(), 1);
    assert_eq!(all[1].as_ref().unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_stream_that_panics_is_an_answer() {
    let items = iter([1]).map(|_| -> Result<()> { panic!("boom") });
    let replies = plain_stream(request(&[]), async |_, ()| Ok(items)).await.unwrap();
    let all: Vec<_> = replies.into_inner().collect().await;
    assert_eq!(all[0].as_ref().unwrap_err().code(), Code::Internal);
    assert_eq!(all.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_endless_stream_ends_at_its_deadline_or_with_the_daemon() {
    let endless = || tokio_stream::pending::<Result<()>>();
    let replies = plain_stream(request(&[("grpc-timeout", "1S")]), async |_, ()| Ok(endless()));
    let last = replies.await.unwrap().into_inner().next().await.unwrap().unwrap_err();
    assert_eq!(last.code(), Code::DeadlineExceeded);

    let info = CallInfo::default();
    let mut request = request(&[]);
    request.extensions_mut().insert(info.clone());
    let mut replies =
        plain_stream(request, async |_, ()| Ok(endless())).await.unwrap().into_inner();
    assert!(futures_util::poll!(replies.next()).is_pending());
    info.stop.cancel();
    let last = replies.next().await.unwrap().unwrap_err();
    assert_eq!(last.code(), Code::Unavailable);
    assert_eq!(last.message(), "the daemon is stopping: unavailable");
}
