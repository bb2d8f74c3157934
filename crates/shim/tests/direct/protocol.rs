//! The protocol around the calls: services, versions, limits, who may call, and how a shim ends.

use std::time::Duration;

use gantry_api::containerd::task::v2::*;
use gantry_ttrpc::{CallError, Code};

use crate::harness::{Shim, able, eventually, plan};

#[tokio::test]
async fn both_versions_are_served_and_no_other_service() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let connect = ConnectRequest { id: "t".into() };
    for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        let answer: ConnectResponse =
            shim.client.call(service, "Connect", &connect, &[], None).await.unwrap();
        assert_eq!(answer.shim_pid, u32::try_from(shim.child.pid()).unwrap());
    }
    let service = "containerd.runtime.sandbox.v1.Sandbox";
    let error = shim.client.call::<_, ()>(service, "Ping", &connect, &[], None).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Unimplemented));
    assert_eq!(error.to_string(), format!("service {service}"));
    let error = shim
        .client
        .call::<_, ()>("containerd.task.v2.Task", "Nope", &connect, &[], None)
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.to_string()),
        (Some(Code::Unimplemented), "method Nope".into())
    );
    shim.shutdown().await;
}

#[tokio::test]
async fn another_namespace_is_refused_and_none_is_taken_for_ours() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let request = shim.create_request("t", &plan("true"));
    let task = "containerd.task.v2.Task";
    let other = [("containerd-namespace-ttrpc", "other")];
    let error =
        shim.client.call::<_, CreateTaskResponse>(task, "Create", &request, &other, None).await;
    assert_eq!(error.unwrap_err().code(), Some(Code::InvalidArgument));
    shim.client.call::<_, CreateTaskResponse>(task, "Create", &request, &[], None).await.unwrap();
    shim.delete("t", "").await;
}

#[tokio::test]
async fn a_wait_ends_with_its_callers_patience_and_others_go_on() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.run("t", &plan("sleep 1000")).await;
    let request = WaitRequest { id: "t".into(), ..Default::default() };
    let bound = Duration::from_millis(300);
    let late = shim.try_call_within::<_, WaitResponse>("Wait", &request, bound).await;
    assert_eq!(Code::from_number(late.unwrap_err().code), Code::DeadlineExceeded);
    let (waits, ()) = tokio::join!(
        async { tokio::join!(shim.wait("t", ""), shim.wait("t", ""), shim.wait("t", "")) },
        shim.kill("t", 9)
    );
    assert_eq!([waits.0, waits.1, waits.2].map(|w| w.exit_status), [137; 3]);
    shim.delete("t", "").await;
}

#[tokio::test]
async fn bad_payloads_are_answered_and_the_connection_lives() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let request = gantry_api::ttrpc::Request {
        service: "containerd.task.v2.Task".into(),
        method: "State".into(),
        payload: vec![0xff; 3],
        ..Default::default()
    };
    let response = shim.client.call_raw(&request).await.unwrap();
    assert_eq!(response.status.unwrap().code, Code::Internal as i32);
    let big = ConnectRequest { id: "x".repeat(5 << 20) };
    let error = shim
        .client
        .call::<_, ConnectResponse>("containerd.task.v2.Task", "Connect", &big, &[], None)
        .await;
    assert!(matches!(error, Err(CallError::Request(_))));
    shim.call::<_, ConnectResponse>("Connect", &ConnectRequest { id: "t".into() }).await;
    shim.shutdown().await;
}

#[tokio::test]
async fn a_shim_with_containers_survives_shutdown_and_signals() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.run("t", &plan("sleep 1000")).await;
    shim.call::<_, ()>("Shutdown", &ShutdownRequest::default()).await;
    for signal in [1, 15, 2, 10] {
        // SIGHUP has its default action elsewhere; here a lost terminal is nothing to a shim.
        if signal != 1 {
            shim.child.pidfd().signal(signal).unwrap();
        }
    }
    assert_eq!(shim.state("t", "").await.status, 2);
    shim.kill("t", 9).await;
    shim.wait("t", "").await;
    shim.delete("t", "").await;
    shim.child.pidfd().signal(15).unwrap();
    shim.gone().await;
}

#[tokio::test]
async fn a_shim_that_nobody_needs_ends_by_itself() {
    if !able() {
        return;
    }
    let mut shim = Shim::start("t").await;
    shim.run("t", &plan("true")).await;
    shim.wait("t", "").await;
    shim.delete("t", "").await;
    // Its only caller goes away without Shutdown: a daemon that died.
    shim.hang_up();
    shim.gone().await;
}

#[tokio::test]
async fn one_process_one_thread() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.run("t", &plan("sleep 1000")).await;
    for n in 0..5 {
        shim.exec("t", &format!("e{n}"), &plan("true")).await;
        shim.wait("t", &format!("e{n}")).await;
    }
    let threads = std::fs::read_dir(format!("/proc/{}/task", shim.child.pid())).unwrap().count();
    assert_eq!(threads, 1);
    shim.kill("t", 9).await;
    shim.wait("t", "").await;
    shim.delete("t", "").await;
}

#[tokio::test]
async fn descriptors_do_not_pile_up() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.run("t", &plan("sleep 1000")).await;
    let count = || std::fs::read_dir(format!("/proc/{}/fd", shim.child.pid())).unwrap().count();
    let round = async |n: u32| {
        let id = format!("e{n}");
        let (input, out) = (shim.fifo(&format!("in{n}")), shim.fifo(&format!("out{n}")));
        let exec = crate::harness::Plan { stdin: input, stdout: out, ..plan("true") };
        shim.exec("t", &id, &exec).await;
        shim.wait("t", &id).await;
        shim.delete("t", &id).await;
    };
    round(0).await;
    let before = count();
    for n in 1..20 {
        round(n).await;
    }
    eventually("descriptors are closed", || count() <= before).await;
    shim.kill("t", 9).await;
    shim.wait("t", "").await;
    shim.delete("t", "").await;
}
