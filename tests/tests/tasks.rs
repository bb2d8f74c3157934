//! Tasks under unmodified clients: they run, end as they chose, and outlive the daemon.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use gantry_api::containerd::events::TaskExit;
use gantry_api::containerd::services::events::v1 as events;
use gantry_api::containerd::services::events::v1::events_client::EventsClient;
use gantry_api::containerd::services::tasks::v1 as tasks;
use gantry_api::containerd::services::tasks::v1::tasks_client::TasksClient;
use gantry_api::containerd::v1::types::{Process, Status};
use gantry_tests::poll::{SOON, poll_async, poll_until, soon};
use gantry_tests::wire::within;
use gantry_tests::{Ctr, Daemon};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message;

/// A root file system with a static shell, which containers share with the test.
fn rootfs(daemon: &Daemon) -> PathBuf {
    let root = daemon.home().join("rootfs");
    for folder in ["bin", "proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    if !root.join("bin/sh").exists() {
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for name in ["sh", "sleep", "echo", "cat", "true"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
    }
    root
}

/// `ctr run`, with everything that it makes below the test's directory.
async fn run(ctr: &Ctr, daemon: &Daemon, flags: &[&str], id: &str, script: &str) -> String {
    let (root, fifos) = (rootfs(daemon), daemon.home().join("fifo"));
    let mut args = vec!["run", "--fifo-dir", fifos.to_str().unwrap()];
    args.extend_from_slice(flags);
    args.extend(["--rootfs", root.to_str().unwrap(), id, "/bin/sh", "-c", script]);
    ctr.ok(daemon, &args).await
}

/// Runs `script` in the background, its output in the returned file.
async fn background(ctr: &Ctr, daemon: &Daemon, id: &str, script: &str) -> PathBuf {
    let log = daemon.home().join(&format!("{id}.log"));
    let uri = format!("file://{}", log.display());
    run(ctr, daemon, &["-d", "--log-uri", &uri], id, script).await;
    log
}

async fn process(daemon: &Daemon, id: &str) -> Process {
    let request = tasks::GetRequest { container_id: id.to_owned(), exec_id: String::new() };
    let mut client = TasksClient::new(daemon.channel());
    let answer = soon("the task's state", client.get(within(daemon.namespace(), request))).await;
    answer.unwrap().into_inner().process.unwrap()
}

async fn stopped(daemon: &Daemon, id: &str) -> Process {
    poll_async("the task to stop", SOON, async || {
        let process = process(daemon, id).await;
        if process.status() == Status::Stopped {
            Ok(process)
        } else {
            Err(process.status().as_str_name())
        }
    })
    .await
}

fn grows(log: &Path) {
    let length = || fs::metadata(log).map_or(0, |file| file.len());
    let before = length();
    poll_until("the log to grow", SOON, || if length() > before { Ok(()) } else { Err(before) });
}

/// Clients put containers at `/<namespace>/<id>`; the runtime removes the last part only.
fn remove_parent_cgroups(daemon: &Daemon) {
    for controller in fs::read_dir("/sys/fs/cgroup").unwrap() {
        // Absent where the container had no group.
        let _ = fs::remove_dir(controller.unwrap().path().join(daemon.namespace()));
    }
    let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(daemon.namespace()));
}

async fn remove(ctr: &Ctr, daemon: &Daemon, id: &str, code: u32) {
    let told = ctr.run(daemon, &["tasks", "rm", id]).await;
    let expected = format!("exit code {code}");
    assert!(code == 0 || told.stderr.contains(&expected), "{}: {}", ctr.name, told.stderr);
    ctr.ok(daemon, &["containers", "rm", id]).await;
}

fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the command's name, which may hold spaces, field 22 is the 20th.
    stat.rsplit_once(") ")?.1.split(' ').nth(19).map(str::to_owned)
}

/// The shim of a container, by its command line.
fn shim_of(daemon: &Daemon, id: &str) -> Pid {
    let page = daemon.state().join("io.containerd.runtime.v2.task").join(daemon.namespace());
    let page = page.join(id);
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let here = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains("containerd-shim-gantry") && here == page {
            return Pid::from_raw(pid);
        }
    }
    panic!("no shim works in {}", page.display());
}

#[tokio::test]
async fn a_container_runs_and_ends_as_it_chose() {
    for ctr in Ctr::all("ctr run") {
        let daemon = Daemon::start().await;
        assert_eq!(run(&ctr, &daemon, &["--rm"], "one", "echo hello").await, "hello\n");
        let (root, fifos) = (rootfs(&daemon), daemon.home().join("fifo"));
        let mut command = ctr.command(daemon.socket(), daemon.namespace());
        command.args(["run", "--rm", "--fifo-dir"]).arg(fifos).arg("--rootfs").arg(root);
        let ended =
            soon("ctr run", command.args(["two", "/bin/sh", "-c", "exit 7"]).output()).await;
        assert_eq!(ended.unwrap().status.code(), Some(7), "{}", ctr.name);
        assert_eq!(ctr.ok(&daemon, &["tasks", "ls", "--quiet"]).await, "");
        remove_parent_cgroups(&daemon);
    }
}

#[tokio::test]
async fn a_killed_daemon_changes_nothing_for_a_container() {
    const COUNT: &str =
        "trap 'exit 7' TERM; i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done";
    for ctr in Ctr::all("a task over kill -9") {
        let mut daemon = Daemon::start().await;
        let log = background(&ctr, &daemon, "counter", COUNT).await;
        let before = process(&daemon, "counter").await;
        let born = start_time(before.pid);
        daemon.kill9();
        grows(&log);
        daemon.start_again().await;
        let after = process(&daemon, "counter").await;
        assert_eq!((after.status(), after.pid), (Status::Running, before.pid), "{}", ctr.name);
        assert_eq!(start_time(after.pid), born, "another process took the number");
        grows(&log);
        let exec = ["tasks", "exec", "--exec-id", "e", "counter", "/bin/echo", "from inside"];
        assert_eq!(ctr.ok(&daemon, &exec).await, "from inside\n", "{}", ctr.name);
        ctr.ok(&daemon, &["tasks", "kill", "counter"]).await;
        assert_eq!(stopped(&daemon, "counter").await.exit_status, 7);
        let lines: Vec<u32> =
            fs::read_to_string(&log).unwrap().lines().map(|line| line.parse().unwrap()).collect();
        let expected: Vec<u32> = (1..=u32::try_from(lines.len()).unwrap()).collect();
        assert_eq!(lines, expected, "a line of the log is missing or doubled");
        remove(&ctr, &daemon, "counter", 7).await;
        remove_parent_cgroups(&daemon);
    }
}

/// containerd 2.4 throws this exit away.
#[tokio::test]
async fn an_exit_while_the_daemon_is_down_is_told_once_with_its_status() {
    let Some(ctr) = Ctr::all("an exit without a daemon").pop() else { return };
    let mut daemon = Daemon::start().await;
    let script = "while [ ! -e /tmp/end ]; do sleep 0.05; done; exit 9";
    background(&ctr, &daemon, "ends", script).await;
    let pid = process(&daemon, "ends").await.pid;
    daemon.kill9();
    fs::write(rootfs(&daemon).join("tmp/end"), "").unwrap();
    poll_until("the process to end", SOON, || match start_time(pid) {
        None => Ok(()),
        Some(_) => Err(format!("{pid} lives")),
    });
    daemon.start_again().await;
    let found = process(&daemon, "ends").await;
    assert_eq!((found.status(), found.exit_status), (Status::Stopped, 9));
    // Two that come one after the other each hear of it; a replay takes nothing from another.
    for _ in 0..2 {
        let request = events::SubscribeRequest { filters: vec!["topic==\"/tasks/exit\"".into()] };
        let mut stream =
            EventsClient::new(daemon.channel()).subscribe(request).await.unwrap().into_inner();
        let envelope = soon("the exit", stream.message()).await.unwrap().unwrap();
        assert_eq!(envelope.topic, "/tasks/exit");
        let exit = TaskExit::decode(envelope.event.unwrap().value.as_slice()).unwrap();
        assert_eq!((exit.container_id.as_str(), exit.exit_status, exit.pid), ("ends", 9, pid));
        assert_eq!(exit.exited_at, found.exited_at, "the true time of the exit");
    }
    remove(&ctr, &daemon, "ends", 9).await;
    remove_parent_cgroups(&daemon);
}

/// containerd 2.4 kills the healthy container behind a shim that does not answer in time.
#[tokio::test]
async fn a_stopped_shim_harms_nobody() {
    let Some(ctr) = Ctr::all("a stopped shim").pop() else { return };
    let mut daemon = Daemon::start().await;
    for id in ["hung", "well"] {
        background(&ctr, &daemon, id, "while true; do echo x; sleep 0.1; done").await;
    }
    let (hung, well) = (process(&daemon, "hung").await, process(&daemon, "well").await);
    let shim = shim_of(&daemon, "hung");
    kill(shim, Signal::SIGSTOP).unwrap();
    daemon.allow_log("hung");
    daemon.crash().await;
    // While the stuck one is stuck, the other answers, and the stuck one from its state page.
    let found = process(&daemon, "well").await;
    assert_eq!((found.status(), found.pid), (Status::Running, well.pid));
    let found = process(&daemon, "hung").await;
    assert_eq!((found.status(), found.pid), (Status::Running, hung.pid));
    kill(shim, Signal::SIGCONT).unwrap();
    for id in ["hung", "well"] {
        // A shim that has just come back may still be on its way to being adopted.
        poll_async("the kill to be taken", SOON, async || {
            let told = ctr.run(&daemon, &["tasks", "kill", "--signal", "KILL", id]).await;
            if told.ok { Ok(()) } else { Err(told.stderr) }
        })
        .await;
        assert_eq!(stopped(&daemon, id).await.exit_status, 137);
        remove(&ctr, &daemon, id, 137).await;
    }
    remove_parent_cgroups(&daemon);
}
