//! `containerd.services.content.v1`. The write stream has a file of its own.

mod read;
mod write;

use std::sync::Arc;

use futures_util::stream;
use gantry_api::containerd::services::content::v1 as wire;
use gantry_api::containerd::services::content::v1::content_server::Content;
use gantry_core::content::ContentStore;
use gantry_core::{ContentRef, Error, Result};
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::convert::{self, content};
use crate::rpc;

/// How many blobs one reply of a list carries.
const BATCH: usize = 100;

/// The service.
#[derive(Clone)]
pub struct ContentService {
    store: Arc<dyn ContentStore>,
}

impl ContentService {
    /// The service over a store.
    pub fn new(store: Arc<dyn ContentStore>) -> Self {
        Self { store }
    }
}

/// The ref of an ingest that should exist. An empty one names none.
fn existing(reference: String) -> Result<ContentRef> {
    ContentRef::new(reference).map_err(|_| Error::not_found("ingest \"\""))
}

#[async_trait]
impl Content for ContentService {
    async fn info(
        &self,
        request: Request<wire::InfoRequest>,
    ) -> std::result::Result<Response<wire::InfoResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.digest);
            let found = self.store.info(&cx, &content::digest(&message.digest)?).await?;
            Ok(wire::InfoResponse { info: Some(content::to_wire(found)) })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<wire::UpdateRequest>,
    ) -> std::result::Result<Response<wire::UpdateResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            let sent = convert::required("info", message.info)?;
            rpc::about(&sent.digest);
            let digest = content::digest(&sent.digest)?;
            let labels = convert::labels_checked("info.Labels", sent.labels)?;
            let mask = convert::mask(message.update_mask);
            let updated = self.store.update(&cx, &digest, labels, &mask).await?;
            Ok(wire::UpdateResponse { info: Some(content::to_wire(updated)) })
        })
        .await
    }

    type ListStream = rpc::Replies<wire::ListContentResponse>;

    async fn list(
        &self,
        request: Request<wire::ListContentRequest>,
    ) -> std::result::Result<Response<Self::ListStream>, Status> {
        rpc::namespaced_stream(request, async |cx, message| {
            let filters = convert::filters(&message.filters)?;
            let found = self.store.list(&cx, &filters).await?;
            let infos: Vec<_> = found.into_iter().map(content::to_wire).collect();
            let batches: Vec<_> = infos
                .chunks(BATCH)
                .map(|batch| Ok(wire::ListContentResponse { info: batch.to_vec() }))
                .collect();
            Ok(stream::iter(batches))
        })
        .await
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteContentRequest>,
    ) -> std::result::Result<Response<()>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.digest);
            self.store.delete(&cx, &content::digest(&message.digest)?).await
        })
        .await
    }

    type ReadStream = rpc::Replies<wire::ReadContentResponse>;

    async fn read(
        &self,
        request: Request<wire::ReadContentRequest>,
    ) -> std::result::Result<Response<Self::ReadStream>, Status> {
        rpc::namespaced_stream(request, async |cx, message| {
            rpc::about(&message.digest);
            let digest = content::digest(&message.digest)?;
            let reader = self.store.reader(&cx, &digest).await?;
            read::pieces(reader, message.offset, message.size)
        })
        .await
    }

    async fn status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> std::result::Result<Response<wire::StatusResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.r#ref);
            let context = format!("could not get status for ref {:?}", message.r#ref);
            let named = |error: Error| error.context(context.clone());
            let reference = existing(message.r#ref).map_err(named)?;
            let found = self.store.status(&cx, &reference).await.map_err(named)?;
            Ok(wire::StatusResponse { status: Some(content::status_to_wire(found)) })
        })
        .await
    }

    async fn list_statuses(
        &self,
        request: Request<wire::ListStatusesRequest>,
    ) -> std::result::Result<Response<wire::ListStatusesResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            let filters = convert::filters(&message.filters)?;
            let found = self.store.list_statuses(&cx, &filters).await?;
            let statuses = found.into_iter().map(content::status_to_wire).collect();
            Ok(wire::ListStatusesResponse { statuses })
        })
        .await
    }

    type WriteStream = rpc::Replies<wire::WriteContentResponse>;

    async fn write(
        &self,
        request: Request<Streaming<wire::WriteContentRequest>>,
    ) -> std::result::Result<Response<Self::WriteStream>, Status> {
        rpc::namespaced_stream(request, async |cx, requests| {
            write::Session::open(self.store.clone(), cx, requests)
                .await
                .map(write::Session::replies)
        })
        .await
    }

    async fn abort(
        &self,
        request: Request<wire::AbortRequest>,
    ) -> std::result::Result<Response<()>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.r#ref);
            self.store.abort(&cx, &existing(message.r#ref)?).await
        })
        .await
    }
}
