//! The rules of content records that no file takes part in.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use gantry_core::clock::ManualClock;
use gantry_core::content::WriterOpts;
use gantry_core::model::{Lease, NamespaceInfo, Resource};
use gantry_core::{
    CallCx, ContentRef, Cx, Digest, FieldMask, Kind, Labels, LeaseId, Namespace, Result, Timestamp,
};
use gantry_metadata::Metadata;
use gantry_metadata::stores::content::{self, Begun, Commit, INGEST_LIFE, Sharing};
use gantry_metadata::stores::{Leases, Namespaces};

struct World {
    metadata: Arc<Metadata>,
    clock: Arc<ManualClock>,
}

const START: Timestamp = Timestamp { seconds: 1_000, nanos: 0 };

fn world() -> World {
    let clock = Arc::new(ManualClock::at(START));
    World { metadata: Metadata::in_memory(clock.clone()).unwrap(), clock }
}

fn cx(namespace: &str) -> Cx {
    CallCx::default().in_namespace(Namespace::new(namespace).unwrap(), None)
}

fn reference(name: &str) -> ContentRef {
    ContentRef::new(name).unwrap()
}

impl World {
    fn begin(&self, cx: &Cx, name: &str, total: u64, expected: Option<&Digest>) -> Result<Begun> {
        self.begin_sharing(cx, name, total, expected, Sharing::Shared)
    }
    fn begin_sharing(
        &self,
        cx: &Cx,
        name: &str,
        total: u64,
        expected: Option<&Digest>,
        sharing: Sharing,
    ) -> Result<Begun> {
        let opts = WriterOpts { reference: reference(name), total, expected: expected.cloned() };
        let cx = cx.clone();
        self.metadata.update_blocking(move |tx| content::begin(tx, &cx, &opts, sharing))
    }
    fn commit(&self, cx: &Cx, begun: &Begun, blob: &[u8]) -> Result<()> {
        let commit = Commit {
            reference: begun.ingest.reference.clone(),
            number: begun.ingest.number,
            digest: Digest::of(blob),
            size: blob.len() as u64,
            labels: Labels::default(),
        };
        let cx = cx.clone();
        self.metadata.update_blocking(move |tx| content::commit(tx, &cx, commit))
    }
    fn write(&self, cx: &Cx, blob: &[u8]) -> Digest {
        let digest = Digest::of(blob);
        let begun = self.begin(cx, digest.as_str(), 0, None).unwrap();
        self.commit(cx, &begun, blob).unwrap();
        digest
    }
    fn delete(&self, cx: &Cx, digest: &Digest) {
        let (cx, digest) = (cx.clone(), digest.clone());
        self.metadata.update_blocking(move |tx| content::delete(tx, &cx, &digest)).unwrap();
    }
    fn abort(&self, cx: &Cx, name: &str) -> Result<content::Ingest> {
        let (cx, reference) = (cx.clone(), reference(name));
        self.metadata.update_blocking(move |tx| content::abort(tx, &cx, &reference))
    }
    fn unused(&self) -> Vec<Digest> {
        self.metadata.read_blocking(content::unused).unwrap()
    }
    fn forget(&self, candidates: Vec<Digest>) -> Vec<Digest> {
        self.metadata.update_blocking(move |tx| content::forget(tx, candidates)).unwrap()
    }
}

#[test]
fn a_blob_goes_when_the_last_namespace_has_let_go_of_it() {
    let world = world();
    let (a, b) = (cx("a"), cx("b"));
    let digest = world.write(&a, b"x");
    world.write(&b, b"x");
    world.delete(&a, &digest);
    assert_eq!(world.unused(), []);
    assert_eq!(world.forget(vec![digest.clone()]), [], "looked at again");
    world.delete(&b, &digest);
    assert_eq!(world.unused(), std::slice::from_ref(&digest));
    assert_eq!(world.forget(vec![digest.clone()]), std::slice::from_ref(&digest));
    assert_eq!(world.forget(vec![digest.clone()]), []);
    assert_eq!(world.metadata.read_blocking(|v| content::blob(v, &digest)).unwrap(), None);
}

#[test]
fn a_write_opened_on_a_blob_keeps_it() {
    let world = world();
    let (a, b) = (cx("a"), cx("b"));
    let digest = world.write(&a, b"x");
    let begun = world.begin(&b, "r", 0, Some(&digest)).unwrap();
    assert_eq!(begun.blob.as_ref().map(|blob| blob.size), Some(1));
    world.delete(&a, &digest);
    assert_eq!(world.forget(vec![digest.clone()]), []);
    world.abort(&b, "r").unwrap();
    assert_eq!(world.forget(vec![digest.clone()]), [digest]);
}

#[test]
fn what_was_committed_between_look_and_removal_stays() {
    let world = world();
    let a = cx("a");
    let digest = world.write(&a, b"x");
    world.delete(&a, &digest);
    let candidates = world.unused();
    world.write(&cx("b"), b"x");
    assert_eq!(world.forget(candidates), []);
}

#[test]
fn another_total_restarts_with_another_file() {
    let world = world();
    let a = cx("a");
    let first = world.begin(&a, "r", 0, None).unwrap();
    world.clock.advance(Duration::from_secs(1));
    let second = world.begin(&a, "r", 10, None).unwrap();
    assert_eq!(second.ingest.number, first.ingest.number, "an unknown total contradicts none");
    assert_eq!((second.ingest.total, second.ingest.started_at), (10, START));
    let third = world.begin(&a, "r", 0, None).unwrap();
    assert_eq!((third.ingest.total, third.discarded), (10, None));
    let fourth = world.begin(&a, "r", 11, None).unwrap();
    assert_eq!(fourth.discarded, Some(first.ingest.number));
    assert_ne!(fourth.ingest.number, first.ingest.number);
    assert_eq!(fourth.ingest.started_at, START.plus(Duration::from_secs(1)));
}

#[test]
fn a_blob_of_another_size_is_not_shared() {
    let world = world();
    let digest = world.write(&cx("a"), b"x");
    let begun = world.begin(&cx("b"), "r", 2, Some(&digest)).unwrap();
    assert!(begun.blob.is_none() && begun.ingest.shared.is_none());
}

#[test]
fn isolated_content_is_shared_from_labelled_namespaces_only() {
    let world = world();
    let digest = world.write(&cx("a"), b"x");
    let open = |name| {
        world.begin_sharing(&cx("b"), name, 0, Some(&digest), Sharing::Isolated).unwrap().blob
    };
    assert_eq!(open("1"), None);
    let shareable = "containerd.io/namespace.shareable".to_owned();
    let labels = |value: &str| Labels::unchecked([(shareable.clone(), value.to_owned())]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let set = |name: &str, value: &str| {
        let name = Namespace::new(name).unwrap();
        let sent = NamespaceInfo { name, labels: labels(value) };
        let namespaces = Namespaces::new(world.metadata.clone());
        runtime
            .block_on(namespaces.update(&CallCx::default(), sent, FieldMask::default()))
            .unwrap();
    };
    set("c", "true");
    assert_eq!(open("2"), None, "shareable, but has no such content");
    set("a", "yes");
    assert_eq!(open("3"), None);
    set("a", "true");
    assert!(open("4").is_some());
}

#[test]
fn an_ingest_lives_a_day_or_as_long_as_its_lease() {
    let world = world();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let begun = world.begin(&cx("a"), "r", 0, None).unwrap();
    assert_eq!(begun.ingest.expires_at, Some(START.plus(INGEST_LIFE)));

    let id = LeaseId::new("l").unwrap();
    let leased = cx("a").with_lease(Some(id.clone()));
    let missing = world.begin(&leased, "s", 0, None).unwrap_err();
    assert_eq!(missing.message(), "lease does not exist: not found");
    let leases = Leases::new(world.metadata.clone());
    let lease = Lease { id: id.clone(), created_at: START, labels: Labels::default() };
    runtime.block_on(leases.create(&leased, lease)).unwrap();
    let held = || runtime.block_on(leases.list_resources(&leased, &id)).unwrap();
    let begun = world.begin(&leased, "s", 0, None).unwrap();
    assert_eq!(begun.ingest.expires_at, None);
    assert_eq!(held(), [Resource { kind: "ingests".into(), id: "s".into() }]);
    world.commit(&leased, &begun, b"x").unwrap();
    let digest = Digest::of(b"x").as_str().to_owned();
    assert_eq!(held(), [Resource { kind: "content".into(), id: digest }]);
}

#[test]
fn a_commit_of_an_ingest_that_was_aborted_or_replaced_is_refused() {
    let world = world();
    let a = cx("a");
    let begun = world.begin(&a, "r", 0, None).unwrap();
    assert_eq!(world.abort(&a, "r").unwrap().number, begun.ingest.number);
    assert_eq!(world.abort(&a, "r").unwrap_err().message(), "reference r: not found");
    assert!(world.commit(&a, &begun, b"x").unwrap_err().is(Kind::NotFound));
    world.begin(&a, "r", 0, None).unwrap();
    assert!(world.commit(&a, &begun, b"x").unwrap_err().is(Kind::NotFound));
}

#[test]
fn content_without_its_blob_is_damage() {
    let world = world();
    let digest = world.write(&cx("a"), b"x");
    let damage = || world.metadata.read_blocking(content::damage).unwrap();
    assert!(damage().is_empty());
    let key = digest.as_str().as_bytes().to_vec();
    world
        .metadata
        .update_blocking(move |tx| {
            tx.raw().delete(gantry_metadata::schema::BLOB, &key);
            Ok(())
        })
        .unwrap();
    let text = format!("content {digest} in namespace a: its blob is not recorded");
    assert_eq!(damage().into_iter().collect::<Vec<_>>(), [text]);
}
