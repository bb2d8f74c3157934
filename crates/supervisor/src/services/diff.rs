//! `containerd.services.diff.v1`: the loaded differs are asked in their order until one knows the
//! media type.

use std::sync::Arc;

use gantry_api::containerd::services::diff::v1 as wire;
use gantry_api::containerd::services::diff::v1::diff_server::Diff;
use gantry_core::diff::{Applier, ApplyOpts, Comparer, DiffOpts};
use gantry_core::model::Descriptor;
use gantry_core::{ContentRef, Cx, Error, Kind, Result};
use tonic::{Request, Response, Status, async_trait};

use crate::convert::{self, image, mount};
use crate::rpc;

/// One differ: both directions, where it has them.
#[derive(Clone)]
pub struct Differ {
    /// Layers to file systems.
    pub applier: Option<Arc<dyn Applier>>,
    /// File systems to layers.
    pub comparer: Option<Arc<dyn Comparer>>,
}

/// The service.
#[derive(Clone)]
pub struct DiffService {
    differs: Arc<[Differ]>,
}

impl DiffService {
    /// The service over differs, in the order in which they are asked.
    pub fn new(differs: Vec<Differ>) -> Self {
        Self { differs: differs.into() }
    }

    async fn apply_by_first(&self, cx: &Cx, request: wire::ApplyRequest) -> Result<Descriptor> {
        let descriptor = image::descriptor("diff", convert::required("diff", request.diff)?)?;
        rpc::about(&descriptor.digest);
        let mounts = mount::from_wire(request.mounts);
        let payloads = request.payloads.into_iter().map(|(id, any)| (id, convert::typed(any)));
        let opts = ApplyOpts { payloads: payloads.collect(), sync_fs: request.sync_fs };
        let mut refused = none("apply layers");
        for applier in self.differs.iter().filter_map(|differ| differ.applier.as_ref()) {
            match applier.apply(cx, &descriptor, &mounts, opts.clone()).await {
                Err(error) if error.is(Kind::NotImplemented) => refused = error,
                other => return other,
            }
        }
        Err(refused)
    }

    async fn diff_by_first(&self, cx: &Cx, request: wire::DiffRequest) -> Result<Descriptor> {
        let (lower, upper) = (mount::from_wire(request.left), mount::from_wire(request.right));
        let reference = match request.r#ref.is_empty() {
            true => None,
            false => Some(ContentRef::new(request.r#ref)?),
        };
        let opts = DiffOpts {
            media_type: request.media_type,
            reference,
            labels: convert::labels_checked("labels", request.labels)?,
            source_date_epoch: request.source_date_epoch.map(|time| time.seconds),
        };
        let mut refused = none("compare file systems");
        for comparer in self.differs.iter().filter_map(|differ| differ.comparer.as_ref()) {
            match comparer.diff(cx, &lower, &upper, opts.clone()).await {
                Err(error) if error.is(Kind::NotImplemented) => refused = error,
                other => return other,
            }
        }
        Err(refused)
    }
}

fn none(task: &str) -> Error {
    Error::not_implemented(format!("no differ is loaded that can {task}"))
}

#[async_trait]
impl Diff for DiffService {
    async fn apply(
        &self,
        request: Request<wire::ApplyRequest>,
    ) -> std::result::Result<Response<wire::ApplyResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            let applied = self.apply_by_first(&cx, message).await?;
            Ok(wire::ApplyResponse { applied: Some(image::descriptor_to_wire(applied)) })
        })
        .await
    }

    async fn diff(
        &self,
        request: Request<wire::DiffRequest>,
    ) -> std::result::Result<Response<wire::DiffResponse>, Status> {
        rpc::namespaced(request, async |cx, message| {
            let made = self.diff_by_first(&cx, message).await?;
            Ok(wire::DiffResponse { diff: Some(image::descriptor_to_wire(made)) })
        })
        .await
    }
}
