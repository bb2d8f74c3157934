//! Does the metadata hold together: every record reads, and what one names another has.
//!
//! Reads one state and changes nothing. What lies outside the store (files of blobs, folders of
//! snapshots) is checked by its owners; [`crate::stores::content::damage`] is one such.
//!
//! | finding | how it can come about | remedy |
//! |---|---|---|
//! | does not decode | a damaged disk | remove the object by its API, or import an export |
//! | parent is missing | damage: a removal refuses while children stand | remove the snapshot |
//! | child index | damage | export and import: the index is built anew |
//! | namespace is not recorded | damage | any write in the namespace records it |
//! | lease is missing | damage | delete the entry by exporting and importing |

use std::collections::BTreeSet;
use std::fmt;

use gantry_core::model::{Container, Image, Lease, NamespaceInfo, Sandbox};
use gantry_core::snapshot::SnapshotKind;
use gantry_core::{
    ContainerId, ImageName, LeaseId, MountName, Namespace, Result, SandboxId, SnapshotKey,
    SnapshotterName,
};

use crate::View;
use crate::codec::decode;
use crate::kv::Table;
use crate::schema::{
    CONTAINER, CONTENT, IMAGE, INGEST, Key, LEASE, LEASE_RESOURCE, MOUNT, NAMESPACE, Parts,
    SANDBOX, SNAPSHOT, SNAPSHOT_CHILD,
};
use crate::stores::{Activation, SnapshotEntry, SnapshotRecords};

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The table it was found in.
    pub table: &'static str,
    /// The row's key, its parts readable.
    pub key: String,
    /// What does not hold.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.table, self.key, self.what)
    }
}

struct Check<'a> {
    view: View<'a>,
    found: Vec<Finding>,
}

/// Everything that does not hold, in the order of the tables; empty when all is well.
///
/// # Errors
/// When the store cannot be read at all.
pub fn check(view: View<'_>) -> Result<Vec<Finding>> {
    let mut check = Check { view, found: Vec::new() };
    check.namespaces()?;
    check.records()?;
    check.leases()?;
    check.snapshots()?;
    Ok(check.found)
}

fn readable(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

impl Check<'_> {
    fn report(&mut self, table: Table, key: &[u8], what: impl Into<String>) {
        self.found.push(Finding { table: table.0, key: readable(key), what: what.into() });
    }

    /// Reports what a row fails with and goes on.
    fn note<T>(&mut self, table: Table, key: &[u8], result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.report(table, key, error.message());
                None
            }
        }
    }

    /// All rows of a table: keys, and values unless they cannot be put together.
    fn rows(&mut self, table: Table) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut keys = Vec::new();
        self.view.each_key_below(table, &[], |key| {
            keys.push(key.to_vec());
            Ok(())
        })?;
        let mut rows = Vec::with_capacity(keys.len());
        for key in keys {
            let value = crate::values::get(self.view.raw(), table, &key);
            if let Some(Some(value)) = self.note(table, &key, value) {
                rows.push((key, value));
            }
        }
        Ok(rows)
    }

    fn namespaces(&mut self) -> Result<()> {
        let mut recorded = BTreeSet::new();
        for (key, value) in self.rows(NAMESPACE)? {
            let name = Namespace::new(String::from_utf8_lossy(&key));
            let info = name.and_then(|n| decode::<NamespaceInfo>(NAMESPACE, n, &value));
            if let Some(info) = self.note(NAMESPACE, &key, info) {
                recorded.insert(info.name.into_string());
            }
        }
        for table in [CONTAINER, IMAGE, LEASE, CONTENT, INGEST, SNAPSHOT, SANDBOX, MOUNT] {
            let mut missing = Vec::new();
            self.view.each_key_below(table, &[], |key| {
                let namespace = Parts::of(key).identifier();
                if !namespace.is_some_and(|n| recorded.contains(n)) {
                    missing.push(key.to_vec());
                }
                Ok(())
            })?;
            for key in missing {
                self.report(table, &key, "its namespace is not recorded");
            }
        }
        Ok(())
    }

    fn records(&mut self) -> Result<()> {
        for (key, value) in self.rows(CONTAINER)? {
            let id = named(&key).and_then(ContainerId::new);
            let read = id.and_then(|id| decode::<Container>(CONTAINER, id, &value));
            self.note(CONTAINER, &key, read);
        }
        for (key, value) in self.rows(IMAGE)? {
            let name = named(&key).and_then(ImageName::new);
            let read = name.and_then(|name| decode::<Image>(IMAGE, name, &value));
            self.note(IMAGE, &key, read);
        }
        for (key, value) in self.rows(SANDBOX)? {
            let id = named(&key).and_then(SandboxId::new);
            let read = id.and_then(|id| decode::<Sandbox>(SANDBOX, id, &value));
            self.note(SANDBOX, &key, read);
        }
        for (key, value) in self.rows(MOUNT)? {
            let name = named(&key).and_then(MountName::new);
            let read = name.and_then(|name| decode::<Activation>(MOUNT, name, &value));
            self.note(MOUNT, &key, read);
        }
        Ok(())
    }

    fn leases(&mut self) -> Result<()> {
        for (key, value) in self.rows(LEASE)? {
            let id = named(&key).and_then(LeaseId::new);
            let read = id.and_then(|id| decode::<Lease>(LEASE, id, &value));
            self.note(LEASE, &key, read);
        }
        let mut orphans = Vec::new();
        let view = self.view;
        view.each_key_below(LEASE_RESOURCE, &[], |key| {
            let mut parts = Parts::of(key);
            let lease = match (parts.identifier(), parts.sized()) {
                (Some(namespace), Some(lease)) => Key::of(namespace).last(lease),
                _ => Vec::new(),
            };
            if !view.contains(LEASE, &lease)? {
                orphans.push(key.to_vec());
            }
            Ok(())
        })?;
        for key in orphans {
            self.report(LEASE_RESOURCE, &key, "its lease is missing");
        }
        Ok(())
    }

    fn snapshots(&mut self) -> Result<()> {
        let mut expected = BTreeSet::new();
        for (key, value) in self.rows(SNAPSHOT)? {
            let mut parts = Parts::of(&key);
            let (namespace, snapshotter) = (parts.identifier(), parts.sized());
            let (Some(namespace), Some(snapshotter)) = (namespace, snapshotter) else {
                self.report(SNAPSHOT, &key, "its key does not come apart");
                continue;
            };
            let name = SnapshotKey::new(parts.last().unwrap_or_default());
            let entry = name.and_then(|name| decode::<SnapshotEntry>(SNAPSHOT, name, &value));
            let Some(entry) = self.note(SNAPSHOT, &key, entry) else { continue };
            let Some(parent) = entry.info.parent else { continue };
            expected.insert(
                Key::of(namespace)
                    .sized(snapshotter)
                    .sized(parent.as_str())
                    .last(entry.info.name.as_str()),
            );
            let records = SnapshotRecords::new(SnapshotterName::new(snapshotter)?);
            let found = records.find(self.view, &Namespace::new(namespace)?, &parent);
            match self.note(SNAPSHOT, &key, found) {
                Some(None) => self.report(SNAPSHOT, &key, format!("parent {parent} is missing")),
                Some(Some(entry)) if entry.info.kind != SnapshotKind::Committed => {
                    self.report(SNAPSHOT, &key, format!("parent {parent} is not committed"));
                }
                _ => {}
            }
        }
        let mut indexed = BTreeSet::new();
        self.view.each_key_below(SNAPSHOT_CHILD, &[], |key| {
            indexed.insert(key.to_vec());
            Ok(())
        })?;
        for key in expected.difference(&indexed) {
            self.report(SNAPSHOT_CHILD, key, "missing from the child index");
        }
        for key in indexed.difference(&expected) {
            self.report(SNAPSHOT_CHILD, key, "in the child index without a snapshot");
        }
        Ok(())
    }
}

/// The last part of a two-part key.
fn named(key: &[u8]) -> Result<String> {
    let mut parts = Parts::of(key);
    match (parts.identifier(), parts.last()) {
        (Some(_), Some(name)) => Ok(name.to_owned()),
        _ => Err(gantry_core::Error::data_loss("its key does not come apart")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gantry_core::SystemClock;

    use super::*;
    use crate::Metadata;
    use crate::kv::{StoreError, Verdict};

    fn findings(rows: &'static [(Table, &'static [u8], &'static [u8])]) -> Vec<String> {
        let metadata = Metadata::in_memory(Arc::new(SystemClock)).unwrap();
        metadata
            .db()
            .update_blocking::<_, StoreError>(move |txn| {
                for (table, key, value) in rows {
                    txn.put(*table, key.to_vec(), value.to_vec()).unwrap();
                }
                Verdict::Commit(Ok(()))
            })
            .unwrap();
        metadata.read_blocking(check).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_empty_store_holds_together() {
        assert_eq!(findings(&[]), Vec::<String>::new());
    }

    #[test]
    fn each_kind_of_damage_is_found_and_named() {
        let found = findings(&[(NAMESPACE, b"n", b"\0"), (CONTAINER, b"n\0c", b"\0\xff\xff")]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("container n\\x00c: decode a value of table container"));
        let found = findings(&[(IMAGE, b"gone\0i", b"")]);
        assert!(found.contains(&"image gone\\x00i: its namespace is not recorded".to_owned()));
        assert!(found.contains(
            &"image gone\\x00i: value in table image: row is empty: data loss".to_owned()
        ));
        let found = findings(&[(LEASE_RESOURCE, b"n\0\0\0\0\x01l\0\0\0\x06imagesx", b"")]);
        assert!(found[0].ends_with("its lease is missing"), "{found:?}");
        let found = findings(&[(SNAPSHOT_CHILD, b"n\0\0\0\0\x01s\0\0\0\x01pc", b"")]);
        assert!(found[0].ends_with("in the child index without a snapshot"), "{found:?}");
    }
}
