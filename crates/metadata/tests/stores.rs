//! The stores' rules as a table of situation, kind and text, and what must survive a failed call.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gantry_core::clock::ManualClock;
use gantry_core::filter::Filters;
use gantry_core::model::{
    Container, Descriptor, Image, Lease, NamespaceInfo, Resource, RuntimeInfo, TypedAny,
};
use gantry_core::snapshot::{SnapshotId, SnapshotInfo, SnapshotKind, Usage};
use gantry_core::{
    CallCx, ContainerId, Cx, Digest, Error, FieldMask, ImageName, Kind, Labels, LeaseId, Namespace,
    Result, SnapshotKey, SnapshotterName, Timestamp,
};
use gantry_metadata::Metadata;
use gantry_metadata::stores::{
    Containers, ImageUpdate, Images, Leases, Namespaces, SNAPSHOT_REF, SnapshotEntry,
    SnapshotRecords,
};

const NOON: Timestamp = Timestamp { seconds: 1_700_000_000, nanos: 5 };

struct World {
    metadata: Arc<Metadata>,
    clock: Arc<ManualClock>,
    cx: Cx,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(NOON));
        let metadata = Metadata::in_memory(clock.clone()).unwrap();
        let cx = CallCx::default().in_namespace(Namespace::new("ns").unwrap(), None);
        Self { metadata, clock, cx }
    }
    fn containers(&self) -> Containers {
        Containers::new(self.metadata.clone())
    }
    fn images(&self) -> Images {
        Images::new(self.metadata.clone())
    }
    fn leases(&self) -> Leases {
        Leases::new(self.metadata.clone())
    }
    fn namespaces(&self) -> Namespaces {
        Namespaces::new(self.metadata.clone())
    }
    async fn lease(&self, id: &str) -> Cx {
        let id = LeaseId::new(id).unwrap();
        let lease = Lease { id: id.clone(), created_at: NOON, labels: Labels::default() };
        self.leases().create(&self.cx, lease).await.unwrap();
        self.cx.with_lease(Some(id))
    }
    async fn held(&self, lease: &str) -> Vec<(String, String)> {
        let held = self.leases().list_resources(&self.cx, &LeaseId::new(lease).unwrap()).await;
        held.unwrap().into_iter().map(|r| (r.kind, r.id)).collect()
    }
}

fn container(id: &str) -> Container {
    Container {
        id: ContainerId::new(id).unwrap(),
        labels: Labels::default(),
        image: "img".into(),
        runtime: RuntimeInfo { name: "io.containerd.runc.v2".into(), options: None },
        spec: Some(TypedAny { type_url: "spec".into(), value: vec![0, 255, 1] }),
        snapshotter: String::new(),
        snapshot_key: String::new(),
        created_at: Timestamp::UNSET,
        updated_at: Timestamp::UNSET,
        extensions: BTreeMap::new(),
        sandbox: String::new(),
    }
}

fn image(name: &str) -> Image {
    Image {
        name: ImageName::new(name).unwrap(),
        labels: Labels::default(),
        target: Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest: Digest::of(b"manifest"),
            size: 8,
            annotations: BTreeMap::new(),
        },
        created_at: NOON,
        updated_at: NOON,
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::unchecked(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
}

fn mask(paths: &[&str]) -> FieldMask {
    FieldMask::new(paths.iter().map(|p| (*p).to_owned()).collect())
}

#[track_caller]
fn fails<T: std::fmt::Debug>(result: Result<T>, kind: Kind, text: &str) {
    let error: Error = result.unwrap_err();
    assert_eq!((error.kind(), error.message().as_str()), (kind, text));
}

#[tokio::test]
async fn containers_fail_with_containerds_texts() {
    let w = World::new();
    let store = w.containers();
    let id = ContainerId::new("c1").unwrap();
    let absent = "container \"c1\" in namespace \"ns\": not found";
    fails(store.get(&w.cx, &id).await, Kind::NotFound, absent);
    fails(store.delete(&w.cx, &id).await, Kind::NotFound, "container c1: not found");
    fails(
        store.update(&w.cx, container("c1"), mask(&[])).await,
        Kind::NotFound,
        "container \"c1\": not found",
    );
    let mut bad = container("c1");
    bad.runtime.name.clear();
    fails(
        store.create(&w.cx, bad).await,
        Kind::InvalidArgument,
        "create container failed validation: container.Runtime.Name must be set: invalid argument",
    );
    let mut bad = container("c1");
    bad.snapshot_key = "key".into();
    fails(
        store.create(&w.cx, bad).await,
        Kind::InvalidArgument,
        "create container failed validation: container.Snapshotter must be set if \
         container.SnapshotKey is set: invalid argument",
    );
    store.create(&w.cx, container("c1")).await.unwrap();
    let again = store.create(&w.cx, container("c1")).await;
    fails(again, Kind::AlreadyExists, "container \"c1\": already exists");
    let mut other = container("c1");
    other.runtime.name = "other".into();
    fails(
        store.update(&w.cx, other, mask(&[])).await,
        Kind::InvalidArgument,
        "container.Runtime.Name field is immutable: invalid argument",
    );
    fails(
        store.update(&w.cx, container("c1"), mask(&["sandbox"])).await,
        Kind::InvalidArgument,
        "cannot update \"sandbox\" field on \"c1\": invalid argument",
    );
}

#[tokio::test]
async fn a_container_comes_back_bit_for_bit_whatever_its_size() {
    let w = World::new();
    let mut large = container("large");
    large.spec = Some(TypedAny {
        type_url: "spec".into(),
        value: (0..100_000u32).map(|i| u8::try_from(i % 251).unwrap()).collect(),
    });
    let made = w.containers().create(&w.cx, large.clone()).await.unwrap();
    assert_eq!((made.created_at, made.updated_at), (NOON, NOON));
    let found = w.containers().get(&w.cx, &large.id).await.unwrap();
    assert_eq!(found.spec, large.spec);
    // A smaller value leaves no chunk of the larger one behind.
    w.containers().update(&w.cx, container("large"), mask(&["spec"])).await.unwrap();
    w.containers().delete(&w.cx, &large.id).await.unwrap();
    let left = w
        .metadata
        .read(|view| Ok(view.raw().scan(gantry_metadata::schema::CHUNK, &[], None, 10)?.len()))
        .await;
    assert_eq!(left.unwrap(), 0);
}

#[tokio::test]
async fn an_update_takes_the_mask_or_everything() {
    let w = World::new();
    let mut first = container("c1");
    first.labels = labels(&[("a", "1"), ("b.c/d", "2")]);
    w.containers().create(&w.cx, first).await.unwrap();
    w.clock.advance(Duration::from_secs(1));
    let mut sent = container("c1");
    sent.labels = labels(&[("e", "3")]);
    sent.image = "other".into();
    let masked = mask(&["labels.b.c/d", "labels.e"]);
    let updated = w.containers().update(&w.cx, sent.clone(), masked).await.unwrap();
    assert_eq!(updated.labels, labels(&[("a", "1"), ("e", "3")]));
    assert_eq!((updated.image.as_str(), updated.created_at), ("img", NOON));
    assert_eq!(updated.updated_at, NOON.plus(Duration::from_secs(1)));
    let updated = w.containers().update(&w.cx, sent, mask(&[])).await.unwrap();
    assert_eq!((updated.labels, updated.image.as_str()), (labels(&[("e", "3")]), "other"));
}

#[tokio::test]
async fn images_fail_with_containerds_texts() {
    let w = World::new();
    let name = ImageName::new("docker.io/library/x:1").unwrap();
    let absent = "image \"docker.io/library/x:1\": not found";
    fails(w.images().get(&w.cx, &name).await, Kind::NotFound, absent);
    fails(w.images().delete(&w.cx, &name, None).await, Kind::NotFound, absent);
    let mut empty = image(name.as_str());
    empty.target.size = 0;
    fails(
        w.images().create(&w.cx, empty, None).await,
        Kind::InvalidArgument,
        "target.Size must be greater than zero: invalid argument",
    );
    let at = Timestamp { seconds: 7, nanos: 0 };
    let made = w.images().create(&w.cx, image(name.as_str()), Some(at)).await.unwrap();
    assert_eq!((made.created_at, made.updated_at), (at, at));
    let other = Digest::of(b"other");
    fails(
        w.images().delete(&w.cx, &name, Some(other.clone())).await,
        Kind::NotFound,
        &format!("image {name:?} has target {}, not {other}: not found", made.target.digest),
    );
    let update = ImageUpdate { image: image(name.as_str()), mask: mask(&["name"]), at: None };
    fails(
        w.images().update(&w.cx, update).await,
        Kind::InvalidArgument,
        &format!("cannot update \"name\" field on image {name:?}: invalid argument"),
    );
    w.images().delete(&w.cx, &name, Some(made.target.digest)).await.unwrap();
}

#[tokio::test]
async fn only_collectable_images_are_leased() {
    let w = World::new();
    let cx = w.lease("l").await;
    w.images().create(&cx, image("plain"), None).await.unwrap();
    let mut expiring = image("expiring");
    expiring.labels = labels(&[("containerd.io/gc.expire", "2030-01-01T00:00:00Z")]);
    w.images().create(&cx, expiring, None).await.unwrap();
    assert_eq!(w.held("l").await, [("images".to_owned(), "expiring".to_owned())]);
}

#[tokio::test]
async fn leases_check_the_resource_and_not_the_object() {
    let w = World::new();
    w.lease("a b/c").await;
    let id = LeaseId::new("a b/c").unwrap();
    let add = async |kind: &str, id_: &str| {
        let resource = Resource { kind: kind.into(), id: id_.into() };
        w.leases().add_resource(&w.cx, &id, resource).await
    };
    add("snapshots/overlayfs", "k 1").await.unwrap();
    add("snapshots/overlayfs", "k 1").await.unwrap();
    add("images", "x").await.unwrap();
    add("content", Digest::of(b"").as_str()).await.unwrap();
    fails(
        add("content/x", "y").await,
        Kind::InvalidArgument,
        "invalid resource type content/x: invalid argument",
    );
    fails(
        add("snapshots", "y").await,
        Kind::InvalidArgument,
        "invalid snapshot resource type snapshots: invalid argument",
    );
    fails(
        add("pods", "y").await,
        Kind::NotImplemented,
        "resource type pods not supported yet: not implemented",
    );
    assert!(add("content", "nonsense").await.unwrap_err().is(Kind::InvalidArgument));
    let kinds: Vec<_> = w.held("a b/c").await.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["content", "images", "snapshots/overlayfs"]);
    let gone = Resource { kind: "images".into(), id: "never".into() };
    w.leases().delete_resource(&w.cx, &id, gone).await.unwrap();
    w.leases().delete(&w.cx, &id).await.unwrap();
    fails(w.leases().delete(&w.cx, &id).await, Kind::NotFound, "lease \"a b/c\": not found");
}

fn entry(key: &str, parent: Option<&str>, labels: Labels, id: u64) -> SnapshotEntry {
    SnapshotEntry {
        info: SnapshotInfo {
            kind: SnapshotKind::Active,
            name: SnapshotKey::new(key).unwrap(),
            parent: parent.map(|p| SnapshotKey::new(p).unwrap()),
            labels,
            created_at: NOON,
            updated_at: NOON,
        },
        id: SnapshotId(id),
        usage: Usage::default(),
        backend_key: String::new(),
    }
}

#[tokio::test]
async fn what_already_exists_is_leased_although_the_call_fails() {
    let w = World::new();
    let records = SnapshotRecords::new(SnapshotterName::new("overlayfs").unwrap());
    let insert = async |cx: &Cx, entry: SnapshotEntry| {
        let (records, cx) = (records.clone(), cx.clone());
        w.metadata.update(move |tx| records.insert(tx, &cx, entry)).await
    };
    insert(&w.cx, entry("a", None, Labels::default(), 1)).await.unwrap();
    let cx = w.lease("l").await;
    let exists = insert(&cx, entry("a", None, Labels::default(), 2)).await;
    fails(exists, Kind::AlreadyExists, "snapshot \"a\": already exists");
    let target = labels(&[(SNAPSHOT_REF, "a")]);
    let exists = insert(&cx, entry("b", None, target, 3)).await;
    fails(exists, Kind::AlreadyExists, "target snapshot \"a\": already exists");
    assert_eq!(w.held("l").await, [("snapshots/overlayfs".to_owned(), "a".to_owned())]);
    let unknown = w.cx.with_lease(Some(LeaseId::new("gone").unwrap()));
    let refused = insert(&unknown, entry("c", None, Labels::default(), 4)).await;
    fails(refused, Kind::NotFound, "lease does not exist: not found");
    let orphan = insert(&w.cx, entry("d", Some("nobody"), Labels::default(), 5)).await;
    fails(orphan, Kind::NotFound, "parent snapshot nobody does not exist: not found");
    let on_active = insert(&w.cx, entry("d", Some("a"), Labels::default(), 6)).await;
    fails(on_active, Kind::InvalidArgument, "parent snapshot a is not committed: invalid argument");
}

#[tokio::test]
async fn a_namespace_goes_only_when_it_is_empty() {
    let w = World::new();
    let ns = w.cx.namespace().clone();
    let none = w.namespaces().get(&w.cx, &ns).await.unwrap();
    assert!(none.labels.is_empty());
    fails(w.namespaces().delete(&w.cx, &ns).await, Kind::NotFound, "namespace \"ns\": not found");
    w.lease("l").await;
    w.containers().create(&w.cx, container("c1")).await.unwrap();
    w.images().create(&w.cx, image("i"), None).await.unwrap();
    let info = NamespaceInfo { name: ns.clone(), labels: Labels::default() };
    let exists = w.namespaces().create(&w.cx, info).await;
    fails(exists, Kind::AlreadyExists, "namespace \"ns\": already exists");
    fails(
        w.namespaces().delete(&w.cx, &ns).await,
        Kind::FailedPrecondition,
        "namespace \"ns\" must be empty, but it still has images, containers: failed precondition",
    );
    w.containers().delete(&w.cx, &ContainerId::new("c1").unwrap()).await.unwrap();
    w.images().delete(&w.cx, &ImageName::new("i").unwrap(), None).await.unwrap();
    w.namespaces().delete(&w.cx, &ns).await.unwrap();
    assert!(w.leases().list(&w.cx, Filters::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn namespaces_do_not_see_each_other() {
    let w = World::new();
    let other = CallCx::default().in_namespace(Namespace::new("ns2").unwrap(), None);
    w.containers().create(&w.cx, container("c1")).await.unwrap();
    w.containers().create(&other, container("c2")).await.unwrap();
    let ids = async |cx: &Cx| {
        let list = w.containers().list(cx, Filters::default()).await.unwrap();
        list.into_iter().map(|c| c.id.into_string()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&w.cx).await, ["c1"]);
    assert_eq!(ids(&other).await, ["c2"]);
}

#[tokio::test]
async fn events_come_in_order_with_the_state_they_report() {
    let w = World::new();
    let mut events = w.metadata.journal().subscribe();
    w.containers().create(&w.cx, container("c1")).await.unwrap();
    w.containers().create(&w.cx, container("c1")).await.unwrap_err();
    w.containers().delete(&w.cx, &ContainerId::new("c1").unwrap()).await.unwrap();
    let mut seen = Vec::new();
    while let Some(event) = events.try_next() {
        seen.push((event.sequence, event.envelope.topic.clone()));
        assert_eq!(event.envelope.namespace.as_str(), "ns");
    }
    let topics: Vec<_> = seen.iter().map(|(_, topic)| topic.as_str()).collect();
    assert_eq!(topics, ["/containers/create", "/containers/delete"]);
    assert!(seen[0].0 < seen[1].0);
    let stored = w.metadata.read(|view| gantry_metadata::Journal::since(view, 0)).await.unwrap();
    assert_eq!(stored.iter().map(|r| r.sequence).collect::<Vec<_>>(), [seen[0].0, seen[1].0]);
    assert_eq!(stored[0].envelope.event.type_url, "containerd.events.ContainerCreate");
}

#[tokio::test]
async fn old_events_are_trimmed_by_later_ones() {
    let w = World::new();
    for round in 0..5 {
        w.containers().create(&w.cx, container(&format!("c{round}"))).await.unwrap();
        w.clock.advance(Duration::from_secs(3000));
    }
    let left = w.metadata.read(|view| gantry_metadata::Journal::since(view, 0)).await.unwrap();
    assert_eq!(left.len(), 2, "one hour holds two events 3000 s apart");
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_dropped_and_delays_nobody() {
    let w = World::new();
    let mut stuck = w.metadata.journal().subscribe();
    let envelope = gantry_core::model::Envelope {
        timestamp: NOON,
        namespace: w.cx.namespace().clone(),
        topic: "/t".into(),
        event: TypedAny::default(),
    };
    for _ in 0..=gantry_metadata::journal::QUEUE_MAX {
        w.metadata.journal().publish(envelope.clone());
    }
    let mut got = 0;
    while stuck.next().await.is_some() {
        got += 1;
    }
    assert_eq!(got, gantry_metadata::journal::QUEUE_MAX);
}
