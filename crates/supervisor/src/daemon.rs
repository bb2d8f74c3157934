//! The life of the daemon.
//!
//! 1. Folders, locks: a second daemon on the same root, state or socket is refused here.
//! 2. Plugins, in the order of [`crate::builtins`]; what was recorded is loaded by them.
//! 3. Sockets: from now on clients are answered. `READY=1`.
//! 4. A first SIGTERM or SIGINT: `STOPPING=1`. It fires the daemon's cancellation: streams and waits end, calls in
//!    flight get the configured grace, plugins stop in reverse order. Tasks live on.
//! 5. A second one ends the process at once; the next start copes with whatever that leaves.
//!
//! SIGHUP reads the log level from the configuration again.

use std::io;
use std::path::Path;
use std::time::Duration;

use gantry_core::Error;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tracing::{error, info, warn};

use crate::builtins::Background;
use crate::cli::Flags;
use crate::config::Config;
use crate::config::load::ConfigError;
use crate::folders::{self, FolderError};
use crate::lock::{Lock, LockError};
use crate::logs::Logs;
use crate::rpc::CallLayer;
use crate::socket::{Bound, SocketError};
use crate::version::{REVISION, VERSION};
use crate::{builtins, failpoints, notify, ttrpc};

/// HTTP/2 credit of one stream and of one connection, in bytes: a client must be able to send a
/// whole piece of content (8 MiB) with few round trips.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// How long a connection may take to close once no call runs: replies leave in this time, and a
/// client that does not answer the farewell holds nothing up.
const LINGER: Duration = Duration::from_millis(500);

/// How long background work may take to notice that the daemon stops, calls having ended.
const BACKGROUND_GRACE: Duration = Duration::from_secs(2);

/// Why the daemon could not be started, or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// See [`ConfigError`].
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// See [`FolderError`].
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// See [`LockError`].
    #[error(transparent)]
    Lock(#[from] LockError),
    /// See [`SocketError`].
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// See [`failpoints::arm`].
    #[error("{0}")]
    Failpoints(String),
    /// Logging cannot be started.
    #[error("cannot start logging: {0}")]
    Logs(String),
    /// Threads or signals cannot be had.
    #[error("cannot start the reactor")]
    Reactor(#[source] io::Error),
    /// A plugin that everything needs.
    #[error("cannot start: {0}")]
    Plugins(String),
    /// The server broke.
    #[error("cannot serve")]
    Serve(#[source] tonic::transport::Error),
}

impl From<Error> for DaemonError {
    fn from(error: Error) -> Self {
        Self::Plugins(error.message())
    }
}

/// Runs the daemon until it is told to stop. Blocks.
///
/// # Errors
/// See [`DaemonError`].
pub fn run(flags: Flags) -> Result<(), DaemonError> {
    let config = flags.resolve()?;
    let logs = Logs::start(&config.log).map_err(|error| DaemonError::Logs(error.to_string()))?;
    info!(version = VERSION, revision = REVISION, pid = std::process::id(), "starting");
    failpoints::arm().map_err(DaemonError::Failpoints)?;
    folders::prepare(&config.root, folders::ROOT_MODE)?;
    folders::prepare(&config.state, folders::STATE_MODE)?;
    let _root = Lock::take("root", &config.root.join("gantryd.lock"))?;
    let _state = Lock::take("state", &config.state.join("gantryd.lock"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(DaemonError::Reactor)?;
    let grace = config.timeouts.stop.0;
    let outcome = runtime.block_on(live(config, flags, logs));
    // Blocking work that outlives the grace is left to the next start.
    runtime.shutdown_timeout(grace.min(Duration::from_secs(1)));
    info!("stopped");
    outcome
}

async fn live(config: Config, flags: Flags, logs: Logs) -> Result<(), DaemonError> {
    let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
    watch_signals(&stop, flags, logs).map_err(DaemonError::Reactor)?;
    let background = Background { tracker: tracker.clone(), stop: stop.clone() };
    let grpc_lock = lock_socket("address", &config.grpc_socket())?;
    let ttrpc_lock = lock_socket("ttrpc_address", &config.ttrpc_socket())?;
    crate::failpoint("daemon.start/before-plugins").map_err(DaemonError::Reactor)?;
    let built = builtins::start(&config, &background).await?;
    crate::failpoint("daemon.start/before-sockets").map_err(DaemonError::Reactor)?;
    let (grpc, listener) = listen(&config.grpc_socket(), &config)?;
    let (ttrpc, shims) = listen(&config.ttrpc_socket(), &config)?;
    tracker.spawn(ttrpc::serve(shims, built.ttrpc, tracker.clone(), stop.clone()));
    info!(address = %config.grpc_socket().display(), "serving");
    notify::ready();
    let running = TaskTracker::new();
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .layer(CallLayer::new(stop.clone(), running.clone()))
        .add_routes(built.routes)
        .serve_with_incoming_shutdown(
            UnixListenerStream::new(listener),
            stop.clone().cancelled_owned(),
        );
    let grace = config.timeouts.stop.0;
    let told = async {
        stop.cancelled().await;
        notify::stopping();
    };
    let (served, ()) = tokio::join!(within_grace(server, &stop, &running, grace), told);
    drop((grpc, ttrpc));
    tracker.close();
    if tokio::time::timeout(BACKGROUND_GRACE, tracker.wait()).await.is_err() {
        warn!(left = tracker.len(), "background work outlived its grace period");
    }
    crate::failpoint("daemon.stop/before-plugins").map_err(DaemonError::Reactor)?;
    built.graph.stop().await;
    drop((grpc_lock, ttrpc_lock));
    served
}

/// One daemon per socket; its folder is made for the lock.
fn lock_socket(key: &'static str, socket: &Path) -> Result<Lock, DaemonError> {
    if let Some(folder) = socket.parent().filter(|folder| !folder.exists()) {
        folders::prepare(folder, folders::STATE_MODE)?;
    }
    Ok(Lock::take(key, &with_suffix(socket, ".lock"))?)
}

fn listen(path: &Path, config: &Config) -> Result<(Bound, UnixListener), DaemonError> {
    let (bound, listener) = Bound::listen(path, &config.socket)?;
    Ok((bound, UnixListener::from_std(listener).map_err(DaemonError::Reactor)?))
}

/// Runs the server to its end, which after `stop` may take no longer than `grace`.
async fn within_grace(
    server: impl Future<Output = Result<(), tonic::transport::Error>>,
    stop: &CancellationToken,
    running: &TaskTracker,
    grace: Duration,
) -> Result<(), DaemonError> {
    let idle = async {
        stop.cancelled().await;
        running.close();
        running.wait().await;
        tokio::time::sleep(LINGER).await;
    };
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        ended = server => ended.map_err(DaemonError::Serve),
        () = idle => Ok(()),
        () = overdue => {
            warn!(grace = ?grace, "calls in flight outlived the grace period");
            Ok(())
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// From now on signals are heard: the first to stop fires `stop`, a second ends the process.
fn watch_signals(stop: &CancellationToken, flags: Flags, logs: Logs) -> io::Result<()> {
    let stop = stop.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // Detached: it must go on hearing signals until the very end of the process.
    tokio::spawn(async move {
        loop {
            let (name, number) = tokio::select! {
                () = heard(&mut terminate) => ("SIGTERM", 15),
                () = heard(&mut interrupt) => ("SIGINT", 2),
                () = heard(&mut hangup) => {
                    reread_level(&flags, &logs);
                    continue;
                }
            };
            if stop.is_cancelled() {
                error!(signal = name, "told twice, ending at once");
                std::process::exit(128 + number);
            }
            info!(signal = name, "stopping; tasks live on");
            stop.cancel();
        }
    });
    Ok(())
}

async fn heard(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        // The runtime is going down; nothing more will be heard.
        std::future::pending::<()>().await;
    }
}

/// Reads one small file on the reactor: rare, and asked for by hand.
fn reread_level(flags: &Flags, logs: &Logs) {
    match flags.log_level() {
        Ok(level) => {
            logs.set_level(level);
            info!(%level, "log level read again");
        }
        Err(error) => warn!(error = crate::chain(&error), "log level stays"),
    }
}
