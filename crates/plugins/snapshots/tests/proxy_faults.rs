//! Whatever becomes of a call to the other side, both sides come together again.

#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use gantry_core::filter::Filters;
use gantry_core::snapshot::{Mount, SnapshotInfo, SnapshotKind, Snapshotter, Usage};
use gantry_core::{CallCx, Cx, FieldMask, Kind, Labels, Namespace, Result, SnapshotKey};
use gantry_metadata::stores::SNAPSHOT_REF;
use gantry_metadata::{Metadata, Recoverer, intent};
use gantry_plugin_snapshots::{
    Bounds, BuiltinSnapshotter, FAILPOINTS, Overlay, ProxySnapshotter, Recovery,
};
use support::{Server, cx, key};

/// Both sides of a wire.
struct Sides {
    there: Arc<BuiltinSnapshotter<Overlay>>,
    here: Arc<ProxySnapshotter>,
    metadata: Arc<Metadata>,
    socket: PathBuf,
    server: Option<Server>,
    _dir: tempfile::TempDir,
}

const SHORT: Bounds =
    Bounds { quick: Duration::from_millis(500), slow: Duration::from_millis(500) };

impl Sides {
    async fn new(bounds: Bounds) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let driver = Overlay::open(&dir.path().join("s")).unwrap();
        let there = support::open(&support::metadata(), driver).await;
        let socket = dir.path().join("socket");
        let server = Some(support::serve(there.clone(), &socket));
        let metadata = support::metadata();
        let here = support::proxy(&metadata, &socket, &["rebase"], bounds);
        Self { there, here, metadata, socket, server, _dir: dir }
    }

    /// The proxy as a new process opens it.
    fn restart(&mut self) {
        self.here = support::proxy(&self.metadata, &self.socket, &["rebase"], Bounds::default());
    }

    async fn prepare(&self, name: &str, parent: Option<&str>) -> Result<()> {
        let parent = parent.map(key);
        let none = Labels::default();
        self.here.prepare(&cx(), &key(name), parent.as_ref(), none).await.map(drop)
    }

    async fn commit(&self, name: &str, from: &str) -> Result<()> {
        self.here.commit(&cx(), &key(name), &key(from), None, Labels::default()).await
    }

    /// Each side has what the other has, and nothing is left to be settled.
    async fn check(&self, at: &str) {
        self.here.settle().await.unwrap();
        assert_eq!(intent::pending(&self.metadata).await.unwrap(), [], "{at}");
        let everything = Filters::default();
        let here = self.here.list(&cx(), &everything).await.unwrap();
        let there = self.there.list(&cx(), &everything).await.unwrap();
        let kinds = |list: &[SnapshotInfo]| {
            let mut kinds: Vec<_> = list.iter().map(|i| format!("{:?}", i.kind)).collect();
            kinds.sort();
            kinds
        };
        assert_eq!(kinds(&here), kinds(&there), "{at}: {here:?} and {there:?}");
        for info in here.iter().filter(|info| info.kind != SnapshotKind::Committed) {
            self.here.mounts(&cx(), &info.name).await.unwrap();
        }
    }

    /// One life of a snapshot, as far as it gets.
    async fn live(&self) {
        let _ = self.prepare("child", Some("base")).await;
        let _ = self.commit("done", "child").await;
        let _ = self.here.remove(&cx(), &key("done")).await;
        let here = Arc::clone(&self.here);
        let _ = tokio::spawn(async move { here.settle().await }).await; // it may crash
    }
}

/// Failpoints are of the whole process, so one test goes through them all.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_or_failure_at_any_step_is_settled() {
    let scenario = fail::FailScenario::setup();
    for step in FAILPOINTS.iter().filter(|name| name.contains(".proxy-")) {
        for how in ["panic", "1*return"] {
            let mut sides = Sides::new(Bounds::default()).await;
            sides.prepare("making base", None).await.unwrap();
            sides.commit("base", "making base").await.unwrap();
            let hit = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&hit);
            if how == "panic" {
                let crash = move || assert!(told.swap(true, Ordering::SeqCst), "crash");
                fail::cfg_callback(*step, crash).unwrap();
            } else {
                fail::cfg(*step, how).unwrap();
            }
            sides.live().await;
            fail::remove(step);
            assert!(how != "panic" || hit.load(Ordering::SeqCst), "{step} was not reached");
            sides.restart();
            sides.check(step).await;
            for name in ["child", "done"] {
                let _ = sides.here.remove(&cx(), &key(name)).await;
            }
            sides.prepare("child", Some("base")).await.unwrap();
            sides.commit("done", "child").await.unwrap();
            sides.check(step).await;
        }
    }
    scenario.teardown();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_settling_beside_prepares_takes_no_live_snapshot() {
    let _no_failpoints = fail::FailScenario::setup();
    let sides = Sides::new(Bounds::default()).await;
    let here = Arc::clone(&sides.here);
    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let settling = tokio::spawn(async move {
        while !stop.load(Ordering::SeqCst) {
            here.settle().await.unwrap();
        }
    });
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..60 {
        let here = Arc::clone(&sides.here);
        calls.spawn(async move {
            let (active, name) = (key(&format!("a{number}")), key(&format!("c{number}")));
            here.prepare(&cx(), &active, None, Labels::default()).await.unwrap();
            here.commit(&cx(), &name, &active, None, Labels::default()).await.unwrap();
        });
    }
    calls.join_all().await;
    done.store(true, Ordering::SeqCst);
    settling.await.unwrap();
    sides.check("settled").await;
    assert_eq!(sides.there.list(&cx(), &Filters::default()).await.unwrap().len(), 60);
}

/// A snapshotter that is away, then back.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshotter_that_is_away_fails_calls_in_time_and_is_settled_later() {
    let _no_failpoints = fail::FailScenario::setup();
    let mut sides = Sides::new(SHORT).await;
    sides.prepare("making base", None).await.unwrap();
    sides.commit("base", "making base").await.unwrap();
    sides.prepare("a", Some("base")).await.unwrap();
    sides.prepare("b", Some("base")).await.unwrap();
    sides.server = None;
    std::fs::remove_file(&sides.socket).unwrap();

    let began = Instant::now();
    assert!(sides.prepare("c", None).await.is_err());
    assert!(sides.commit("d", "a").await.is_err());
    assert!(sides.here.stat(&cx(), &key("a")).await.is_err());
    sides.here.remove(&cx(), &key("b")).await.unwrap();
    assert!(sides.here.settle().await.is_err());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());

    sides.server = Some(support::serve(sides.there.clone(), &sides.socket));
    sides.restart();
    sides.check("back").await;
    let left = sides.here.list(&cx(), &Filters::default()).await.unwrap();
    let left: Vec<_> = left.iter().map(|info| info.name.as_str()).collect();
    assert_eq!(left, ["a", "base"]);
    sides.commit("d", "a").await.unwrap();
}

/// A snapshotter that takes connections and answers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_snapshotter_holds_nobody_beyond_the_bound() {
    let _no_failpoints = fail::FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let _silent = tokio::net::UnixListener::bind(&socket).unwrap();
    let here = support::proxy(&support::metadata(), &socket, &[], SHORT);
    let began = Instant::now();
    let error = here.prepare(&cx(), &key("a"), None, Labels::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DeadlineExceeded, "{}", error.message());
    assert!(error.message().contains("did not answer Prepare"), "{}", error.message());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(here.stat(&cx(), &key("a")).await.unwrap_err().is(Kind::NotFound));

    // Who gives up is let go at once.
    let stop = tokio_util::sync::CancellationToken::new();
    let call = CallCx::background(stop.clone()).in_namespace(cx().namespace().clone(), None);
    let waiting = tokio::spawn(async move {
        here.prepare(&call, &key("b"), None, Labels::default()).await.unwrap_err()
    });
    stop.cancel();
    assert_eq!(waiting.await.unwrap().kind(), Kind::Cancelled);
}

/// What an earlier process left is settled through the recoverers.
#[tokio::test(flavor = "multi_thread")]
async fn intents_are_recovered_by_kind() {
    let _no_failpoints = fail::FailScenario::setup();
    let mut sides = Sides::new(SHORT).await;
    sides.prepare("a", None).await.unwrap();
    sides.server = None;
    std::fs::remove_file(&sides.socket).unwrap();
    sides.here.remove(&cx(), &key("a")).await.unwrap();
    assert!(sides.here.settle().await.is_err());
    assert_eq!(intent::pending(&sides.metadata).await.unwrap().len(), 1);
    sides.server = Some(support::serve(sides.there.clone(), &sides.socket));
    let recoveries = Recovery::of(std::slice::from_ref(&sides.here));
    let recoverers = recoveries.iter().map(|r| r as &dyn Recoverer).collect::<Vec<_>>();
    let failures = intent::recover(&sides.metadata, &recoverers).await.unwrap();
    assert!(failures.is_empty(), "{failures:?}");
    sides.check("recovered").await;
    assert_eq!(sides.there.list(&cx(), &Filters::default()).await.unwrap(), []);
}

/// A snapshotter that finds the target of a prepare by itself, as those that fetch lazily do.
struct Lazy(Arc<dyn Snapshotter>);

#[async_trait]
impl Snapshotter for Lazy {
    fn capabilities(&self) -> &[&'static str] {
        &[]
    }
    async fn stat(&self, _: &Cx, key: &SnapshotKey) -> Result<SnapshotInfo> {
        self.0.stat(&cx(), key).await
    }
    async fn update(
        &self,
        _: &Cx,
        key: &SnapshotKey,
        labels: Labels,
        mask: &FieldMask,
    ) -> Result<SnapshotInfo> {
        self.0.update(&cx(), key, labels, mask).await
    }
    async fn usage(&self, _: &Cx, key: &SnapshotKey) -> Result<Usage> {
        self.0.usage(&cx(), key).await
    }
    async fn mounts(&self, _: &Cx, key: &SnapshotKey) -> Result<Vec<Mount>> {
        self.0.mounts(&cx(), key).await
    }
    async fn prepare(
        &self,
        _: &Cx,
        name: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        // All that call see the same snapshots, whatever their namespace.
        let cx = cx();
        let Some(target) = labels.get(SNAPSHOT_REF).map(key) else {
            return self.0.prepare(&cx, name, parent, labels).await;
        };
        let kept = labels.clone();
        self.0.prepare(&cx, name, parent, Labels::default()).await?;
        let committed = self.0.commit(&cx, &target, name, None, kept).await;
        let _ = self.0.remove(&cx, name).await;
        if committed.as_ref().is_err_and(|error| !error.is(Kind::AlreadyExists)) {
            committed?;
        }
        Err(gantry_core::Error::already_exists(format!("target snapshot {target:?}")))
    }
    async fn view(
        &self,
        _: &Cx,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        self.0.view(&cx(), key, parent, labels).await
    }
    async fn commit(
        &self,
        _: &Cx,
        name: &SnapshotKey,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<()> {
        self.0.commit(&cx(), name, key, parent, labels).await
    }
    async fn remove(&self, _: &Cx, key: &SnapshotKey) -> Result<()> {
        self.0.remove(&cx(), key).await
    }
    async fn list(&self, _: &Cx, filters: &Filters) -> Result<Vec<SnapshotInfo>> {
        self.0.list(&cx(), filters).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_snapshotter_has_already_is_adopted_and_shared() {
    let _no_failpoints = fail::FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    let driver = Overlay::open(&dir.path().join("s")).unwrap();
    let inner = support::open(&support::metadata(), driver).await;
    let socket = dir.path().join("socket");
    let _server = support::serve(Arc::new(Lazy(inner.clone())), &socket);
    let here = support::proxy(&support::metadata(), &socket, &[], Bounds::default());
    let layers = ["sha256:1", "sha256:2"];
    let two = CallCx::default().in_namespace(Namespace::new("two").unwrap(), None);
    for cx in [&cx(), &two] {
        let mut parent: Option<SnapshotKey> = None;
        for layer in layers {
            let mut labels = Labels::default();
            labels.set(SNAPSHOT_REF, layer);
            labels.set("mine", "1");
            let active = key(&format!("extract {layer}"));
            let told = here.prepare(cx, &active, parent.as_ref(), labels).await.unwrap_err();
            let text = format!("target snapshot {layer:?} from snapshotter: already exists");
            assert_eq!((told.kind(), told.message()), (Kind::AlreadyExists, text));
            let info = here.stat(cx, &key(layer)).await.unwrap();
            assert_eq!((info.kind, &info.parent), (SnapshotKind::Committed, &parent));
            assert_eq!(info.labels.get("mine"), Some("1"));
            assert!(here.stat(cx, &active).await.is_err());
            parent = Some(key(layer));
        }
        here.prepare(cx, &key("c"), parent.as_ref(), Labels::default()).await.unwrap();
        here.remove(cx, &key("c")).await.unwrap();
    }
    here.settle().await.unwrap();
    assert_eq!(inner.list(&cx(), &Filters::default()).await.unwrap().len(), 2);
    for (cx, left) in [(&cx(), 2), (&two, 0)] {
        for layer in layers.iter().rev() {
            here.remove(cx, &key(layer)).await.unwrap();
        }
        here.settle().await.unwrap();
        let there = inner.list(&support::cx(), &Filters::default()).await.unwrap();
        assert_eq!(there.len(), left, "the last namespace takes it along");
    }
}
