//! Daemons that come back: nothing is lost, nothing told twice, nobody killed.

use std::time::{Duration, Instant};

use gantry_core::Kind as ErrorKind;
use gantry_core::task::{STATUS_UNKNOWN, Status};

use crate::world::{Kind, World, eventually, kill};

const CONT: i32 = 18;
const STOP: i32 = 19;

async fn an_exit_while_the_daemon_was_away_is_told_once(case: &str, kind: Kind) {
    let Some(mut world) = World::new(case, kind).await else { return };
    let go = world.path("rootfs/go");
    let wait = "while [ ! -e /go ]; do sleep 0.05; done";
    let (early, pid) = world.run("early", &format!("{wait}; exit 5")).await;
    let (late, _) = world.run("late", "sleep 1000").await;
    world.stop().await;
    std::fs::write(&go, "").unwrap();
    let stat = format!("/proc/{pid}");
    eventually("the container's end", || !std::path::Path::new(&stat).exists()).await;

    world.start().await;
    if kind == Kind::Foreign {
        // It sends no journal: it has to be asked first.
        world.becomes(&early, Status::Stopped).await;
        world.tasks().wait(&world.cx, &early, None).await.unwrap();
        eventually("the record", || {
            let recorded = world.metadata().read_blocking(|view| view.tasks()).unwrap();
            recorded.iter().any(|(_, task)| task.state.exit.is_some())
        })
        .await;
    }
    let stopped = world.get(&early).await;
    assert_eq!((stopped.status, stopped.pid), (Status::Stopped, pid));
    assert_eq!(stopped.ended.unwrap().status, 5);
    for _ in 0..2 {
        let mut events = world.events();
        let told = events.exit().await;
        assert_eq!((told.id.as_str(), told.pid, told.exit_status), ("early", pid, 5));
        assert_eq!(events.come(), []);
    }
    world.becomes(&late, Status::Running).await;

    // A second daemon, before the first one's window is over, tells it again, once.
    world.restart().await;
    let mut events = world.events();
    assert_eq!(events.exit().await.id, "early");
    assert_eq!(world.tasks().wait(&world.cx, &early, None).await.unwrap().status, 5);
    world.becomes(&late, Status::Running).await;
    world.tasks().kill(&world.cx, &late, None, 9, false).await.unwrap();
    assert_eq!(events.exit().await.id, "late");
    world.tasks().delete(&world.cx, &early).await.unwrap();
    world.tasks().delete(&world.cx, &late).await.unwrap();
    let rest: Vec<_> = events.until("/tasks/delete").await;
    assert!(!rest.contains(&"/tasks/exit".to_owned()), "{rest:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_while_the_daemon_was_away_is_told_once_by_our_shim() {
    let case = "an_exit_while_the_daemon_was_away_is_told_once_by_our_shim";
    an_exit_while_the_daemon_was_away_is_told_once(case, Kind::Own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_while_the_daemon_was_away_is_told_once_by_a_foreign_shim() {
    let case = "an_exit_while_the_daemon_was_away_is_told_once_by_a_foreign_shim";
    an_exit_while_the_daemon_was_away_is_told_once(case, Kind::Foreign).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_of_the_replay_closes() {
    let case = "the_window_of_the_replay_closes";
    let Some(mut world) = World::new(case, Kind::Own).await else { return };
    let (id, pid) = world.run("c", "sleep 1000").await;
    world.stop().await;
    kill(i32::try_from(pid).unwrap(), 9).unwrap();
    let journal = world.bundle("c").join("exits.journal");
    eventually("the journal", || {
        gantry_shim_state::journal::read(&journal).is_ok_and(|found| !found.pending.is_empty())
    })
    .await;
    world.config().timeouts.replay = Duration::from_millis(300);
    world.start().await;
    assert_eq!(world.events().exit().await.id, "c");
    eventually("the end of the window", || world.events().come().is_empty()).await;
    world.restart().await;
    assert_eq!(world.events().come(), []);
    assert_eq!(world.get(&id).await.status, Status::Stopped);
    world.end().await;
}

async fn a_stopped_shim_harms_nobody(case: &str, kind: Kind) {
    let Some(mut world) = World::new(case, kind).await else { return };
    let (hung, pid) = world.run("hung", "sleep 1000").await;
    let (fine, _) = world.run("fine", "sleep 1000").await;
    let shim = world.shim_pid("hung");
    kill(shim, STOP).unwrap();
    world.stop().await;
    let asked = Instant::now();
    world.start().await;
    assert!(asked.elapsed() < Duration::from_secs(2), "the start waited for a shim");
    world.becomes(&fine, Status::Running).await;
    let asked = Instant::now();
    let got = world.tasks().get(&world.cx, &hung, None).await;
    match kind {
        Kind::Own => assert_eq!(got.unwrap().status, Status::Running),
        Kind::Foreign => assert!(got.unwrap_err().is(ErrorKind::DeadlineExceeded)),
    }
    let listed = world.tasks().list(&world.cx).await.unwrap();
    let of = |id: &str| listed.iter().find(|process| process.id == id).unwrap();
    assert_eq!((of("hung").status, of("hung").pid), (Status::Running, pid));
    assert_eq!(of("fine").status, Status::Running);
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    kill(shim, CONT).unwrap();
    // It is spoken to again, and the container never noticed.
    world.tasks().kill(&world.cx, &hung, None, 9, false).await.unwrap();
    assert_eq!(world.tasks().wait(&world.cx, &hung, None).await.unwrap().status, 137);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_stopped_shim_harms_nobody() {
    a_stopped_shim_harms_nobody("our_stopped_shim_harms_nobody", Kind::Own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_stopped_shim_harms_nobody() {
    a_stopped_shim_harms_nobody("a_foreign_stopped_shim_harms_nobody", Kind::Foreign).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_died_while_the_daemon_was_away_is_dead_by_proof() {
    let case = "a_shim_that_died_while_the_daemon_was_away_is_dead_by_proof";
    for kind in [Kind::Own, Kind::Foreign] {
        let Some(mut world) = World::new(case, kind).await else { continue };
        let (id, pid) = world.run("c", "sleep 1000").await;
        let shim = world.shim_pid("c");
        world.stop().await;
        kill(shim, 9).unwrap();
        world.start().await;
        let ended = world.tasks().wait(&world.cx, &id, None).await.unwrap();
        assert_eq!(ended.status, 137);
        let mut events = world.events();
        let told = events.exit().await;
        assert_eq!((told.id.as_str(), told.pid), ("c", pid));
        assert_eq!(world.becomes(&id, Status::Stopped).await.ended, Some(ended));
        assert_eq!(events.come(), []);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_tasks_are_gone_once() {
    let case = "after_a_reboot_tasks_are_gone_once";
    let Some(mut world) = World::new(case, Kind::Own).await else { return };
    let (id, pid) = world.run("c", "sleep 1000").await;
    let shim = world.shim_pid("c");
    world.stop().await;
    world.config().boot_id = [9; 16];
    world.start().await;
    let mut events = world.events();
    let told = events.exit().await;
    assert_eq!((told.pid, told.exit_status), (pid, STATUS_UNKNOWN));
    let stopped = world.get(&id).await;
    assert_eq!((stopped.status, stopped.ended.unwrap().status), (Status::Stopped, STATUS_UNKNOWN));
    let recorded = world.metadata().read(|view| view.tasks()).await.unwrap();
    assert_eq!(recorded[0].1.state.exit.as_ref().unwrap().exit.reason, "reboot");
    world.restart().await;
    assert_eq!(world.events().exit().await.exit_status, STATUS_UNKNOWN);
    assert_eq!(world.events().come().len(), 1);
    // Processes of this boot that have those numbers are strangers.
    assert!(std::path::Path::new(&format!("/proc/{shim}")).exists());
    let deleted = world.tasks().delete(&world.cx, &id).await.unwrap();
    assert_eq!(deleted.status, STATUS_UNKNOWN);
    for stranger in [shim, i32::try_from(pid).unwrap()] {
        kill(stranger, 9).unwrap();
    }
    eventually("the strangers' end", || !std::path::Path::new(&format!("/proc/{pid}")).exists())
        .await;
    world.end().await;
}
