//! The program's verbs: `start` for each generation of daemons, `delete`, `-info`, `-v`.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use gantry_api::containerd::runtime::bootstrap::v1::{BootstrapParams, BootstrapResult};
use gantry_api::containerd::task::v2::DeleteResponse;
use gantry_api::containerd::types::RuntimeInfo;
use gantry_shim_state::{Status, page};
use prost::Message;

use crate::bundle;
use crate::harness::{NAMESPACE, Shim, able, eventually, plan};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-gantry-v2");

/// A directory with a bundle in it; whatever a `start` left there is killed in the end.
struct Started {
    dir: tempfile::TempDir,
}

impl Started {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("shim").tempdir().unwrap();
        Self { dir }
    }
    fn bundle(&self, id: &str, annotations: serde_json::Value) -> PathBuf {
        let path = self.dir.path().join(id);
        fs::create_dir(&path).unwrap();
        let mut spec = bundle::spec(id, "true", false, true);
        spec["annotations"] = annotations;
        fs::write(path.join("config.json"), spec.to_string()).unwrap();
        path
    }
    fn socket_dir(&self) -> String {
        self.dir.path().join("s").display().to_string()
    }
    fn run(&self, id: &str, stdin: &[u8], version: Option<&str>, verb: &str) -> Output {
        use std::io::Write;
        let mut command = Command::new(SHIM);
        command
            .args(["-namespace", NAMESPACE, "-address"])
            .arg(self.dir.path().join("daemon.sock"))
            .args(["-publish-binary", "/bin/false", "-id", id, verb])
            .current_dir(self.dir.path().join(id))
            .env_remove("MAX_SHIM_VERSION")
            .env("TTRPC_ADDRESS", self.dir.path().join("daemon.ttrpc"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(version) = version {
            command.env("MAX_SHIM_VERSION", version);
        }
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    }
    fn params(&self, id: &str) -> Vec<u8> {
        BootstrapParams {
            instance_id: id.into(),
            namespace: NAMESPACE.into(),
            socket_dir: Some(self.socket_dir()),
            ..BootstrapParams::default()
        }
        .encode_to_vec()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        for pid in servers(self.dir.path()) {
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_raw(pid).unwrap(),
                rustix::process::Signal::KILL,
            );
        }
    }
}

/// Shims that work in `dir`.
fn servers(dir: &Path) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let ours = |pid: &i32| {
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        cwd.starts_with(dir) && name.starts_with("containerd-shim")
    };
    pids.filter(ours).collect()
}

/// A server takes calls from the moment its socket is bound, signals only a little later.
fn until_it_handles_sigterm(pid: i32) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        if u64::from_str_radix(caught.trim(), 16).unwrap() & 1 << 14 != 0 {
            return;
        }
        assert!(std::time::Instant::now() < until, "SIGTERM is not handled");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn listens(address: &str) -> bool {
    UnixStream::connect(address.strip_prefix("unix://").unwrap()).is_ok()
}

#[test]
fn start_answers_each_generation_in_its_form() {
    if !able() {
        return;
    }
    let started = Started::new();
    let bundle = started.bundle("a", serde_json::json!({}));
    let out = started.run("a", &started.params("a"), Some("2"), "start");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(out.stderr.is_empty());
    let result = BootstrapResult::decode(&out.stdout[..]).unwrap();
    assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
    assert!(
        result.address.starts_with(&format!("unix://{}/", started.socket_dir())),
        "{}",
        result.address
    );
    assert!(listens(&result.address));
    assert_eq!(fs::read_to_string(bundle.join("address")).unwrap(), result.address);
    let pid = servers(started.dir.path())[0];
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().replace('\0', " ");
    assert!(line.contains(&format!("-namespace {NAMESPACE} -id a -address ")), "{line}");
    for number in 0..3 {
        let target = fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
        assert_eq!(target, Path::new("/dev/null"), "the daemon waits for the end of its pipes");
    }
}

#[test]
fn start_without_parameters_answers_plain_or_json() {
    if !able() {
        return;
    }
    for (version, json) in [(None, false), (Some("2"), true)] {
        let started = Started::new();
        started.bundle("a", serde_json::json!({}));
        let out = started.run("a", b"", version, "start");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        let address = if json {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(
                (value["version"].as_i64(), value["protocol"].as_str()),
                (Some(2), Some("ttrpc"))
            );
            value["address"].as_str().unwrap().to_owned()
        } else {
            text
        };
        assert!(address.starts_with("unix:///run/containerd/s/"), "{address}");
        assert!(listens(&address));
        let pid = servers(started.dir.path())[0];
        until_it_handles_sigterm(pid);
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid).unwrap(),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        let path = address.strip_prefix("unix://").unwrap().to_owned();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while Path::new(&path).exists() {
            assert!(std::time::Instant::now() < until, "the socket stays behind");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

#[test]
fn a_group_shares_one_server() {
    if !able() {
        return;
    }
    let started = Started::new();
    let group = serde_json::json!({"io.kubernetes.cri.sandbox-id": "pod"});
    started.bundle("pod", group.clone());
    started.bundle("member", group);
    started.bundle("other", serde_json::json!({}));
    let address = |id: &str| {
        let out = started.run(id, &started.params(id), Some("2"), "start");
        BootstrapResult::decode(&out.stdout[..]).unwrap().address
    };
    let pod = address("pod");
    assert_eq!(address("member"), pod);
    assert_ne!(address("other"), pod);
    assert_eq!(servers(started.dir.path()).len(), 2);
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    if !able() {
        return;
    }
    let started = Started::new();
    fs::create_dir(started.dir.path().join("a")).unwrap();
    let out = started.run("a", &started.params("a"), Some("2"), "start");
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("config.json"));
    assert!(out.stdout.is_empty());
    assert!(servers(started.dir.path()).is_empty());
    started.bundle("b", serde_json::json!({}));
    let mut params = BootstrapParams::decode(&started.params("b")[..]).unwrap();
    params.socket_dir = Some(format!("{}/{}", started.dir.path().display(), "x".repeat(60)));
    let out = started.run("b", &params.encode_to_vec(), Some("2"), "start");
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("at most 106 work"));
    assert!(servers(started.dir.path()).is_empty());
}

fn delete(shim: &Shim, id: &str) -> DeleteResponse {
    let out = Command::new(SHIM)
        .args(["-namespace", NAMESPACE, "-address", "/x", "-id", id, "-bundle"])
        .arg(shim.bundle(id))
        .arg("delete")
        .current_dir(shim.bundle(id))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    DeleteResponse::decode(&out.stdout[..]).unwrap()
}

#[tokio::test]
async fn delete_tells_the_true_status_of_a_task_whose_shim_died() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let pid = shim.run("t", &plan("exit 9")).await;
    let wait = shim.wait("t", "").await;
    shim.child.pidfd().signal(9).unwrap();
    shim.child.wait_blocking().unwrap();
    let socket = shim.dir.path().join("shim.sock");
    assert!(socket.exists());
    let answer = delete(&shim, "t");
    assert_eq!((answer.pid, answer.exit_status, answer.exited_at), (pid, 9, wait.exited_at));
    assert!(!socket.exists(), "the dead shim's socket");
    assert_eq!(fs::read_dir(shim.runc_root().join(NAMESPACE)).unwrap().count(), 0);
}

#[tokio::test]
async fn delete_kills_what_lives_and_says_137() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let pid = shim.run("t", &plan("sleep 1000")).await;
    shim.child.pidfd().signal(9).unwrap();
    shim.child.wait_blocking().unwrap();
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "the container outlives its shim");
    let answer = delete(&shim, "t");
    assert_eq!((answer.pid, answer.exit_status), (pid, 137));
    eventually("the container is gone", || !Path::new(&format!("/proc/{pid}/exe")).exists()).await;
}

#[tokio::test]
async fn delete_says_255_of_an_end_that_nobody_saw() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let pid = shim.run("t", &plan("sleep 1000")).await;
    shim.child.pidfd().signal(9).unwrap();
    shim.child.wait_blocking().unwrap();
    let init = gantry_sys::process::Pidfd::open(i32::try_from(pid).unwrap()).unwrap();
    init.signal(9).unwrap();
    eventually("init is gone", || init.signal(0).is_err()).await;
    assert_eq!(delete(&shim, "t").exit_status, 255);
}

#[tokio::test]
async fn delete_ends_a_stopped_shim_of_one_task_and_spares_a_shared_one() {
    if !able() {
        return;
    }
    let shim = Shim::start("pod").await;
    shim.run("pod", &plan("sleep 1000")).await;
    shim.run("member", &plan("sleep 1000")).await;
    assert_eq!(delete(&shim, "member").exit_status, 137);
    assert_eq!(shim.state("pod", "").await.status, 2, "the shim has others to look after");
    let gone = shim.wait("member", "").await;
    assert_eq!(gone.exit_status, 137);
    shim.delete("member", "").await;
    shim.child.pidfd().signal(19).unwrap();
    assert_eq!(delete(&shim, "pod").exit_status, 137);
    eventually("the stopped shim is ended", || {
        shim.child.pidfd().try_wait().is_ok_and(|e| e.is_some())
    })
    .await;
}

#[tokio::test]
async fn delete_after_a_proper_deletion_only_answers() {
    if !able() {
        return;
    }
    let shim = Shim::start("pod").await;
    shim.run("pod", &plan("sleep 1000")).await;
    shim.run("t", &plan("exit 4")).await;
    shim.wait("t", "").await;
    shim.delete("t", "").await;
    assert_eq!(page::read(&shim.bundle("t").join("state.page")).unwrap().1.status, Status::Deleted);
    assert_eq!(delete(&shim, "t").exit_status, 4);
    assert_eq!(shim.state("pod", "").await.status, 2);
    shim.kill("pod", 9).await;
    shim.wait("pod", "").await;
    shim.delete("pod", "").await;
}

#[test]
fn info_and_version_answer_without_a_namespace() {
    if !able() {
        return;
    }
    let out = Command::new(SHIM).arg("-info").stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success());
    let info = RuntimeInfo::decode(&out.stdout[..]).unwrap();
    assert_eq!(info.name, "io.containerd.gantry.v2");
    let features = info.features.unwrap();
    assert!(features.type_url.ends_with("/features/Features"));
    serde_json::from_slice::<serde_json::Value>(&features.value).unwrap();
    let out = Command::new(SHIM).arg("-v").output().unwrap();
    assert!(out.status.success());
    assert!(String::from_utf8_lossy(&out.stdout).contains("Version:"));
    let out = Command::new(SHIM).arg("-nope").output().unwrap();
    assert_eq!(out.status.code(), Some(2));
}
