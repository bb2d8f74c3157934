//! Shims that die while the daemon runs.

use gantry_core::Kind as ErrorKind;
use gantry_core::task::Status;

use crate::world::{Kind, SOON, World, kill};

async fn a_killed_shim_leaves_a_stopped_task(case: &str, kind: Kind) {
    let Some(world) = World::new(case, kind).await else { return };
    let mut events = world.events();
    let (id, pid) = world.run("c", "sleep 1000").await;
    let waiting = {
        let (tasks, cx, id) = (world.tasks().clone(), world.cx.clone(), id.clone());
        tokio::spawn(async move { tasks.wait(&cx, &id, None).await })
    };
    kill(world.shim_pid("c"), 9).unwrap();
    let ended = tokio::time::timeout(SOON, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(ended.status, 137, "killed by the delete command");
    let told = events.exit().await;
    assert_eq!((told.id.as_str(), told.pid, told.exit_status), ("c", pid, 137));
    let stopped = world.becomes(&id, Status::Stopped).await;
    assert_eq!(stopped.ended, Some(ended));
    let tasks = world.tasks();
    let refused = tasks.kill(&world.cx, &id, None, 9, true).await.unwrap_err();
    assert_eq!(refused.message(), "process already finished: not found");
    let refused = tasks.start(&world.cx, &id, None).await.unwrap_err();
    assert_eq!(refused.message(), "cannot start a stopped process");
    assert_eq!(tasks.pids(&world.cx, &id).await.unwrap(), []);
    let deleted = tasks.delete(&world.cx, &id).await.unwrap();
    assert_eq!((deleted.pid, deleted.status), (pid, 137));
    assert!(tasks.delete(&world.cx, &id).await.unwrap_err().is(ErrorKind::NotFound));
    assert_eq!(events.until("/tasks/delete").await, ["/tasks/delete"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_shim_killed_leaves_a_stopped_task() {
    a_killed_shim_leaves_a_stopped_task("our_shim_killed_leaves_a_stopped_task", Kind::Own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_shim_killed_leaves_a_stopped_task() {
    let case = "a_foreign_shim_killed_leaves_a_stopped_task";
    a_killed_shim_leaves_a_stopped_task(case, Kind::Foreign).await;
}
