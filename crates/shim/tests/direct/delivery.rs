//! Events and exits when the daemon dies, is away, fails, or keeps silent.

use std::sync::atomic::Ordering;
use std::time::Duration;

use gantry_api::containerd::task::v2::*;
use gantry_api::gantry::shim::v1::{AckExitsRequest, StatusRequest, StatusResponse};
use gantry_shim_state::journal;
use gantry_ttrpc::Client;

use crate::daemon::Mood;
use crate::harness::{Shim, able, eventually, plan};

const OURS: &str = "gantry.shim.v1.Shim";

async fn status(client: &Client) -> StatusResponse {
    client
        .call(OURS, "Status", &StatusRequest {}, &[], Some(Duration::from_secs(10)))
        .await
        .unwrap()
}

async fn ack(client: &Client, id: &str, seqs: &[u64]) {
    let request = AckExitsRequest { container_id: id.into(), seqs: seqs.to_vec() };
    client
        .call::<_, ()>(OURS, "AckExits", &request, &[], Some(Duration::from_secs(10)))
        .await
        .unwrap();
}

fn pending(shim: &Shim, id: &str) -> Vec<gantry_shim_state::Exit> {
    journal::read(&shim.bundle(id).join("exits.journal")).unwrap().pending
}

#[tokio::test]
async fn what_happens_while_the_daemon_is_away_is_told_in_order_when_it_is_back() {
    if !able() {
        return;
    }
    let mut shim = Shim::start("t").await;
    shim.run("t", &plan("sleep 1000")).await;
    shim.daemon.until_text("t", "start").await;
    shim.daemon.down();
    shim.exec("t", "e", &plan("exit 3")).await;
    shim.wait("t", "e").await;
    shim.kill("t", 9).await;
    let wait = shim.wait("t", "").await;
    let journal = pending(&shim, "t");
    assert_eq!(journal.iter().map(|e| e.exec_id.as_str()).collect::<Vec<_>>(), ["e", ""]);
    assert_eq!(journal[1].status, 137);
    let pids = async || -> Vec<u32> {
        let pids: PidsResponse = shim.call("Pids", &PidsRequest { id: "t".into() }).await;
        pids.processes.iter().map(|p| p.pid).collect()
    };
    assert_eq!(pids().await, [journal[1].pid], "a daemon that starts must not take it for a leak");
    assert_eq!(journal[1].exited_at.seconds, wait.exited_at.unwrap().seconds);
    shim.daemon.up();
    let texts = shim.daemon.until_text("t", "exit init 137").await;
    let wanted = ["create", "start", "exec-added e", "exec-started e", "exit e 3", "exit init 137"];
    assert_eq!(texts, wanted);
    eventually("the journal is empty", || pending(&shim, "t").is_empty()).await;
    shim.delete("t", "").await;
}

#[tokio::test]
async fn a_daemon_that_connects_hears_at_once() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.run("t", &plan("sleep 1000")).await;
    shim.daemon.until_text("t", "start").await;
    shim.daemon.mood(Mood::Fails);
    shim.kill("t", 9).await;
    shim.wait("t", "").await;
    let failed = shim.daemon.failed.clone();
    // After the seventh failure the pause is longer than three seconds.
    eventually("the pauses grow", || failed.load(Ordering::SeqCst) >= 7).await;
    shim.daemon.mood(Mood::Takes);
    let begun = std::time::Instant::now();
    let client = shim.connect().await;
    status(&client).await;
    shim.daemon.until_text("t", "exit init 137").await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    shim.delete("t", "").await;
}

#[tokio::test]
async fn a_daemon_that_fails_is_asked_again_and_loses_nothing() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.daemon.mood(Mood::Fails);
    shim.run("t", &plan("exit 1")).await;
    shim.wait("t", "").await;
    shim.run("u", &plan("exit 2")).await;
    shim.wait("u", "").await;
    assert_eq!(pending(&shim, "t").len(), 1);
    shim.daemon.mood(Mood::Takes);
    assert_eq!(
        shim.daemon.until_text("t", "exit init 1").await,
        ["create", "start", "exit init 1"]
    );
    assert_eq!(
        shim.daemon.until_text("u", "exit init 2").await,
        ["create", "start", "exit init 2"]
    );
    shim.delete("t", "").await;
    shim.delete("u", "").await;
}

#[tokio::test]
async fn a_daemon_that_refuses_one_event_gets_the_next() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.daemon.mood(Mood::Refuses);
    shim.create("t", &plan("exit 1")).await;
    let client = shim.connect().await;
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while status(&client).await.queued_events > 0 {
        assert!(std::time::Instant::now() < until, "a refused event is not kept");
    }
    shim.daemon.mood(Mood::Takes);
    shim.start_task("t").await;
    assert_eq!(shim.daemon.until_text("t", "exit init 1").await, ["start", "exit init 1"]);
    shim.delete("t", "").await;
}

#[tokio::test]
async fn a_silent_daemon_holds_up_no_call() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.daemon.mood(Mood::Silent);
    let begun = std::time::Instant::now();
    shim.run("t", &plan("sleep 1000")).await;
    for n in 0..3 {
        shim.exec("t", &format!("e{n}"), &plan("exit 0")).await;
        shim.wait("t", &format!("e{n}")).await;
    }
    shim.kill("t", 9).await;
    shim.wait("t", "").await;
    shim.delete("t", "").await;
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert_eq!(pending(&shim, "t").len(), 4, "nothing is settled");
    shim.daemon.mood(Mood::Takes);
    let texts = shim.daemon.until_text("t", "delete 137").await;
    assert_eq!(texts.len(), 2 + 3 * 3 + 2, "{texts:?}");
}

#[tokio::test]
async fn with_acknowledgement_by_call_an_exit_is_told_until_it_is_called() {
    if !able() {
        return;
    }
    let mut shim = Shim::start_with("t", &["-ack", "rpc"]).await;
    let pid = shim.run("t", &plan("sleep 1000")).await;
    shim.exec("t", "e", &plan("exit 3")).await;
    shim.wait("t", "e").await;
    shim.kill("t", 9).await;
    shim.wait("t", "").await;
    shim.daemon.until_text("t", "exit init 137").await;
    assert_eq!(pending(&shim, "t").len(), 2, "forwarding alone settles nothing");
    let init = shim.daemon.received().into_iter().find(|r| r.text() == "exit init 137").unwrap();
    let record = pending(&shim, "t").into_iter().find(|e| e.exec_id.is_empty()).unwrap();
    assert_eq!((init.seq, init.start_time), (Some(record.seq), Some(record.start_time)));
    assert_eq!(record.pid, pid);
    shim.daemon.down();
    shim.daemon.up();
    let texts = shim
        .daemon
        .until("t", |texts| texts.iter().filter(|t| *t == "exit init 137").count() == 2)
        .await;
    assert_eq!(&texts[texts.len() - 2..], ["exit e 3", "exit init 137"], "told again, in order");
    let client = shim.connect().await;
    let container = status(&client).await.containers.remove(0);
    let seqs: Vec<u64> = container.pending_exits.iter().map(|e| e.seq).collect();
    assert_eq!(seqs.len(), 2);
    ack(&client, "t", &seqs).await;
    ack(&client, "t", &seqs).await;
    ack(&client, "nobody", &[1]).await;
    assert!(pending(&shim, "t").is_empty());
    assert_eq!(status(&client).await.queued_events, 0);
    shim.daemon.down();
    shim.daemon.up();
    shim.delete("t", "").await;
    let texts = shim.daemon.until_text("t", "delete 137").await;
    assert_eq!(texts.iter().filter(|t| *t == "exit init 137").count(), 2, "settled is settled");
}

#[tokio::test]
async fn the_kernels_killing_is_told_before_the_exit() {
    if !able() {
        return;
    }
    if !std::path::Path::new("/sys/fs/cgroup/memory/memory.oom_control").exists() {
        eprintln!("skipped: needs the memory controller of cgroup v1");
        return;
    }
    let shim = Shim::start("t").await;
    let mut hungry = plan("dd if=/dev/zero of=/dev/null bs=64M count=1");
    hungry.adjust = |spec| {
        spec["linux"]["resources"]["memory"] =
            serde_json::json!({"limit": 16 << 20, "swap": 16 << 20});
    };
    shim.run("t", &hungry).await;
    let wait = shim.wait("t", "").await;
    let exit = format!("exit init {}", wait.exit_status);
    let texts = shim.daemon.until_text("t", &exit).await;
    assert_eq!(texts, ["create", "start", "oom", exit.as_str()]);
    let stats: StatsResponse = shim.call("Stats", &StatsRequest { id: "t".into() }).await;
    assert_eq!(stats.stats.unwrap().type_url, "io.containerd.cgroups.v1.Metrics");
    assert!(
        gantry_shim_state::page::read(&shim.bundle("t").join("state.page")).unwrap().1.oom_killed
    );
    shim.delete("t", "").await;
}
