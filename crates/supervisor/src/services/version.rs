//! `containerd.services.version.v1`: which version this is.

use gantry_api::containerd::services::version::v1::VersionResponse;
use gantry_api::containerd::services::version::v1::version_server::Version;
use tonic::{Request, Response, Status, async_trait};

use crate::{rpc, version};

/// The service.
#[derive(Clone, Copy, Debug, Default)]
pub struct VersionService;

#[async_trait]
impl Version for VersionService {
    async fn version(&self, request: Request<()>) -> Result<Response<VersionResponse>, Status> {
        rpc::plain(request, async |_, ()| {
            Ok(VersionResponse {
                version: version::VERSION.to_owned(),
                revision: version::REVISION.to_owned(),
            })
        })
        .await
    }
}
