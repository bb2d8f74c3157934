//! Calls in the wrong state: codes and texts that daemons and clients decide by.

use gantry_api::containerd::task::v2::*;
use gantry_ttrpc::Code;

use crate::harness::{Shim, able, plan};

fn of<T>(id: &str, make: impl Fn(String) -> T) -> T {
    make(id.to_owned())
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let missing = (Code::NotFound, "container not created: not found".to_owned());
    assert_eq!(
        shim.refused("State", &of("x", |id| StateRequest { id, ..Default::default() })).await,
        missing
    );
    assert_eq!(
        shim.refused("Start", &of("x", |id| StartRequest { id, ..Default::default() })).await,
        missing
    );
    assert_eq!(
        shim.refused("Kill", &of("x", |id| KillRequest { id, signal: 9, ..Default::default() }))
            .await,
        missing
    );
    assert_eq!(shim.refused("Pids", &of("x", |id| PidsRequest { id })).await, missing);
    assert_eq!(
        shim.refused("Wait", &of("x", |id| WaitRequest { id, ..Default::default() })).await,
        missing
    );
    assert_eq!(shim.refused("Stats", &of("x", |id| StatsRequest { id })).await, missing);
    assert_eq!(shim.refused("Pause", &of("x", |id| PauseRequest { id })).await, missing);
    assert_eq!(
        shim.refused("Update", &of("x", |id| UpdateTaskRequest { id, ..Default::default() })).await,
        missing
    );
    let connect: ConnectResponse = shim.call("Connect", &ConnectRequest { id: "x".into() }).await;
    assert_eq!(connect.task_pid, 0);
    shim.create("t", &plan("sleep 1000")).await;
    let exec = |exec_id: &str| StateRequest { id: "t".into(), exec_id: exec_id.into() };
    let gone = shim.refused("State", &exec("e")).await;
    assert_eq!(gone, (Code::NotFound, "process does not exist e: not found".into()));
    let gone = shim.refused("Delete", &DeleteRequest { id: "t".into(), exec_id: "e".into() }).await;
    assert_eq!(gone, (Code::NotFound, "process does not exist e: not found".into()));
    shim.delete("t", "").await;
}

#[tokio::test]
async fn each_state_refuses_in_the_known_words() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let id = || "t".to_owned();
    let text = async |method: &str| -> String {
        let (code, text) = match method {
            "Start" => shim.refused(method, &StartRequest { id: id(), ..Default::default() }).await,
            "Delete" => {
                shim.refused(method, &DeleteRequest { id: id(), ..Default::default() }).await
            }
            "Exec" => shim.refused(method, &shim.exec_request("t", "e", &plan("true"))).await,
            "Checkpoint" => {
                shim.refused(method, &CheckpointTaskRequest { id: id(), ..Default::default() })
                    .await
            }
            "Update" => {
                shim.refused(method, &UpdateTaskRequest { id: id(), ..Default::default() }).await
            }
            _ => shim.refused(method, &PauseRequest { id: id() }).await,
        };
        assert_eq!(code, Code::Unknown, "{method}: {text}");
        text
    };
    shim.create("t", &plan("sleep 1000")).await;
    assert_eq!(text("Pause").await, "cannot pause task in created state");
    assert_eq!(text("Resume").await, "cannot resume task in created state");
    assert_eq!(text("Checkpoint").await, "cannot checkpoint a task in created state");
    shim.start_task("t").await;
    assert_eq!(text("Start").await, "cannot start a running process");
    assert_eq!(text("Delete").await, "cannot delete a running process");
    assert_eq!(text("Resume").await, "cannot resume a running process");
    let refused =
        shim.refused("Checkpoint", &CheckpointTaskRequest { id: id(), ..Default::default() }).await;
    assert_eq!(refused.0, Code::Unimplemented);
    assert!(refused.1.contains("use a runc shim"), "{}", refused.1);
    shim.call::<_, ()>("Pause", &PauseRequest { id: id() }).await;
    assert_eq!(shim.state("t", "").await.status, 4);
    assert_eq!(text("Start").await, "cannot start a paused process");
    assert_eq!(text("Pause").await, "cannot pause a paused container");
    assert_eq!(text("Delete").await, "cannot delete a paused process");
    assert_eq!(text("Exec").await, "cannot exec in a paused state");
    shim.call::<_, ()>("Resume", &ResumeRequest { id: id() }).await;
    assert_eq!(shim.state("t", "").await.status, 2);
    shim.kill("t", 9).await;
    shim.wait("t", "").await;
    assert_eq!(text("Start").await, "cannot start a stopped process");
    assert_eq!(text("Pause").await, "cannot pause a stopped container");
    assert_eq!(text("Resume").await, "cannot resume a stopped container");
    assert_eq!(text("Update").await, "cannot update a stopped container");
    assert_eq!(text("Checkpoint").await, "cannot checkpoint a stopped container");
    assert_eq!(text("Exec").await, "cannot exec in a stopped state");
    let killed =
        shim.refused("Kill", &KillRequest { id: id(), signal: 9, ..Default::default() }).await;
    assert_eq!(killed, (Code::NotFound, "process already finished: not found".into()));
    let all = shim
        .refused("Kill", &KillRequest { id: id(), signal: 9, all: true, ..Default::default() })
        .await;
    assert!(matches!(all.0, Code::NotFound), "{all:?}");
    shim.delete("t", "").await;
    let events = shim.daemon.until_text("t", "delete 137").await;
    assert_eq!(events, ["create", "start", "paused", "resumed", "exit init 137", "delete 137"]);
}

#[tokio::test]
async fn a_paused_task_can_be_killed() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.run("t", &plan("sleep 1000")).await;
    shim.call::<_, ()>("Pause", &PauseRequest { id: "t".into() }).await;
    shim.kill("t", 9).await;
    assert_eq!(shim.wait("t", "").await.exit_status, 137);
    shim.delete("t", "").await;
}

#[tokio::test]
async fn a_container_deleted_behind_our_back_is_not_found_when_killed() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.run("t", &plan("sleep 1000")).await;
    let root = shim.runc_root().join("shim-test");
    let deleted = std::process::Command::new("runc")
        .arg("--root")
        .arg(root)
        .args(["delete", "--force", "t"])
        .status()
        .unwrap();
    assert!(deleted.success());
    assert_eq!(shim.wait("t", "").await.exit_status, 137);
    let killed = shim
        .refused("Kill", &KillRequest { id: "t".into(), signal: 9, ..Default::default() })
        .await;
    assert_eq!(killed.0, Code::NotFound);
    assert_eq!(shim.delete("t", "").await.exit_status, 137);
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let mut request = shim.create_request("t", &plan("true"));
    request.id = "../x".into();
    assert_eq!(shim.refused("Create", &request).await.0, Code::InvalidArgument);
    let mut request = shim.create_request("t", &plan("true"));
    request.checkpoint = "/some/checkpoint".into();
    assert_eq!(shim.refused("Create", &request).await.0, Code::Unimplemented);
    let mut request = shim.create_request("t", &plan("true"));
    request.options.as_mut().unwrap().type_url = "io.example.Options".into();
    let (code, text) = shim.refused("Create", &request).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.contains("io.example.Options"), "{text}");
    shim.run("t", &plan("sleep 1000")).await;
    for signal in [0, 65, u32::MAX] {
        let request = KillRequest { id: "t".into(), signal, ..Default::default() };
        assert_eq!(shim.refused("Kill", &request).await.0, Code::InvalidArgument);
    }
    let mut exec = shim.exec_request("t", "e", &plan("true"));
    exec.spec.as_mut().unwrap().value = b"not json".to_vec();
    assert_eq!(shim.refused("Exec", &exec).await.0, Code::InvalidArgument);
    exec.exec_id = "../x".into();
    assert_eq!(shim.refused("Exec", &exec).await.0, Code::InvalidArgument);
    let resources = prost_types::Any { type_url: "x".into(), value: b"not json".to_vec() };
    let update =
        UpdateTaskRequest { id: "t".into(), resources: Some(resources), ..Default::default() };
    assert_eq!(shim.refused("Update", &update).await.0, Code::InvalidArgument);
    shim.kill("t", 9).await;
    shim.wait("t", "").await;
    shim.delete("t", "").await;
}
