//! Collections over a live store: what goes, what stays, and writers that overtake them.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use gantry_core::clock::ManualClock;
use gantry_core::filter::Filters;
use gantry_core::model::{Descriptor, Image, Lease, Resource};
use gantry_core::snapshot::{SnapshotId, SnapshotInfo, SnapshotKind, Usage};
use gantry_core::{
    CallCx, Cx, Digest, ImageName, Labels, LeaseId, Namespace, Result, SnapshotKey,
    SnapshotterName, SystemClock, Timestamp,
};
use gantry_gc::Object;
use gantry_metadata::stores::{Images, Leases, SnapshotCommit, SnapshotEntry, SnapshotRecords};
use gantry_metadata::{Collector, Metadata, Reclaim, Schedule, Scheduler};
use tokio_util::sync::CancellationToken;

const NOON: Timestamp = Timestamp { seconds: 1_700_000_000, nanos: 0 };

fn cx(lease: Option<&str>) -> Cx {
    let lease = lease.map(|id| LeaseId::new(id).unwrap());
    CallCx::default().in_namespace(Namespace::new("ns").unwrap(), lease)
}

fn records() -> SnapshotRecords {
    SnapshotRecords::new(SnapshotterName::new("overlayfs").unwrap())
}

fn key(text: &str) -> SnapshotKey {
    SnapshotKey::new(text).unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::unchecked(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
}

async fn lease(metadata: &Arc<Metadata>, id: &str, pairs: &[(&str, &str)]) {
    let lease = Lease { id: LeaseId::new(id).unwrap(), created_at: NOON, labels: labels(pairs) };
    Leases::new(metadata.clone()).create(&cx(None), lease).await.unwrap();
}

async fn prepare(metadata: &Metadata, cx: &Cx, name: &str, parent: Option<&str>) -> Result<()> {
    let entry = SnapshotEntry {
        info: SnapshotInfo {
            kind: SnapshotKind::Active,
            name: key(name),
            parent: parent.map(key),
            labels: Labels::default(),
            created_at: NOON,
            updated_at: NOON,
        },
        id: SnapshotId(1),
        usage: Usage::default(),
        backend_key: String::new(),
    };
    let cx = cx.clone();
    metadata.update(move |tx| records().insert(tx, &cx, entry)).await
}

async fn layer(
    metadata: &Metadata,
    cx: &Cx,
    name: &str,
    parent: Option<&str>,
    pairs: &[(&str, &str)],
) {
    let active = format!("extract {name}");
    prepare(metadata, cx, &active, parent).await.unwrap();
    let commit = SnapshotCommit {
        name: key(name),
        key: key(&active),
        parent: None,
        labels: labels(pairs),
        usage: Usage::default(),
        backend_key: String::new(),
    };
    let cx = cx.clone();
    metadata.update(move |tx| records().commit(tx, &cx, commit)).await.unwrap();
}

async fn left(metadata: &Metadata) -> Vec<String> {
    let list = metadata
        .read(|view| records().list(view, &Namespace::new("ns").unwrap(), &Filters::default()))
        .await
        .unwrap();
    list.into_iter().map(|e| e.info.name.into_string()).collect()
}

fn collector(metadata: &Arc<Metadata>) -> Collector {
    Collector::new(metadata.clone(), Vec::new())
}

#[tokio::test]
async fn a_chain_goes_from_its_leaf_when_the_lease_ends() {
    let metadata = Metadata::in_memory(Arc::new(SystemClock)).unwrap();
    lease(&metadata, "l", &[]).await;
    let leased = cx(Some("l"));
    layer(&metadata, &leased, "c1", None, &[]).await;
    for n in 2..=130 {
        let parent = format!("c{}", n - 1);
        layer(&metadata, &leased, &format!("c{n}"), Some(&parent), &[]).await;
    }
    assert_eq!(collector(&metadata).collect().await.unwrap().removed, []);
    Leases::new(metadata.clone()).delete(&cx(None), &LeaseId::new("l").unwrap()).await.unwrap();
    let removed = collector(&metadata).collect().await.unwrap().removed;
    assert_eq!(removed.len(), 130);
    assert!(left(&metadata).await.is_empty());
    let last = &removed[129].object;
    assert!(matches!(last, Object::Snapshot { key, .. } if key == "c1"), "{last:?}");
}

#[tokio::test]
async fn an_expired_lease_goes_with_what_only_it_held() {
    let clock = Arc::new(ManualClock::at(NOON));
    let metadata = Metadata::in_memory(clock.clone()).unwrap();
    let expiry = NOON.plus(std::time::Duration::from_secs(10)).to_rfc3339();
    lease(&metadata, "l", &[("containerd.io/gc.expire", &expiry)]).await;
    layer(&metadata, &cx(Some("l")), "c1", None, &[]).await;
    layer(&metadata, &cx(None), "kept", None, &[("containerd.io/gc.root", "1")]).await;
    assert_eq!(collector(&metadata).collect().await.unwrap().removed, []);
    clock.advance(std::time::Duration::from_secs(11));
    assert_eq!(collector(&metadata).collect().await.unwrap().removed.len(), 2);
    assert_eq!(left(&metadata).await, ["kept"]);
    let leases = Leases::new(metadata.clone()).list(&cx(None), Filters::default()).await.unwrap();
    assert!(leases.is_empty());
}

#[tokio::test]
async fn an_expired_image_goes_and_says_so() {
    let metadata = Metadata::in_memory(Arc::new(SystemClock)).unwrap();
    let image = |name: &str, pairs: &[(&str, &str)]| Image {
        name: ImageName::new(name).unwrap(),
        labels: labels(pairs),
        target: Descriptor {
            media_type: "m".into(),
            digest: Digest::of(b"x"),
            size: 1,
            annotations: BTreeMap::new(),
        },
        created_at: NOON,
        updated_at: NOON,
    };
    let images = Images::new(metadata.clone());
    let expired = [("containerd.io/gc.expire", "2001-01-01T00:00:00Z")];
    images.create(&cx(None), image("stays", &[]), None).await.unwrap();
    images.create(&cx(None), image("goes", &expired), None).await.unwrap();
    let mut events = metadata.journal().subscribe();
    collector(&metadata).collect().await.unwrap();
    let event = events.try_next().unwrap();
    assert_eq!(event.envelope.topic, "/images/delete");
    assert_eq!(event.envelope.namespace.as_str(), "ns");
    assert_eq!(images.list(&cx(None), Filters::default()).await.unwrap().len(), 1);
}

/// Removes nothing, but tells how often it was asked.
struct Counting(AtomicUsize);

#[async_trait]
impl Reclaim for Counting {
    fn name(&self) -> &str {
        "counting"
    }
    async fn reclaim(&self) -> Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Garbage is made and leased again while collections run without pause. What a client still found
/// after its lease had taken hold must be there at the end, whatever the collector did meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_client_has_just_leased_survives() {
    let metadata = Metadata::in_memory(Arc::new(SystemClock)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let collecting = tokio::spawn({
        let (metadata, stop) = (metadata.clone(), stop.clone());
        async move {
            let collector = collector(&metadata);
            let mut removed = 0;
            while !stop.load(Ordering::SeqCst) {
                removed += collector.collect().await.unwrap().removed.len();
            }
            removed
        }
    });
    lease(&metadata, "l", &[]).await;
    let clients: Vec<_> =
        (0..4).map(|client| tokio::spawn(make_and_lease(metadata.clone(), client))).collect();
    let mut held = Vec::new();
    for client in clients {
        held.extend(client.await.unwrap());
    }
    stop.store(true, Ordering::SeqCst);
    let removed = collecting.await.unwrap();
    assert!(!held.is_empty() && removed > 0, "{held:?} held, {removed} removed: no race at all");
    let left = left(&metadata).await;
    let lost: Vec<_> = held.iter().filter(|name| !left.contains(name)).collect();
    assert!(lost.is_empty(), "collected although leased: {lost:?}");
}

/// Returns the snapshots that were there after they had been leased.
async fn make_and_lease(metadata: Arc<Metadata>, client: u32) -> Vec<String> {
    let leases = Leases::new(metadata.clone());
    let mut held = Vec::new();
    for round in 0..100 {
        let name = format!("s-{client}-{round}");
        // Unreferred: a collection may take it at any moment from here on.
        layer_or_gone(&metadata, &name).await;
        let resource = Resource { kind: "snapshots/overlayfs".into(), id: name.clone() };
        leases.add_resource(&cx(None), &LeaseId::new("l").unwrap(), resource).await.unwrap();
        let wanted = key(&name);
        let found = metadata
            .read(move |view| records().find(view, &Namespace::new("ns")?, &wanted))
            .await
            .unwrap();
        if found.is_some() {
            held.push(name);
        }
    }
    held
}

async fn layer_or_gone(metadata: &Metadata, name: &str) {
    let active = format!("extract {name}");
    if prepare(metadata, &cx(None), &active, None).await.is_err() {
        return;
    }
    let commit = SnapshotCommit {
        name: key(name),
        key: key(&active),
        parent: None,
        labels: Labels::default(),
        usage: Usage::default(),
        backend_key: String::new(),
    };
    // The active one is garbage too and may be gone already.
    let _ = metadata.update(move |tx| records().commit(tx, &cx(None), commit)).await;
}

#[tokio::test]
async fn who_asks_for_a_collection_waits_for_files_too() {
    let metadata = Metadata::in_memory(Arc::new(SystemClock)).unwrap();
    let counting = Arc::new(Counting(AtomicUsize::new(0)));
    let collector = Arc::new(Collector::new(metadata.clone(), vec![counting.clone()]));
    let stop = CancellationToken::new();
    let never = Schedule { startup: std::time::Duration::from_secs(3600), ..Schedule::default() };
    let (scheduler, run) = Scheduler::new(metadata.clone(), collector, never, stop.clone());
    let running = tokio::spawn(run);
    prepare(&metadata, &cx(None), "garbage", None).await.unwrap();
    scheduler.collect_now(&CallCx::default()).await.unwrap();
    assert_eq!(counting.0.load(Ordering::SeqCst), 1);
    assert!(left(&metadata).await.is_empty());
    stop.cancel();
    running.await.unwrap();
    assert!(scheduler.collect_now(&CallCx::default()).await.is_err());
}
