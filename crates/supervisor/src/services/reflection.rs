//! Server reflection, for grpcurl and its like: both versions, for tools know one or the other.

use gantry_core::{Error, Result};
use tonic::service::RoutesBuilder;
use tonic_reflection::server::Builder;

/// Adds reflection that names `services`.
pub(super) fn add(routes: &mut RoutesBuilder, services: &[&'static str]) -> Result<()> {
    let builder = || {
        let builder = Builder::configure()
            .register_encoded_file_descriptor_set(gantry_api::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        services.iter().fold(builder, |builder, name| builder.with_service_name(*name))
    };
    let broken = |error| Error::internal(format!("descriptors: {error}"));
    routes.add_service(builder().build_v1().map_err(broken)?);
    routes.add_service(builder().build_v1alpha().map_err(broken)?);
    Ok(())
}
