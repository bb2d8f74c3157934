//! Labels, times, lists, leases.

use std::collections::BTreeSet;

use gantry_core::content::WriterOpts;
use gantry_core::filter::Filters;
use gantry_core::labels::LABEL_BYTES_MAX;
use gantry_core::model::Resource;
use gantry_core::{Cx, Digest, FieldMask, Kind, Labels, LeaseId};

use super::{
    ContentFixture, NONE, bytes, cx, fails, in_namespace, labels, open, put, put_with, read,
    reference,
};

fn mask(paths: &[&str]) -> FieldMask {
    FieldMask::new(paths.iter().map(|p| (*p).to_owned()).collect())
}

/// The commit's labels are the content's.
pub async fn labels_come_with_the_commit(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    let wanted = labels(&[("k1", "v1"), ("containerd.io/gc.ref.content.l.0", "sha256:0")]);
    let digest = put_with(&*store, &cx, &bytes(1, 10), wanted.clone()).await.unwrap();
    assert_eq!(store.info(&cx, &digest).await.unwrap().labels, wanted);
}

/// A label over the limit fails commit and update; the ingest stays.
pub async fn a_label_too_long_is_refused(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 10));
    let long = labels(&[("k", &"v".repeat(LABEL_BYTES_MAX))]);
    let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
    writer.write(blob.clone()).await.unwrap();
    fails(writer.commit(&cx, 0, NONE, long.clone()).await, Kind::InvalidArgument);
    drop(writer);
    assert_eq!(store.status(&cx, &reference("r")).await.unwrap().offset, 10);
    let digest = put(&*store, &cx, &blob).await.unwrap();
    let outcome = store.update(&cx, &digest, long, &FieldMask::default()).await;
    fails(outcome, Kind::InvalidArgument);
}

/// No mask means all that may change.
pub async fn an_update_without_a_mask_replaces_all_labels(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    let before = labels(&[("k1", "v1"), ("k2", "v2")]);
    let digest = put_with(&*store, &cx, &bytes(1, 10), before).await.unwrap();
    let after = labels(&[("k1", "new"), ("k3", "v3")]);
    for mask in [FieldMask::default(), mask(&["labels"])] {
        let updated = store.update(&cx, &digest, after.clone(), &mask).await.unwrap();
        assert_eq!(updated.labels, after);
        assert_eq!(store.info(&cx, &digest).await.unwrap(), updated);
    }
}

/// `labels.KEY` touches one key, which may hold dots; absent in the request means removed.
pub async fn an_update_of_one_label_leaves_the_others(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    let before = labels(&[("k1", "v1"), ("k2", "v2"), ("io.x/a.b", "old")]);
    let digest = put_with(&*store, &cx, &bytes(1, 10), before).await.unwrap();
    let sent = labels(&[("io.x/a.b", "new"), ("k1", "ignored")]);
    let mask = mask(&["labels.io.x/a.b", "labels.k2", "labels.absent"]);
    let updated = store.update(&cx, &digest, sent, &mask).await.unwrap();
    assert_eq!(updated.labels, labels(&[("k1", "v1"), ("io.x/a.b", "new")]));
    assert_eq!(store.info(&cx, &digest).await.unwrap(), updated);
}

/// Size, digest and times never change.
pub async fn an_update_of_anything_else_is_refused(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    let before = labels(&[("k1", "v1")]);
    let digest = put_with(&*store, &cx, &bytes(1, 10), before.clone()).await.unwrap();
    for path in ["size", "digest", "created_at", "label", ""] {
        let outcome = store.update(&cx, &digest, Labels::default(), &mask(&["labels", path])).await;
        let text = fails(outcome, Kind::InvalidArgument).message();
        assert!(text.starts_with(&format!("cannot update {path:?} field on content")), "{text}");
    }
    assert_eq!(store.info(&cx, &digest).await.unwrap().labels, before);
}

/// Every call on a digest that is not here says so.
pub async fn what_is_absent_is_not_found(fixture: &impl ContentFixture) {
    let (store, cx, digest) = (fixture.store(), cx(), Digest::of(b"absent"));
    let text = fails(store.info(&cx, &digest).await, Kind::NotFound).message();
    assert!(text.contains(digest.as_str()), "{text}");
    fails(store.reader(&cx, &digest).await, Kind::NotFound);
    fails(store.delete(&cx, &digest).await, Kind::NotFound);
    let outcome = store.update(&cx, &digest, Labels::default(), &FieldMask::default()).await;
    fails(outcome, Kind::NotFound);
    assert!(store.list(&cx, &Filters::default()).await.unwrap().is_empty());
}

/// Ordered by the bytes of the digests' texts.
pub async fn content_lists_in_byte_order(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    let mut digests = BTreeSet::new();
    for i in 0..20 {
        digests.insert(put(&*store, &cx, &bytes(i, 10)).await.unwrap());
    }
    put(&*store, &in_namespace("other"), &bytes(99, 10)).await.unwrap();
    let listed = store.list(&cx, &Filters::default()).await.unwrap();
    let listed: Vec<_> = listed.into_iter().map(|info| info.digest).collect();
    assert_eq!(listed, digests.into_iter().collect::<Vec<_>>());
}

/// Filters know digest and labels.
pub async fn content_matches_filters(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    let label = "containerd.io/uncompressed";
    let one = put_with(&*store, &cx, &bytes(1, 10), labels(&[(label, "d1")])).await.unwrap();
    let two = put_with(&*store, &cx, &bytes(2, 10), labels(&[(label, "d2")])).await.unwrap();
    put(&*store, &cx, &bytes(3, 10)).await.unwrap();
    for (filter, expected) in [
        (format!("labels.{label:?}==d1"), vec![&one]),
        (format!("labels.{label:?}"), vec![&one, &two]),
        (format!("digest=={two}"), vec![&two]),
        (format!("digest=={two},labels.{label:?}==d1"), vec![]),
        ("size==10".to_owned(), vec![]),
    ] {
        let filters = Filters::parse(std::slice::from_ref(&filter)).unwrap();
        let found = store.list(&cx, &filters).await.unwrap();
        let found: BTreeSet<_> = found.iter().map(|info| &info.digest).collect();
        assert_eq!(found, expected.into_iter().collect(), "{filter}");
    }
}

/// Deletion asks for no references.
pub async fn deleted_content_is_gone_at_once(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    let digest = put(&*store, &cx, &bytes(1, 10)).await.unwrap();
    store.delete(&cx, &digest).await.unwrap();
    fails(store.info(&cx, &digest).await, Kind::NotFound);
    fails(store.reader(&cx, &digest).await, Kind::NotFound);
    fails(store.delete(&cx, &digest).await, Kind::NotFound);
    assert!(store.list(&cx, &Filters::default()).await.unwrap().is_empty());
}

/// And comes back with the labels of its new commit only.
pub async fn deleted_content_can_be_written_again(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 10));
    let digest = put_with(&*store, &cx, &blob, labels(&[("a", "1")])).await.unwrap();
    store.delete(&cx, &digest).await.unwrap();
    put_with(&*store, &cx, &blob, labels(&[("b", "2")])).await.unwrap();
    assert_eq!(store.info(&cx, &digest).await.unwrap().labels, labels(&[("b", "2")]));
    assert_eq!(read(&*store, &cx, &digest).await.unwrap(), blob);
}

/// Creation stays, change moves with every update.
pub async fn times_tell_creation_and_change(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
    writer.write(bytes(1, 10)).await.unwrap();
    let began = writer.status();
    let digest = writer.commit(&cx, 0, NONE, Labels::default()).await.unwrap();
    let made = store.info(&cx, &digest).await.unwrap();
    assert_eq!(made.created_at, made.updated_at);
    assert!(began.started_at <= began.updated_at && began.updated_at <= made.created_at);
    let everything = FieldMask::default();
    let updated = store.update(&cx, &digest, Labels::default(), &everything).await.unwrap();
    assert_eq!(updated.created_at, made.created_at);
    assert!(updated.updated_at > made.updated_at, "an update that changes nothing moves it, too");
}

async fn leased(fixture: &impl ContentFixture, id: &str) -> (Cx, LeaseId) {
    let id = LeaseId::new(id).unwrap();
    fixture.lease(&cx(), &id).await.unwrap();
    (cx().with_lease(Some(id.clone())), id)
}

async fn held(fixture: &impl ContentFixture, id: &LeaseId) -> Vec<(String, String)> {
    let held = fixture.held(&cx(), id).await.unwrap();
    held.into_iter().map(|Resource { kind, id }| (kind, id)).collect()
}

fn resource(kind: &str, id: &str) -> (String, String) {
    (kind.to_owned(), id.to_owned())
}

/// First the ingest, then the blob in its place.
pub async fn a_lease_holds_what_was_written(fixture: &impl ContentFixture) {
    let (store, (cx, id), blob) = (fixture.store(), leased(fixture, "l").await, bytes(1, 10));
    let mut writer = open(&*store, &cx, "a/r", 0, None).await.unwrap();
    assert_eq!(held(fixture, &id).await, [resource("ingests", "a/r")]);
    writer.write(blob).await.unwrap();
    let digest = writer.commit(&cx, 0, NONE, Labels::default()).await.unwrap();
    assert_eq!(held(fixture, &id).await, [resource("content", digest.as_str())]);
    let mut given_up = open(&*store, &cx, "r2", 0, None).await.unwrap();
    given_up.write(bytes(2, 1)).await.unwrap();
    drop(given_up);
    store.abort(&cx, &reference("r2")).await.unwrap();
    assert_eq!(held(fixture, &id).await, [resource("content", digest.as_str())]);
}

/// The AlreadyExists must not roll the lease's entry back.
pub async fn a_lease_holds_what_was_there_at_the_opening(fixture: &impl ContentFixture) {
    let store = fixture.store();
    let digest = put(&*store, &cx(), &bytes(1, 10)).await.unwrap();
    let (cx, id) = leased(fixture, "l").await;
    fails(open(&*store, &cx, "r", 0, Some(&digest)).await, Kind::AlreadyExists);
    assert_eq!(held(fixture, &id).await, [resource("content", digest.as_str())]);
}

/// Nor that of the commit.
pub async fn a_lease_holds_what_was_there_at_the_commit(fixture: &impl ContentFixture) {
    let (store, blob) = (fixture.store(), bytes(1, 10));
    let digest = put(&*store, &cx(), &blob).await.unwrap();
    let (cx, id) = leased(fixture, "l").await;
    let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
    writer.write(blob).await.unwrap();
    let outcome = writer.commit(&cx, 0, NONE, Labels::default()).await;
    fails(outcome, Kind::AlreadyExists);
    assert_eq!(held(fixture, &id).await, [resource("content", digest.as_str())]);
}

/// Nothing is written for a lease that is gone; the write can go on without it.
pub async fn an_unknown_lease_is_refused(fixture: &impl ContentFixture) {
    let (store, plain, blob) = (fixture.store(), cx(), bytes(1, 10));
    let unknown = plain.with_lease(Some(LeaseId::new("unknown").unwrap()));
    let opts = WriterOpts { reference: reference("r"), total: 0, expected: None };
    let text = fails(store.writer(&unknown, opts).await, Kind::NotFound).message();
    assert_eq!(text, "lease does not exist: not found");
    fails(store.status(&plain, &reference("r")).await, Kind::NotFound);

    let mut writer = open(&*store, &plain, "r", 0, None).await.unwrap();
    writer.write(blob.clone()).await.unwrap();
    fails(writer.commit(&unknown, 0, NONE, Labels::default()).await, Kind::NotFound);
    fails(store.info(&plain, &Digest::of(&blob)).await, Kind::NotFound);
    let mut writer = open(&*store, &plain, "r", 0, None).await.unwrap();
    assert_eq!((writer.status().offset, writer.digest()), (10, Digest::of(&blob)));
    writer.commit(&plain, 0, NONE, Labels::default()).await.unwrap();
}

/// Deletion through a lease drops its entry.
pub async fn deletion_lets_go_of_the_lease(fixture: &impl ContentFixture) {
    let (store, (cx, id)) = (fixture.store(), leased(fixture, "l").await);
    let digest = put(&*store, &cx, &bytes(1, 10)).await.unwrap();
    store.delete(&cx, &digest).await.unwrap();
    assert!(held(fixture, &id).await.is_empty());
}
