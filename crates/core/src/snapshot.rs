//! Snapshotters: file-system states that build on each other.
//!
//! The life of a snapshot: [`Snapshotter::prepare`] opens an *active*, writable one on a committed
//! parent (or on nothing) and says how to mount it; the client mounts and changes it;
//! [`Snapshotter::commit`] makes it *committed* under another name, immutable and fit to be a
//! parent. [`Snapshotter::view`] opens a read-only one. [`Snapshotter::remove`] ends any of them
//! that has no children.
//!
//! Built-in snapshotters keep their records in the metadata store, in the same transaction as the
//! namespaced entry; what differs between them is a [`Driver`]: numbered folders on disk.

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::cx::Cx;
use crate::error::Result;
use crate::fields::FieldMask;
use crate::filter::Filters;
use crate::id::SnapshotKey;
use crate::labels::Labels;

/// Which state a snapshot is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnapshotKind {
    /// Read-only look at a committed one.
    View,
    /// Writable.
    Active,
    /// Immutable.
    Committed,
}

/// An instruction to see a snapshot, not yet mounted (containerd.types.Mount).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// File-system type: `overlay`, `bind`, ...
    pub kind: String,
    /// Device or folder.
    pub source: String,
    /// Path below the target; usually empty.
    pub target: String,
    /// Options as for mount(8), in the order the kernel gets them.
    pub options: Vec<String>,
}

/// A snapshot's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its state.
    pub kind: SnapshotKind,
    /// Its key, or its name once committed.
    pub name: SnapshotKey,
    /// The name of its parent.
    pub parent: Option<SnapshotKey>,
    /// Labels.
    pub labels: Labels,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// Disk usage of one snapshot without its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Inodes.
    pub inodes: i64,
    /// Bytes allocated.
    pub size: i64,
}

/// Snapshots of all namespaces, each call within one.
#[async_trait]
pub trait Snapshotter: Send + Sync {
    /// What this implementation can do, as the plugin list shows it (`rebase`, `remap-ids`, ...).
    fn capabilities(&self) -> &[&'static str];

    /// The record of `key`; `NotFound` when there is none.
    async fn stat(&self, cx: &Cx, key: &SnapshotKey) -> Result<SnapshotInfo>;

    /// Changes labels; every other mask path is `InvalidArgument`. Returns the new record.
    async fn update(
        &self,
        cx: &Cx,
        key: &SnapshotKey,
        labels: Labels,
        mask: &FieldMask,
    ) -> Result<SnapshotInfo>;

    /// Disk usage: measured now for an active one, as measured at its commit for a committed one.
    async fn usage(&self, cx: &Cx, key: &SnapshotKey) -> Result<Usage>;

    /// How to mount an active snapshot or a view; `FailedPrecondition` for a committed one.
    async fn mounts(&self, cx: &Cx, key: &SnapshotKey) -> Result<Vec<Mount>>;

    /// Opens a writable snapshot `key` on the committed `parent` and says how to mount it.
    /// A key in use is `AlreadyExists`, and so is an existing target of the label
    /// `containerd.io/snapshot.ref` (both are leased then). On any failure nothing of `key`
    /// remains, also after a crash.
    async fn prepare(
        &self,
        cx: &Cx,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<Vec<Mount>>;

    /// As [`Snapshotter::prepare`], read-only.
    async fn view(
        &self,
        cx: &Cx,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<Vec<Mount>>;

    /// Makes the active `key` the committed `name` with `labels` (not inherited). `key` is gone
    /// on success and untouched on failure. `parent` rebases a parentless one where the
    /// capability `rebase` is declared. Once this returns, the files survive a power cut.
    async fn commit(
        &self,
        cx: &Cx,
        name: &SnapshotKey,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<()>;

    /// Removes `key`; `FailedPrecondition` while it has children.
    async fn remove(&self, cx: &Cx, key: &SnapshotKey) -> Result<()>;

    /// All snapshots of the namespace that match, in byte order of their keys.
    async fn list(&self, cx: &Cx, filters: &Filters) -> Result<Vec<SnapshotInfo>>;
}

/// The number of a snapshot on disk; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub u64);

/// What makes one built-in snapshotter differ from another: what lies in the numbered folders.
///
/// A driver knows no key, label or namespace and keeps no record. Its calls block and run on
/// blocking threads. Each is idempotent, since the recoverer repeats them after a crash.
pub trait Driver: Send + Sync {
    /// Capabilities to declare.
    fn capabilities(&self) -> &[&'static str];
    /// Makes the folder of `id`. `parents`, nearest first, are committed.
    fn create(&self, id: SnapshotId, kind: SnapshotKind, parents: &[SnapshotId]) -> Result<()>;
    /// How to mount `id`.
    fn mounts(
        &self,
        id: SnapshotId,
        kind: SnapshotKind,
        parents: &[SnapshotId],
    ) -> Result<Vec<Mount>>;
    /// Usage of `id` without its parents.
    fn usage(&self, id: SnapshotId) -> Result<Usage>;
    /// Makes everything below the driver's root durable (one syncfs(2)).
    fn sync(&self) -> Result<()>;
    /// Removes the folder of `id`; one that is gone is success.
    fn remove(&self, id: SnapshotId) -> Result<()>;
    /// Whether the folder of `id` is there and complete.
    fn contains(&self, id: SnapshotId) -> bool;
    /// The numbers that have a folder, complete or not; for the sweep of what no record names.
    fn list(&self) -> Result<Vec<SnapshotId>>;
}
