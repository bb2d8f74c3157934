//! Exits are told once, stay as long as they must, and reach those who subscribe after a start.

#![allow(clippy::redundant_closure_for_method_calls, reason = "a path is not general enough")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use gantry_core::clock::ManualClock;
use gantry_core::model::{ContainerName, Envelope, TypedAny};
use gantry_core::task::{Exit, Status, TaskState};
use gantry_core::{ContainerId, Namespace, Timestamp};
use gantry_metadata::kv::BackendKind;
use gantry_metadata::stores::{Shim, Stdio, Task, Told};
use gantry_metadata::{Journal, Metadata, OpenOptions, Subscription};

const NOON: Timestamp = Timestamp { seconds: 1_700_000_000, nanos: 5 };

fn name(id: &str) -> ContainerName {
    ContainerName { namespace: Namespace::new("ns").unwrap(), id: ContainerId::new(id).unwrap() }
}

fn task(pid: u32) -> Task {
    Task {
        bundle: "/bundle".into(),
        shim: Shim { binary: "/shim".into(), gantry: true, ..Shim::default() },
        boot_id: [7; 16],
        stdio: Stdio { stdout: "/out".into(), ..Stdio::default() },
        created_at: NOON,
        state: TaskState { status: Status::Running, pid, ..TaskState::default() },
    }
}

fn exit(exec: &str, pid: u32, status: u32) -> Exit {
    Exit {
        exec_id: exec.into(),
        pid,
        start_time: 0,
        status,
        exited_at: NOON.plus(Duration::from_secs(u64::from(status))),
        reason: String::new(),
    }
}

fn envelope(id: &str, exit: &Exit) -> Envelope {
    Envelope {
        timestamp: exit.exited_at,
        namespace: Namespace::new("ns").unwrap(),
        topic: "/tasks/exit".into(),
        event: TypedAny { type_url: id.into(), value: vec![exit.status as u8] },
    }
}

async fn tell(metadata: &Metadata, id: &str, exit: Exit, replay: bool) -> Told {
    let (name, envelope) = (name(id), envelope(id, &exit));
    metadata.update(move |tx| tx.tell_exit(&name, exit, envelope, replay)).await.unwrap()
}

fn waiting(subscription: &mut Subscription) -> Vec<(String, u8)> {
    std::iter::from_fn(|| subscription.try_next())
        .map(|e| (e.envelope.event.type_url.clone(), e.envelope.event.value[0]))
        .collect()
}

struct Disk {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Disk {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock: Arc::new(ManualClock::at(NOON)) }
    }
    fn open(&self) -> Arc<Metadata> {
        let folder = self.dir.path().join("meta");
        let options = OpenOptions { folder, backend: BackendKind::Sled };
        Metadata::open(&options, self.clock.clone()).unwrap()
    }
}

#[tokio::test]
async fn an_exit_is_published_once_and_its_state_survives() {
    let disk = Disk::new();
    let metadata = disk.open();
    metadata.update(|tx| tx.put_task(&name("a"), &task(5))).await.unwrap();
    let mut events = metadata.journal().subscribe();
    let Told::Recorded(state) = tell(&metadata, "a", exit("", 5, 3), false).await else {
        panic!("not recorded")
    };
    assert_eq!(state.status, Status::Stopped);
    let sequence = state.exit.unwrap().sequence;
    assert_eq!(tell(&metadata, "a", exit("", 5, 4), false).await, Told::Known(sequence));
    assert_eq!(tell(&metadata, "b", exit("", 5, 3), false).await, Told::NoTask);
    assert_eq!(tell(&metadata, "a", exit("", 6, 3), false).await, Told::NoTask);
    assert_eq!(waiting(&mut events), [("a".into(), 3)]);
    // One that subscribes later gets none: nothing is replayed.
    assert_eq!(waiting(&mut metadata.journal().subscribe()), []);
    drop(metadata);
    let metadata = disk.open();
    let found = metadata.read(|view| view.tasks()).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1.state.exit.as_ref().unwrap().exit, exit("", 5, 3));
    assert_eq!(found[0].1.shim, task(5).shim);
    assert_eq!(found[0].1.stdio, task(5).stdio);
}

#[tokio::test]
async fn exits_found_at_start_come_first_once_per_stream_until_the_replay_closes() {
    let disk = Disk::new();
    let metadata = disk.open();
    for id in ["a", "b"] {
        metadata.update(move |tx| tx.put_task(&name(id), &task(5))).await.unwrap();
    }
    tell(&metadata, "a", exit("", 5, 1), true).await;
    let mut early = metadata.journal().subscribe();
    // Found while the first client listens already.
    tell(&metadata, "b", exit("", 5, 2), true).await;
    let live = envelope("live", &exit("", 1, 9));
    metadata.journal().publish(live);
    let all = [("a".into(), 1), ("b".into(), 2), ("live".into(), 9)];
    assert_eq!(waiting(&mut early), all);
    assert_eq!(waiting(&mut early), []);
    assert_eq!(waiting(&mut metadata.journal().subscribe()), all[..2]);

    // The daemon dies before the window is over: the next one replays again.
    drop((early, metadata));
    let metadata = disk.open();
    assert_eq!(waiting(&mut metadata.journal().subscribe()), all[..2]);
    // A deleted task's exit is still replayed.
    metadata.update(|tx| tx.delete_task(&name("a"))).await.unwrap();
    assert_eq!(waiting(&mut metadata.journal().subscribe()), all[..2]);
    metadata.update(|tx| tx.close_replay()).await.unwrap();
    assert_eq!(waiting(&mut metadata.journal().subscribe()), []);
    drop(metadata);
    let metadata = disk.open();
    assert_eq!(waiting(&mut metadata.journal().subscribe()), []);
}

#[tokio::test]
async fn a_recorded_exit_that_may_not_have_been_told_is_replayed() {
    let disk = Disk::new();
    let metadata = disk.open();
    metadata.update(|tx| tx.put_task(&name("a"), &task(5))).await.unwrap();
    tell(&metadata, "a", exit("", 5, 1), false).await;
    drop(metadata);
    let metadata = disk.open();
    let Told::Known(sequence) = tell(&metadata, "a", exit("", 5, 1), true).await else {
        panic!("told twice")
    };
    metadata.update(move |tx| tx.replay_exit(sequence)).await.unwrap();
    assert_eq!(waiting(&mut metadata.journal().subscribe()), [("a".into(), 1)]);
}

#[tokio::test]
async fn exits_outlive_trimming_until_their_task_is_deleted() {
    let disk = Disk::new();
    let metadata = disk.open();
    metadata.update(|tx| tx.put_task(&name("a"), &task(5))).await.unwrap();
    tell(&metadata, "a", exit("", 5, 1), false).await;
    let entries = async || {
        let all = metadata.read(|view| Journal::since(view, 0)).await.unwrap();
        all.into_iter().map(|e| e.envelope.event.type_url).collect::<Vec<_>>()
    };
    let age = async |id: &'static str| {
        disk.clock.advance(gantry_metadata::journal::AGE_MAX * 2);
        for _ in 0..3 {
            let mut event = envelope(id, &exit("", 1, 0));
            event.timestamp = metadata.clock().now();
            metadata.update(move |tx| tx.emit_envelope(event)).await.unwrap();
        }
    };
    age("x").await;
    age("y").await;
    assert_eq!(entries().await, ["a", "y", "y", "y"]);
    metadata.update(|tx| tx.delete_task(&name("a"))).await.unwrap();
    assert_eq!(entries().await, ["y", "y", "y"]);
    assert!(!metadata.update(|tx| tx.delete_task(&name("a"))).await.unwrap());
}
