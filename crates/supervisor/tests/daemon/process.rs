//! A daemon in a folder of its own, killed and removed with the value.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_gantryd");

/// Longest wait for anything; generous, since it only matters when a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running daemon.
pub(crate) struct Daemon {
    dir: TempDir,
    child: Child,
}

impl Daemon {
    /// Starts one that answers.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// As [`Daemon::start`], with a say in its command line.
    pub(crate) async fn start_with(adjust: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.toml"), "").unwrap();
        let child = spawn(&dir, adjust);
        let mut daemon = Self { dir, child };
        daemon.answers().await;
        daemon
    }

    /// Starts one that is not expected to come up.
    #[cfg(feature = "failpoints")]
    pub(crate) fn started_to_die(adjust: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.toml"), "").unwrap();
        let child = spawn(&dir, adjust);
        Self { dir, child }
    }

    /// Waits for its end; `None` when a signal ended it.
    #[cfg(feature = "failpoints")]
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(asked.elapsed() < PATIENCE, "still running; log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts it again in the same folder.
    pub(crate) async fn restart(&mut self) {
        self.child = spawn(&self.dir, |_| {});
        self.answers().await;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
    pub(crate) fn socket(&self) -> String {
        self.path("state/gantry.sock")
    }
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
    pub(crate) fn configure(&self, text: &str) {
        fs::write(self.dir.path().join("config.toml"), text).unwrap();
    }

    /// The socket for shims.
    pub(crate) fn ttrpc_socket(&self) -> String {
        self.path("state/gantry.sock.ttrpc")
    }

    /// A connection to it, made at first use.
    pub(crate) fn channel(&self) -> Channel {
        let path = self.socket();
        Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(
            move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            },
        ))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    /// As a crash ends it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it as a service manager does.
    pub(crate) async fn stop(self) {
        self.signal(Signal::SIGTERM);
        self.stopped().await;
    }

    /// Waits until it has ended by itself, cleanly and well before its grace is over.
    pub(crate) async fn stopped(mut self) {
        let asked = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(asked.elapsed() < PATIENCE, "still running; log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!(status.success(), "{status}; log:\n{}", self.log());
        assert!(!self.log().contains("outlived the grace"), "{}", self.log());
    }

    /// Waits until its log has `text`.
    pub(crate) async fn logged(&self, text: &str) {
        let asked = Instant::now();
        while !self.log().contains(text) {
            assert!(asked.elapsed() < PATIENCE, "no {text:?} in the log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn answers(&mut self) {
        let asked = Instant::now();
        while UnixStream::connect(self.socket()).await.is_err() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "ended: {ended:?}; log:\n{}", self.log());
            assert!(asked.elapsed() < PATIENCE, "does not answer; log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// `message` for namespace `namespace`.
pub(crate) fn within<T>(namespace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", namespace.parse().unwrap());
    request
}

/// `message` for namespace `namespace`, what it touches kept by `lease`.
pub(crate) fn leased<T>(namespace: &str, lease: &str, message: T) -> Request<T> {
    let mut request = within(namespace, message);
    request.metadata_mut().insert("containerd-lease", lease.parse().unwrap());
    request
}

/// Asserts that a call failed so.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(
    outcome: Result<Response<T>, Status>,
    code: Code,
    text: &str,
) {
    let status = outcome.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, text));
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails when it has ended already, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &TempDir, adjust: impl FnOnce(&mut Command)) -> Child {
    let at = |name: &str| dir.path().join(name);
    let log = File::options().create(true).append(true).open(at("log")).unwrap();
    let mut command = Command::new(Path::new(BINARY));
    command.arg("--config").arg(at("config.toml"));
    command.arg("--root").arg(at("root")).arg("--state").arg(at("state"));
    command.env_remove("NOTIFY_SOCKET").stderr(log);
    adjust(&mut command);
    command.spawn().unwrap()
}
