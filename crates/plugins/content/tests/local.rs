//! What the local store does beyond the contract: sweeping, checking, reporting, isolation.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{World, cx, put, reference, writer};
use gantry_conformance::content::ContentFixture;
use gantry_core::clock::ManualClock;
use gantry_core::content::{ContentStore, WriterOpts};
use gantry_core::{Digest, Kind, Labels, LeaseId, Timestamp};
use gantry_metadata::{Collector, Metadata};
use gantry_plugin_content::{Depth, LocalStore, Sharing};

async fn damage(world: &World, depth: Depth) -> Vec<String> {
    world.store.check(&cx("n"), depth).await.unwrap()
}

#[tokio::test]
async fn blobs_lie_under_their_digest_and_cannot_be_written() {
    let world = World::new();
    let digest = put(&world.store, &cx("n"), "r", b"blob").await.unwrap();
    let path = world.blob_path(&digest);
    assert_eq!(std::fs::read(&path).unwrap(), b"blob");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o400);
    assert_eq!(world.files(), (1, 0));
}

#[tokio::test]
async fn a_missing_short_or_changed_blob_is_reported_and_never_served() {
    let world = World::new();
    let cx = cx("n");
    let mut digests = Vec::new();
    for blob in [&b"missing"[..], b"short", b"changed", b"fine"] {
        digests.push(put(&world.store, &cx, "r", blob).await.unwrap());
    }
    let [missing, short, changed, fine] = &digests[..] else { unreachable!() };
    std::fs::remove_file(world.blob_path(missing)).unwrap();
    std::fs::write(world.blob_path(short), b"s").unwrap();
    std::fs::write(world.blob_path(changed), b"CHANGED").unwrap();

    let mut expected = vec![
        format!("blob {missing}: its file is missing"),
        format!("blob {short}: its file has 1 bytes, 5 are recorded"),
    ];
    expected.sort();
    assert_eq!(damage(&world, Depth::Sizes).await, expected);
    let other = Digest::of(b"CHANGED");
    expected.push(format!("blob {changed}: its bytes have the digest {other}"));
    expected.sort();
    assert_eq!(damage(&world, Depth::Bytes).await, expected);

    for broken in [missing, short] {
        let error = world.store.reader(&cx, broken).await.map(drop).unwrap_err();
        assert!(error.is(Kind::DataLoss), "{}", error.message());
    }
    world.store.reader(&cx, fine).await.unwrap();
}

#[tokio::test]
async fn sending_a_lost_blob_again_heals_it() {
    let world = World::new();
    let cx = cx("n");
    let digest = put(&world.store, &cx, "r", b"blob").await.unwrap();
    std::fs::remove_file(world.blob_path(&digest)).unwrap();
    let outcome = put(&world.store, &cx, "r", b"blob").await;
    assert!(outcome.unwrap_err().is(Kind::AlreadyExists));
    assert!(damage(&world, Depth::Bytes).await.is_empty());
    assert_eq!(world.files(), (1, 0));
}

#[tokio::test]
async fn opening_removes_what_no_record_names_and_nothing_else() {
    let mut world = World::new();
    let kept = put(&world.store, &cx("n"), "r", b"kept").await.unwrap();
    let mut ingest = writer(&world.store, &cx("n"), "s").await.unwrap();
    ingest.write(Bytes::from_static(b"half")).await.unwrap();
    drop(ingest);
    let garbage = Digest::of(b"garbage");
    std::fs::write(world.blob_path(&garbage), b"garbage").unwrap();
    std::fs::write(world.folder.path().join("ingest/4711"), b"garbage").unwrap();
    let foreign = world.folder.path().join("blobs/sha256/README");
    std::fs::write(&foreign, b"not ours").unwrap();
    world.reopen();
    assert!(!world.blob_path(&garbage).exists() && world.blob_path(&kept).exists());
    assert!(foreign.exists(), "what is no digest was not made by a store");
    assert_eq!(world.files(), (2, 1));
    assert_eq!(world.store.status(&cx("n"), &reference("s")).await.unwrap().offset, 4);
}

#[tokio::test]
async fn a_synchronous_collection_leaves_no_file_of_what_nothing_holds() {
    let world = World::new();
    let (plain, id) = (cx("n"), LeaseId::new("l").unwrap());
    world.lease(&plain, &id).await.unwrap();
    let leased = plain.with_lease(Some(id));
    let held = put(&world.store, &leased, "held", b"held").await.unwrap();
    let loose = put(&world.store, &plain, "loose", b"loose").await.unwrap();
    let mut writing = writer(&world.store, &plain, "writing").await.unwrap();
    writing.write(Bytes::from_static(b"half")).await.unwrap();

    let reclaimers: Vec<Arc<dyn gantry_metadata::Reclaim>> = vec![Arc::new(world.store.clone())];
    let collector = Collector::new(Arc::clone(&world.metadata), reclaimers);
    collector.collect().await.unwrap();
    assert!(world.blob_path(&held).exists() && !world.blob_path(&loose).exists());
    assert!(world.store.info(&plain, &loose).await.unwrap_err().is(Kind::NotFound));
    assert_eq!(world.files(), (1, 1), "an ingest lives a day without a lease");
    writing.commit(&plain, 4, None, Labels::default()).await.unwrap();
}

#[tokio::test]
async fn an_ingest_nobody_came_back_to_is_collected_after_a_day() {
    let clock = Arc::new(ManualClock::at(Timestamp { seconds: 1_000, nanos: 0 }));
    let metadata = Metadata::in_memory(clock.clone()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path(), metadata.clone(), Sharing::Shared).unwrap();
    let mut ingest = writer(&store, &cx("n"), "r").await.unwrap();
    ingest.write(Bytes::from_static(b"half")).await.unwrap();
    drop(ingest);
    let collector = Collector::new(metadata, vec![Arc::new(store.clone())]);
    let files = || std::fs::read_dir(folder.path().join("ingest")).unwrap().count();
    clock.advance(Duration::from_secs(24 * 3600));
    collector.collect().await.unwrap();
    assert_eq!(files(), 1);
    clock.advance(Duration::from_secs(1));
    collector.collect().await.unwrap();
    assert_eq!(files(), 0);
}

#[tokio::test]
async fn each_change_is_reported_once() {
    let world = World::new();
    let mut events = world.metadata.journal().subscribe();
    let cx = cx("n");
    let digest = put(&world.store, &cx, "r", b"blob").await.unwrap();
    put(&world.store, &cx, "r", b"blob").await.unwrap_err();
    world.store.delete(&cx, &digest).await.unwrap();
    world.store.delete(&cx, &digest).await.unwrap_err();
    put(&world.store, &cx, "r", b"last").await.unwrap();
    let mut topics = Vec::new();
    while topics.len() < 3 {
        let event = tokio::time::timeout(Duration::from_secs(30), events.next()).await.unwrap();
        topics.push(event.unwrap().envelope.topic.clone());
    }
    assert_eq!(topics, ["/content/create", "/content/delete", "/content/create"]);
}

#[tokio::test]
async fn isolated_namespaces_prove_that_they_have_a_blob_by_sending_it() {
    let mut world = World::new();
    let sharing = Sharing::Isolated;
    world.store = LocalStore::open(world.folder.path(), world.metadata.clone(), sharing).unwrap();
    let digest = put(&world.store, &cx("a"), "r", b"blob").await.unwrap();
    let opts = WriterOpts { reference: reference("r"), total: 4, expected: Some(digest.clone()) };
    let mut opened = world.store.writer(&cx("b"), opts).await.unwrap();
    assert_eq!((opened.status().offset, opened.digest()), (0, Digest::of(b"")));
    opened.write(Bytes::from_static(b"blob")).await.unwrap();
    opened.commit(&cx("b"), 4, Some(&digest), Labels::default()).await.unwrap();
    assert_eq!(world.files(), (1, 0), "on disk it is one all the same");
}

#[tokio::test]
async fn a_ref_is_held_for_as_long_as_the_text_says() {
    let clock = Arc::new(ManualClock::at(Timestamp { seconds: 1_000, nanos: 0 }));
    let metadata = Metadata::in_memory(clock.clone()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path(), metadata, Sharing::Shared).unwrap();
    let _held = writer(&store, &cx("n"), "a/r").await.unwrap();
    clock.advance(Duration::from_millis(61_500));
    let error = writer(&store, &cx("n"), "a/r").await.map(drop).unwrap_err();
    assert_eq!(
        error.message(),
        "ref a/r locked for 1m1.5s (since 1970-01-01T00:16:40Z): unavailable"
    );
}

/// Writers, readers, deletions and sweeps at once: no call sees anything but whole blobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_between_writers_and_sweeps() {
    let world = World::new();
    let blobs: Vec<Bytes> =
        (0..3u8).map(|i| Bytes::from(vec![i; 20_000 + usize::from(i)])).collect();
    let mut tasks = Vec::new();
    for task in 0..6usize {
        let (store, blobs) = (world.store.clone(), blobs.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..25usize {
                let (blob, cx) =
                    (&blobs[(task + round) % 3], cx(["a", "b"][(task / 3 + round) % 2]));
                let digest = Digest::of(blob);
                let name = format!("r{task}");
                let expected = (round % 2 == 0).then(|| digest.clone());
                let opts = WriterOpts { reference: reference(&name), total: 0, expected };
                match store.writer(&cx, opts).await {
                    Ok(mut opened) => {
                        let offset = usize::try_from(opened.status().offset).unwrap();
                        opened.write(blob.slice(offset..)).await.unwrap();
                        match opened.commit(&cx, 0, Some(&digest), Labels::default()).await {
                            Err(e) if !e.is(Kind::AlreadyExists) => panic!("{}", e.message()),
                            _ => {}
                        }
                    }
                    Err(e) => assert!(e.is(Kind::AlreadyExists), "{}", e.message()),
                }
                match store.reader(&cx, &digest).await {
                    Ok(r) => assert_eq!(r.read_at(0, usize::MAX).await.unwrap(), *blob),
                    Err(e) => assert!(e.is(Kind::NotFound), "{}", e.message()),
                }
                if round % 3 == 0 {
                    _ = store.delete(&cx, &digest).await;
                }
                if (round + task) % 5 == 0 {
                    store.sweep().await.unwrap();
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(damage(&world, Depth::Bytes).await.is_empty());
    for namespace in ["a", "b"] {
        for info in world.store.list(&cx(namespace), &Default::default()).await.unwrap() {
            world.store.reader(&cx(namespace), &info.digest).await.unwrap();
        }
    }
}
