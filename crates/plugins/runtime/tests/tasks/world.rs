//! A daemon in miniature: store, task manager, and the socket where shims send their events; with
//! containers of a static busybox.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gantry_api::containerd::events::TaskExit;
use gantry_api::containerd::services::events::ttrpc::v1::ForwardRequest;
use gantry_core::model::{Container, Envelope, RuntimeInfo, TypedAny};
use gantry_core::snapshot::Mount;
use gantry_core::task::Status;
use gantry_core::{CallCx, ContainerId, Cx, Labels, Namespace, SystemClock, Timestamp};
use gantry_metadata::kv::BackendKind;
use gantry_metadata::stores::{Containers, Stdio};
use gantry_metadata::{Metadata, OpenOptions, Subscription};
use gantry_plugin_runtime::{Config, CreateTask, Process, Tasks, Timeouts};
use gantry_ttrpc::message::{metadata as header, status};
use gantry_ttrpc::{Code, server};
use prost::Message;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Bound on everything that a test waits for.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Which shim a case runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Own,
    Foreign,
}

pub(crate) struct World {
    dir: tempfile::TempDir,
    config: Config,
    shim: PathBuf,
    pub(crate) cx: Cx,
    live: Option<Live>,
}

/// What ends with the daemon.
struct Live {
    metadata: Arc<Metadata>,
    tasks: Tasks,
    events: JoinSet<()>,
}

/// Says that `case` does not run on this machine.
fn skip(case: &str, why: &str) {
    eprintln!("skipped: {case}: {why}");
    let Some(path) = std::env::var_os("GANTRY_SKIPS") else { return };
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    writeln!(file, "{case}: {why}").unwrap();
}

fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|p| p.exists())
}

/// Where `cargo xtask clients` unpacks Debian's containerd: `target/clients`, two folders above
/// this test's own.
fn debian_shim() -> Option<PathBuf> {
    let test = std::env::current_exe().ok()?;
    Some(test.ancestors().nth(3)?.join("clients/c16/usr/bin/containerd-shim-runc-v2"))
}

fn shim(kind: Kind) -> Option<PathBuf> {
    match kind {
        Kind::Own => {
            let test = std::env::current_exe().unwrap();
            let beside = test.parent()?.parent()?.join("containerd-shim-gantry-v2");
            beside.exists().then_some(beside)
        }
        Kind::Foreign => std::env::var_os("GANTRY_FOREIGN_SHIM")
            .map(PathBuf::from)
            .or_else(|| on_path("containerd-shim-runc-v2"))
            .or_else(debian_shim)
            .filter(|path| path.exists()),
    }
}

impl World {
    /// A daemon with no tasks; `None` when the machine lacks what `case` needs.
    pub(crate) async fn new(case: &str, kind: Kind) -> Option<Self> {
        let Some(shim) = shim(kind) else {
            skip(case, &format!("no shim of kind {kind:?}"));
            return None;
        };
        let Some(busybox) = on_path("busybox").filter(|_| on_path("runc").is_some()) else {
            skip(case, "no runc or no busybox");
            return None;
        };
        // Short, because unix sockets lie below it.
        let dir = tempfile::Builder::new().prefix("gt").tempdir().unwrap();
        let bin = dir.path().join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        for mounted in ["proc", "dev"] {
            fs::create_dir_all(dir.path().join("rootfs").join(mounted)).unwrap();
        }
        fs::copy(busybox, bin.join("busybox")).unwrap();
        for applet in ["sh", "sleep", "cat", "echo", "true"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        let config = Config {
            state: dir.path().join("state"),
            root: dir.path().join("root"),
            sockets: dir.path().join("s"),
            address: dir.path().join("g"),
            ttrpc_address: dir.path().join("g.ttrpc"),
            daemon: dir.path().join("gantryd"),
            version: "2.0.0".into(),
            usual_runtime: shim.display().to_string(),
            debug: false,
            env: Vec::new(),
            boot_id: gantry_sys::process::boot_id().unwrap(),
            timeouts: Timeouts::default(),
        };
        // Of its own, because runtimes keep state per namespace in one place for all daemons.
        let mark = dir.path().file_name().unwrap().to_str().unwrap();
        let cx = CallCx::default().in_namespace(Namespace::new(mark).unwrap(), None);
        let mut world = Self { dir, config, shim, cx, live: None };
        world.start().await;
        Some(world)
    }

    /// Starts a daemon on what the last one left.
    pub(crate) async fn start(&mut self) {
        assert!(self.live.is_none(), "one daemon at a time");
        let options =
            OpenOptions { folder: self.dir.path().join("meta"), backend: BackendKind::Sled };
        let open = move || Metadata::open(&options, Arc::new(SystemClock)).unwrap();
        let metadata = tokio::task::spawn_blocking(open).await.unwrap();
        let tasks = Tasks::new(self.config.clone(), metadata.clone());
        tasks.load().await.unwrap();
        let _ = fs::remove_file(&self.config.ttrpc_address);
        let listener = tokio::net::UnixListener::bind(&self.config.ttrpc_address).unwrap();
        let mut events = JoinSet::new();
        events.spawn(serve(listener, tasks.clone()));
        self.live = Some(Live { metadata, tasks, events });
    }

    /// Ends the daemon; shims and tasks live on.
    pub(crate) async fn stop(&mut self) {
        let Some(mut live) = self.live.take() else { return };
        live.events.shutdown().await;
        live.tasks.stop(Duration::from_secs(10)).await;
        let db = live.metadata.db().clone();
        drop(live);
        tokio::task::spawn_blocking(move || db.close().unwrap()).await.unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// What the next start believes about the machine.
    pub(crate) fn config(&mut self) -> &mut Config {
        &mut self.config
    }
    pub(crate) fn tasks(&self) -> &Tasks {
        &self.live.as_ref().unwrap().tasks
    }
    pub(crate) fn metadata(&self) -> &Arc<Metadata> {
        &self.live.as_ref().unwrap().metadata
    }
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        self.config.state.join(self.mark()).join(id)
    }
    pub(crate) fn events(&self) -> Events {
        Events(self.metadata().journal().subscribe())
    }

    /// Records a container that runs `script`.
    pub(crate) async fn container(&self, id: &str, script: &str) -> ContainerId {
        self.container_of(id, script, &self.shim.display().to_string()).await
    }

    pub(crate) async fn container_of(&self, id: &str, script: &str, runtime: &str) -> ContainerId {
        let spec = TypedAny {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
            value: self.spec(id, script).into_bytes(),
        };
        let id = ContainerId::new(id).unwrap();
        let container = Container {
            id: id.clone(),
            labels: Labels::default(),
            image: String::new(),
            runtime: RuntimeInfo { name: runtime.to_owned(), options: None },
            spec: Some(spec),
            snapshotter: String::new(),
            snapshot_key: String::new(),
            created_at: Timestamp::UNSET,
            updated_at: Timestamp::UNSET,
            extensions: Default::default(),
            sandbox: String::new(),
        };
        Containers::new(self.metadata().clone()).create(&self.cx, container).await.unwrap();
        id
    }

    fn spec(&self, id: &str, script: &str) -> String {
        let namespaces = ["pid", "ipc", "uts", "mount"].map(|ns| serde_json::json!({"type": ns}));
        serde_json::json!({
            "ociVersion": "1.0.2",
            "process": process(script),
            "root": {"path": "rootfs"},
            "hostname": "test",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "mode=755", "size=65536k"]},
            ],
            "linux": {
                "namespaces": namespaces,
                "cgroupsPath": format!("/{}-{id}", self.mark()),
            },
        })
        .to_string()
    }

    /// What names this world among others of the machine.
    fn mark(&self) -> String {
        self.dir.path().file_name().unwrap().to_str().unwrap().to_owned()
    }

    pub(crate) fn request(&self) -> CreateTask {
        CreateTask {
            rootfs: vec![Mount {
                kind: "bind".into(),
                source: self.path("rootfs").display().to_string(),
                target: String::new(),
                options: vec!["rbind".into(), "ro".into()],
            }],
            ..CreateTask::default()
        }
    }

    /// Makes and starts the task of a container that runs `script`; returns the number of init.
    pub(crate) async fn run(&self, id: &str, script: &str) -> (ContainerId, u32) {
        let id = self.container(id, script).await;
        let made = self.tasks().create(&self.cx, &id, self.request()).await;
        let pid = made.unwrap_or_else(|e| panic!("create: {}", e.message()));
        let started = self.tasks().start(&self.cx, &id, None).await;
        assert_eq!(started.unwrap_or_else(|e| panic!("start: {}", e.message())), pid);
        (id, pid)
    }

    pub(crate) async fn get(&self, id: &ContainerId) -> Process {
        let got = self.tasks().get(&self.cx, id, None).await;
        got.unwrap_or_else(|e| panic!("get {id}: {}", e.message()))
    }

    /// Waits until the task's status is `wanted`.
    pub(crate) async fn becomes(&self, id: &ContainerId, wanted: Status) -> Process {
        let mut last = None;
        let reached = async {
            loop {
                match self.tasks().get(&self.cx, id, None).await {
                    Ok(process) if process.status == wanted => return process,
                    other => last = Some(other.map_err(|e| e.message())),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(SOON, reached).await {
            Ok(process) => process,
            Err(_) => panic!("{id} never became {wanted:?}: {last:?}"),
        }
    }

    /// The shim that runs for `id`.
    pub(crate) fn shim_pid(&self, id: &str) -> i32 {
        let found = processes(self.dir.path()).into_iter().find(|(_, line)| {
            let words: Vec<&str> = line.split('\0').collect();
            words[0].contains("containerd-shim-")
                && words.windows(2).any(|pair| pair == ["-id", id])
        });
        found.unwrap_or_else(|| panic!("no shim of {id}")).0
    }

    /// Ends everything, and fails if anything of it is left.
    pub(crate) async fn end(mut self) {
        let ids: Vec<_> = match &self.live {
            Some(live) => live.tasks.list(&self.cx).await.unwrap(),
            None => Vec::new(),
        };
        for process in ids {
            let id = ContainerId::new(process.id).unwrap();
            let _ = self.tasks().kill(&self.cx, &id, None, 9, true).await;
            self.becomes(&id, Status::Stopped).await;
            self.tasks().delete(&self.cx, &id).await.unwrap();
        }
        self.stop().await;
        let dir = self.dir.path().to_owned();
        eventually("its processes end", || processes(&dir).is_empty()).await;
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(dir.to_str().unwrap()), "{mounts}");
        let bundles = fs::read_dir(self.config.state.join(self.mark()));
        let left: Vec<_> = bundles.into_iter().flatten().map(|e| e.unwrap().path()).collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "bundles are left");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A failed test leaves nothing either.
        for _ in 0..2 {
            for (pid, _) in processes(self.dir.path()) {
                let _ = kill(pid, 9);
            }
        }
        for (pid, _) in in_cgroups(&self.mark()) {
            let _ = kill(pid, 9);
        }
        let _ = fs::remove_dir_all(Path::new("/run/containerd/runc").join(self.mark()));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for point in mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)) {
            if Path::new(point).starts_with(self.dir.path()) {
                let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
            }
        }
    }
}

/// The OCI process that runs `script`.
pub(crate) fn process(script: &str) -> serde_json::Value {
    serde_json::json!({
        "args": ["/bin/sh", "-c", script],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"],
            "permitted": ["CAP_KILL"]},
    })
}

/// Processes whose working directory, executable or command line lies below `dir`.
pub(crate) fn processes(dir: &Path) -> Vec<(i32, String)> {
    let own = i32::try_from(std::process::id()).unwrap();
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        entry.ok()?.file_name().to_str()?.parse::<i32>().ok().filter(|pid| *pid != own)
    });
    pids.filter_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        (cwd.starts_with(dir) || line.contains(dir.to_str()?)).then_some((pid, line))
    })
    .collect()
}

fn in_cgroups(mark: &str) -> Vec<(i32, String)> {
    let pids = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        groups.contains(mark).then_some((pid, groups))
    })
    .collect()
}

pub(crate) fn kill(pid: i32, signal: i32) -> std::io::Result<()> {
    gantry_sys::process::Pidfd::open(pid)?.signal(signal)
}

/// Waits for `condition`, which is called `what`.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, met).await.is_ok(), "{what}: not within {SOON:?}");
}

/// The standard streams of a process that writes to the file `name` of `world`.
pub(crate) fn to_file(world: &World, name: &str) -> Stdio {
    let path = format!("file://{}", world.path(name).display());
    Stdio { stdout: path.clone(), stderr: path, ..Stdio::default() }
}

/// A call in the namespace of `world` that can be cancelled.
pub(crate) fn call(world: &World) -> (Cx, CancellationToken) {
    let cancel = CancellationToken::new();
    let call = CallCx::background(cancel.clone());
    (call.in_namespace(world.cx.namespace().clone(), None), cancel)
}

/// A client that listens.
pub(crate) struct Events(Subscription);

impl Events {
    /// The next event's topic and, for an exit, what it says.
    pub(crate) async fn next(&mut self) -> (String, Option<TaskExit>) {
        let next = tokio::time::timeout(SOON, self.0.next());
        told(next.await.unwrap_or_else(|_| panic!("no event")).unwrap().envelope.clone())
    }

    /// The next exit.
    pub(crate) async fn exit(&mut self) -> TaskExit {
        loop {
            if let (_, Some(exit)) = self.next().await {
                return exit;
            }
        }
    }

    /// Events of tasks that have come already.
    pub(crate) fn come(&mut self) -> Vec<(String, Option<TaskExit>)> {
        let come = std::iter::from_fn(|| self.0.try_next()).map(|e| told(e.envelope.clone()));
        come.filter(|(topic, _)| topic.starts_with("/tasks/")).collect()
    }

    /// Topics of tasks up to and with `last`.
    pub(crate) async fn until(&mut self, last: &str) -> Vec<String> {
        let mut topics = Vec::new();
        loop {
            let (topic, _) = self.next().await;
            if topic.starts_with("/tasks/") {
                topics.push(topic.clone());
            }
            if topic == last {
                return topics;
            }
        }
    }
}

fn told(envelope: Envelope) -> (String, Option<TaskExit>) {
    let exit = (envelope.topic == "/tasks/exit")
        .then(|| TaskExit::decode(envelope.event.value.as_slice()).unwrap());
    (envelope.topic, exit)
}

async fn serve(listener: tokio::net::UnixListener, tasks: Tasks) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (reader, writer) = stream.into_split();
        let (mut calls, answers) = server::connection(reader, writer);
        connections.spawn(answers);
        let tasks = tasks.clone();
        connections.spawn(async move {
            while let Ok(Some(call)) = calls.next().await {
                let sent = ForwardRequest::decode(call.request.payload.as_slice()).unwrap();
                let start_time = header(&call.request, "gantry-exit-start-time");
                let start_time = start_time.map_or(0, |text| text.parse().unwrap());
                let told = tasks.forwarded(envelope(sent), start_time).await;
                call.reply.send(match told {
                    Ok(()) => Ok(Vec::new()),
                    Err(error) => Err(status(Code::Unavailable, error.message())),
                });
            }
        });
    }
}

fn envelope(sent: ForwardRequest) -> Envelope {
    let envelope = sent.envelope.unwrap();
    let at = envelope.timestamp.unwrap();
    let event = envelope.event.unwrap();
    Envelope {
        timestamp: Timestamp { seconds: at.seconds, nanos: u32::try_from(at.nanos).unwrap() },
        namespace: Namespace::new(envelope.namespace).unwrap(),
        topic: envelope.topic,
        event: TypedAny { type_url: event.type_url, value: event.value },
    }
}
