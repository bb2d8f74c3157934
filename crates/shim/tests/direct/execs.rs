//! Execs: many at once, ending at once, outliving their container's init.

use gantry_api::containerd::runc::v1::ProcessDetails;
use gantry_api::containerd::task::v2::*;
use gantry_ttrpc::Code;
use prost::Message;

use crate::harness::{Shim, able, eventually, plan};

fn place(texts: &[String], text: &str) -> usize {
    texts.iter().position(|t| t == text).unwrap_or_else(|| panic!("no {text:?} in {texts:?}"))
}

#[tokio::test]
async fn an_exec_has_a_life_of_its_own() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.run("t", &plan("sleep 1000")).await;
    let request = shim.exec_request("t", "e", &plan("exit 3"));
    shim.call::<_, ()>("Exec", &request).await;
    let twice = shim.refused("Exec", &request).await;
    assert_eq!(twice, (Code::AlreadyExists, "id e: already exists".into()));
    let state = shim.state("t", "e").await;
    assert_eq!((state.id.as_str(), state.status, state.pid), ("e", 1, 0));
    let kill = KillRequest { id: "t".into(), exec_id: "e".into(), signal: 9, ..Default::default() };
    let early = shim.refused("Kill", &kill).await;
    assert_eq!(
        early,
        (Code::FailedPrecondition, "process not created: failed precondition".into())
    );
    let pid = shim.start_exec("t", "e").await;
    let wait = shim.wait("t", "e").await;
    assert_eq!(wait.exit_status, 3);
    let late = shim.refused("Kill", &kill).await;
    assert_eq!(late, (Code::NotFound, "process already finished: not found".into()));
    let resize = ResizePtyRequest { id: "t".into(), exec_id: "e".into(), width: 1, height: 1 };
    assert_eq!(shim.refused("ResizePty", &resize).await.1, "cannot resize a stopped container");
    let deleted = shim.delete("t", "e").await;
    assert_eq!((deleted.pid, deleted.exit_status, deleted.exited_at), (pid, 3, wait.exited_at));
    assert!(!shim.bundle("t").join("e.pid").exists());
    shim.call::<_, ()>("Exec", &request).await;
    shim.delete("t", "e").await;
    shim.kill("t", 9).await;
    shim.wait("t", "").await;
    shim.delete("t", "").await;
    let events = shim.daemon.until_text("t", "delete 137").await;
    let exec: Vec<_> = events[2..5].to_vec();
    assert_eq!(exec, ["exec-added e", "exec-started e", "exit e 3"]);
}

#[tokio::test]
async fn an_exec_that_cannot_start_says_why_and_holds_up_nobody() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.run("t", &plan("sleep 1000")).await;
    let mut request = shim.exec_request("t", "e", &plan("true"));
    let spec = request.spec.as_mut().unwrap();
    spec.value =
        String::from_utf8(spec.value.clone()).unwrap().replace("/bin/sh", "/no/such").into_bytes();
    shim.call::<_, ()>("Exec", &request).await;
    let start = StartRequest { id: "t".into(), exec_id: "e".into() };
    let waiting = shim.wait("t", "e");
    let starting = async { shim.refused("Start", &start).await };
    let (wait, (code, message)) = tokio::join!(waiting, starting);
    assert_eq!(wait.exit_status, 0);
    assert_eq!(code, Code::Unknown);
    assert!(message.starts_with("OCI runtime exec failed: "), "{message}");
    assert!(message.contains("/no/such"), "{message}");
    assert_eq!(shim.state("t", "e").await.status, 1);
    shim.kill("t", 9).await;
    assert_eq!(shim.wait("t", "").await.exit_status, 137);
    shim.delete("t", "").await;
    let leftovers: Vec<_> = std::fs::read_dir(shim.bundle("t"))
        .unwrap()
        .flatten()
        .map(|e| e.file_name().into_string().unwrap())
        .filter(|n| n.contains("exec"))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

#[tokio::test]
async fn twenty_execs_at_once_keep_their_order_and_their_errors() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.run("t", &plan("sleep 1000")).await;
    let one = async |n: u32| {
        let id = format!("e{n}");
        if n.is_multiple_of(5) {
            let mut request = shim.exec_request("t", &id, &plan("true"));
            let spec = request.spec.as_mut().unwrap();
            let text = String::from_utf8(spec.value.clone()).unwrap();
            spec.value = text.replace("/bin/sh", &format!("/missing-{n}")).into_bytes();
            shim.call::<_, ()>("Exec", &request).await;
            let start = StartRequest { id: "t".into(), exec_id: id };
            let (_, message) = shim.refused("Start", &start).await;
            assert!(message.contains(&format!("/missing-{n}")), "the words of another: {message}");
        } else {
            shim.exec("t", &id, &plan(&format!("exit {n}"))).await;
            assert_eq!(shim.wait("t", &id).await.exit_status, n);
        }
    };
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for n in 0..20 {
        if n % 2 == 0 { left.push(one(n)) } else { right.push(one(n)) }
    }
    futures(left.into_iter().chain(right)).await;
    shim.kill("t", 9).await;
    shim.wait("t", "").await;
    shim.delete("t", "").await;
    let texts = shim.daemon.until_text("t", "delete 137").await;
    for n in (0..20).filter(|n: &u32| !n.is_multiple_of(5)) {
        let added = place(&texts, &format!("exec-added e{n}"));
        let started = place(&texts, &format!("exec-started e{n}"));
        let ended = place(&texts, &format!("exit e{n} {n}"));
        assert!(added < started && started < ended, "{texts:?}");
    }
    for n in [0, 5, 10, 15] {
        assert!(!texts.iter().any(|t| t.starts_with(&format!("exit e{n} "))), "{texts:?}");
    }
}

/// Runs all of them on this task, at the same time.
async fn futures<F: Future<Output = ()>>(all: impl IntoIterator<Item = F>) {
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        all.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[tokio::test]
async fn instant_exits_come_after_their_starts() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    for round in 0..10 {
        let id = format!("t{round}");
        shim.create(&id, &plan("exit 5")).await;
        shim.start_task(&id).await;
        assert_eq!(shim.wait(&id, "").await.exit_status, 5);
        shim.delete(&id, "").await;
        let texts = shim.daemon.until_text(&id, "delete 5").await;
        assert_eq!(texts, ["create", "start", "exit init 5", "delete 5"]);
    }
    shim.run("t", &plan("sleep 1000")).await;
    for round in 0..20 {
        let id = format!("e{round}");
        shim.exec("t", &id, &plan("exit 6")).await;
        shim.wait("t", &id).await;
        shim.delete("t", &id).await;
        let texts = shim.daemon.until_text("t", &format!("exit {id} 6")).await;
        assert!(
            place(&texts, &format!("exec-started {id}")) < place(&texts, &format!("exit {id} 6"))
        );
    }
    shim.kill("t", 9).await;
    shim.wait("t", "").await;
    shim.delete("t", "").await;
}

#[tokio::test]
async fn the_end_of_init_is_told_after_the_end_of_its_execs() {
    if !able() {
        return;
    }
    for own_pids in [true, false, false] {
        let shim = Shim::start("t").await;
        let mut init = plan("sleep 1000");
        init.own_pids = own_pids;
        shim.run("t", &init).await;
        for n in 0..3 {
            shim.exec("t", &format!("e{n}"), &plan("sleep 1000")).await;
        }
        shim.kill("t", 9).await;
        let wait = shim.wait("t", "").await;
        assert_eq!(wait.exit_status, 137);
        for n in 0..3 {
            assert_eq!(shim.state("t", &format!("e{n}")).await.status, 3, "own pids: {own_pids}");
        }
        let texts = shim.daemon.until_text("t", "exit init 137").await;
        for n in 0..3 {
            assert!(
                place(&texts, &format!("exit e{n} 137")) < place(&texts, "exit init 137"),
                "{texts:?}"
            );
        }
        shim.delete("t", "").await;
    }
}

#[tokio::test]
async fn no_exec_starts_once_init_has_ended() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.run("t", &plan("sleep 1000")).await;
    shim.call::<_, ()>("Exec", &shim.exec_request("t", "e", &plan("true"))).await;
    shim.kill("t", 9).await;
    shim.wait("t", "").await;
    let start = StartRequest { id: "t".into(), exec_id: "e".into() };
    let (code, text) = shim.refused("Start", &start).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert_eq!(text, "container t init process is not running: failed precondition");
    shim.delete("t", "").await;
}

#[tokio::test]
async fn processes_are_listed_with_the_execs_they_are() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let init = shim.run("t", &plan("sleep 1000 & wait")).await;
    let exec = shim.exec("t", "e", &plan("exec sleep 1000")).await;
    let mut pids: PidsResponse = shim.call("Pids", &PidsRequest { id: "t".into() }).await;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while pids.processes.len() < 3 && std::time::Instant::now() < until {
        pids = shim.call("Pids", &PidsRequest { id: "t".into() }).await;
    }
    assert_eq!(pids.processes.len(), 3);
    let of = |pid| pids.processes.iter().find(|p| p.pid == pid).unwrap();
    assert_eq!(of(init).info, None);
    let info = of(exec).info.as_ref().unwrap();
    assert_eq!(info.type_url, "containerd.runc.v1.ProcessDetails");
    assert_eq!(ProcessDetails::decode(info.value.as_slice()).unwrap().exec_id, "e");
    let all = KillRequest { id: "t".into(), signal: 9, all: true, ..Default::default() };
    shim.call::<_, ()>("Kill", &all).await;
    shim.wait("t", "").await;
    shim.daemon.until_text("t", "exit init 137").await;
    let journal = shim.bundle("t").join("exits.journal");
    eventually("the exit is settled", || {
        gantry_shim_state::journal::read(&journal).unwrap().pending.is_empty()
    })
    .await;
    let pids: PidsResponse = shim.call("Pids", &PidsRequest { id: "t".into() }).await;
    assert!(pids.processes.is_empty());
    shim.delete("t", "").await;
}

#[tokio::test]
async fn what_a_container_leaves_behind_is_reaped() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let mut init = plan("sleep 1000");
    init.own_pids = false;
    shim.run("t", &init).await;
    // The shell ends at once and its child becomes ours; then that ends too.
    shim.exec("t", "e", &plan("(sleep 0.2; exit 1) & exit 0")).await;
    assert_eq!(shim.wait("t", "e").await.exit_status, 0);
    let children = format!("/proc/{0}/task/{0}/children", shim.child.pid());
    let zombies = || {
        let text = std::fs::read_to_string(&children).unwrap();
        let is_zombie = |pid: &&str| {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| stat.contains(") Z "))
        };
        text.split_whitespace().filter(is_zombie).count()
    };
    let alone = || std::fs::read_to_string(&children).unwrap().split_whitespace().count() == 1;
    eventually("strays are reaped", || zombies() == 0 && alone()).await;
    shim.kill("t", 9).await;
    shim.wait("t", "").await;
    shim.delete("t", "").await;
}
