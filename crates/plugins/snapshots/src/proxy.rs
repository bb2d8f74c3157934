//! A snapshotter in another process, reached over `containerd.services.snapshots.v1`.
//!
//! The other side keeps snapshots under keys of ours, `<namespace>/<number>/<key>`, each used
//! once; records with names, parents, labels and leases stay here. As the two sides cannot commit
//! together, an intent is recorded before the other side is asked:
//!
//! ```text
//! prepare  would it be recorded? -> intent (garbage K) -> Prepare K -> record names K, intent ends
//! commit   would it be recorded? -> intent (commit K to N) -> Commit -> record names N, intent ends
//! remove   record goes, intent (garbage K) begins -> reply ... Remove K -> intent ends
//! ```
//!
//! Whatever intent is left over when its call is not under way any more is settled: garbage is
//! removed, a commit is finished or forgotten, as the other side tells. So a crash on either side
//! loses and leaks nothing, and nothing is removed there that was not made from here.
//!
//! Invariants: every call has a bound; a call that began goes on to its end when its caller goes
//! away. Must not: take a silent peer's word for granted: after a call with an unclear end, the
//! other side is asked what became of it.

mod backend;
mod commit;
mod flight;
mod settle;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use gantry_core::filter::{Filters, quote};
use gantry_core::snapshot::{Mount, SnapshotId, SnapshotInfo, SnapshotKind, Snapshotter, Usage};
use gantry_core::{Cx, Error, FieldMask, Kind, Labels, Result, SnapshotKey, SnapshotterName};
use gantry_metadata::stores::{
    BACKEND_GARBAGE, SNAPSHOT_REF, SnapshotCommit, SnapshotEntry, SnapshotRecords, backend_garbage,
};
use gantry_metadata::{Metadata, Tx};
use tokio_util::task::TaskTracker;

use backend::Backend;
use flight::{Flight, Flights, Holding, Keys};
pub use settle::Recovery;

/// The counter of backend keys, over all proxies.
const NUMBER: &[u8] = b"next-backend-snapshot";

/// Labels that the other side gets; all are recorded here.
const INHERITED: &str = "containerd.io/snapshot/";

/// How long calls may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For those that only look.
    pub quick: Duration,
    /// For those that make, measure, list or remove.
    pub slow: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { quick: Duration::from_secs(10), slow: Duration::from_secs(120) }
    }
}

/// Where a snapshotter is and what it can do.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// The name under which it is loaded here and asked for there.
    pub name: SnapshotterName,
    /// Its unix socket, an absolute path.
    pub socket: PathBuf,
    /// What it declares.
    pub capabilities: Vec<&'static str>,
    /// How long its calls may take.
    pub bounds: Bounds,
}

/// See the module.
pub struct ProxySnapshotter {
    inner: Arc<Inner>,
}

struct Inner {
    metadata: Arc<Metadata>,
    records: SnapshotRecords,
    backend: Backend,
    capabilities: Vec<&'static str>,
    flights: Arc<Flights>,
    keys: Arc<Keys>,
    tasks: TaskTracker,
    /// Adopting what the other side has, and removing such there, exclude each other: what one
    /// namespace lets go, another may be about to take.
    adopting: tokio::sync::Mutex<()>,
    /// One settling at a time.
    settling: tokio::sync::Mutex<()>,
    /// A settling is asked for and has not begun.
    due: AtomicBool,
}

impl std::fmt::Debug for ProxySnapshotter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxySnapshotter").field("backend", &self.inner.backend).finish()
    }
}

/// What a prepare or a view asks for.
#[derive(Clone)]
struct Request {
    cx: Cx,
    key: SnapshotKey,
    parent: Option<SnapshotKey>,
    kind: SnapshotKind,
    labels: Labels,
}

fn inherited(labels: &Labels) -> Labels {
    let ours = labels.iter().filter(|(k, _)| k.starts_with(INHERITED) || *k == SNAPSHOT_REF);
    Labels::unchecked(ours.map(|(k, v)| (k.to_owned(), v.to_owned())))
}

/// `below`, with what `above` says differently.
fn merged(below: Labels, above: Labels) -> Labels {
    Labels::unchecked(below.into_iter().chain(above))
}

fn backend_key(tx: &mut Tx<'_, '_>, cx: &Cx, key: &SnapshotKey) -> Result<(SnapshotId, String)> {
    let number = tx.count(NUMBER)?;
    Ok((SnapshotId(number), format!("{}/{number}/{key}", cx.namespace())))
}

impl ProxySnapshotter {
    /// A proxy for the snapshotter at a socket, which need not be there yet. What an earlier
    /// process left undone is settled in the background.
    ///
    /// # Errors
    /// `InvalidArgument` for an address that is no absolute path.
    pub fn open(metadata: Arc<Metadata>, options: ProxyOptions) -> Result<Arc<Self>> {
        let ProxyOptions { name, socket, capabilities, bounds } = options;
        let inner = Arc::new(Inner {
            metadata,
            backend: Backend::new(name.as_str(), socket, bounds)?,
            records: SnapshotRecords::new(name),
            capabilities,
            flights: Arc::default(),
            keys: Arc::default(),
            tasks: TaskTracker::new(),
            adopting: tokio::sync::Mutex::default(),
            settling: tokio::sync::Mutex::default(),
            due: AtomicBool::new(false),
        });
        inner.settle_behind();
        Ok(Arc::new(Self { inner }))
    }

    /// The name under which it is loaded.
    pub fn name(&self) -> &SnapshotterName {
        self.inner.records.snapshotter()
    }

    /// Runs `work` to its end even if the caller goes away or gives up.
    async fn detached<T: Send + 'static>(
        &self,
        cx: &Cx,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let task = self.inner.tasks.spawn(work);
        tokio::select! {
            done = task => done.map_err(|e| {
                Error::caused(Kind::Internal, format!("snapshotter {}", self.name()), e)
            })?,
            () = cx.cancellation().cancelled() => Err(Error::cancelled("")),
        }
    }

    /// Waits for other calls on `keys`, but not longer than the caller does.
    async fn hold(&self, cx: &Cx, keys: &[&SnapshotKey]) -> Result<Holding> {
        tokio::select! {
            holding = self.inner.keys.hold(cx.namespace(), keys) => Ok(holding),
            () = cx.cancellation().cancelled() => Err(Error::cancelled("")),
        }
    }

    async fn entry(&self, cx: &Cx, key: &SnapshotKey) -> Result<SnapshotEntry> {
        self.inner.entry(cx, key).await
    }

    async fn open_snapshot(&self, request: Request) -> Result<Vec<Mount>> {
        let cx = request.cx.clone();
        let holding = self.hold(&cx, &[&request.key]).await?;
        let inner = Arc::clone(&self.inner);
        self.detached(&cx, async move { inner.open_snapshot(request, holding).await }).await
    }
}

impl Inner {
    async fn entry(&self, cx: &Cx, key: &SnapshotKey) -> Result<SnapshotEntry> {
        let (records, ns, key) = (self.records.clone(), cx.namespace().clone(), key.clone());
        self.metadata.read(move |view| records.get(view, &ns, &key)).await
    }

    /// Asks whether `change` would go through, and takes it back. What a refusal commits (the
    /// lease of what is in the way) stays.
    async fn would_do(
        &self,
        change: impl FnOnce(&mut Tx<'_, '_>) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let passed = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&passed);
        let outcome = self.metadata.update(move |tx| {
            change(tx)?;
            told.store(true, Ordering::SeqCst);
            Err::<(), _>(Error::aborted("taken back on purpose"))
        });
        match outcome.await {
            Err(_) if passed.load(Ordering::SeqCst) => Ok(()),
            outcome => outcome,
        }
    }

    fn entry_of(&self, request: &Request, id: SnapshotId, backend_key: &str) -> SnapshotEntry {
        let now = self.metadata.clock().now();
        SnapshotEntry {
            info: SnapshotInfo {
                kind: request.kind,
                name: request.key.clone(),
                parent: request.parent.clone(),
                labels: request.labels.clone(),
                created_at: now,
                updated_at: now,
            },
            id,
            usage: Usage::default(),
            backend_key: backend_key.to_owned(),
        }
    }

    async fn open_snapshot(self: &Arc<Self>, request: Request, _: Holding) -> Result<Vec<Mount>> {
        let (records, cx) = (self.records.clone(), request.cx.clone());
        let entry = self.entry_of(&request, SnapshotId(0), "");
        self.would_do(move |tx| records.insert(tx, &cx, entry)).await?;

        let (records, wanted, flights) =
            (self.records.clone(), request.clone(), Arc::clone(&self.flights));
        let (flight, id, key, parent) = self
            .metadata
            .update(move |tx| {
                let ns = wanted.cx.namespace();
                let parent = wanted.parent.as_ref().map(|p| records.get(tx.view(), ns, p));
                let parent = parent.transpose()?.map(|p| p.backend_key).unwrap_or_default();
                let (id, key) = backend_key(tx, &wanted.cx, &wanted.key)?;
                let garbage = backend_garbage(records.snapshotter(), &key);
                let intent = tx.begin_intent(BACKEND_GARBAGE, ns, garbage)?;
                Ok((flights.begin(intent), id, key, parent))
            })
            .await?;
        let opened = self.ask_and_record(&request, flight, id, key, parent).await;
        if opened.is_err() {
            self.settle_behind();
        }
        opened
    }

    async fn ask_and_record(
        &self,
        request: &Request,
        flight: Flight,
        id: SnapshotId,
        key: String,
        parent: String,
    ) -> Result<Vec<Mount>> {
        try_fail_point!("snapshot.proxy-prepare/before-backend");
        let (cx, labels) = (&request.cx, inherited(&request.labels));
        let asked = match request.kind {
            SnapshotKind::View => self.backend.view(cx, key.clone(), parent.clone(), labels).await,
            SnapshotKind::Active | SnapshotKind::Committed => {
                self.backend.prepare(cx, key.clone(), parent.clone(), labels).await
            }
        };
        let mounts = match asked {
            Ok(mounts) => mounts,
            Err(error) if error.is(Kind::AlreadyExists) => {
                return Err(self.adopt(request, flight, &parent, error).await);
            }
            Err(error) => return Err(error),
        };
        try_fail_point!("snapshot.proxy-prepare/before-record");
        let (records, cx) = (self.records.clone(), request.cx.clone());
        let entry = self.entry_of(request, id, &key);
        let intent = flight.id;
        self.metadata
            .update(move |tx| {
                records.insert(tx, &cx, entry)?;
                tx.end_intent(intent)
            })
            .await?;
        drop(flight);
        Ok(mounts)
    }

    /// The other side has the target of the prepare already, committed: records it under the
    /// target's name. Returns what the prepare fails with.
    async fn adopt(&self, request: &Request, flight: Flight, parent: &str, told: Error) -> Error {
        let Some(target) = request.labels.get(SNAPSHOT_REF).map(str::to_owned) else {
            // Keys of ours are new each time, so nothing can be in the way.
            return Error::unknown(format!(
                "unexpected error from snapshotter: {}",
                told.message()
            ));
        };
        match self.try_adopt(request, flight, parent, &target).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_adopt(
        &self,
        request: &Request,
        flight: Flight,
        parent: &str,
        target: &str,
    ) -> Result<std::convert::Infallible> {
        let filter =
            format!("labels.{}=={},parent=={}", quote(SNAPSHOT_REF), quote(target), quote(parent));
        let _adopting = self.adopting.lock().await;
        let found = self.backend.list(&request.cx, vec![filter]).await?;
        let found = found.into_iter().find(|info| {
            // Not every snapshotter looks at filters.
            info.kind == SnapshotKind::Committed
                && info.labels.get(SNAPSHOT_REF) == Some(target)
                && info.parent.as_ref().map_or("", SnapshotKey::as_str) == parent
        });
        let found = found
            .ok_or_else(|| Error::not_found(format!("target snapshot {target:?} in backend")))?;
        let (records, cx, intent) = (self.records.clone(), request.cx.clone(), flight.id);
        let labels = merged(found.labels, request.labels.clone());
        let (kind, key) = (SnapshotKind::Committed, SnapshotKey::new(target)?);
        let adopted = Request { kind, key, labels, ..request.clone() };
        let entry = self.entry_of(&adopted, SnapshotId(0), found.name.as_str());
        let text = format!("target snapshot {target:?} from snapshotter");
        self.metadata
            .update(move |tx| {
                records.insert(tx, &cx, entry)?;
                tx.end_intent(intent)?;
                tx.keep_on_error();
                Err(Error::already_exists(text))
            })
            .await
    }
}

#[async_trait]
impl Snapshotter for ProxySnapshotter {
    fn capabilities(&self) -> &[&'static str] {
        &self.inner.capabilities
    }

    async fn stat(&self, cx: &Cx, key: &SnapshotKey) -> Result<SnapshotInfo> {
        let entry = self.entry(cx, key).await?;
        let there = self.inner.backend.stat(cx, entry.backend_key).await?;
        let labels = merged(there.labels, entry.info.labels);
        Ok(SnapshotInfo { labels, ..entry.info })
    }

    async fn update(
        &self,
        cx: &Cx,
        key: &SnapshotKey,
        labels: Labels,
        mask: &FieldMask,
    ) -> Result<SnapshotInfo> {
        let _holding = self.hold(cx, &[key]).await?;
        let change = {
            let (records, cx, key) = (self.inner.records.clone(), cx.clone(), key.clone());
            let (labels, mask) = (labels.clone(), mask.clone());
            move |tx: &mut Tx<'_, '_>| records.update(tx, &cx, &key, &labels, &mask)
        };
        let dry = change.clone();
        self.inner.would_do(move |tx| dry(tx).map(drop)).await?;
        let entry = self.entry(cx, key).await?;
        // Doing this twice does no harm, so it needs no intent.
        self.inner.backend.update(cx, entry.backend_key, inherited(&labels), mask).await?;
        self.inner.metadata.update(change).await
    }

    async fn usage(&self, cx: &Cx, key: &SnapshotKey) -> Result<Usage> {
        let entry = self.entry(cx, key).await?;
        self.inner.backend.usage(cx, entry.backend_key).await
    }

    async fn mounts(&self, cx: &Cx, key: &SnapshotKey) -> Result<Vec<Mount>> {
        let entry = self.entry(cx, key).await?;
        if entry.info.kind == SnapshotKind::Committed {
            return Err(Error::failed_precondition(format!(
                "failed to get active mount: requested snapshot {key} not active or view"
            )));
        }
        self.inner.backend.mounts(cx, entry.backend_key).await
    }

    async fn prepare(
        &self,
        cx: &Cx,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let (cx, key, parent) = (cx.clone(), key.clone(), parent.cloned());
        let kind = SnapshotKind::Active;
        self.open_snapshot(Request { cx, key, parent, kind, labels }).await
    }

    async fn view(
        &self,
        cx: &Cx,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let (cx, key, parent) = (cx.clone(), key.clone(), parent.cloned());
        let kind = SnapshotKind::View;
        self.open_snapshot(Request { cx, key, parent, kind, labels }).await
    }

    async fn commit(
        &self,
        cx: &Cx,
        name: &SnapshotKey,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<()> {
        let holding = self.hold(cx, &[name, key]).await?;
        let (inner, of) = (Arc::clone(&self.inner), cx.clone());
        let (name, key, parent) = (name.clone(), key.clone(), parent.cloned());
        let (usage, backend_key) = (Usage::default(), String::new());
        let commit = SnapshotCommit { name, key, parent, labels, usage, backend_key };
        self.detached(cx, async move { inner.commit(of, commit, holding).await }).await
    }

    async fn remove(&self, cx: &Cx, key: &SnapshotKey) -> Result<()> {
        let holding = self.hold(cx, &[key]).await?;
        let (inner, of, key) = (Arc::clone(&self.inner), cx.clone(), key.clone());
        let work = async move {
            let _holding = holding;
            let records = inner.records.clone();
            inner.metadata.update(move |tx| records.remove(tx, &of, &key).map(drop)).await?;
            inner.settle_behind();
            Ok(())
        };
        self.detached(cx, work).await
    }

    async fn list(&self, cx: &Cx, filters: &Filters) -> Result<Vec<SnapshotInfo>> {
        let (records, ns) = (self.inner.records.clone(), cx.namespace().clone());
        let everything = Filters::default();
        let entries =
            self.inner.metadata.read(move |view| records.list(view, &ns, &everything)).await?;
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let there = self.inner.backend.list(cx, Vec::new()).await?;
        let mut there: HashMap<_, _> =
            there.into_iter().map(|info| (info.name.into_string(), info.labels)).collect();
        let mut found = Vec::new();
        for entry in entries {
            // What the other side has lost is not there for clients either.
            let Some(labels) = there.remove(&entry.backend_key) else { continue };
            let labels = merged(labels, entry.info.labels);
            let info = SnapshotInfo { labels, ..entry.info };
            if filters.matches(&info) {
                found.push(info);
            }
        }
        Ok(found)
    }
}
