//! `containerd.services.images.v1`.

use std::sync::Arc;

use gantry_api::containerd::services::images::v1 as wire;
use gantry_api::containerd::services::images::v1::images_server::Images;
use gantry_core::{Digest, Error};
use gantry_metadata::stores::ImageUpdate;
use gantry_metadata::{Scheduler, stores};
use tonic::{Request, Response, Status, async_trait};

use crate::convert::{self, image};
use crate::rpc;

/// The service.
#[derive(Clone, Debug)]
pub struct ImagesService {
    images: stores::Images,
    gc: Arc<Scheduler>,
}

impl ImagesService {
    /// The service over a store; `gc` runs for a synchronous delete.
    pub fn new(images: stores::Images, gc: Arc<Scheduler>) -> Self {
        Self { images, gc }
    }
}

fn epoch(
    sent: Option<prost_types::Timestamp>,
) -> gantry_core::Result<Option<gantry_core::Timestamp>> {
    sent.map(|time| convert::time_sent("source_date_epoch", &time)).transpose()
}

#[async_trait]
impl Images for ImagesService {
    async fn get(
        &self,
        request: Request<wire::GetImageRequest>,
    ) -> Result<Response<wire::GetImageResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.name);
            let found = self.images.get(&cx, &image::existing(message.name)?).await?;
            Ok(wire::GetImageResponse { image: Some(image::to_wire(found)) })
        })
        .await
    }

    async fn list(
        &self,
        request: Request<wire::ListImagesRequest>,
    ) -> Result<Response<wire::ListImagesResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            let found = self.images.list(&cx, convert::filters(&message.filters)?).await?;
            Ok(wire::ListImagesResponse { images: found.into_iter().map(image::to_wire).collect() })
        })
        .await
    }

    async fn create(
        &self,
        request: Request<wire::CreateImageRequest>,
    ) -> Result<Response<wire::CreateImageResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            let sent = convert::required("image", message.image)?;
            rpc::about(&sent.name);
            let at = epoch(message.source_date_epoch)?;
            let created = self.images.create(&cx, image::from_wire(sent)?, at).await?;
            Ok(wire::CreateImageResponse { image: Some(image::to_wire(created)) })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<wire::UpdateImageRequest>,
    ) -> Result<Response<wire::UpdateImageResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            let sent = convert::required("image", message.image)?;
            rpc::about(&sent.name);
            let mask = convert::mask(message.update_mask);
            let image = image::update_from_wire(sent, &mask)?;
            let at = epoch(message.source_date_epoch)?;
            let updated = self.images.update(&cx, ImageUpdate { image, mask, at }).await?;
            Ok(wire::UpdateImageResponse { image: Some(image::to_wire(updated)) })
        })
        .await
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteImageRequest>,
    ) -> Result<Response<()>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.name);
            let name = image::existing(message.name)?;
            let target = match message.target {
                // No image has a target that is no digest.
                Some(target) => Some(Digest::parse(target.digest).map_err(|error| {
                    Error::not_found(format!("image {name:?} has another target: {error}"))
                })?),
                None => None,
            };
            self.images.delete(&cx, &name, target).await?;
            if message.sync {
                self.gc.collect_now(&cx).await?;
            }
            Ok(())
        })
        .await
    }
}
