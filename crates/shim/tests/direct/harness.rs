//! A shim of our own in a directory of its own, and the calls of its service.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use gantry_api::containerd::runc::v1::Options;
use gantry_api::containerd::task::v2::*;
use gantry_sys::process::{Child, Command};
use gantry_ttrpc::message::Status;
use gantry_ttrpc::{CallError, Client, Code};
use prost::{Message, Name};
use prost_types::Any;
use tokio::net::UnixStream;

use crate::bundle;
use crate::daemon::Daemon;

pub const NAMESPACE: &str = "shim-test";
const TASK: &str = "containerd.task.v2.Task";

/// Whether these tests can run here; says why not.
pub fn able() -> bool {
    let runc = std::process::Command::new("runc").arg("--version").stdout(Stdio::null()).status();
    let missing = if !rustix::process::geteuid().is_root() {
        "root"
    } else if runc.is_err() {
        "runc"
    } else if !Path::new("/bin/busybox").exists() {
        "busybox"
    } else {
        return true;
    };
    eprintln!("skipped: needs {missing}");
    false
}

/// What a task is made of, as far as tests vary it.
#[derive(Clone)]
pub struct Plan {
    pub script: String,
    pub terminal: bool,
    pub own_pids: bool,
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub options: Option<Options>,
    pub adjust: fn(&mut serde_json::Value),
}

/// A task that runs `script`, without streams.
pub fn plan(script: &str) -> Plan {
    Plan {
        script: script.into(),
        terminal: false,
        own_pids: true,
        stdin: String::new(),
        stdout: String::new(),
        stderr: String::new(),
        options: None,
        adjust: |_| {},
    }
}

/// A shim with its daemon.
pub struct Shim {
    pub dir: tempfile::TempDir,
    pub daemon: Daemon,
    pub child: Child,
    pub client: Client,
    pub id: String,
    socket: PathBuf,
    runc_root: PathBuf,
}

impl Shim {
    /// A shim that settles exits when they are forwarded.
    pub async fn start(id: &str) -> Self {
        Self::start_with(id, &[]).await
    }

    pub async fn start_with(id: &str, args: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("shim").tempdir().unwrap();
        let daemon = Daemon::new(dir.path());
        let bundle = dir.path().join(id);
        fs::create_dir(&bundle).unwrap();
        let socket = dir.path().join("shim.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(dir.path().join("stderr"))
            .unwrap();
        let built = env!("CARGO_BIN_EXE_containerd-shim-gantry-v2");
        let chosen = std::env::var_os("GANTRY_SHIM").unwrap_or_else(|| built.into());
        let child = Command::new(chosen)
            .args(["-namespace", NAMESPACE, "-id", id, "-address", "/run/test.sock"])
            .args(args)
            .env("TTRPC_ADDRESS", &daemon.socket)
            .cwd(&bundle)
            .fd(listener.as_fd(), 3)
            .fd(log.as_fd(), 2)
            .new_session()
            .dies_with_parent()
            .spawn()
            .unwrap();
        // A file in place of the FIFO: the log is part of what a failed test shows.
        fs::write(bundle.join("log"), "").unwrap();
        let client = connect(&socket).await;
        let runc_root = dir.path().join("runc");
        Self { dir, daemon, child, client, id: id.into(), socket, runc_root }
    }

    pub fn bundle(&self, id: &str) -> PathBuf {
        self.dir.path().join(id)
    }

    pub fn runc_root(&self) -> &Path {
        &self.runc_root
    }

    /// Closes our connection; nobody calls the shim any more.
    pub fn hang_up(&mut self) {
        let (reader, writer) = tokio::io::split(tokio::io::duplex(1).0);
        self.client = Client::new(reader, writer).0;
    }

    /// Another connection to the shim.
    pub async fn connect(&self) -> Client {
        connect(&self.socket).await
    }

    pub async fn try_call<A: Message, B: Message + Default>(
        &self,
        method: &str,
        arg: &A,
    ) -> Result<B, Status> {
        self.try_call_within(method, arg, Duration::from_secs(60)).await
    }

    pub async fn try_call_within<A: Message, B: Message + Default>(
        &self,
        method: &str,
        arg: &A,
        bound: Duration,
    ) -> Result<B, Status> {
        let metadata = [("containerd-namespace-ttrpc", NAMESPACE)];
        match self.client.call(TASK, method, arg, &metadata, Some(bound)).await {
            Ok(answer) => Ok(answer),
            Err(CallError::Status(status)) => Err(status),
            Err(CallError::DeadlineExceeded) => {
                Err(gantry_ttrpc::message::status(Code::DeadlineExceeded, ""))
            }
            Err(error) => panic!("{method}: {error:?}\n{}", self.log()),
        }
    }

    pub async fn call<A: Message, B: Message + Default>(&self, method: &str, arg: &A) -> B {
        match self.try_call(method, arg).await {
            Ok(answer) => answer,
            Err(status) => panic!("{method}: {status:?}\n{}", self.log()),
        }
    }

    pub async fn refused<A: Message>(&self, method: &str, arg: &A) -> (Code, String) {
        match self.try_call::<A, ()>(method, arg).await {
            Ok(()) => panic!("{method} was not refused\n{}", self.log()),
            Err(status) => (Code::from_number(status.code), status.message),
        }
    }

    /// How many children the shim has.
    pub fn children(&self) -> usize {
        let list = format!("/proc/{0}/task/{0}/children", self.child.pid());
        fs::read_to_string(list).unwrap().split_whitespace().count()
    }

    pub fn log(&self) -> String {
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        read(self.bundle(&self.id).join("log")) + &read(self.dir.path().join("stderr"))
    }

    /// The request that makes the task `id` of `plan`; writes its bundle.
    pub fn create_request(&self, id: &str, plan: &Plan) -> CreateTaskRequest {
        let dir = self.bundle(id);
        fs::create_dir_all(&dir).unwrap();
        if !dir.join("rootfs").exists() {
            bundle::rootfs(&dir);
        }
        let mut spec = bundle::spec(id, &plan.script, plan.terminal, plan.own_pids);
        // Tests run side by side: containers of one name must not share a cgroup.
        let unique = self.dir.path().file_name().unwrap().to_str().unwrap();
        spec["linux"]["cgroupsPath"] = format!("/gantry-shim-test/{unique}-{id}").into();
        (plan.adjust)(&mut spec);
        fs::write(dir.join("config.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
        let mut options = plan.options.clone().unwrap_or_default();
        options.root = self.runc_root.display().to_string();
        CreateTaskRequest {
            id: id.into(),
            bundle: dir.display().to_string(),
            terminal: plan.terminal,
            stdin: plan.stdin.clone(),
            stdout: plan.stdout.clone(),
            stderr: plan.stderr.clone(),
            options: Some(Any { type_url: Options::full_name(), value: options.encode_to_vec() }),
            ..CreateTaskRequest::default()
        }
    }

    /// Makes the task `id` and returns its pid.
    pub async fn create(&self, id: &str, plan: &Plan) -> u32 {
        let request = self.create_request(id, plan);
        self.call::<_, CreateTaskResponse>("Create", &request).await.pid
    }

    pub async fn run(&self, id: &str, plan: &Plan) -> u32 {
        let pid = self.create(id, plan).await;
        assert_eq!(self.start_task(id).await, pid);
        pid
    }

    pub async fn start_task(&self, id: &str) -> u32 {
        let request = StartRequest { id: id.into(), ..StartRequest::default() };
        self.call::<_, StartResponse>("Start", &request).await.pid
    }

    pub async fn state(&self, id: &str, exec_id: &str) -> StateResponse {
        self.call("State", &StateRequest { id: id.into(), exec_id: exec_id.into() }).await
    }

    pub async fn wait(&self, id: &str, exec_id: &str) -> WaitResponse {
        self.call("Wait", &WaitRequest { id: id.into(), exec_id: exec_id.into() }).await
    }

    pub async fn kill(&self, id: &str, signal: u32) {
        let request = KillRequest { id: id.into(), signal, ..KillRequest::default() };
        self.call::<_, ()>("Kill", &request).await;
    }

    pub async fn delete(&self, id: &str, exec_id: &str) -> DeleteResponse {
        self.call("Delete", &DeleteRequest { id: id.into(), exec_id: exec_id.into() }).await
    }

    /// The request that adds an exec.
    pub fn exec_request(&self, id: &str, exec_id: &str, plan: &Plan) -> ExecProcessRequest {
        ExecProcessRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            terminal: plan.terminal,
            stdin: plan.stdin.clone(),
            stdout: plan.stdout.clone(),
            stderr: plan.stderr.clone(),
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
                value: serde_json::to_vec(&bundle::process(&plan.script, false)).unwrap(),
            }),
        }
    }

    pub async fn exec(&self, id: &str, exec_id: &str, plan: &Plan) -> u32 {
        self.call::<_, ()>("Exec", &self.exec_request(id, exec_id, plan)).await;
        self.start_exec(id, exec_id).await
    }

    pub async fn start_exec(&self, id: &str, exec_id: &str) -> u32 {
        let request = StartRequest { id: id.into(), exec_id: exec_id.into() };
        self.call::<_, StartResponse>("Start", &request).await.pid
    }

    /// Ends the shim as a daemon does, and waits until it has.
    pub async fn shutdown(&self) {
        self.call::<_, ()>("Shutdown", &ShutdownRequest::default()).await;
        self.gone().await;
    }

    pub async fn gone(&self) {
        eventually("the shim ends", || self.child.pidfd().try_wait().is_ok_and(|e| e.is_some()))
            .await;
        assert!(!self.socket.exists(), "its socket stays behind");
    }

    /// Makes a FIFO in the directory and returns its path.
    pub fn fifo(&self, name: &str) -> String {
        let path = self.dir.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600))
            .unwrap();
        path.display().to_string()
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        // Whatever a failed test left: containers first, so that nothing outlives its shim.
        let list = self.runc_root.join(NAMESPACE);
        for entry in fs::read_dir(&list).into_iter().flatten().flatten() {
            let _ = std::process::Command::new("runc")
                .arg("--root")
                .arg(&list)
                .args(["delete", "--force"])
                .arg(entry.file_name())
                .output();
        }
        let _ = self.child.pidfd().signal(9);
        let _ = self.child.wait_blocking();
        let _ = gantry_sys::mount::unmount_all(self.dir.path());
        for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(controller.path().join("gantry-shim-test"));
        }
    }
}

async fn connect(socket: &Path) -> Client {
    let stream = UnixStream::connect(socket).await.unwrap();
    let (reader, writer) = stream.into_split();
    let (client, driver) = Client::new(reader, writer);
    tokio::spawn(driver);
    client
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = tokio::time::Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(tokio::time::Instant::now() < until, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
