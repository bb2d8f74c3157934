//! `kill -9` at random moments and at every commit point: what was acknowledged is there.
//!
//! Workers create, change and delete records over gRPC, each on objects of its own, and note what
//! was acknowledged. The daemon is killed meanwhile. After the next start each object must be as
//! acknowledged, or as the one call in flight would have left it; nothing else will do.
//!
//! `GANTRY_TORTURE_ROUNDS` sets how many random kills there are.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gantry_api::containerd::services::containers::v1 as containers;
use gantry_api::containerd::services::containers::v1::containers_client::ContainersClient;
use gantry_tests::poll::{SOON, soon};
use gantry_tests::wire::within;
use gantry_tests::{Ctr, Daemon};
use prost_types::Any;
use tonic::transport::Channel;

const WORKERS: u64 = 4;
/// Objects of one worker: few, so that each is created, changed and deleted many times.
const OBJECTS: u64 = 8;
const ROUNDS: u64 = 12;

/// Version of an object; `None` when it is absent.
type State = Option<u64>;

/// What a worker knows of its objects.
#[derive(Clone, Debug, Default)]
struct Known {
    acknowledged: BTreeMap<String, State>,
    in_flight: Option<(String, State)>,
}

/// A small generator, so that a failure can be repeated from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The container that stands for an object at `version`; every fifth version is larger than the
/// store's values may be.
fn container(id: &str, version: u64) -> containers::Container {
    let length = if version.is_multiple_of(5) { 100_000 } else { 100 };
    let byte = u8::try_from(version % 251).unwrap();
    let name = "io.containerd.runc.v2".to_owned();
    containers::Container {
        id: id.to_owned(),
        labels: [("version".to_owned(), version.to_string())].into(),
        runtime: Some(containers::container::Runtime { name, ..Default::default() }),
        spec: Some(Any { type_url: "spec".to_owned(), value: vec![byte; length] }),
        ..Default::default()
    }
}

/// Works until the connection breaks; gives what it knows then.
async fn work(
    channel: Channel,
    namespace: String,
    mut known: Known,
    worker: u64,
    mut random: Random,
    done: Arc<AtomicU64>,
) -> Known {
    let mut client = ContainersClient::new(channel);
    loop {
        let id = format!("w{worker}-{}", random.below(OBJECTS));
        let before = known.acknowledged.get(&id).copied().flatten();
        let version = done.fetch_add(1, Ordering::Relaxed);
        let after = if before.is_some() && random.below(3) == 0 { None } else { Some(version) };
        known.in_flight = Some((id.clone(), after));
        let container = after.map(|version| container(&id, version));
        let outcome = match (before, container) {
            (None, container) => {
                let request = containers::CreateContainerRequest { container };
                client.create(within(&namespace, request)).await.map(drop)
            }
            (Some(_), Some(container)) => {
                let container = Some(container);
                let request =
                    containers::UpdateContainerRequest { container, ..Default::default() };
                client.update(within(&namespace, request)).await.map(drop)
            }
            (Some(_), None) => {
                let request = containers::DeleteContainerRequest { id: id.clone() };
                client.delete(within(&namespace, request)).await.map(drop)
            }
        };
        match outcome {
            Ok(()) => {
                known.acknowledged.insert(id, after);
                known.in_flight = None;
            }
            Err(status) if is_refusal(&status) => panic!("{id} to {after:?}: {status:?}"),
            Err(_) => return known,
        }
    }
}

/// Whether the daemon itself said no, which on one's own objects it never should.
fn is_refusal(status: &tonic::Status) -> bool {
    use tonic::Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};
    [AlreadyExists, FailedPrecondition, InvalidArgument, NotFound].contains(&status.code())
}

/// Compares what is there with what is known, which becomes what is there.
async fn verify(daemon: &Daemon, known: &mut [Known]) {
    let mut client = ContainersClient::new(daemon.channel());
    let request = containers::ListContainersRequest::default();
    let listed = client.list(within(daemon.namespace(), request)).await.unwrap().into_inner();
    let mut found = BTreeMap::new();
    for seen in listed.containers {
        let version: u64 = seen.labels["version"].parse().unwrap();
        let whole = container(&seen.id, version);
        assert_eq!(seen.spec, whole.spec, "{}: the spec is of another version", seen.id);
        found.insert(seen.id, version);
    }
    for known in known {
        let in_flight = known.in_flight.take();
        if let Some((id, _)) = &in_flight {
            known.acknowledged.entry(id.clone()).or_default();
        }
        for (id, state) in &mut known.acknowledged {
            let seen = found.remove(id);
            let pending = in_flight.as_ref().filter(|(other, _)| other == id);
            let fits = seen == *state || pending.is_some_and(|(_, after)| seen == *after);
            assert!(fits, "{id}: {seen:?}, acknowledged {state:?}, in flight {pending:?}");
            *state = seen;
        }
    }
    assert!(found.is_empty(), "nobody made {found:?}");
}

/// Starts the workers; `kill` then ends the daemon, and what the workers know is given back.
async fn round(
    daemon: &mut Daemon,
    known: Vec<Known>,
    random: &mut Random,
    kill: impl AsyncFnOnce(&mut Daemon, &AtomicU64),
    done: &Arc<AtomicU64>,
) -> Vec<Known> {
    let mut workers = Vec::new();
    for (worker, known) in (0..WORKERS).zip(known) {
        let random = Random(random.below(u64::MAX - 1) + 1);
        let namespace = daemon.namespace().to_owned();
        let done = Arc::clone(done);
        workers.push(tokio::spawn(work(daemon.channel(), namespace, known, worker, random, done)));
    }
    kill(daemon, done).await;
    let mut known = Vec::new();
    for worker in workers {
        known.push(soon("a worker to notice the end", worker).await.unwrap());
    }
    known
}

fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = u64::from(now.subsec_nanos()) + 1;
    println!("seed {seed}");
    seed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_a_random_moment_loses_nothing_acknowledged() {
    let rounds = std::env::var("GANTRY_TORTURE_ROUNDS").ok().and_then(|n| n.parse().ok());
    let mut random = Random(seed());
    let mut daemon = Daemon::start().await;
    let done = Arc::new(AtomicU64::new(0));
    let mut known = vec![Known::default(); usize::try_from(WORKERS).unwrap()];
    for number in 0..rounds.unwrap_or(ROUNDS) {
        // Some rounds die in the middle of starting to work, some after a few hundred calls.
        let scale = random.below(9);
        let calls = random.below(1 << scale) + done.load(Ordering::Relaxed);
        let extra = Duration::from_micros(random.below(2000));
        let kill = async move |daemon: &mut Daemon, done: &AtomicU64| {
            let start = Instant::now();
            while done.load(Ordering::Relaxed) < calls && start.elapsed() < SOON {
                tokio::task::yield_now().await;
            }
            let reached = Instant::now();
            while reached.elapsed() < extra {
                std::hint::spin_loop();
            }
            daemon.kill9();
        };
        known = round(&mut daemon, known, &mut random, kill, &done).await;
        daemon.start_again().await;
        verify(&daemon, &mut known).await;
        println!("round {number}: {} calls so far", done.load(Ordering::Relaxed));
    }
    for ctr in Ctr::all("after the torture") {
        ctr.ok(&daemon, &["containers", "ls"]).await;
        ctr.ok(&daemon, &["leases", "create", "--id", ctr.name]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_every_commit_point_loses_nothing_acknowledged() {
    let mut random = Random(seed());
    let done = Arc::new(AtomicU64::new(0));
    let files = xtask::source::files(&xtask::root()).unwrap();
    let points = xtask::failpoints::all(&files);
    let commits: Vec<_> = points.iter().filter(|name| name.starts_with("kv.commit/")).collect();
    assert!(!commits.is_empty(), "no commit point among {points:?}");
    let mut daemon = Daemon::start().await;
    let mut known = vec![Known::default(); usize::try_from(WORKERS).unwrap()];
    for point in commits {
        daemon.stop();
        daemon.arm(point, &format!("{}*kill", random.below(30) + 3));
        daemon.start_again().await;
        let kill = async |daemon: &mut Daemon, _: &AtomicU64| {
            let status = tokio::task::block_in_place(|| daemon.exited(SOON));
            assert!(!status.success(), "{point}: {status}");
        };
        known = round(&mut daemon, known, &mut random, kill, &done).await;
        daemon.start_again().await;
        verify(&daemon, &mut known).await;
    }
}
