//! Namespaces: one blob, many views of it.

use gantry_core::filter::Filters;
use gantry_core::{Digest, FieldMask, Kind, Labels};

use super::{
    ContentFixture, NONE, bytes, fails, in_namespace, labels, open, put, put_with, read, reference,
};

/// Labels, lists and deletion stay within a namespace.
pub async fn namespaces_see_their_own(fixture: &impl ContentFixture) {
    let (store, a, b) = (fixture.store(), in_namespace("a"), in_namespace("b"));
    let blob = bytes(1, 10);
    let digest = put_with(&*store, &a, &blob, labels(&[("in", "a")])).await.unwrap();
    fails(store.info(&b, &digest).await, Kind::NotFound);
    fails(store.reader(&b, &digest).await, Kind::NotFound);
    fails(store.delete(&b, &digest).await, Kind::NotFound);
    let outcome = store.update(&b, &digest, Labels::default(), &FieldMask::default()).await;
    fails(outcome, Kind::NotFound);
    assert!(store.list(&b, &Filters::default()).await.unwrap().is_empty());
    put_with(&*store, &b, &blob, labels(&[("in", "b")])).await.unwrap();
    assert_eq!(store.info(&a, &digest).await.unwrap().labels, labels(&[("in", "a")]));
    assert_eq!(store.info(&b, &digest).await.unwrap().labels, labels(&[("in", "b")]));
}

/// The writer stands at the end already; the commit links.
pub async fn another_namespaces_blob_needs_no_data(fixture: &impl ContentFixture) {
    let (store, a, b) = (fixture.store(), in_namespace("a"), in_namespace("b"));
    let blob = bytes(1, 1_000);
    let digest = put_with(&*store, &a, &blob, labels(&[("in", "a")])).await.unwrap();
    for (name, total) in [("r0", 0), ("r1", 1_000)] {
        let writer = open(&*store, &b, name, total, Some(&digest)).await.unwrap();
        let status = writer.status();
        assert_eq!((status.offset, status.total), (1_000, 1_000));
        assert_eq!(writer.digest(), digest);
        fails(store.info(&b, &digest).await, Kind::NotFound);
    }
    let mut writer = open(&*store, &b, "r1", 1_000, Some(&digest)).await.unwrap();
    let made = writer.commit(&b, 1_000, Some(&digest), labels(&[("in", "b")])).await.unwrap();
    assert_eq!(made, digest);
    assert_eq!(read(&*store, &b, &digest).await.unwrap(), blob);
    assert_eq!(store.info(&b, &digest).await.unwrap().labels, labels(&[("in", "b")]));
    assert_eq!(store.info(&a, &digest).await.unwrap().labels, labels(&[("in", "a")]));
}

/// What the client says at the end counts.
pub async fn a_shared_commit_checks_size_and_digest(fixture: &impl ContentFixture) {
    let (store, a, b) = (fixture.store(), in_namespace("a"), in_namespace("b"));
    let digest = put(&*store, &a, &bytes(1, 1_000)).await.unwrap();
    let mut writer = open(&*store, &b, "r", 0, Some(&digest)).await.unwrap();
    let outcome = writer.commit(&b, 999, NONE, Labels::default()).await;
    let text = fails(outcome, Kind::FailedPrecondition).message();
    assert_eq!(text, "\"r\" failed size validation: 1000 != 999: failed precondition");
    let mut writer = open(&*store, &b, "r", 0, Some(&digest)).await.unwrap();
    let outcome = writer.commit(&b, 0, Some(&Digest::of(b"x")), Labels::default()).await;
    let text = fails(outcome, Kind::FailedPrecondition).message();
    assert_eq!(text, "\"r\" unexpected digest: failed precondition");
    let mut writer = open(&*store, &b, "r", 0, Some(&digest)).await.unwrap();
    writer.commit(&b, 0, NONE, Labels::default()).await.unwrap();
}

/// Data behind the blob's end makes a private copy.
pub async fn a_shared_write_may_be_appended_to(fixture: &impl ContentFixture) {
    let (store, a, b) = (fixture.store(), in_namespace("a"), in_namespace("b"));
    let (blob, extra) = (bytes(1, 100_000), bytes(2, 14));
    let longer = [&blob[..], &extra[..]].concat();
    let digest = put(&*store, &a, &blob).await.unwrap();
    let mut writer = open(&*store, &b, "r", 0, Some(&digest)).await.unwrap();
    writer.write(extra).await.unwrap();
    assert_eq!((writer.status().offset, writer.digest()), (100_014, Digest::of(&longer)));
    let wanted = Digest::of(&longer);
    writer.commit(&b, 100_014, Some(&wanted), Labels::default()).await.unwrap();
    assert_eq!(read(&*store, &b, &wanted).await.unwrap(), longer);
    assert_eq!(read(&*store, &a, &digest).await.unwrap(), blob);
    fails(store.info(&b, &digest).await, Kind::NotFound);
}

/// A client that wants to send it all may.
pub async fn a_shared_write_may_be_started_over(fixture: &impl ContentFixture) {
    let (store, a, b) = (fixture.store(), in_namespace("a"), in_namespace("b"));
    let blob = bytes(1, 1_000);
    let digest = put(&*store, &a, &blob).await.unwrap();
    let mut writer = open(&*store, &b, "r", 0, Some(&digest)).await.unwrap();
    writer.truncate(0).await.unwrap();
    assert_eq!((writer.status().offset, writer.digest()), (0, Digest::of(b"")));
    writer.write(blob.slice(..400)).await.unwrap();
    drop(writer);
    assert_eq!(store.status(&b, &reference("r")).await.unwrap().offset, 400);
    let mut writer = open(&*store, &b, "r", 0, None).await.unwrap();
    assert_eq!(writer.status().offset, 400);
    writer.write(blob.slice(400..)).await.unwrap();
    writer.commit(&b, 1_000, Some(&digest), Labels::default()).await.unwrap();
    assert_eq!(read(&*store, &b, &digest).await.unwrap(), blob);
}

/// A size that does not fit is settled by sending the data.
pub async fn another_total_is_not_shared(fixture: &impl ContentFixture) {
    let (store, a, b) = (fixture.store(), in_namespace("a"), in_namespace("b"));
    let digest = put(&*store, &a, &bytes(1, 1_000)).await.unwrap();
    let writer = open(&*store, &b, "r", 999, Some(&digest)).await.unwrap();
    assert_eq!((writer.status().offset, writer.status().total), (0, 999));
}

/// Nothing is being written, so nothing is listed; it can be aborted all the same.
pub async fn a_shared_opening_is_no_ingest(fixture: &impl ContentFixture) {
    let (store, a, b) = (fixture.store(), in_namespace("a"), in_namespace("b"));
    let digest = put(&*store, &a, &bytes(1, 1_000)).await.unwrap();
    let writer = open(&*store, &b, "r", 0, Some(&digest)).await.unwrap();
    assert!(store.list_statuses(&b, &Filters::default()).await.unwrap().is_empty());
    fails(store.status(&b, &reference("r")).await, Kind::NotFound);
    drop(writer);
    store.abort(&b, &reference("r")).await.unwrap();
    fails(store.abort(&b, &reference("r")).await, Kind::NotFound);
}

/// The second namespace's view does not depend on the first.
pub async fn a_blob_outlives_its_first_namespace(fixture: &impl ContentFixture) {
    let (store, a, b) = (fixture.store(), in_namespace("a"), in_namespace("b"));
    let blob = bytes(1, 1_000);
    let digest = put(&*store, &a, &blob).await.unwrap();
    let mut writer = open(&*store, &b, "r", 0, Some(&digest)).await.unwrap();
    store.delete(&a, &digest).await.unwrap();
    writer.commit(&b, 1_000, Some(&digest), Labels::default()).await.unwrap();
    assert_eq!(read(&*store, &b, &digest).await.unwrap(), blob);
}

/// Whoever sends the bytes gets the content, whether or not they are on disk.
pub async fn the_same_bytes_sent_twice_are_one_blob(fixture: &impl ContentFixture) {
    let (store, a, b) = (fixture.store(), in_namespace("a"), in_namespace("b"));
    let blob = bytes(1, 1_000);
    let digest = put(&*store, &a, &blob).await.unwrap();
    assert_eq!(put(&*store, &b, &blob).await.unwrap(), digest);
    store.delete(&a, &digest).await.unwrap();
    assert_eq!(read(&*store, &b, &digest).await.unwrap(), blob);
}
