//! What a kill, a failed step, a dropped call or a full disk leave behind.

#![allow(clippy::unwrap_used)]

mod common;

use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use common::{World, cx, put, reference, writer};
use gantry_core::content::{ContentStore, WriterOpts};
use gantry_core::{Digest, Kind, Labels, Result};
use gantry_plugin_content::{Depth, FAILPOINTS, LocalStore, Swept};

const OLD: &[u8] = b"was there before";
const NEW: &[u8] = b"in the middle of something";

/// Goes through every step that can be interrupted: a restart of a write, a resumption, a commit,
/// an abort, a deletion with its sweep. Stops at the first failure.
async fn everything(store: &LocalStore) -> Result<()> {
    let cx = cx("n");
    let doomed = put(store, &cx, "doomed", b"doomed").await;
    let doomed = doomed.or_else(|e| known(&e, b"doomed").ok_or(e))?;
    let opts = |total| WriterOpts { reference: reference("restarted"), total, expected: None };
    let mut first = store.writer(&cx, opts(5)).await?;
    first.write(Bytes::from_static(b"12")).await?;
    drop(first);
    drop(store.writer(&cx, opts(6)).await?);
    store.abort(&cx, &reference("restarted")).await?;

    let mut new = writer(store, &cx, "new").await?;
    let offset = usize::try_from(new.status().offset).unwrap();
    new.write(Bytes::from_static(&NEW[offset..])).await?;
    let (size, digest) = (NEW.len() as u64, Digest::of(NEW));
    let outcome = new.commit(&cx, size, Some(&digest), Labels::default()).await;
    outcome.map(drop).or_else(|e| known(&e, NEW).map(drop).ok_or(e))?;

    match store.delete(&cx, &doomed).await {
        Err(e) if !e.is(Kind::NotFound) => return Err(e),
        _ => {}
    }
    store.sweep().await.map(drop)
}

/// After a crash behind the transaction the blob is there already: clients take that for success.
fn known(error: &gantry_core::Error, blob: &[u8]) -> Option<Digest> {
    error.is(Kind::AlreadyExists).then(|| Digest::of(blob))
}

async fn intact(world: &World) {
    let damage = world.store.check(&cx("n"), Depth::Bytes).await.unwrap();
    assert!(damage.is_empty(), "{damage:?}");
    let reader = world.store.reader(&cx("n"), &Digest::of(OLD)).await.unwrap();
    assert_eq!(reader.read_at(0, 100).await.unwrap(), OLD);
}

async fn done(world: &World) {
    intact(world).await;
    let reader = world.store.reader(&cx("n"), &Digest::of(NEW)).await.unwrap();
    assert_eq!(reader.read_at(0, 100).await.unwrap(), NEW);
    assert_eq!(world.files(), (2, 0), "the old and the new blob, and nothing else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_step_leaves_what_the_next_start_mends() {
    let scenario = fail::FailScenario::setup();
    for name in FAILPOINTS {
        let mut world = World::new();
        put(&world.store, &cx("n"), "old", OLD).await.unwrap();
        fail::cfg(*name, "1*panic").unwrap();
        let outcome = everything(&world.store).await;
        fail::remove(*name);
        let error = outcome.expect_err(name);
        assert!(error.is(Kind::Internal), "{name}: {}", error.message());

        world.reopen();
        intact(&world).await;
        assert_eq!(world.store.sweep().await.unwrap(), Swept::default(), "{name}: garbage is left");
        everything(&world.store).await.unwrap();
        done(&world).await;
    }
    scenario.teardown();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_fails_can_be_done_again_at_once() {
    let scenario = fail::FailScenario::setup();
    // These two stand where no failure can come from; they are for kills and pauses.
    let kills_only = ["content.commit/before-record", "content.commit/after-record"];
    for name in FAILPOINTS.iter().filter(|name| !kills_only.contains(name)) {
        let world = World::new();
        put(&world.store, &cx("n"), "old", OLD).await.unwrap();
        fail::cfg(*name, "1*return").unwrap();
        let outcome = everything(&world.store).await;
        fail::remove(*name);
        assert!(outcome.is_err(), "{name} was not reached");

        intact(&world).await;
        everything(&world.store).await.unwrap();
        done(&world).await;
    }
    scenario.teardown();
}

/// Polls once; the call must still be under way.
async fn begin<F: Future + Unpin>(call: &mut F) {
    std::future::poll_fn(|cx| {
        let pending = std::pin::Pin::new(&mut *call).poll(cx).is_pending();
        assert!(pending, "the call ended before it could be dropped");
        Poll::Ready(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_write_keeps_its_ref_until_it_has_ended() {
    let scenario = fail::FailScenario::setup();
    let (world, cx) = (World::new(), cx("n"));
    let mut first = writer(&world.store, &cx, "r").await.unwrap();
    fail::cfg("content.write/before-data", "pause").unwrap();
    let mut write = first.write(Bytes::from_static(NEW));
    begin(&mut write).await;
    drop(write);
    assert!(first.write(Bytes::from_static(b"x")).await.unwrap_err().is(Kind::FailedPrecondition));
    drop(first);
    let outcome = writer(&world.store, &cx, "r").await.map(drop);
    assert!(outcome.unwrap_err().is(Kind::Unavailable), "the write is still under way");

    fail::remove("content.write/before-data");
    let freed = async {
        loop {
            match writer(&world.store, &cx, "r").await {
                Ok(writer) => return writer,
                Err(e) => assert!(e.is(Kind::Unavailable), "{}", e.message()),
            }
            tokio::task::yield_now().await;
        }
    };
    let second = tokio::time::timeout(Duration::from_secs(30), freed).await.unwrap();
    assert_eq!(second.digest(), Digest::of(NEW), "what was sent was written");
    scenario.teardown();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_during_a_commit_takes_nothing_of_it() {
    let scenario = fail::FailScenario::setup();
    let (world, cx) = (World::new(), cx("n"));
    fail::cfg("content.commit/before-record", "pause").unwrap();
    let (store, call) = (world.store.clone(), cx.clone());
    let commit = tokio::spawn(async move { put(&store, &call, "r", NEW).await });
    let renamed = async {
        while !world.blob_path(&Digest::of(NEW)).exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), renamed).await.unwrap();
    // The file has its name, but no record has it yet: to a sweep it looks like garbage.
    assert_eq!(world.store.sweep().await.unwrap(), Swept::default());
    fail::remove("content.commit/before-record");
    let digest = commit.await.unwrap().unwrap();
    world.store.reader(&cx, &digest).await.unwrap();
    scenario.teardown();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_commit_gives_up_with_its_caller() {
    let scenario = fail::FailScenario::setup();
    let world = World::new();
    fail::cfg("content.commit/before-record", "1*pause->off").unwrap();
    let store = world.store.clone();
    let first = tokio::spawn(async move { put(&store, &cx("n"), "first", NEW).await });
    let renamed = async {
        while !world.blob_path(&Digest::of(NEW)).exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), renamed).await.unwrap();
    let cancel = tokio_util::sync::CancellationToken::new();
    let call = gantry_core::CallCx::background(cancel.clone());
    let impatient = call.in_namespace(cx("n").namespace().clone(), None);
    let mut second = writer(&world.store, &impatient, "second").await.unwrap();
    second.write(Bytes::from_static(NEW)).await.unwrap();
    cancel.cancel();
    let outcome = second.commit(&impatient, 0, None, Labels::default()).await;
    assert!(outcome.unwrap_err().is(Kind::Cancelled));
    fail::remove("content.commit/before-record");
    first.await.unwrap().unwrap();
    scenario.teardown();
}

/// A tmpfs of its own below the world's folder, unmounted on drop.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &std::path::Path) -> Self {
        let size = c"size=256k,mode=700";
        rustix::mount::mount("gantry-test", at, "tmpfs", rustix::mount::MountFlags::empty(), size)
            .unwrap();
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(&self.0, flags).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_writes_and_nothing_else() {
    let mut world = World::new();
    let _disk = SmallDisk::mount(world.folder.path());
    world.reopen();
    let cx = cx("n");
    let old = put(&world.store, &cx, "old", &[1; 64 << 10]).await.unwrap();
    let mut filling = writer(&world.store, &cx, "r").await.unwrap();
    filling.write(Bytes::from(vec![2; 64 << 10])).await.unwrap();
    let error = filling.write(Bytes::from(vec![3; 512 << 10])).await.unwrap_err();
    assert!(error.is(Kind::ResourceExhausted), "{}", error.message());
    assert_eq!(filling.status().offset, 64 << 10);
    assert_eq!(filling.digest(), Digest::of(&[2; 64 << 10]));
    assert_eq!(world.store.status(&cx, &reference("r")).await.unwrap().offset, 64 << 10);

    let reader = world.store.reader(&cx, &old).await.unwrap();
    assert_eq!(reader.read_at(0, 64 << 10).await.unwrap(), vec![1; 64 << 10]);
    world.store.delete(&cx, &old).await.unwrap();
    assert_eq!(world.store.sweep().await.unwrap(), Swept { blobs: 1, ingests: 0 });
    filling.write(Bytes::from(vec![3; 100 << 10])).await.unwrap();
    let digest = filling.commit(&cx, 164 << 10, None, Labels::default()).await.unwrap();
    assert_eq!(digest, Digest::of(&[vec![2; 64 << 10], vec![3; 100 << 10]].concat()));
}
