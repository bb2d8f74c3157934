//! What clients see of a task from its making to its deletion.

use std::fs;
use std::time::Duration;

use gantry_core::model::TypedAny;
use gantry_core::task::Status;
use gantry_core::{ExecId, Kind as ErrorKind};
use gantry_plugin_runtime::ExecProcess;

use crate::world::{Kind, SOON, World, call, eventually, process, to_file};

async fn a_task_lives_and_dies(case: &str, kind: Kind) {
    let Some(world) = World::new(case, kind).await else { return };
    let mut events = world.events();
    let id = world.container("c", "echo hello; exec sleep 1000").await;
    let request =
        gantry_plugin_runtime::CreateTask { stdio: to_file(&world, "out"), ..world.request() };
    let tasks = world.tasks();
    let pid = tasks.create(&world.cx, &id, request.clone()).await.unwrap();
    assert!(pid > 0);
    let created = world.get(&id).await;
    assert_eq!((created.status, created.pid, created.ended), (Status::Created, pid, None));
    assert_eq!(created.stdio, request.stdio);
    let again = tasks.create(&world.cx, &id, request).await.unwrap_err();
    assert_eq!(
        (again.kind(), again.message()),
        (ErrorKind::AlreadyExists, "task c: already exists".into())
    );

    // Clients begin to wait before they start.
    let waiting = {
        let (tasks, cx, id) = (tasks.clone(), world.cx.clone(), id.clone());
        tokio::spawn(async move { tasks.wait(&cx, &id, None).await })
    };
    assert_eq!(tasks.start(&world.cx, &id, None).await.unwrap(), pid);
    assert_eq!(world.get(&id).await.status, Status::Running);
    eventually("output", || fs::read_to_string(world.path("out")).is_ok_and(|t| t == "hello\n"))
        .await;
    let pids = tasks.pids(&world.cx, &id).await.unwrap();
    assert!(pids.iter().any(|process| process.pid == pid));
    let refused = tasks.delete(&world.cx, &id).await.unwrap_err();
    assert!(refused.message().contains("cannot delete a running"), "{}", refused.message());

    tasks.pause(&world.cx, &id).await.unwrap();
    assert_eq!(world.get(&id).await.status, Status::Paused);
    tasks.resume(&world.cx, &id).await.unwrap();
    let listed = tasks.list(&world.cx).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].id.as_str(), listed[0].status), ("c", Status::Running));
    let metrics = tasks.metrics(&world.cx, &Default::default()).await.unwrap();
    assert_eq!(metrics.len(), 1);

    tasks.kill(&world.cx, &id, None, 9, false).await.unwrap();
    let ended = tokio::time::timeout(SOON, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(ended.status, 137);
    let stopped = world.get(&id).await;
    assert_eq!((stopped.status, stopped.ended), (Status::Stopped, Some(ended)));
    assert_eq!(tasks.wait(&world.cx, &id, None).await.unwrap(), ended);
    let killed = tasks.kill(&world.cx, &id, None, 9, false).await.unwrap_err();
    assert_eq!(killed.message(), "process already finished: not found");

    let deleted = tasks.delete(&world.cx, &id).await.unwrap();
    assert_eq!((deleted.pid, deleted.status, deleted.exited_at), (pid, 137, ended.exited_at));
    for gone in [
        tasks.get(&world.cx, &id, None).await.unwrap_err(),
        tasks.delete(&world.cx, &id).await.unwrap_err(),
    ] {
        assert_eq!(gone.message(), "task c not found: not found");
    }
    assert!(!world.bundle("c").exists());
    let topics = events.until("/tasks/delete").await;
    let wanted = ["create", "start", "paused", "resumed", "exit", "delete"];
    assert_eq!(topics, wanted.map(|word| format!("/tasks/{word}")));

    // The name is free at once.
    let (again, _) = {
        tasks.create(&world.cx, &id, world.request()).await.unwrap();
        (id, ())
    };
    tasks.delete(&world.cx, &again).await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_lives_and_dies_in_our_shim() {
    a_task_lives_and_dies("a_task_lives_and_dies_in_our_shim", Kind::Own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_lives_and_dies_in_a_foreign_shim() {
    a_task_lives_and_dies("a_task_lives_and_dies_in_a_foreign_shim", Kind::Foreign).await;
}

fn exec(id: &str, script: &str) -> ExecProcess {
    ExecProcess {
        exec_id: id.into(),
        stdio: Default::default(),
        spec: Some(TypedAny {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: process(script).to_string().into_bytes(),
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn execs_are_told_apart_and_end_before_init() {
    let case = "execs_are_told_apart_and_end_before_init";
    let Some(world) = World::new(case, Kind::Own).await else { return };
    let mut events = world.events();
    let (id, _) = world.run("c", "sleep 1000").await;
    let tasks = world.tasks();
    let named = |name: &str| ExecId::new(name).unwrap();
    tasks.exec(&world.cx, &id, exec("e1", "exit 3")).await.unwrap();
    let twice = tasks.exec(&world.cx, &id, exec("e1", "exit 3")).await.unwrap_err();
    assert!(twice.is(ErrorKind::AlreadyExists), "{}", twice.message());
    let empty = tasks.exec(&world.cx, &id, exec("", "true")).await.unwrap_err();
    assert_eq!(empty.message(), "exec id cannot be empty: invalid argument");
    let odd = tasks.exec(&world.cx, &id, exec("a/b", "true")).await.unwrap_err();
    assert!(odd.message().starts_with("invalid exec id a/b: "), "{}", odd.message());
    let none = tasks.start(&world.cx, &id, Some(&named("no"))).await.unwrap_err();
    assert!(none.is(ErrorKind::NotFound), "{}", none.message());

    let first = named("e1");
    let early = tasks.wait(&world.cx, &id, Some(&first));
    let (ended, started) = tokio::join!(early, tasks.start(&world.cx, &id, Some(&first)));
    let pid = started.unwrap();
    assert_eq!(ended.unwrap().status, 3);
    let told = events.exit().await;
    assert_eq!((told.id.as_str(), told.pid, told.exit_status), ("e1", pid, 3));
    let deleted = tasks.delete_exec(&world.cx, &id, &named("e1")).await.unwrap();
    assert_eq!((deleted.pid, deleted.status), (pid, 3));
    let gone = tasks.get(&world.cx, &id, Some(&named("e1"))).await.unwrap_err();
    assert!(gone.is(ErrorKind::NotFound), "{}", gone.message());

    tasks.exec(&world.cx, &id, exec("e2", "sleep 1000")).await.unwrap();
    tasks.start(&world.cx, &id, Some(&named("e2"))).await.unwrap();
    tasks.kill(&world.cx, &id, None, 9, true).await.unwrap();
    assert_eq!(events.exit().await.id, "e2");
    assert_eq!(events.exit().await.id, "c");
    tasks.delete(&world.cx, &id).await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tasks_at_once_tell_one_exit_each() {
    const COUNT: usize = 12;
    let case = "many_tasks_at_once_tell_one_exit_each";
    let Some(world) = World::new(case, Kind::Own).await else { return };
    let mut events = world.events();
    let runs = (0..COUNT).map(async |n| {
        let (id, pid) = world.run(&format!("c{n}"), &format!("exit {n}")).await;
        let ended = world.tasks().wait(&world.cx, &id, None).await.unwrap();
        assert_eq!(ended.status, u32::try_from(n).unwrap());
        assert_eq!(world.get(&id).await.status, Status::Stopped);
        let deleted = world.tasks().delete(&world.cx, &id).await.unwrap();
        assert_eq!((deleted.pid, deleted.status), (pid, ended.status));
    });
    futures_util::future::join_all(runs).await;
    let mut seen = std::collections::BTreeMap::<String, Vec<String>>::new();
    let mut deleted = 0;
    while deleted < COUNT {
        match events.next().await {
            (_, Some(exit)) => seen.entry(exit.container_id).or_default().push(exit.id),
            (topic, None) if topic == "/tasks/delete" => deleted += 1,
            _ => {}
        }
    }
    assert_eq!(seen.len(), COUNT);
    assert!(seen.iter().all(|(id, exits)| exits == std::slice::from_ref(id)), "{seen:?}");
    assert_eq!(events.come(), []);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_with_its_caller_and_with_the_daemon() {
    let case = "a_wait_ends_with_its_caller_and_with_the_daemon";
    let Some(mut world) = World::new(case, Kind::Own).await else { return };
    let (id, _) = world.run("c", "sleep 1000").await;
    let (cx, cancel) = call(&world);
    let tasks = world.tasks().clone();
    let (waited, ()) = tokio::join!(tasks.wait(&cx, &id, None), async { cancel.cancel() });
    assert!(waited.unwrap_err().is(ErrorKind::Cancelled));
    let open = {
        let (tasks, cx, id) = (tasks.clone(), world.cx.clone(), id.clone());
        tokio::spawn(async move { tasks.wait(&cx, &id, None).await })
    };
    drop(tasks);
    tokio::time::timeout(Duration::from_secs(20), world.stop()).await.unwrap();
    assert!(open.await.unwrap().unwrap_err().is(ErrorKind::Unavailable));
    world.start().await;
    assert_eq!(world.becomes(&id, Status::Running).await.status, Status::Running);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_deletions_one_succeeds() {
    let case = "of_two_deletions_one_succeeds";
    let Some(world) = World::new(case, Kind::Own).await else { return };
    let (id, _) = world.run("c", "true").await;
    world.tasks().wait(&world.cx, &id, None).await.unwrap();
    let delete = || world.tasks().delete(&world.cx, &id);
    let (a, b) = tokio::join!(delete(), delete());
    let (won, lost) = if a.is_ok() { (a, b) } else { (b, a) };
    assert_eq!(won.unwrap().status, 0);
    assert!(lost.unwrap_err().is(ErrorKind::NotFound));
    world.end().await;
}
