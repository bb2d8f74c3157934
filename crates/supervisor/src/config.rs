//! What an operator can set: the keys with their defaults and meanings, in one place.
//!
//! The tables below are the only definition of a key. Its doc comment is the comment in
//! `gantryd config default`, its default the value there, and an unknown key in a file is
//! compared with these names. [`load`] reads a file, [`render`] writes one.
//!
//! Invariants: every file that [`render::commented`] writes loads to what was written; the
//! daemon works with no file at all.

pub mod load;
pub mod render;
pub mod settings;
pub mod value;

use std::path::{Path, PathBuf};

use settings::settings;
use value::{Backend, FileMode, LogFormat, LogLevel, Period};

/// Where the configuration is looked for when no file is named; it need not exist.
pub const DEFAULT_FILE: &str = "/etc/gantry/config.toml";

/// Longest path of a unix socket in bytes: `sun_path` holds 108, one is the final NUL, and one
/// more keeps clear of programs that count differently (unix(7)).
pub const SOCKET_PATH_BYTES_MAX: usize = 106;

settings! {
    /// The configuration of the daemon.
    pub struct Config {
        /// Folder for what must survive a power cut: metadata, content, snapshots.
        pub root: PathBuf = PathBuf::from("/var/lib/gantry"),
        /// Folder for what belongs to this boot: sockets, bundles of running tasks.
        pub state: PathBuf = PathBuf::from("/run/gantry"),
        /// Socket for clients (gRPC). Empty means gantry.sock in the state folder.
        pub address: PathBuf = PathBuf::new(),
        /// Socket for shims (ttrpc). Empty means the address with ".ttrpc" appended.
        pub ttrpc_address: PathBuf = PathBuf::new(),
        /// Who may use the sockets. Whoever may is as good as root.
        pub socket: Socket = Socket::default(),
        /// Limits of the gRPC server.
        pub grpc: Grpc = Grpc::default(),
        /// What is logged, to standard error.
        pub log: Log = Log::default(),
        /// The metadata store.
        pub metadata: Metadata = Metadata::default(),
        /// Garbage collection.
        pub gc: Gc = Gc::default(),
        /// Tasks and the shims behind them.
        pub runtime: Runtime = Runtime::default(),
        /// Bounds on waits.
        pub timeouts: Timeouts = Timeouts::default(),
    }
}

settings! {
    /// Who may use the sockets.
    pub struct Socket {
        /// User id of the owner.
        pub uid: u32 = 0,
        /// Group id; its members get what the mode grants a group.
        pub gid: u32 = 0,
        /// Permissions in octal.
        pub mode: FileMode = FileMode(0o660),
    }
}

settings! {
    /// Limits of the gRPC server.
    pub struct Grpc {
        /// Longest message taken from a client, in bytes. Clients send content in pieces of 8 MiB.
        pub max_recv_message_bytes: u32 = 16 << 20,
        /// Longest message sent to a client, in bytes. Go clients take 16 MiB.
        pub max_send_message_bytes: u32 = 16 << 20,
    }
}

settings! {
    /// What is logged.
    pub struct Log {
        /// "error", "warn", "info", "debug" or "trace". SIGHUP has it read again.
        pub level: LogLevel = LogLevel::Info,
        /// "text" for people or "json" for programs.
        pub format: LogFormat = LogFormat::Text,
    }
}

settings! {
    /// The metadata store.
    pub struct Metadata {
        /// "sled" or "redb". Changing it needs an export and an import (`gantryd meta`).
        pub backend: Backend = Backend::Sled,
    }
}

settings! {
    /// Garbage collection.
    pub struct Gc {
        /// From the start to the first run.
        pub startup_delay: Period = Period::milliseconds(100),
        /// Largest share of the time that collections may take, from 0.001 to 0.5.
        pub pause_threshold: f64 = 0.02,
        /// How many deleted records call for a run.
        pub deletion_threshold: u64 = 1,
        /// How many written records call for a run; 0 for never.
        pub mutation_threshold: u64 = 100,
    }
}

settings! {
    /// Tasks and the shims behind them.
    pub struct Runtime {
        /// What the runtime "io.containerd.runc.v2" stands for: the name of another runtime, or the
        /// absolute path of a shim. "io.containerd.runc.v2" itself means the shim of that name.
        pub runc_v2: String = "io.containerd.gantry.v2".to_owned(),
        /// How long after the start of the daemon new subscribers are told of the exits that it
        /// found at its start.
        pub exit_replay: Period = Period::seconds(60),
    }
}

settings! {
    /// Bounds on waits.
    pub struct Timeouts {
        /// How long calls in flight may take to end when the daemon is told to stop.
        pub stop: Period = Period::seconds(10),
    }
}

impl Config {
    /// The socket for clients.
    pub fn grpc_socket(&self) -> PathBuf {
        match self.address.as_os_str().is_empty() {
            true => self.state.join("gantry.sock"),
            false => self.address.clone(),
        }
    }

    /// The socket for shims.
    pub fn ttrpc_socket(&self) -> PathBuf {
        if !self.ttrpc_address.as_os_str().is_empty() {
            return self.ttrpc_address.clone();
        }
        let mut path = self.grpc_socket().into_os_string();
        path.push(".ttrpc");
        PathBuf::from(path)
    }

    /// Everything about the values that their types cannot say; empty when all is well.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (key, path) in [("root", &self.root), ("state", &self.state)] {
            if !path.is_absolute() {
                faults.push(format!("{key}: {path:?} is not an absolute path"));
            }
        }
        if self.root == self.state {
            faults.push("root and state: must be different folders".to_owned());
        }
        let sockets = [("address", self.grpc_socket()), ("ttrpc_address", self.ttrpc_socket())];
        faults.extend(sockets.iter().filter_map(|(key, path)| socket_fault(key, path)));
        if self.grpc_socket() == self.ttrpc_socket() {
            faults.push("address and ttrpc_address: must be different sockets".to_owned());
        }
        let limits = [
            ("grpc.max_recv_message_bytes", self.grpc.max_recv_message_bytes),
            ("grpc.max_send_message_bytes", self.grpc.max_send_message_bytes),
        ];
        let share = self.gc.pause_threshold;
        if !(0.001..=0.5).contains(&share) {
            faults.push(format!("gc.pause_threshold: must be from 0.001 to 0.5, not {share}"));
        }
        for (key, bytes) in limits {
            if bytes == 0 {
                faults.push(format!("{key}: must be more than 0"));
            }
        }
        faults
    }
}

fn socket_fault(key: &str, path: &Path) -> Option<String> {
    let bytes = path.as_os_str().len();
    if !path.is_absolute() {
        return Some(format!("{key}: {path:?} is not an absolute path"));
    }
    if bytes > SOCKET_PATH_BYTES_MAX {
        return Some(format!(
            "{key}: the path of a unix socket has at most {SOCKET_PATH_BYTES_MAX} bytes, {path:?} \
             has {bytes}; set a shorter `{key}` or `state`"
        ));
    }
    if path.file_name().is_none() {
        return Some(format!("{key}: {path:?} names no file"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_lie_in_the_state_folder_unless_said_otherwise() {
        let mut config = Config::default();
        assert_eq!(config.grpc_socket(), Path::new("/run/gantry/gantry.sock"));
        assert_eq!(config.ttrpc_socket(), Path::new("/run/gantry/gantry.sock.ttrpc"));
        config.address = "/tmp/x".into();
        assert_eq!(config.ttrpc_socket(), Path::new("/tmp/x.ttrpc"));
        assert_eq!(config.faults(), Vec::<String>::new());
    }

    #[test]
    fn a_socket_path_that_the_kernel_cannot_hold_is_refused_by_name() {
        let fits = |bytes: usize| PathBuf::from(format!("/{}", "s".repeat(bytes - 1)));
        let with = |bytes| Config {
            address: fits(bytes),
            ttrpc_address: "/run/t".into(),
            ..Config::default()
        };
        assert_eq!(with(106).faults(), Vec::<String>::new());
        let faults = with(107).faults();
        assert!(faults[0].starts_with("address: the path of a unix socket has at most 106"));
        let short_address_long_ttrpc = Config { address: fits(104), ..Config::default() }.faults();
        assert!(short_address_long_ttrpc[0].starts_with("ttrpc_address:"));
    }

    #[test]
    fn values_that_cannot_work_are_named() {
        let config = Config {
            root: "relative".into(),
            state: "relative".into(),
            grpc: Grpc { max_recv_message_bytes: 0, ..Grpc::default() },
            gc: Gc { pause_threshold: f64::NAN, ..Gc::default() },
            ..Config::default()
        };
        let faults = config.faults().join("\n");
        for key in [
            "root: ",
            "state: ",
            "root and state",
            "grpc.max_recv_message_bytes",
            "gc.pause_threshold",
            "address",
        ] {
            assert!(faults.contains(key), "{key} is not in {faults}");
        }
    }
}
