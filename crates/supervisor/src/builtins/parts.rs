//! How the parts in the list are opened and closed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gantry_core::snapshot::{Driver, Snapshotter};
use gantry_core::{Clock, Error, Result, SnapshotterName};
use gantry_metadata::{Metadata, Reclaim, Schedule};
use gantry_plugin::{Graph, Handle, Plugin, PluginType};
use gantry_plugin_content::{LocalStore, Sharing};
use gantry_plugin_diff::Walking;
use gantry_plugin_mounts::Manager;
use gantry_plugin_runtime::{self as runtime, Tasks};
use gantry_plugin_snapshots::BuiltinSnapshotter;
use tonic::async_trait;

use crate::config::value::LogLevel;
use crate::config::{Config, Gc};
use crate::folders;
use crate::version::VERSION;

/// How long work on tasks may take to end when the daemon stops.
const TASKS_GRACE: Duration = Duration::from_secs(2);

/// Longest that making a file system may take: it writes little, whatever its size.
const MKFS_BOUND: Duration = Duration::from_secs(60);

/// A plugin that keeps its data below `folder`.
pub(super) fn rooted(kind: PluginType, id: &str, folder: &Path) -> Plugin {
    Plugin::new(kind, id).export("root", folder.display().to_string())
}

pub(super) fn metadata_plugin(config: &Config) -> Plugin {
    // The id is containerd's: clients look for the sharing policy under it.
    Plugin::new(PluginType::Metadata, "bolt")
        .export("policy", "shared")
        .export("path", config.root.join("meta").display().to_string())
        .export("backend", config.metadata.backend.to_string())
}

pub(super) async fn open_metadata(config: &Config, clock: Arc<dyn Clock>) -> Result<Arc<Metadata>> {
    let options = crate::meta::options(config);
    blocking("open metadata store", move || Metadata::open(&options, clock)).await
}

pub(super) async fn close_metadata(metadata: Arc<Metadata>) {
    if let Err(error) = blocking("close metadata store", move || metadata.close()).await {
        tracing::error!(error = error.message(), "metadata store not closed cleanly");
    }
}

pub(super) async fn open_content(
    folder: PathBuf,
    metadata: Arc<Metadata>,
) -> Result<Arc<LocalStore>> {
    blocking("open content store", move || {
        LocalStore::open(&folder, metadata, Sharing::Shared).map(Arc::new)
    })
    .await
}

pub(super) async fn open_snapshotter<D: Driver + 'static>(
    name: &str,
    folder: PathBuf,
    driver: impl FnOnce(&Path) -> Result<D> + Send + 'static,
    metadata: Arc<Metadata>,
) -> Result<Arc<BuiltinSnapshotter<D>>> {
    let driver = blocking("open snapshotter", move || driver(&folder)).await?;
    BuiltinSnapshotter::open(metadata, SnapshotterName::new(name)?, driver).await
}

/// Shows what a snapshotter can do on this host.
pub(super) fn declare_capabilities<D: Driver + 'static>(
    graph: &mut Graph,
    snapshotter: &Handle<BuiltinSnapshotter<D>>,
) {
    if let Ok(loaded) = snapshotter.get() {
        graph.declare(snapshotter, loaded.capabilities().iter().copied());
    }
}

pub(super) fn tasks_plugin() -> Plugin {
    Plugin::new(PluginType::Runtime, "task").export("log-uri-schemes", "fifo,binary,binary-v2,file")
}

pub(super) async fn open_tasks(config: &Config, metadata: Arc<Metadata>) -> Result<Arc<Tasks>> {
    let below = |folder: &Path| folder.join(PluginType::Runtime.as_str().to_owned() + ".task");
    let settings = runtime::Config {
        state: below(&config.state),
        root: below(&config.root),
        sockets: config.state.join("s"),
        address: config.grpc_socket(),
        ttrpc_address: config.ttrpc_socket(),
        daemon: std::env::current_exe().map_err(|e| Error::io("find own executable", e))?,
        version: VERSION.to_owned(),
        usual_runtime: config.runtime.runc_v2.clone(),
        debug: matches!(config.log.level, LogLevel::Debug | LogLevel::Trace),
        env: Vec::new(),
        boot_id: gantry_sys::process::boot_id().map_err(|e| Error::io("read boot id", e))?,
        timeouts: runtime::Timeouts {
            replay: config.runtime.exit_replay.0,
            ..runtime::Timeouts::default()
        },
    };
    let tasks = Tasks::new(settings, metadata);
    tasks.load().await?;
    Ok(Arc::new(tasks))
}

pub(super) async fn stop_tasks(tasks: Arc<Tasks>) {
    tasks.stop(TASKS_GRACE).await;
}

pub(super) async fn open_walking(config: &Config, store: Arc<LocalStore>) -> Result<Arc<Walking>> {
    let folder = config.state.join("diff");
    blocking("open differ", move || {
        folders::prepare(&folder, folders::ROOT_MODE)
            .map_err(|error| Error::unknown(crate::chain(&error)))?;
        Walking::new(store, folder).map(Arc::new)
    })
    .await
}

pub(super) async fn open_mounts(config: &Config, metadata: Arc<Metadata>) -> Result<Arc<Manager>> {
    let (folder, snapshots) = (config.state.join("mounts"), config.root.join("snapshots"));
    blocking("open mount manager", move || {
        let boot_id = gantry_sys::process::boot_id().map_err(|e| Error::io("boot id", e))?;
        // An inherited PATH may lack the folders of administration, where these programs live.
        let inherited = std::env::var("PATH").unwrap_or_default();
        let options = gantry_plugin_mounts::Options {
            folder,
            roots: vec![snapshots],
            boot_id,
            programs: format!("{inherited}:/usr/sbin:/usr/bin:/sbin:/bin"),
            program_bound: MKFS_BOUND,
        };
        Manager::open(metadata, options)
    })
    .await
}

pub(super) fn gc_plugin(gc: &Gc) -> Plugin {
    Plugin::new(PluginType::Gc, "scheduler")
        .export("StartupDelay", gc.startup_delay.to_string())
        .export("PauseThreshold", gc.pause_threshold.to_string())
        .export("DeletionThreshold", gc.deletion_threshold.to_string())
        .export("MutationThreshold", gc.mutation_threshold.to_string())
}

pub(super) fn schedule(gc: &Gc) -> Schedule {
    Schedule {
        startup: gc.startup_delay.0,
        pause: gc.pause_threshold,
        deletions: gc.deletion_threshold,
        mutations: gc.mutation_threshold,
    }
}

/// Has a collection take back the folders of a snapshotter.
pub(super) fn reclaim_snapshots<D: Driver + 'static>(
    snapshotter: Arc<BuiltinSnapshotter<D>>,
) -> Arc<dyn Reclaim> {
    Arc::new(Folders(snapshotter))
}

struct Folders<D: Driver + 'static>(Arc<BuiltinSnapshotter<D>>);

#[async_trait]
impl<D: Driver + 'static> Reclaim for Folders<D> {
    fn name(&self) -> &str {
        self.0.name().as_str()
    }
    async fn reclaim(&self) -> Result<()> {
        self.0.reclaim().await
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
