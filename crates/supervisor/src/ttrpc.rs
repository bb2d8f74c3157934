//! The ttrpc server: the socket on which shims reach the daemon.
//!
//! The calls of a connection are worked off one after another, which keeps the events of a shim in
//! their order. A service may wait for the disk, and for nothing that a shim has to do first.

use std::sync::Arc;

use gantry_core::Result;
use gantry_ttrpc::message::status;
use gantry_ttrpc::server::{connection, unknown_method, unknown_service};
use gantry_ttrpc::{Code, Request, Status};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::async_trait;
use tracing::{debug, warn};

use crate::rpc;

/// A service of unary calls.
#[async_trait]
pub trait Service: Send + Sync {
    /// `package.Service`.
    fn name(&self) -> &'static str;
    /// Answers a call; `None` when there is no such method.
    async fn call(&self, request: &Request) -> Option<Result<Vec<u8>>>;
}

/// Serves `services` on `listener` until `stop`; connections run in `tracker`.
pub async fn serve(
    listener: UnixListener,
    services: Arc<[Arc<dyn Service>]>,
    tracker: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let served = converse(stream, services.clone(), tracker.clone());
                let stop = stop.clone();
                tracker.spawn(async move { stop.run_until_cancelled(served).await });
            }
            Err(error) => {
                warn!(%error, "cannot accept a shim's connection");
                // Out of descriptors, most likely: leave time for some to be given back.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, services: Arc<[Arc<dyn Service>]>, tracker: TaskTracker) {
    let (reader, writer) = stream.into_split();
    let (mut calls, answers) = connection(reader, writer);
    tracker.spawn(answers);
    loop {
        match calls.next().await {
            Ok(Some(call)) => call.reply.send(answer(&call.request, &services).await),
            Ok(None) => return,
            Err(error) => {
                debug!(%error, "a shim's connection broke");
                return;
            }
        }
    }
}

async fn answer(
    request: &Request,
    services: &[Arc<dyn Service>],
) -> std::result::Result<Vec<u8>, Status> {
    let Some(service) = services.iter().find(|service| service.name() == request.service) else {
        return Err(unknown_service(&request.service));
    };
    match service.call(request).await {
        Some(Ok(reply)) => Ok(reply),
        Some(Err(error)) => {
            let text = error.message();
            warn!(service = request.service, method = request.method, error = text, "call failed");
            Err(status(Code::from_number(rpc::code(error.kind()).into()), text))
        }
        None => Err(unknown_method(&request.method)),
    }
}
