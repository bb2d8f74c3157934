//! The records of one snapshotter's snapshots.
//!
//! Plain functions on a transaction: what must be true before and after, which lease and which
//! event belong to it. What lies on disk is the business of the snapshotter that calls them; it
//! makes folders before [`SnapshotRecords::insert`] and removes them after
//! [`SnapshotRecords::remove`], so that a folder without a record is always garbage.

use gantry_core::filter::Filters;
use gantry_core::model::Event;
use gantry_core::snapshot::{SnapshotId, SnapshotInfo, SnapshotKind, Usage};
use gantry_core::{Cx, Error, FieldMask, Labels, Namespace, Result, SnapshotKey, SnapshotterName};

use super::{leases, mask, namespaces};
use crate::schema::{Key, Parts, SNAPSHOT, SNAPSHOT_CHILD};
use crate::{Tx, View};

/// The kind of intents that say "remove this key at a proxy's backend, nothing names it". Their
/// payload is [`backend_garbage`].
pub const BACKEND_GARBAGE: &str = "snapshot.backend-garbage";

/// The payload that names `backend_key` of `snapshotter`.
pub fn backend_garbage(snapshotter: &SnapshotterName, backend_key: &str) -> Vec<u8> {
    Key::new().sized(snapshotter.as_str()).last(backend_key)
}

/// The label that names the committed snapshot a prepare is for.
pub const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";

/// A snapshot's record with what only the snapshotter needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// What clients see.
    pub info: SnapshotInfo,
    /// The numbered folder.
    pub id: SnapshotId,
    /// Usage as measured by the commit.
    pub usage: Usage,
    /// The key at a proxy; empty for a built-in.
    pub backend_key: String,
}

/// What a commit makes of an active snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotCommit {
    /// The name it gets.
    pub name: SnapshotKey,
    /// The key it has.
    pub key: SnapshotKey,
    /// A parent for one that has none.
    pub parent: Option<SnapshotKey>,
    /// The labels of the committed one.
    pub labels: Labels,
    /// Usage as measured.
    pub usage: Usage,
    /// The key it gets at a proxy; empty keeps the one it has.
    pub backend_key: String,
}

/// The records of one snapshotter.
#[derive(Clone, Debug)]
pub struct SnapshotRecords {
    snapshotter: SnapshotterName,
}

impl SnapshotRecords {
    /// The records of `snapshotter`.
    pub fn new(snapshotter: SnapshotterName) -> Self {
        Self { snapshotter }
    }

    /// The snapshotter's name.
    pub fn snapshotter(&self) -> &SnapshotterName {
        &self.snapshotter
    }

    fn below(&self, namespace: &Namespace) -> Key {
        Key::of(namespace).sized(self.snapshotter.as_str())
    }
    fn key(&self, namespace: &Namespace, key: &SnapshotKey) -> Vec<u8> {
        self.below(namespace).last(key.as_str())
    }
    fn child_key(&self, ns: &Namespace, parent: &SnapshotKey, child: &SnapshotKey) -> Vec<u8> {
        self.below(ns).sized(parent.as_str()).last(child.as_str())
    }
    fn lease_kind(&self) -> String {
        format!("snapshots/{}", self.snapshotter)
    }

    /// The record of `key`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, view: View<'_>, ns: &Namespace, key: &SnapshotKey) -> Result<SnapshotEntry> {
        self.find(view, ns, key)?
            .ok_or_else(|| Error::not_found(format!("snapshot {key} does not exist")))
    }

    /// The record of `key`, if there is one.
    ///
    /// # Errors
    /// `DataLoss` when it is damaged.
    pub fn find(
        &self,
        view: View<'_>,
        namespace: &Namespace,
        key: &SnapshotKey,
    ) -> Result<Option<SnapshotEntry>> {
        view.get::<SnapshotEntry>(SNAPSHOT, &self.key(namespace, key), key.clone())
    }

    /// The ids of the committed snapshots below `parent`, nearest first, itself included.
    ///
    /// # Errors
    /// `NotFound` when a parent is missing, `InvalidArgument` when one is not committed.
    pub fn chain(
        &self,
        view: View<'_>,
        ns: &Namespace,
        parent: Option<&SnapshotKey>,
    ) -> Result<Vec<SnapshotId>> {
        let mut chain = Vec::new();
        let mut next = parent.cloned();
        while let Some(key) = next {
            let entry = self
                .find(view, ns, &key)?
                .ok_or_else(|| Error::not_found(format!("parent snapshot {key} does not exist")))?;
            if entry.info.kind != SnapshotKind::Committed {
                return Err(Error::invalid_argument(format!(
                    "parent snapshot {key} is not committed"
                )));
            }
            chain.push(entry.id);
            next = entry.info.parent;
        }
        Ok(chain)
    }

    /// Whether a prepare of `key` can go on. An object that is in the way is leased, and that
    /// commits although the call fails.
    ///
    /// # Errors
    /// `AlreadyExists` for the key or for the target of [`SNAPSHOT_REF`]; `NotFound` for the
    /// lease.
    pub fn check_free(
        &self,
        tx: &mut Tx<'_, '_>,
        cx: &Cx,
        key: &SnapshotKey,
        labels: &Labels,
    ) -> Result<()> {
        if let Some(target) = labels.get(SNAPSHOT_REF) {
            let target = SnapshotKey::new(target)?;
            if self.find(tx.view(), cx.namespace(), &target)?.is_some() {
                leases::hold(tx, cx, &self.lease_kind(), target.as_str())?;
                tx.keep_on_error();
                return Err(Error::already_exists(format!("target snapshot {target:?}")));
            }
        }
        if self.find(tx.view(), cx.namespace(), key)?.is_some() {
            leases::hold(tx, cx, &self.lease_kind(), key.as_str())?;
            tx.keep_on_error();
            return Err(Error::already_exists(format!("snapshot {key:?}")));
        }
        Ok(())
    }

    /// Records a new active snapshot or view, leases it and, for an active one, reports it.
    /// Checks again what may have changed since the folder was made.
    ///
    /// # Errors
    /// As [`SnapshotRecords::check_free`] and [`SnapshotRecords::chain`].
    pub fn insert(&self, tx: &mut Tx<'_, '_>, cx: &Cx, entry: SnapshotEntry) -> Result<()> {
        let (ns, key) = (cx.namespace().clone(), entry.info.name.clone());
        self.check_free(tx, cx, &key, &entry.info.labels)?;
        self.chain(tx.view(), &ns, entry.info.parent.as_ref())?;
        namespaces::ensure(tx, &ns)?;
        leases::hold(tx, cx, &self.lease_kind(), key.as_str())?;
        if let Some(parent) = &entry.info.parent {
            tx.mark(SNAPSHOT_CHILD, &self.child_key(&ns, parent, &key))?;
        }
        let mut entry = entry;
        entry.info.created_at = tx.now();
        entry.info.updated_at = tx.now();
        tx.put(SNAPSHOT, &self.key(&ns, &key), &entry)?;
        if entry.info.kind == SnapshotKind::Active {
            let event = Event::SnapshotPrepare {
                key: key.into_string(),
                parent: entry.info.parent.map_or_else(String::new, SnapshotKey::into_string),
                snapshotter: self.snapshotter.as_str().to_owned(),
            };
            tx.emit(&ns, event)?;
        }
        Ok(())
    }

    /// Turns an active snapshot into a committed one.
    ///
    /// # Errors
    /// `AlreadyExists` for the name (leased, `key` survives); `NotFound` for the key, the parent or
    /// the lease; `FailedPrecondition` when `key` is not active; `InvalidArgument` for another
    /// parent than it has.
    pub fn commit(&self, tx: &mut Tx<'_, '_>, cx: &Cx, commit: SnapshotCommit) -> Result<()> {
        let SnapshotCommit { name, key, parent, labels, usage, backend_key } = commit;
        let ns = cx.namespace();
        leases::hold(tx, cx, &self.lease_kind(), name.as_str())?;
        if self.find(tx.view(), ns, &name)?.is_some() {
            tx.keep_on_error();
            return Err(Error::already_exists(format!("snapshot {name:?}")));
        }
        let active = self.get(tx.view(), ns, &key)?;
        if active.info.kind != SnapshotKind::Active {
            return Err(Error::failed_precondition(format!("snapshot {key} is not active")));
        }
        let parent = match (&active.info.parent, &parent) {
            (Some(has), Some(asked)) if has != asked => {
                return Err(Error::invalid_argument(format!(
                    "snapshot {key} has parent {has}, cannot be given {asked}"
                )));
            }
            (Some(has), _) => Some(has.clone()),
            (None, asked) => asked.clone(),
        };
        self.chain(tx.view(), ns, parent.as_ref())?;
        if let Some(parent) = &parent {
            tx.unmark(SNAPSHOT_CHILD, &self.child_key(ns, parent, &key));
            tx.mark(SNAPSHOT_CHILD, &self.child_key(ns, parent, &name))?;
        }
        let committed = SnapshotEntry {
            info: SnapshotInfo {
                kind: SnapshotKind::Committed,
                name: name.clone(),
                parent,
                labels,
                created_at: tx.now(),
                updated_at: tx.now(),
            },
            usage,
            backend_key: if backend_key.is_empty() { active.backend_key } else { backend_key },
            ..active
        };
        tx.put(SNAPSHOT, &self.key(ns, &name), &committed)?;
        tx.delete(SNAPSHOT, &self.key(ns, &key))?;
        leases::release(tx, cx, &self.lease_kind(), key.as_str())?;
        let event = Event::SnapshotCommit {
            key: key.into_string(),
            name: name.into_string(),
            snapshotter: self.snapshotter.as_str().to_owned(),
        };
        tx.emit(ns, event)
    }

    /// Whether a snapshot stands on `key`.
    ///
    /// # Errors
    /// What the store below fails with.
    pub fn has_children(&self, view: View<'_>, ns: &Namespace, key: &SnapshotKey) -> Result<bool> {
        view.any_below(SNAPSHOT_CHILD, &self.below(ns).sized(key.as_str()).prefix())
    }

    /// Removes the record of `key` and returns it; its folder is garbage from then on. For what
    /// lies at a proxy, an intent to remove it there is begun.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while it has children.
    pub fn remove(&self, tx: &mut Tx<'_, '_>, cx: &Cx, key: &SnapshotKey) -> Result<SnapshotEntry> {
        let ns = cx.namespace();
        tx.frees();
        let entry = self.get(tx.view(), ns, key)?;
        if self.has_children(tx.view(), ns, key)? {
            return Err(Error::failed_precondition("cannot remove snapshot with child"));
        }
        if let Some(parent) = &entry.info.parent {
            tx.unmark(SNAPSHOT_CHILD, &self.child_key(ns, parent, key));
        }
        tx.delete(SNAPSHOT, &self.key(ns, key))?;
        leases::release(tx, cx, &self.lease_kind(), key.as_str())?;
        if !entry.backend_key.is_empty() {
            let garbage = backend_garbage(&self.snapshotter, &entry.backend_key);
            tx.begin_intent(BACKEND_GARBAGE, ns, garbage)?;
        }
        let event = Event::SnapshotRemove {
            key: key.as_str().to_owned(),
            snapshotter: self.snapshotter.as_str().to_owned(),
        };
        tx.emit(ns, event)?;
        Ok(entry)
    }

    /// Changes labels, the only thing that may change.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for another mask path.
    pub fn update(
        &self,
        tx: &mut Tx<'_, '_>,
        cx: &Cx,
        key: &SnapshotKey,
        labels: &Labels,
        mask: &FieldMask,
    ) -> Result<SnapshotInfo> {
        let ns = cx.namespace();
        let mut entry = self.get(tx.view(), ns, key)?;
        if mask.is_everything() {
            entry.info.labels = labels.clone();
        }
        for (field, label) in mask.paths() {
            match (field, label) {
                ("labels", Some(label)) => mask::set_label(&mut entry.info.labels, labels, label),
                ("labels", None) => entry.info.labels = labels.clone(),
                _ => {
                    return Err(Error::invalid_argument(format!(
                        "cannot update {:?} field on snapshot {key:?}",
                        mask::whole(field, label)
                    )));
                }
            }
        }
        entry.info.updated_at = tx.now();
        tx.put(SNAPSHOT, &self.key(ns, key), &entry)?;
        Ok(entry.info)
    }

    /// All snapshots of the namespace that match, in byte order of their keys.
    ///
    /// # Errors
    /// `DataLoss` when a record is damaged.
    pub fn list(
        &self,
        view: View<'_>,
        namespace: &Namespace,
        filters: &Filters,
    ) -> Result<Vec<SnapshotEntry>> {
        let mut found = Vec::new();
        view.each_below(SNAPSHOT, &self.below(namespace).prefix(), |key, value| {
            let mut parts = Parts::of(key);
            parts.identifier();
            parts.sized();
            let name = SnapshotKey::new(parts.last().unwrap_or_default())?;
            let entry = crate::codec::decode::<SnapshotEntry>(SNAPSHOT, name, &value)?;
            if filters.matches(&entry.info) {
                found.push(entry);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The ids that records of this snapshotter name, over all namespaces.
    ///
    /// # Errors
    /// `DataLoss` when a record is damaged.
    pub fn ids(&self, view: View<'_>) -> Result<std::collections::BTreeSet<SnapshotId>> {
        let mut ids = std::collections::BTreeSet::new();
        view.each_below(SNAPSHOT, &[], |key, value| {
            let mut parts = Parts::of(key);
            parts.identifier();
            if parts.sized() == Some(self.snapshotter.as_str()) {
                let name = SnapshotKey::new(parts.last().unwrap_or_default())?;
                ids.insert(crate::codec::decode::<SnapshotEntry>(SNAPSHOT, name, &value)?.id);
            }
            Ok(())
        })?;
        Ok(ids)
    }
}
