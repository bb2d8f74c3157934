//! The list of what runs in the daemon: read from top to bottom, it is the order of the starts.
//!
//! Nothing is registered elsewhere. A plugin stands on the handles named at its line; a gRPC
//! service is the plugin of the same name, so the plugin list shows what is served and no more.

use std::sync::Arc;

use gantry_api::containerd::services::containers::v1::containers_server::ContainersServer;
use gantry_api::containerd::services::events::v1::events_server::EventsServer;
use gantry_api::containerd::services::images::v1::images_server::ImagesServer;
use gantry_api::containerd::services::introspection::v1::introspection_server::IntrospectionServer;
use gantry_api::containerd::services::leases::v1::leases_server::LeasesServer;
use gantry_api::containerd::services::namespaces::v1::namespaces_server::NamespacesServer;
use gantry_api::containerd::services::version::v1::version_server::VersionServer;
use gantry_core::{Clock, Error, Result, SystemClock};
use gantry_metadata::kv::BackendKind;
use gantry_metadata::{Collector, Metadata, OpenOptions, Schedule, Scheduler, stores};
use gantry_plugin::{Graph, Handle, Plugin, PluginType};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::config::value::Backend;
use crate::config::{Config, Gc};
use crate::services::Services;
use crate::services::containers::ContainersService;
use crate::services::events::{EventsService, TtrpcEvents};
use crate::services::images::ImagesService;
use crate::services::introspection::{IntrospectionService, PluginList};
use crate::services::leases::LeasesService;
use crate::services::namespaces::NamespacesService;
use crate::services::version::VersionService;
use crate::{identity, ttrpc};

/// Everything that runs, ready to be served.
pub struct Builtins {
    /// The plugins, to be stopped at the end.
    pub graph: Graph,
    /// The gRPC services.
    pub routes: Routes,
    /// The ttrpc services.
    pub ttrpc: Arc<[Arc<dyn ttrpc::Service>]>,
}

/// What background work needs.
#[derive(Clone)]
pub struct Background {
    /// Where it runs.
    pub tracker: TaskTracker,
    /// When it ends.
    pub stop: CancellationToken,
}

/// Sets the configured limits of messages on a generated server.
macro_rules! limited {
    ($config:expr, $server:expr) => {
        $server
            .max_decoding_message_size($config.grpc.max_recv_message_bytes as usize)
            .max_encoding_message_size($config.grpc.max_send_message_bytes as usize)
    };
}

/// Starts the plugin of a gRPC service: its line in the list, what it stands on, its server.
macro_rules! serve {
    ($graph:ident, $services:ident, $config:ident, $id:literal, [$($needs:ident),*], $server:expr) => {{
        let plugin = Plugin::new(PluginType::Grpc, $id)$(.needs(&$needs))*;
        let _: Handle<()> = $graph
            .start(plugin, async || {
                $services.add(limited!($config, $server));
                Ok(Arc::new(()))
            })
            .await;
    }};
}

/// Starts everything.
///
/// # Errors
/// When something fails without which the daemon is of no use.
pub async fn start(config: &Config, background: &Background) -> Result<Builtins> {
    let mut graph = Graph::new();
    let mut services = Services::default();
    let plugins = PluginList::default();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);

    // Without the store nothing works, so its failure is the daemon's.
    let opened = open_metadata(config, clock.clone()).await?;
    let folder = config.root.join("meta").display().to_string();
    let plugin = Plugin::new(PluginType::Metadata, "bolt")
        .export("policy", "shared")
        .export("path", folder)
        .export("backend", config.metadata.backend.to_string());
    let metadata: Handle<Metadata> = graph.start(plugin, async || Ok(opened)).await;
    graph.on_stop(&metadata, close_metadata);

    let gc: Handle<Scheduler> = graph
        .start(gc_plugin(&config.gc).needs(&metadata), async || {
            let metadata = metadata.get()?;
            let collector = Arc::new(Collector::new(metadata.clone(), Vec::new()));
            let (scheduler, run) =
                Scheduler::new(metadata, collector, schedule(&config.gc), background.stop.clone());
            background.tracker.spawn(run);
            Ok(Arc::new(scheduler))
        })
        .await;

    let exchange = Plugin::new(PluginType::Event, "exchange").needs(&metadata);
    let exchange: Handle<gantry_metadata::Journal> =
        graph.start(exchange, async || Ok(metadata.get()?.journal().clone())).await;

    let leases = Plugin::new(PluginType::Lease, "manager").needs(&metadata).needs(&gc);
    let leases: Handle<stores::Leases> =
        graph.start(leases, async || Ok(Arc::new(stores::Leases::new(metadata.get()?)))).await;

    serve!(graph, services, config, "version", [], VersionServer::new(VersionService));
    serve!(graph, services, config, "namespaces", [metadata], {
        let namespaces = stores::Namespaces::new(metadata.get()?);
        NamespacesServer::new(NamespacesService::new(namespaces))
    });
    serve!(graph, services, config, "leases", [leases, gc], {
        let leases = (*leases.get()?).clone();
        LeasesServer::new(LeasesService::new(leases, gc.get()?, clock.clone()))
    });
    serve!(graph, services, config, "containers", [metadata], {
        let containers = stores::Containers::new(metadata.get()?);
        ContainersServer::new(ContainersService::new(containers))
    });
    serve!(graph, services, config, "images", [metadata, gc], {
        let images = stores::Images::new(metadata.get()?);
        ImagesServer::new(ImagesService::new(images, gc.get()?))
    });
    serve!(graph, services, config, "events", [exchange], {
        EventsServer::new(EventsService::new(exchange.get()?, clock.clone()))
    });
    let _: Handle<()> = graph
        .start(Plugin::new(PluginType::Grpc, "healthcheck"), async || {
            // A new reporter says that the server as a whole, named "", serves.
            let health = tonic_health::server::HealthReporter::new();
            let health = tonic_health::server::HealthService::from_health_reporter(health);
            services.add(tonic_health::pb::health_server::HealthServer::new(health));
            Ok(Arc::new(()))
        })
        .await;
    serve!(graph, services, config, "introspection", [], {
        let uuid = identity::uuid(&config.root).map_err(|e| Error::io("server uuid", e))?;
        IntrospectionServer::new(IntrospectionService::new(plugins.clone(), uuid)?)
    });

    // The only writer of the list, so it is empty until here.
    let _ = plugins.set(graph.records());
    let events: Arc<dyn ttrpc::Service> = Arc::new(TtrpcEvents::new(exchange.get()?));
    Ok(Builtins { graph, routes: services.with_reflection()?, ttrpc: Arc::new([events]) })
}

async fn open_metadata(config: &Config, clock: Arc<dyn Clock>) -> Result<Arc<Metadata>> {
    let backend = match config.metadata.backend {
        Backend::Sled => BackendKind::Sled,
        Backend::Redb => BackendKind::Redb,
    };
    let options = OpenOptions { folder: config.root.join("meta"), backend };
    blocking("open metadata store", move || Metadata::open(&options, clock)).await
}

async fn close_metadata(metadata: Arc<Metadata>) {
    let db = metadata.db().clone();
    let closed = blocking("close metadata store", move || Ok(db.close()?)).await;
    if let Err(error) = closed {
        tracing::error!(error = error.message(), "metadata store not closed cleanly");
    }
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(|error| error.context(what)),
        // The panic itself was logged where it happened.
        Err(_) => Err(Error::internal(what)),
    }
}

fn gc_plugin(gc: &Gc) -> Plugin {
    Plugin::new(PluginType::Gc, "scheduler")
        .export("StartupDelay", gc.startup_delay.to_string())
        .export("PauseThreshold", gc.pause_threshold.to_string())
        .export("DeletionThreshold", gc.deletion_threshold.to_string())
        .export("MutationThreshold", gc.mutation_threshold.to_string())
}

fn schedule(gc: &Gc) -> Schedule {
    Schedule {
        startup: gc.startup_delay.0,
        pause: gc.pause_threshold,
        deletions: gc.deletion_threshold,
        mutations: gc.mutation_threshold,
    }
}
