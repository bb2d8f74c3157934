//! What the task manager is told: folders, addresses, names, and the bounds of its waits.

use std::path::PathBuf;
use std::time::Duration;

/// File name of the project's own shim; it is looked for beside the daemon.
pub const OWN_SHIM: &str = "containerd-shim-gantry-v2";
/// The runtime name that clients ask for when they do not care.
pub const USUAL_RUNTIME: &str = "io.containerd.runc.v2";
/// The runtime name of the project's own shim.
pub const OWN_RUNTIME: &str = "io.containerd.gantry.v2";

/// The task manager's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of bundles: `<state>/io.containerd.runtime.v2.task`.
    pub state: PathBuf,
    /// Folder of work directories: `<root>/io.containerd.runtime.v2.task`.
    pub root: PathBuf,
    /// Folder of the sockets of our own shim: `<state>/s`.
    pub sockets: PathBuf,
    /// The daemon's gRPC socket, as shims are told.
    pub address: PathBuf,
    /// The daemon's ttrpc socket, where shims send their events.
    pub ttrpc_address: PathBuf,
    /// The daemon's executable; our own shim lies beside it.
    pub daemon: PathBuf,
    /// The daemon's version, as shims are told.
    pub version: String,
    /// What [`USUAL_RUNTIME`] stands for: a runtime name or an absolute path. The name itself means
    /// the shim of that name.
    pub usual_runtime: String,
    /// Whether shims are to log more.
    pub debug: bool,
    /// Variables that shims get on top of the daemon's own.
    pub env: Vec<(String, String)>,
    /// This boot.
    pub boot_id: [u8; 16],
    /// Bounds of waits.
    pub timeouts: Timeouts,
}

/// Bounds of waits on other processes.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// `start` of a shim's program, and its answering on the socket.
    pub start: Duration,
    /// Making a task: hooks and restores count.
    pub create: Duration,
    /// One answer of a shim about a state or about figures.
    pub state: Duration,
    /// Any other answer of a shim.
    pub call: Duration,
    /// The `delete` command of a shim's program.
    pub cleanup: Duration,
    /// A shim's answer to Shutdown.
    pub shutdown: Duration,
    /// One attempt to reach a shim that served before the daemon started.
    pub load: Duration,
    /// Longest pause between two such attempts.
    pub retry: Duration,
    /// How long a shim may take to forward an exit that its Wait has told already.
    pub exit_event: Duration,
    /// How long after the start subscribers are told the exits found at the start.
    pub replay: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(30),
            create: Duration::from_secs(300),
            state: Duration::from_secs(2),
            call: Duration::from_secs(120),
            cleanup: Duration::from_secs(5),
            shutdown: Duration::from_secs(3),
            load: Duration::from_secs(5),
            retry: Duration::from_secs(15),
            exit_event: Duration::from_secs(10),
            replay: Duration::from_secs(60),
        }
    }
}
