//! Opening, writing, resuming, giving up.

use gantry_core::filter::Filters;
use gantry_core::{Digest, Kind, Labels};

use super::{ContentFixture, NONE, bytes, cx, fails, in_namespace, open, put, read, reference};

/// A dropped writer's data is there when the ref is opened again, with its total and start.
pub async fn a_write_resumes_where_it_was_left(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    for (i, len) in [500, 5_000, 50_000].into_iter().enumerate() {
        for (j, cut) in [0, len / 10, len / 2, len - 1, len].into_iter().enumerate() {
            let (name, blob) = (format!("r-{i}-{j}"), bytes((i * 10 + j) as u64, len));
            let digest = Digest::of(&blob);
            let mut first = open(&*store, &cx, &name, len, Some(&digest)).await.unwrap();
            let started_at = first.status().started_at;
            first.write(blob.slice(..cut)).await.unwrap();
            let left = first.status();
            drop(first);

            let mut second = open(&*store, &cx, &name, len, Some(&digest)).await.unwrap();
            let status = second.status();
            assert_eq!((status.offset, status.total), (cut as u64, len as u64));
            assert_eq!((status.started_at, status.updated_at), (started_at, left.updated_at));
            assert_eq!(second.digest(), Digest::of(&blob[..cut]));
            second.write(blob.slice(cut..)).await.unwrap();
            second.commit(&cx, len as u64, Some(&digest), Labels::default()).await.unwrap();
            assert_eq!(read(&*store, &cx, &digest).await.unwrap(), blob);
        }
    }
}

/// Truncation to nothing forgets the bytes and their digest.
pub async fn a_write_restarts_after_truncation(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 3_000));
    let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
    writer.write(bytes(2, 4_000)).await.unwrap();
    writer.truncate(0).await.unwrap();
    assert_eq!((writer.status().offset, writer.digest()), (0, Digest::of(b"")));
    writer.write(blob.clone()).await.unwrap();
    let digest = writer.commit(&cx, 3_000, NONE, Labels::default()).await.unwrap();
    assert_eq!(digest, Digest::of(&blob));
    assert_eq!(read(&*store, &cx, &digest).await.unwrap(), blob);
}

/// Only 0 and the current offset can be truncated to.
pub async fn truncation_elsewhere_is_refused(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
    writer.write(bytes(1, 10)).await.unwrap();
    writer.truncate(10).await.unwrap();
    assert!(writer.truncate(5).await.is_err());
    assert!(writer.truncate(11).await.is_err());
    assert_eq!((writer.status().offset, writer.digest()), (10, Digest::of(&bytes(1, 10))));
}

/// A ref opened with another total than before is another write.
pub async fn another_total_restarts(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    let mut first = open(&*store, &cx, "r", 100, None).await.unwrap();
    first.write(bytes(1, 50)).await.unwrap();
    drop(first);
    let second = open(&*store, &cx, "r", 101, None).await.unwrap();
    assert_eq!((second.status().offset, second.status().total), (0, 101));
    assert_eq!(second.digest(), Digest::of(b""));
}

/// A total of 0 says nothing.
pub async fn an_unknown_total_contradicts_none(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    let mut first = open(&*store, &cx, "r", 100, None).await.unwrap();
    first.write(bytes(1, 50)).await.unwrap();
    drop(first);
    let second = open(&*store, &cx, "r", 0, None).await.unwrap();
    assert_eq!((second.status().offset, second.status().total), (50, 100));
}

/// A second writer waits (the client tries again) until the first is dropped. Other refs and
/// other namespaces are free.
pub async fn one_writer_holds_a_ref(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    let first = open(&*store, &cx, "r", 0, None).await.unwrap();
    let text = fails(open(&*store, &cx, "r", 0, None).await, Kind::Unavailable).message();
    assert!(text.starts_with("ref r locked for ") && text.contains(" (since "), "{text}");
    assert!(text.ends_with("): unavailable"), "{text}");
    open(&*store, &cx, "other", 0, None).await.unwrap();
    open(&*store, &in_namespace("other"), "r", 0, None).await.unwrap();
    drop(first);
    open(&*store, &cx, "r", 0, None).await.unwrap();
}

/// Refs hold slashes, dots, spaces and anything else, and differ by every byte.
pub async fn a_ref_is_any_text(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    let long = "x".repeat(1_000);
    let names = ["../../r", "..", "/etc/passwd", "a b", "a\nb", "é", "layer-sha256:0", &long];
    let mut writers = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let mut writer = open(&*store, &cx, name, 0, None).await.unwrap();
        writer.write(bytes(i as u64, i + 1)).await.unwrap();
        writers.push(writer);
    }
    for (i, name) in names.iter().enumerate() {
        assert_eq!(store.status(&cx, &reference(name)).await.unwrap().offset, i as u64 + 1);
    }
}

/// Abort removes ingest and data.
pub async fn an_aborted_write_is_gone(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
    writer.write(bytes(1, 10)).await.unwrap();
    drop(writer);
    store.abort(&cx, &reference("r")).await.unwrap();
    fails(store.status(&cx, &reference("r")).await, Kind::NotFound);
    fails(store.abort(&cx, &reference("r")).await, Kind::NotFound);
    assert_eq!(open(&*store, &cx, "r", 0, None).await.unwrap().status().offset, 0);
}

/// Abort does not wait for the writer, whose commit then fails; the ref comes free with it.
pub async fn an_abort_ends_a_write_that_is_held(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 10));
    let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
    writer.write(blob.clone()).await.unwrap();
    store.abort(&cx, &reference("r")).await.unwrap();
    assert!(store.list_statuses(&cx, &Filters::default()).await.unwrap().is_empty());
    assert!(writer.commit(&cx, 0, NONE, Labels::default()).await.is_err());
    fails(store.info(&cx, &Digest::of(&blob)).await, Kind::NotFound);
    drop(writer);
    assert_eq!(open(&*store, &cx, "r", 0, None).await.unwrap().status().offset, 0);
}

/// Ingests of this namespace, ordered by the bytes of their refs.
pub async fn statuses_list_in_byte_order(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    for name in ["b", "a/c", "a", "é", "B"] {
        drop(open(&*store, &cx, name, 0, None).await.unwrap());
    }
    drop(open(&*store, &in_namespace("other"), "z", 0, None).await.unwrap());
    let listed = store.list_statuses(&cx, &Filters::default()).await.unwrap();
    let names: Vec<_> = listed.iter().map(|s| s.reference.as_str()).collect();
    assert_eq!(names, ["B", "a", "a/c", "b", "é"]);
}

/// Filters on statuses know the ref.
pub async fn statuses_match_filters(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    for name in ["layer-1", "layer-2", "config-1"] {
        drop(open(&*store, &cx, name, 0, None).await.unwrap());
    }
    let filters = Filters::parse(&["ref~=^layer-".to_owned()]).unwrap();
    assert_eq!(store.list_statuses(&cx, &filters).await.unwrap().len(), 2);
}

/// The store's status and the writer's agree at each step, also after the drop.
pub async fn status_follows_the_write(fixture: &impl ContentFixture) {
    let (store, cx) = (fixture.store(), cx());
    fails(store.status(&cx, &reference("r")).await, Kind::NotFound);
    let mut writer = open(&*store, &cx, "r", 30, None).await.unwrap();
    for offset in [0, 10, 20] {
        let seen = store.status(&cx, &reference("r")).await.unwrap();
        assert_eq!((seen.offset, seen.total), (offset, 30));
        assert_eq!(seen.started_at, writer.status().started_at);
        assert_eq!(seen.updated_at, writer.status().updated_at);
        assert!(seen.started_at <= seen.updated_at);
        assert_eq!(writer.status().reference, reference("r"));
        writer.write(bytes(offset, 10)).await.unwrap();
    }
    drop(writer);
    assert_eq!(store.status(&cx, &reference("r")).await.unwrap().offset, 30);
}

/// After each write the digest is that of all bytes up to there.
pub async fn a_writer_knows_the_digest_so_far(fixture: &impl ContentFixture) {
    let (store, cx, blob) = (fixture.store(), cx(), bytes(1, 256));
    let mut writer = open(&*store, &cx, "r", 256, Some(&Digest::of(&blob))).await.unwrap();
    assert_eq!(writer.digest(), Digest::of(b""));
    for (from, to) in [(0, 64), (64, 192), (192, 256)] {
        writer.write(blob.slice(from..to)).await.unwrap();
        assert_eq!(writer.digest(), Digest::of(&blob[..to]));
        assert_eq!(writer.status().offset, to as u64);
    }
}

/// Clients send 8 MiB at a time.
pub async fn large_chunks_arrive_whole(fixture: &impl ContentFixture) {
    let (store, cx, chunk) = (fixture.store(), cx(), bytes(1, 8 << 20));
    let mut writer = open(&*store, &cx, "r", 0, None).await.unwrap();
    writer.write(chunk.clone()).await.unwrap();
    writer.write(chunk.slice(1..)).await.unwrap();
    let digest = writer.commit(&cx, (16 << 20) - 1, NONE, Labels::default()).await.unwrap();
    assert_eq!(digest, Digest::of(&[&chunk[..], &chunk[1..]].concat()));
    put(&*store, &cx, &bytes(2, 3)).await.unwrap();
    let reader = store.reader(&cx, &digest).await.unwrap();
    assert_eq!(
        reader.read_at((8 << 20) - 1, 2).await.unwrap()[..],
        [chunk[(8 << 20) - 1], chunk[1]]
    );
}
