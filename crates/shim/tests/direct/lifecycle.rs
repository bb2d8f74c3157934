//! A task from its making to its end, and what is left of it.

use std::time::Duration;

use gantry_api::containerd::runc::v1::Options;
use gantry_api::containerd::task::v2::*;
use gantry_api::containerd::types::Mount;
use gantry_shim_state::{Status, journal, page};
use gantry_ttrpc::Code;
use prost::Message;

use crate::harness::{Shim, able, eventually, plan};

const YEAR_ONE: i64 = -62_135_596_800;

#[tokio::test]
async fn a_task_is_made_started_waited_for_and_deleted() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let pid = shim.create("t", &plan("exit 7")).await;
    let state = shim.state("t", "").await;
    assert_eq!((state.id.as_str(), state.pid, state.status), ("t", pid, 1));
    assert_eq!(state.exited_at.unwrap().seconds, YEAR_ONE, "zero time, not absent");
    let connect: ConnectResponse = shim.call("Connect", &ConnectRequest { id: "t".into() }).await;
    assert_eq!(
        (connect.shim_pid, connect.task_pid),
        (u32::try_from(shim.child.pid()).unwrap(), pid)
    );
    let waiting = shim.wait("t", "");
    let (wait, started) = tokio::join!(waiting, shim.start_task("t"));
    assert_eq!((wait.exit_status, started), (7, pid));
    let state = shim.state("t", "").await;
    assert_eq!((state.status, state.exit_status), (3, 7));
    assert_eq!(state.exited_at, wait.exited_at);
    let deleted = shim.delete("t", "").await;
    assert_eq!((deleted.pid, deleted.exit_status, deleted.exited_at), (pid, 7, wait.exited_at));
    let again =
        shim.refused("Delete", &DeleteRequest { id: "t".into(), ..DeleteRequest::default() }).await;
    assert_eq!(again, (Code::NotFound, "container not created: not found".into()));
    let events = shim.daemon.until_text("t", "delete 7").await;
    assert_eq!(events, ["create", "start", "exit init 7", "delete 7"]);
    shim.shutdown().await;
}

#[tokio::test]
async fn the_state_page_follows_and_the_journal_empties() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let path = shim.bundle("t").join("state.page");
    let pid = shim.create("t", &plan("sleep 1000")).await;
    let (identity, state) = page::read(&path).unwrap();
    assert_eq!((identity.container_id.as_str(), identity.namespace.as_str()), ("t", "shim-test"));
    assert_eq!(identity.shim_pid, u32::try_from(shim.child.pid()).unwrap());
    assert!(identity.address.starts_with("unix:///"));
    assert_eq!((state.status, state.pid), (Status::Created, pid));
    let started = gantry_sys::process::start_time(i32::try_from(pid).unwrap()).unwrap();
    assert_eq!(state.start_time, started);
    shim.start_task("t").await;
    assert_eq!(page::read(&path).unwrap().1.status, Status::Running);
    shim.kill("t", 9).await;
    let wait = shim.wait("t", "").await;
    let (status, at) = page::read(&path).unwrap().1.exit.unwrap();
    assert_eq!((status, at.seconds), (137, wait.exited_at.unwrap().seconds));
    shim.daemon.until_text("t", "exit init 137").await;
    eventually("the exit is settled", || {
        journal::read(&shim.bundle("t").join("exits.journal")).unwrap().pending.is_empty()
    })
    .await;
    shim.delete("t", "").await;
    assert_eq!(page::read(&path).unwrap().1.status, Status::Deleted);
}

#[tokio::test]
async fn a_made_task_can_be_deleted_without_ever_starting() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let pid = shim.create("t", &plan("true")).await;
    let deleted = shim.delete("t", "").await;
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    let events = shim.daemon.until_text("t", "delete 137").await;
    assert_eq!(events, ["create", "exit init 137", "delete 137"]);
    shim.shutdown().await;
}

#[tokio::test]
async fn the_root_file_system_is_mounted_and_unmounted() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let mut request = shim.create_request("t", &plan("cat /marker; exec sleep 1000"));
    let lower = shim.dir.path().join("lower");
    std::fs::rename(shim.bundle("t").join("rootfs"), &lower).unwrap();
    std::fs::write(lower.join("marker"), "x").unwrap();
    request.rootfs = vec![Mount {
        r#type: "bind".into(),
        source: lower.display().to_string(),
        options: vec!["rbind".into(), "rw".into()],
        ..Mount::default()
    }];
    shim.call::<_, CreateTaskResponse>("Create", &request).await;
    assert!(shim.bundle("t").join("rootfs/marker").exists());
    shim.start_task("t").await;
    shim.kill("t", 9).await;
    shim.wait("t", "").await;
    shim.delete("t", "").await;
    assert_eq!(std::fs::read_dir(shim.bundle("t").join("rootfs")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_failed_creation_says_why_and_leaves_nothing() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let mut request = shim.create_request("t", &plan("true"));
    let lower = shim.dir.path().join("lower");
    std::fs::rename(shim.bundle("t").join("rootfs"), &lower).unwrap();
    request.rootfs = vec![Mount {
        r#type: "bind".into(),
        source: lower.display().to_string(),
        options: vec!["rbind".into()],
        ..Mount::default()
    }];
    let config = shim.bundle("t").join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("/bin/sh", "/no/such/program")).unwrap();
    let (code, message) = shim.refused("Create", &request).await;
    assert_eq!(code, Code::Unknown);
    assert!(message.starts_with("OCI runtime create failed: "), "{message}");
    assert!(message.contains("/no/such/program"), "{message}");
    assert_eq!(
        std::fs::read_dir(shim.bundle("t").join("rootfs")).unwrap().count(),
        0,
        "still mounted"
    );
    assert_eq!(page::read(&shim.bundle("t").join("state.page")).unwrap().1.status, Status::Deleted);
    assert_eq!(std::fs::read_dir(shim.runc_root().join("shim-test")).unwrap().count(), 0);
    let state =
        shim.refused("State", &StateRequest { id: "t".into(), ..StateRequest::default() }).await;
    assert_eq!(state.0, Code::NotFound);
    std::fs::write(&config, text).unwrap();
    shim.call::<_, CreateTaskResponse>("Create", &request).await;
    shim.delete("t", "").await;
}

#[tokio::test]
async fn a_container_of_somebody_else_is_left_alone() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.run("t", &plan("sleep 1000")).await;
    let other = Shim::start("t").await;
    let mut request = other.create_request("t", &plan("true"));
    let options = Options { root: shim.runc_root().display().to_string(), ..Options::default() };
    request.options.as_mut().unwrap().value = options.encode_to_vec();
    let (code, message) = other.refused("Create", &request).await;
    assert_eq!(code, Code::AlreadyExists);
    assert!(message.contains("container with given ID already exists"), "{message}");
    assert_eq!(shim.state("t", "").await.status, 2);
    shim.kill("t", 9).await;
    assert_eq!(shim.wait("t", "").await.exit_status, 137);
    shim.delete("t", "").await;
}

#[tokio::test]
async fn a_mount_that_fails_is_named() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let mut request = shim.create_request("t", &plan("true"));
    request.rootfs = vec![Mount {
        r#type: "bind".into(),
        source: "/no/such/layer".into(),
        options: vec!["rbind".into()],
        ..Mount::default()
    }];
    let (_, message) = shim.refused("Create", &request).await;
    assert!(message.starts_with("failed to mount rootfs component"), "{message}");
    assert!(message.contains("/no/such/layer"), "{message}");
    assert!(message.contains("No such file"), "{message}");
}

#[tokio::test]
async fn a_creation_past_its_deadline_is_undone() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let mut slow = plan("true");
    slow.adjust = |spec| {
        spec["hooks"] = serde_json::json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"]}]});
    };
    let request = shim.create_request("t", &slow);
    let begun = std::time::Instant::now();
    let bound = Duration::from_secs(2);
    let result = shim.try_call_within::<_, CreateTaskResponse>("Create", &request, bound).await;
    assert_eq!(Code::from_number(result.unwrap_err().code), Code::DeadlineExceeded);
    assert!(begun.elapsed() < Duration::from_secs(10));
    let path = shim.bundle("t").join("state.page");
    eventually("the creation is undone", || page::read(&path).unwrap().1.status == Status::Deleted)
        .await;
    eventually("the runtime and its hooks are gone", || shim.children() == 0).await;
    let request = shim.create_request("t", &plan("exit 4"));
    shim.call::<_, CreateTaskResponse>("Create", &request).await;
    shim.start_task("t").await;
    assert_eq!(shim.wait("t", "").await.exit_status, 4);
    shim.delete("t", "").await;
}

#[tokio::test]
async fn a_caller_that_dies_in_the_middle_of_a_creation_cancels_nothing() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let request = shim.create_request("t", &plan("sleep 1000"));
    let other = shim.connect().await;
    let call = tokio::spawn(async move {
        let metadata = [("containerd-namespace-ttrpc", "shim-test")];
        let task = "containerd.task.v3.Task";
        other.call::<_, CreateTaskResponse>(task, "Create", &request, &metadata, None).await
    });
    let path = shim.bundle("t").join("state.page");
    eventually("the creation begins", || path.exists()).await;
    call.abort();
    shim.daemon.until_text("t", "create").await;
    assert_eq!(shim.state("t", "").await.status, 1);
    shim.delete("t", "").await;
}

#[tokio::test]
async fn several_containers_share_one_shim() {
    if !able() {
        return;
    }
    let shim = Shim::start("pod").await;
    let (a, b) = (plan("sleep 1000"), plan("sleep 1000"));
    let (one, two) = tokio::join!(shim.run("one", &a), shim.run("two", &b));
    assert_ne!(one, two);
    let twice = shim.refused("Create", &shim.create_request("one", &plan("true"))).await;
    assert_eq!(twice, (Code::AlreadyExists, "container one: already exists".into()));
    shim.call::<_, ()>("Shutdown", &ShutdownRequest::default()).await;
    shim.kill("one", 9).await;
    shim.wait("one", "").await;
    shim.delete("one", "").await;
    assert_eq!(shim.state("two", "").await.status, 2, "the other lives on");
    shim.kill("two", 15).await;
    shim.kill("two", 9).await;
    shim.wait("two", "").await;
    shim.delete("two", "").await;
    shim.shutdown().await;
}

#[tokio::test]
async fn a_program_that_is_not_there_fails_the_start() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let mut missing = plan("true");
    missing.adjust = |spec| spec["process"]["args"] = serde_json::json!(["/no/such/program"]);
    let request = shim.create_request("t", &missing);
    let created = shim.try_call::<_, CreateTaskResponse>("Create", &request).await;
    let message = match created {
        Err(status) => status.message,
        Ok(_) => {
            shim.refused("Start", &StartRequest { id: "t".into(), ..StartRequest::default() })
                .await
                .1
        }
    };
    assert!(message.starts_with("OCI runtime "), "{message}");
    assert!(message.contains("/no/such/program"), "{message}");
}
