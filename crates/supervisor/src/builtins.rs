//! The list of what runs in the daemon: read from top to bottom, it is the order of the starts.
//!
//! Nothing is registered elsewhere. A plugin stands on the handles named at its line; a gRPC
//! service is the plugin of the same name, so the plugin list shows what is served and no more.

use std::sync::Arc;

use gantry_api::containerd::services::introspection::v1::introspection_server::IntrospectionServer;
use gantry_api::containerd::services::version::v1::version_server::VersionServer;
use gantry_core::{Error, Result};
use gantry_plugin::{Graph, Handle, Plugin, PluginType};
use tonic::service::Routes;

use crate::config::Config;
use crate::identity;
use crate::services::Services;
use crate::services::introspection::{IntrospectionService, PluginList};
use crate::services::version::VersionService;

/// Everything that runs, ready to be served.
pub struct Builtins {
    /// The plugins, to be stopped at the end.
    pub graph: Graph,
    /// The gRPC services.
    pub routes: Routes,
}

/// Sets the configured limits of messages on a generated server.
macro_rules! limited {
    ($config:expr, $server:expr) => {
        $server
            .max_decoding_message_size($config.grpc.max_recv_message_bytes as usize)
            .max_encoding_message_size($config.grpc.max_send_message_bytes as usize)
    };
}

fn grpc(id: &str) -> Plugin {
    Plugin::new(PluginType::Grpc, id)
}

/// Starts everything.
///
/// # Errors
/// When something fails without which the daemon is of no use.
pub async fn start(config: &Config) -> Result<Builtins> {
    let mut graph = Graph::new();
    let mut services = Services::default();
    let plugins = PluginList::default();

    let _: Handle<()> = graph
        .start(grpc("version"), async || {
            services.add(limited!(config, VersionServer::new(VersionService)));
            Ok(Arc::new(()))
        })
        .await;

    let _: Handle<()> = graph
        .start(grpc("healthcheck"), async || {
            // A new reporter says that the server as a whole, named "", serves.
            let health = tonic_health::server::HealthReporter::new();
            let health = tonic_health::server::HealthService::from_health_reporter(health);
            services.add(tonic_health::pb::health_server::HealthServer::new(health));
            Ok(Arc::new(()))
        })
        .await;

    let _: Handle<()> = graph
        .start(grpc("introspection"), async || {
            let uuid = identity::uuid(&config.root).map_err(|e| Error::io("server uuid", e))?;
            let service = IntrospectionService::new(plugins.clone(), uuid)?;
            services.add(limited!(config, IntrospectionServer::new(service)));
            Ok(Arc::new(()))
        })
        .await;

    // The only writer of the list, so it is empty until here.
    let _ = plugins.set(graph.records());
    Ok(Builtins { graph, routes: services.with_reflection()? })
}
