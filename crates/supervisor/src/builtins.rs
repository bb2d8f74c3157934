//! The list of what runs in the daemon: read from top to bottom, it is the order of the starts.
//!
//! Nothing is registered elsewhere. A plugin stands on the handles named at its line; a gRPC
//! service is the plugin of the same name, so the plugin list shows what is served and no more.
//! How a part is opened stands in [`parts`].

mod parts;

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_api::containerd::services::containers::v1::containers_server::ContainersServer;
use gantry_api::containerd::services::content::v1::content_server::ContentServer;
use gantry_api::containerd::services::diff::v1::diff_server::DiffServer;
use gantry_api::containerd::services::events::v1::events_server::EventsServer;
use gantry_api::containerd::services::images::v1::images_server::ImagesServer;
use gantry_api::containerd::services::introspection::v1::introspection_server::IntrospectionServer;
use gantry_api::containerd::services::leases::v1::leases_server::LeasesServer;
use gantry_api::containerd::services::mounts::v1::mounts_server::MountsServer;
use gantry_api::containerd::services::namespaces::v1::namespaces_server::NamespacesServer;
use gantry_api::containerd::services::sandbox::v1::store_server::StoreServer;
use gantry_api::containerd::services::snapshots::v1::snapshots_server::SnapshotsServer;
use gantry_api::containerd::services::tasks::v1::tasks_server::TasksServer;
use gantry_api::containerd::services::version::v1::version_server::VersionServer;
use gantry_core::snapshot::Snapshotter;
use gantry_core::{Clock, Error, Result, SystemClock};
use gantry_metadata::{Collector, Journal, Metadata, Reclaim, Scheduler, stores};
use gantry_plugin::{Graph, Handle, Plugin, PluginType};
use gantry_plugin_content::LocalStore;
use gantry_plugin_diff::Walking;
use gantry_plugin_mounts::Manager;
use gantry_plugin_runtime::Tasks;
use gantry_plugin_snapshots::{BuiltinSnapshotter, Native, Overlay};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::config::Config;
use crate::services::Services;
use crate::services::containers::ContainersService;
use crate::services::content::ContentService;
use crate::services::diff::{DiffService, Differ};
use crate::services::events::{EventsService, TtrpcEvents};
use crate::services::images::ImagesService;
use crate::services::introspection::{IntrospectionService, PluginList};
use crate::services::leases::LeasesService;
use crate::services::mounts::MountsService;
use crate::services::namespaces::NamespacesService;
use crate::services::sandboxes::SandboxesService;
use crate::services::snapshots::SnapshotsService;
use crate::services::tasks::TasksService;
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

/// Starts the plugin of a gRPC service: its line in the list, what it stands on, its server with
/// the configured limits of messages.
macro_rules! serve {
    ($graph:ident, $services:ident, $config:ident, $id:literal, [$($needs:ident),*], $server:expr) => {{
        let plugin = Plugin::new(PluginType::Grpc, $id)$(.needs(&$needs))*;
        let _: Handle<()> = $graph
            .start(plugin, async || {
                $services.add(
                    $server
                        .max_decoding_message_size($config.grpc.max_recv_message_bytes as usize)
                        .max_encoding_message_size($config.grpc.max_send_message_bytes as usize),
                );
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
    let opened = parts::open_metadata(config, clock.clone()).await?;
    let metadata: Handle<Metadata> =
        graph.start(parts::metadata_plugin(config), async || Ok(opened)).await;
    graph.on_stop(&metadata, parts::close_metadata);

    let exchange = Plugin::new(PluginType::Event, "exchange").needs(&metadata);
    let exchange: Handle<Journal> =
        graph.start(exchange, async || Ok(metadata.get()?.journal().clone())).await;

    let folder = config.root.join("content");
    let plugin = parts::rooted(PluginType::Content, "content", &folder).needs(&metadata);
    let content: Handle<LocalStore> =
        graph.start(plugin, async || parts::open_content(folder, metadata.get()?).await).await;

    let folder = config.root.join("snapshots/overlayfs");
    let plugin = parts::rooted(PluginType::Snapshotter, "overlayfs", &folder).needs(&metadata);
    let overlay: Handle<BuiltinSnapshotter<Overlay>> = graph
        .start(plugin.on_host_platform(), async || {
            parts::open_snapshotter("overlayfs", folder, Overlay::open, metadata.get()?).await
        })
        .await;
    parts::declare_capabilities(&mut graph, &overlay);

    let folder = config.root.join("snapshots/native");
    let plugin = parts::rooted(PluginType::Snapshotter, "native", &folder).needs(&metadata);
    let native: Handle<BuiltinSnapshotter<Native>> = graph
        .start(plugin.on_host_platform(), async || {
            parts::open_snapshotter("native", folder, Native::open, metadata.get()?).await
        })
        .await;
    parts::declare_capabilities(&mut graph, &native);

    let plugin = Plugin::new(PluginType::Differ, "walking").needs(&content).on_host_platform();
    let walking: Handle<Walking> =
        graph.start(plugin, async || parts::open_walking(config, content.get()?).await).await;

    // The id is containerd's: clients look for the mount manager under it.
    let plugin = Plugin::new(PluginType::MountManager, "bolt").needs(&metadata);
    let mounts: Handle<Manager> =
        graph.start(plugin, async || parts::open_mounts(config, metadata.get()?).await).await;

    // Knows every recorded task again when it has started; shims are spoken to behind that.
    let plugin = parts::tasks_plugin().needs(&metadata).on_host_platform();
    let tasks: Handle<Tasks> =
        graph.start(plugin, async || parts::open_tasks(config, metadata.get()?).await).await;
    graph.on_stop(&tasks, parts::stop_tasks);

    // After all that holds data, for a collection takes it back from each.
    let gc: Handle<Scheduler> = graph
        .start(parts::gc_plugin(&config.gc).needs(&metadata), async || {
            let mut reclaimers: Vec<Arc<dyn Reclaim>> = Vec::new();
            reclaimers.extend(overlay.get().map(parts::reclaim_snapshots));
            reclaimers.extend(native.get().map(parts::reclaim_snapshots));
            reclaimers.extend(mounts.get().map(|manager| manager.reclaimer()));
            reclaimers.extend(content.get().map(|store| store as Arc<dyn Reclaim>));
            let metadata = metadata.get()?;
            let collector = Arc::new(Collector::new(metadata.clone(), reclaimers));
            let schedule = parts::schedule(&config.gc);
            let (scheduler, run) =
                Scheduler::new(metadata, collector, schedule, background.stop.clone());
            background.tracker.spawn(run);
            Ok(Arc::new(scheduler))
        })
        .await;

    let leases = Plugin::new(PluginType::Lease, "manager").needs(&metadata).needs(&gc);
    let leases: Handle<stores::Leases> =
        graph.start(leases, async || Ok(Arc::new(stores::Leases::new(metadata.get()?)))).await;

    let plugin = Plugin::new(PluginType::SandboxStore, "local").needs(&metadata);
    let sandboxes: Handle<stores::Sandboxes> =
        graph.start(plugin, async || Ok(Arc::new(stores::Sandboxes::new(metadata.get()?)))).await;

    serve!(graph, services, config, "version", [], VersionServer::new(VersionService));
    serve!(graph, services, config, "namespaces", [metadata], {
        let namespaces = stores::Namespaces::new(metadata.get()?);
        NamespacesServer::new(NamespacesService::new(namespaces))
    });
    serve!(graph, services, config, "leases", [leases, gc], {
        let leases = (*leases.get()?).clone();
        LeasesServer::new(LeasesService::new(leases, gc.get()?, clock.clone()))
    });
    serve!(graph, services, config, "content", [content], {
        ContentServer::new(ContentService::new(content.get()?))
    });
    // One snapshotter that fails must not take the others away, so it needs none of them.
    serve!(graph, services, config, "snapshots", [metadata], {
        let mut loaded: BTreeMap<String, Arc<dyn Snapshotter>> = BTreeMap::new();
        if let Ok(overlay) = overlay.get() {
            loaded.insert("overlayfs".to_owned(), overlay);
        }
        if let Ok(native) = native.get() {
            loaded.insert("native".to_owned(), native);
        }
        SnapshotsServer::new(SnapshotsService::new(loaded))
    });
    serve!(graph, services, config, "diff", [walking], {
        let walking = walking.get()?;
        let differ = Differ { applier: Some(walking.clone()), comparer: Some(walking) };
        DiffServer::new(DiffService::new(vec![differ]))
    });
    serve!(graph, services, config, "mounts", [mounts], {
        MountsServer::new(MountsService::new(mounts.get()?))
    });
    serve!(graph, services, config, "containers", [metadata], {
        let containers = stores::Containers::new(metadata.get()?);
        ContainersServer::new(ContainersService::new(containers))
    });
    serve!(graph, services, config, "sandboxes", [sandboxes], {
        StoreServer::new(SandboxesService::new((*sandboxes.get()?).clone()))
    });
    serve!(graph, services, config, "images", [metadata, gc], {
        let images = stores::Images::new(metadata.get()?);
        ImagesServer::new(ImagesService::new(images, gc.get()?))
    });
    serve!(graph, services, config, "tasks", [tasks], {
        TasksServer::new(TasksService::new(tasks.get()?))
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
    let _ = plugins.set(graph.take_records());
    let events: Arc<dyn ttrpc::Service> =
        Arc::new(TtrpcEvents::new(exchange.get()?, tasks.get().ok()));
    Ok(Builtins { graph, routes: services.with_reflection()?, ttrpc: Arc::new([events]) })
}
