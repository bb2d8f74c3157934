//! Namespaces: tenants of the API and their labels.
//!
//! A namespace also comes into being with the first write in it, without an event. Reading the
//! labels of one that does not exist succeeds with none: clients look up defaults that way.

use std::sync::Arc;

use gantry_core::model::{Event, NamespaceInfo};
use gantry_core::{CallCx, Error, FieldMask, Labels, Namespace, Result};

use super::mask;
use crate::schema::{CONTAINER, CONTENT, IMAGE, INGEST, Key, LEASE, LEASE_RESOURCE, NAMESPACE};
use crate::schema::{MOUNT, Parts, SANDBOX, SNAPSHOT};
use crate::{Metadata, Tx, View};

fn key(name: &Namespace) -> Vec<u8> {
    Key::new().last(name.as_str())
}

/// Makes sure that `namespace` is recorded, as every write in it does.
pub(crate) fn ensure(tx: &mut Tx<'_, '_>, namespace: &Namespace) -> Result<()> {
    let key = key(namespace);
    if tx.view().contains(NAMESPACE, &key)? {
        return Ok(());
    }
    let info = NamespaceInfo { name: namespace.clone(), labels: Labels::default() };
    tx.put(NAMESPACE, &key, &info)
}

/// The namespaces.
#[derive(Clone, Debug)]
pub struct Namespaces(Arc<Metadata>);

impl Namespaces {
    /// The namespaces in `metadata`.
    pub fn new(metadata: Arc<Metadata>) -> Self {
        Self(metadata)
    }

    /// The namespace with its labels; one that does not exist has none.
    ///
    /// # Errors
    /// `DataLoss` when the record is damaged.
    pub async fn get(&self, _cx: &CallCx, name: &Namespace) -> Result<NamespaceInfo> {
        let name = name.clone();
        self.0.read(move |view| load(view, name)).await
    }

    /// All namespaces in byte order.
    ///
    /// # Errors
    /// `DataLoss` when a record is damaged.
    pub async fn list(&self, _cx: &CallCx) -> Result<Vec<NamespaceInfo>> {
        self.0
            .read(|view| {
                let mut found = Vec::new();
                view.each_below(NAMESPACE, &[], |key, value| {
                    let name = Parts::of(key).last().unwrap_or_default();
                    let name = Namespace::new(name)?;
                    found.push(crate::codec::decode::<NamespaceInfo>(NAMESPACE, name, &value)?);
                    Ok(())
                })?;
                Ok(found)
            })
            .await
    }

    /// Records a namespace.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` is found when its labels are made.
    pub async fn create(&self, _cx: &CallCx, info: NamespaceInfo) -> Result<NamespaceInfo> {
        self.0
            .update(move |tx| {
                let key = key(&info.name);
                if tx.view().contains(NAMESPACE, &key)? {
                    return Err(Error::already_exists(format!("namespace {:?}", info.name)));
                }
                tx.put(NAMESPACE, &key, &info)?;
                let event =
                    Event::NamespaceCreate { name: info.name.clone(), labels: info.labels.clone() };
                tx.emit(&info.name, event)?;
                Ok(info)
            })
            .await
    }

    /// Sets labels; creates the namespace if need be. Without a mask all labels are replaced.
    ///
    /// # Errors
    /// `InvalidArgument` for a mask path other than `labels.KEY`.
    pub async fn update(
        &self,
        _cx: &CallCx,
        sent: NamespaceInfo,
        mask: FieldMask,
    ) -> Result<NamespaceInfo> {
        self.0
            .update(move |tx| {
                let mut info = load(tx.view(), sent.name)?;
                if mask.is_everything() {
                    info.labels = sent.labels;
                } else {
                    for (field, label) in mask.paths() {
                        match (field, label) {
                            ("labels", Some(label)) => {
                                mask::set_label(&mut info.labels, &sent.labels, label);
                            }
                            _ => {
                                return Err(Error::invalid_argument(format!(
                                    "cannot update {:?} field",
                                    mask::whole(field, label)
                                )));
                            }
                        }
                    }
                }
                tx.put(NAMESPACE, &key(&info.name), &info)?;
                let event =
                    Event::NamespaceUpdate { name: info.name.clone(), labels: info.labels.clone() };
                tx.emit(&info.name, event)?;
                Ok(info)
            })
            .await
    }

    /// Removes a namespace that holds no image, blob, container or snapshot. Leases, ingests,
    /// sandboxes and activated mounts do not count and go with it.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` naming what it still holds.
    pub async fn delete(&self, _cx: &CallCx, name: &Namespace) -> Result<()> {
        let name = name.clone();
        self.0
            .update(move |tx| {
                let left = holds(tx.view(), &name)?;
                if !left.is_empty() {
                    return Err(Error::failed_precondition(format!(
                        "namespace {name:?} must be empty, but it still has {}",
                        left.join(", ")
                    )));
                }
                let key = key(&name);
                if !tx.view().contains(NAMESPACE, &key)? {
                    return Err(Error::not_found(format!("namespace {name:?}")));
                }
                tx.frees();
                tx.delete(NAMESPACE, &key)?;
                let below = Key::of(&name).prefix();
                for table in [LEASE, LEASE_RESOURCE, INGEST, SANDBOX, MOUNT] {
                    let mut keys = Vec::new();
                    tx.view().each_key_below(table, &below, |key| {
                        keys.push(key.to_vec());
                        Ok(())
                    })?;
                    for key in keys {
                        tx.delete(table, &key)?;
                    }
                }
                tx.emit(&name, Event::NamespaceDelete { name: name.clone() })
            })
            .await
    }
}

fn load(view: View<'_>, name: Namespace) -> Result<NamespaceInfo> {
    let found = view.get::<NamespaceInfo>(NAMESPACE, &key(&name), name.clone())?;
    Ok(found.unwrap_or(NamespaceInfo { name, labels: Labels::default() }))
}

fn holds(view: View<'_>, name: &Namespace) -> Result<Vec<String>> {
    let below = Key::of(name).prefix();
    let mut left = Vec::new();
    for (table, what) in [(IMAGE, "images"), (CONTENT, "blobs"), (CONTAINER, "containers")] {
        if view.any_below(table, &below)? {
            left.push(what.to_owned());
        }
    }
    let mut last = None;
    view.each_key_below(SNAPSHOT, &below, |key| {
        let mut parts = Parts::of(key);
        parts.identifier();
        let snapshotter = parts.sized().map(str::to_owned);
        if snapshotter != last {
            left.push(format!(
                "snapshots on {:?} snapshotter",
                snapshotter.as_deref().unwrap_or_default()
            ));
            last = snapshotter;
        }
        Ok(())
    })?;
    Ok(left)
}
