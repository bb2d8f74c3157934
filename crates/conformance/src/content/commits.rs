//! Turning a write into a blob, and reading it.

use gantry_core::digest::{Algorithm, Hasher};
use gantry_core::filter::Filters;
use gantry_core::{Digest, Kind, Labels};

use super::{ContentFixture, NONE, bytes, cx, fails, labels, open, put, put_with, read, reference};

fn sha512(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(bytes);
    hasher.finish()
}

/// What was written in pieces reads back as one.
pub async fn a_committed_blob_reads_back(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 10_000));
    let digest = Digest::of(&blob);
    let mut writer = open(&*store, &cx, "r", blob.len(), Some(&digest)).await.unwrap();
    for piece in blob.chunks(999) {
        writer.write(blob.slice_ref(piece)).await.unwrap();
    }
    fails(store.info(&cx, &digest).await, Kind::NotFound);
    let made = writer.commit(&cx, 10_000, Some(&digest), Labels::default()).await.unwrap();
    assert_eq!(made, digest);
    assert_eq!((writer.digest(), writer.status().offset), (digest.clone(), 10_000));
    assert_eq!(store.info(&cx, &digest).await.unwrap().size, 10_000);
    assert_eq!(read(&*store, &cx, &digest).await.unwrap(), blob);
}

/// Nothing is content, too.
pub async fn an_empty_blob(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
    let digest = writer.commit(&cx, 0, NONE, Labels::default()).await.unwrap();
    assert_eq!(digest, Digest::of(b""));
    let reader = store.reader(&cx, &digest).await.unwrap();
    assert_eq!(reader.size(), 0);
    assert!(reader.read_at(0, 10).await.unwrap().is_empty());
}

/// A read past the end gives what is there; one at or behind the end gives nothing.
pub async fn reads_end_with_the_blob(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 6));
    let digest = put(&*store, &cx, &blob).await.unwrap();
    let reader = store.reader(&cx, &digest).await.unwrap();
    assert_eq!(reader.read_at(0, 7).await.unwrap(), blob);
    assert_eq!(reader.read_at(4, usize::MAX).await.unwrap(), blob[4..]);
    assert_eq!(reader.read_at(1, 2).await.unwrap(), blob[1..3]);
    assert!(reader.read_at(6, 1).await.unwrap().is_empty());
    assert!(reader.read_at(u64::MAX, 1).await.unwrap().is_empty());
    assert!(reader.read_at(0, 0).await.unwrap().is_empty());
}

/// A download goes on although the blob is deleted meanwhile.
pub async fn an_open_reader_outlives_the_blob(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 100));
    let digest = put(&*store, &cx, &blob).await.unwrap();
    let reader = store.reader(&cx, &digest).await.unwrap();
    store.delete(&cx, &digest).await.unwrap();
    assert_eq!(reader.read_at(0, 100).await.unwrap(), blob);
}

/// Size 0 and no digest accept what was written.
pub async fn what_is_not_said_is_not_checked(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 100));
    let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
    writer.write(blob.clone()).await.unwrap();
    let digest = writer.commit(&cx, 0, NONE, Labels::default()).await.unwrap();
    assert_eq!(digest, Digest::of(&blob));
}

/// The client may go on where it was.
pub async fn a_wrong_size_keeps_the_ingest(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 100));
    let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
    writer.write(blob.slice(..60)).await.unwrap();
    let outcome = writer.commit(&cx, 100, NONE, Labels::default()).await;
    let text = fails(outcome, Kind::FailedPrecondition).message();
    assert_eq!(text, "\"r\" failed size validation: 60 != 100: failed precondition");
    drop(writer);
    assert_eq!(store.status(&cx, &reference("r")).await.unwrap().offset, 60);
    let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
    writer.write(blob.slice(60..)).await.unwrap();
    writer.commit(&cx, 100, Some(&Digest::of(&blob)), Labels::default()).await.unwrap();
}

/// As with the size.
pub async fn a_wrong_digest_keeps_the_ingest(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 100));
    let (found, wanted) = (Digest::of(&blob), Digest::of(b"another"));
    let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
    writer.write(blob.clone()).await.unwrap();
    let outcome = writer.commit(&cx, 100, Some(&wanted), Labels::default()).await;
    let text = fails(outcome, Kind::FailedPrecondition).message();
    let expected = format!("unexpected commit digest {found}, expected {wanted}");
    assert_eq!(text, format!("{expected}: failed precondition"));
    drop(writer);
    fails(store.info(&cx, &found).await, Kind::NotFound);
    let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
    assert_eq!(writer.status().offset, 100);
    writer.commit(&cx, 100, Some(&found), Labels::default()).await.unwrap();
    assert_eq!(read(&*store, &cx, &found).await.unwrap(), blob);
}

/// A client that reads the reply may open the ref at once, before the writer is dropped here.
pub async fn a_commit_frees_the_ref_whatever_comes_of_it(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 100));
    let mut wrong = open(&*store, &cx, "r", 0, None).await.unwrap();
    wrong.write(blob.clone()).await.unwrap();
    fails(wrong.commit(&cx, 1, NONE, Labels::default()).await, Kind::FailedPrecondition);
    let mut right = open(&*store, &cx, "r", 0, None).await.unwrap();
    right.commit(&cx, 0, NONE, Labels::default()).await.unwrap();
    let mut again = open(&*store, &cx, "r", 0, None).await.unwrap();
    again.write(blob).await.unwrap();
    fails(again.commit(&cx, 0, NONE, Labels::default()).await, Kind::AlreadyExists);
    open(&*store, &cx, "r", 0, None).await.unwrap();
}

/// After its commit a writer only tells what it made.
pub async fn a_closed_writer_refuses(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 100));
    let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
    writer.write(blob.clone()).await.unwrap();
    writer.commit(&cx, 0, NONE, Labels::default()).await.unwrap();
    fails(writer.write(blob.clone()).await, Kind::FailedPrecondition);
    fails(writer.truncate(0).await, Kind::FailedPrecondition);
    fails(writer.commit(&cx, 0, NONE, Labels::default()).await, Kind::FailedPrecondition);
    assert_eq!(writer.digest(), Digest::of(&blob));
}

/// A committed write is an ingest no more.
pub async fn a_commit_ends_the_ingest(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    put(&*store, &cx, &bytes(1, 10)).await.unwrap();
    assert!(store.list_statuses(&cx, &Filters::default()).await.unwrap().is_empty());
}

/// The expected digest chooses the algorithm.
pub async fn sha512_by_the_opening(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 100));
    let digest = sha512(&blob);
    let mut writer = open(&*store, &cx, "r", 0, Some(&digest)).await.unwrap();
    assert_eq!(writer.digest(), sha512(b""));
    writer.write(blob.slice(..10)).await.unwrap();
    drop(writer);
    let mut writer = open(&*store, &cx, "r", 0, Some(&digest)).await.unwrap();
    assert_eq!(writer.digest(), sha512(&blob[..10]));
    writer.write(blob.slice(10..)).await.unwrap();
    let made = writer.commit(&cx, 100, Some(&digest), Labels::default()).await.unwrap();
    assert_eq!(made, digest);
    assert_eq!(read(&*store, &cx, &digest).await.unwrap(), blob);
}

/// So does one that the client tells only at the end.
pub async fn sha512_by_the_commit(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 100));
    let digest = sha512(&blob);
    let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
    writer.write(blob.clone()).await.unwrap();
    let wrong = writer.commit(&cx, 0, Some(&sha512(b"x")), Labels::default()).await;
    fails(wrong, Kind::FailedPrecondition);
    let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
    let made = writer.commit(&cx, 0, Some(&digest), Labels::default()).await.unwrap();
    assert_eq!((made, writer.digest()), (digest.clone(), digest.clone()));
    assert_eq!(read(&*store, &cx, &digest).await.unwrap(), blob);
    fails(store.info(&cx, &Digest::of(&blob)).await, Kind::NotFound);
}

/// Clients take this AlreadyExists for success and send nothing.
pub async fn existing_content_is_not_opened(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 100));
    let digest = put(&*store, &cx, &blob).await.unwrap();
    for total in [0, 100, 7] {
        let outcome = open(&*store, &cx, "r", total, Some(&digest)).await;
        let text = fails(outcome, Kind::AlreadyExists).message();
        assert_eq!(text, format!("content {digest}: already exists"));
    }
    fails(store.status(&cx, &reference("r")).await, Kind::NotFound);
}

/// Somebody else was faster: no reason to wait for them.
pub async fn existing_content_is_not_opened_though_its_ref_is_held(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 100));
    let _held = open(&*store, &cx, "r", 0, None).await.unwrap();
    let digest = put(&*store, &cx, &blob).await.unwrap();
    fails(open(&*store, &cx, "r", 0, Some(&digest)).await, Kind::AlreadyExists);
}

/// A race on a blob ends with AlreadyExists; the ingest goes, labels stay as they were.
pub async fn existing_content_keeps_its_labels(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 100));
    let digest = put_with(&*store, &cx, &blob, labels(&[("a", "1")])).await.unwrap();
    for expected in [None, Some(&digest)] {
        let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
        assert_eq!(writer.status().offset, 0);
        writer.write(blob.clone()).await.unwrap();
        let outcome = writer.commit(&cx, 100, expected, labels(&[("b", "2")])).await;
        fails(outcome, Kind::AlreadyExists);
        assert_eq!(writer.digest(), digest);
        fails(store.status(&cx, &reference("r")).await, Kind::NotFound);
    }
    assert_eq!(store.info(&cx, &digest).await.unwrap().labels, labels(&[("a", "1")]));
    assert_eq!(read(&*store, &cx, &digest).await.unwrap(), blob);
}

/// Of many writers of the same bytes one makes the blob, the others find it.
pub async fn concurrent_commits_of_one_blob_agree(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 10_000));
    let mut tasks = Vec::new();
    for i in 0..8 {
        let (store, cx, blob) = (store.clone(), cx.clone(), blob.clone());
        tasks.push(tokio::spawn(async move {
            let mut writer = open(&*store, &cx, &format!("r{i}"), 0, None).await.unwrap();
            writer.write(blob).await.unwrap();
            writer.commit(&cx, 10_000, NONE, Labels::default()).await
        }));
    }
    let mut made = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => made += 1,
            Err(e) => assert!(e.is(Kind::AlreadyExists), "{}", e.message()),
        }
    }
    assert_eq!(made, 1);
    assert_eq!(read(&*store, &cx, &Digest::of(&blob)).await.unwrap(), blob);
    assert!(store.list_statuses(&cx, &Filters::default()).await.unwrap().is_empty());
}
