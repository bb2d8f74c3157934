//! Starting the project's own shim: one process, no `start` command.
//!
//! The daemon binds the shim's socket and hands it over as descriptor 3 (`docs/shim.md`), so the
//! socket answers from the moment it exists. Containers of one pod share a shim: their socket is
//! named for the group, and who finds it answered joins.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use gantry_api::containerd::runc::v1::Options;
use gantry_core::model::ContainerName;
use gantry_core::{Error, Kind, Result, TypedAny};
use gantry_sys::process::{Command, Pidfd};
use prost::Message;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::bootstrap::{Endpoint, LATEST};
use crate::bundle::Bundle;
use crate::config::Config;
use crate::launch;

/// Annotations whose value names the group that a container belongs to; the first one counts.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// Makes the sockets of tasks that follow each other under one name differ: the shim of the
/// earlier one may still be about to end.
static STARTED: AtomicU64 = AtomicU64::new(0);

/// A shim to start or to join.
#[derive(Clone, Debug)]
pub(crate) struct OwnLaunch {
    pub(crate) config: Config,
    pub(crate) name: ContainerName,
    pub(crate) bundle: Bundle,
    pub(crate) program: PathBuf,
    pub(crate) spec: Vec<u8>,
}

/// What it came to.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) endpoint: Endpoint,
    /// The process, when it was started and not joined; it has to be reaped.
    pub(crate) process: Option<Pidfd>,
}

/// Whether `options` ask for something that only the `start` command does: putting the shim into a
/// cgroup before it serves.
pub(crate) fn needs_command(options: Option<&TypedAny>) -> bool {
    let runc = options.filter(|options| {
        gantry_api::any::type_name(&options.type_url) == "containerd.runc.v1.Options"
    });
    let decoded = runc.and_then(|options| Options::decode(options.value.as_slice()).ok());
    decoded.is_some_and(|options| !options.shim_cgroup.is_empty())
}

impl OwnLaunch {
    /// Starts the shim, or joins the one of the group. Blocks for as long as the kernel needs to
    /// load the program.
    ///
    /// # Errors
    /// The socket cannot be bound, or the program not be started; nothing is left then.
    pub(crate) fn start(&self) -> Result<Started> {
        let path = self.socket(group(&self.spec).as_deref());
        let failed = |what: &str, error: io::Error| {
            Error::caused(Kind::Unknown, format!("{what} {}", path.display()), error)
        };
        let bound = bind(&path).map_err(|e| failed("create shim socket", e))?;
        let endpoint = Endpoint {
            version: LATEST,
            address: format!("unix://{}", path.display()),
            protocol: "ttrpc".into(),
        };
        let Some(listener) = bound else { return Ok(Started { endpoint, process: None }) };
        let process = self.spawn(&listener).map_err(|error| {
            // Ignored: the error that matters is the one reported.
            let _ = fs::remove_file(&path);
            failed("start shim", error)
        })?;
        Ok(Started { endpoint, process: Some(process) })
    }

    /// A short path: a unix socket's has little room.
    fn socket(&self, group: Option<&str>) -> PathBuf {
        let mut hash = Sha256::new();
        hash.update(self.config.state.as_os_str().as_bytes());
        hash.update([0]);
        hash.update(self.name.namespace.as_str());
        hash.update([0]);
        match group {
            Some(group) => hash.update(group),
            None => {
                hash.update(self.name.id.as_str());
                let number = STARTED.fetch_add(1, Ordering::Relaxed);
                hash.update([0]);
                hash.update(number.to_le_bytes());
                hash.update(std::process::id().to_le_bytes());
            }
        }
        let name: String = hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        self.config.sockets.join(name)
    }

    fn spawn(&self, listener: &UnixListener) -> io::Result<Pidfd> {
        fail::fail_point!("runtime.own/before-spawn", |_| Err(io::Error::other("failpoint")));
        let mut command = Command::new(&self.program)
            .args(["-namespace", self.name.namespace.as_str()])
            .args(["-id", self.name.id.as_str()])
            .arg("-address")
            .arg(&self.config.address)
            .env_remove("NOTIFY_SOCKET")
            .cwd(&self.bundle.path)
            .fd(listener.as_fd(), 3)
            .new_session();
        if self.config.debug {
            command = command.arg("-debug");
        }
        for (name, value) in launch::environment(&self.config, &self.name) {
            command = command.env(&name, value);
        }
        let process = command.spawn()?.into_pidfd();
        fail::fail_point!("runtime.own/after-spawn");
        if let Err(error) = adjust_oom_score(process.pid()) {
            tracing::debug!(%error, "the shim keeps the daemon's place among OOM victims");
        }
        Ok(process)
    }
}

/// One more than the daemon's: a shim goes first, and its container before it.
fn adjust_oom_score(pid: i32) -> io::Result<()> {
    let own = fs::read_to_string("/proc/self/oom_score_adj")?;
    let score = own.trim().parse::<i32>().unwrap_or(0).saturating_add(1).min(1000);
    fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
}

/// Binds `path`; `None` when a shim listens there. A socket that nobody listens on is replaced.
fn bind(path: &Path) -> io::Result<Option<UnixListener>> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    match gantry_sys::socket::listen(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Ok(None);
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            gantry_sys::socket::listen(path).map(Some)
        }
        bound => bound.map(Some),
    }
}

/// The group that a spec names, if it does.
fn group(spec: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Spec {
        #[serde(default)]
        annotations: std::collections::HashMap<String, String>,
    }
    let spec: Spec = serde_json::from_slice(spec).ok()?;
    GROUPS.iter().find_map(|name| spec.annotations.get(*name).cloned())
}

/// Removes sockets that nobody listens on, but those at the addresses `known`. Blocks.
pub(crate) fn sweep(sockets: &Path, known: &[String]) {
    let Ok(entries) = fs::read_dir(sockets) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let address = format!("unix://{}", path.display());
        if !known.contains(&address) {
            remove_dead(sockets, &address);
        }
    }
}

/// Removes the socket at `address` if it lies in `sockets` and nobody listens on it. Blocks.
pub(crate) fn remove_dead(sockets: &Path, address: &str) {
    let Some(path) = address.strip_prefix("unix://").map(Path::new) else { return };
    let refused = UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused && path.parent() == Some(sockets) {
        // Ignored: whoever else removed it did what we want.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::{ContainerId, Namespace};

    fn launch(dir: &Path, spec: &str) -> OwnLaunch {
        let config = crate::tests::config(dir);
        let name = ContainerName {
            namespace: Namespace::new("ns").unwrap(),
            id: ContainerId::new("id").unwrap(),
        };
        let bundle = Bundle::of(&config, &name);
        fs::create_dir_all(&bundle.path).unwrap();
        let program = dir.join("shim");
        OwnLaunch { config, name, bundle, program, spec: spec.into() }
    }

    #[test]
    fn members_of_a_group_share_a_socket_and_others_never_do() {
        let dir = tempfile::tempdir().unwrap();
        let pod = launch(dir.path(), r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#);
        let path = pod.socket(group(&pod.spec).as_deref());
        assert_eq!(path, pod.socket(group(&pod.spec).as_deref()));
        assert_eq!(path.file_name().unwrap().len(), 16);
        let lone = launch(dir.path(), "{}");
        assert_ne!(lone.socket(None), lone.socket(None));
        // Somebody listens: there is nothing to start.
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        let joined = pod.start().unwrap();
        assert!(joined.process.is_none());
        assert_eq!(joined.endpoint.address, format!("unix://{}", path.display()));
    }

    #[test]
    fn a_program_that_cannot_be_started_leaves_no_socket() {
        let dir = tempfile::tempdir().unwrap();
        let lone = launch(dir.path(), "{}");
        let text = lone.start().unwrap_err().message();
        assert!(text.starts_with("start shim "), "{text}");
        assert_eq!(fs::read_dir(&lone.config.sockets).unwrap().count(), 0);
    }

    #[test]
    fn dead_sockets_are_swept_and_living_or_known_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        drop(UnixListener::bind(at("dead")).unwrap());
        drop(UnixListener::bind(at("known")).unwrap());
        let _living = UnixListener::bind(at("living")).unwrap();
        sweep(dir.path(), &[format!("unix://{}", at("known").display())]);
        assert!(!at("dead").exists() && at("known").exists() && at("living").exists());
        assert!(bind(&at("living")).unwrap().is_none());
        assert!(bind(&at("known")).unwrap().is_some());
    }

    #[test]
    fn a_cgroup_for_the_shim_needs_the_command() {
        let any = |cgroup: &str| TypedAny {
            type_url: "containerd.runc.v1.Options".into(),
            value: Options { shim_cgroup: cgroup.into(), ..Options::default() }.encode_to_vec(),
        };
        assert!(needs_command(Some(&any("/shims"))));
        assert!(!needs_command(Some(&any(""))));
        assert!(!needs_command(None));
    }
}
