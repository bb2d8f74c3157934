//! The gRPC services: one file each, nothing in them but conversion.

pub mod containers;
pub mod content;
pub mod diff;
pub mod events;
pub mod images;
pub mod introspection;
pub mod leases;
pub mod mounts;
pub mod namespaces;
mod reflection;
pub mod sandboxes;
pub mod snapshots;
pub mod tasks;
pub mod version;

use std::convert::Infallible;

use gantry_core::Result;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};
use tower::Service;

/// Collects the services of a server.
#[derive(Default)]
pub struct Services {
    routes: RoutesBuilder,
    names: Vec<&'static str>,
}

impl Services {
    /// Adds a service.
    pub fn add<S>(&mut self, service: S)
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.routes.add_service(service);
    }

    /// All of them, with reflection that names exactly these.
    ///
    /// # Errors
    /// `Internal` when the descriptors built into the program do not decode.
    pub fn with_reflection(mut self) -> Result<Routes> {
        reflection::add(&mut self.routes, &self.names)?;
        Ok(self.routes.routes().prepare())
    }
}
