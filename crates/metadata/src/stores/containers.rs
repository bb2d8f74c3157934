//! Containers: metadata only. Neither image nor snapshot nor sandbox of one need exist.

use std::sync::Arc;

use gantry_core::filter::Filters;
use gantry_core::model::{Container, Event};
use gantry_core::{ContainerId, Cx, Error, FieldMask, Namespace, Result};

use super::{mask, namespaces};
use crate::schema::{CONTAINER, Key, Parts};
use crate::{Metadata, View};

pub(crate) fn key(namespace: &Namespace, id: &ContainerId) -> Vec<u8> {
    Key::of(namespace).last(id.as_str())
}

fn missing(namespace: &Namespace, id: &ContainerId) -> Error {
    Error::not_found(format!("container {id:?} in namespace {namespace:?}"))
}

fn load(view: View<'_>, namespace: &Namespace, id: &ContainerId) -> Result<Container> {
    view.get::<Container>(CONTAINER, &key(namespace, id), id.clone())?
        .ok_or_else(|| missing(namespace, id))
}

fn check(container: &Container) -> Result<()> {
    if container.extensions.contains_key("") {
        return Err(Error::invalid_argument("container.Extension keys must not be zero-length"));
    }
    for (label, value) in container.labels.iter() {
        gantry_core::labels::check_label(label, value)
            .map_err(|e| e.context("containers.Labels"))?;
    }
    if container.runtime.name.is_empty() {
        return Err(Error::invalid_argument("container.Runtime.Name must be set"));
    }
    if container.spec.is_none() {
        return Err(Error::invalid_argument("container.Spec must be set"));
    }
    if !container.snapshot_key.is_empty() && container.snapshotter.is_empty() {
        return Err(Error::invalid_argument(
            "container.Snapshotter must be set if container.SnapshotKey is set",
        ));
    }
    Ok(())
}

/// The containers of all namespaces, each call within one.
#[derive(Clone, Debug)]
pub struct Containers(Arc<Metadata>);

impl Containers {
    /// The containers in `metadata`.
    pub fn new(metadata: Arc<Metadata>) -> Self {
        Self(metadata)
    }

    /// The container `id`.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get(&self, cx: &Cx, id: &ContainerId) -> Result<Container> {
        let (namespace, id) = (cx.namespace().clone(), id.clone());
        self.0.read(move |view| load(view, &namespace, &id)).await
    }

    /// All containers that match, in byte order of their ids.
    ///
    /// # Errors
    /// `DataLoss` when a record is damaged.
    pub async fn list(&self, cx: &Cx, filters: Filters) -> Result<Vec<Container>> {
        let namespace = cx.namespace().clone();
        self.0
            .read(move |view| {
                let mut found = Vec::new();
                view.each_below(CONTAINER, &Key::of(&namespace).prefix(), |key, value| {
                    let mut parts = Parts::of(key);
                    parts.identifier();
                    let id = ContainerId::new(parts.last().unwrap_or_default())?;
                    let container = crate::codec::decode::<Container>(CONTAINER, id, &value)?;
                    if filters.matches(&container) {
                        found.push(container);
                    }
                    Ok(())
                })?;
                Ok(found)
            })
            .await
    }

    /// Records `container`; its times are ignored and set.
    ///
    /// # Errors
    /// `InvalidArgument` naming the field; `AlreadyExists`.
    pub async fn create(&self, cx: &Cx, mut container: Container) -> Result<Container> {
        check(&container).map_err(|e| e.context("create container failed validation"))?;
        let namespace = cx.namespace().clone();
        self.0
            .update(move |tx| {
                let key = key(&namespace, &container.id);
                if tx.view().contains(CONTAINER, &key)? {
                    return Err(Error::already_exists(format!("container {:?}", container.id)));
                }
                namespaces::ensure(tx, &namespace)?;
                container.created_at = tx.now();
                container.updated_at = tx.now();
                tx.put(CONTAINER, &key, &container)?;
                let event = Event::ContainerCreate {
                    id: container.id.as_str().to_owned(),
                    image: container.image.clone(),
                    runtime: container.runtime.clone(),
                };
                tx.emit(&namespace, event)?;
                Ok(container)
            })
            .await
    }

    /// Changes what the mask names, or without one all that may change. Snapshotter and runtime
    /// never change; without a mask they must be sent as they are.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` naming the field.
    pub async fn update(&self, cx: &Cx, sent: Container, mask: FieldMask) -> Result<Container> {
        let namespace = cx.namespace().clone();
        self.0
            .update(move |tx| {
                let key = key(&namespace, &sent.id);
                let mut updated = tx
                    .view()
                    .get::<Container>(CONTAINER, &key, sent.id.clone())?
                    .ok_or_else(|| Error::not_found(format!("container {:?}", sent.id)))?;
                apply(&mut updated, sent, &mask)?;
                check(&updated).map_err(|e| e.context("update failed validation"))?;
                updated.updated_at = tx.now();
                tx.put(CONTAINER, &key, &updated)?;
                let event = Event::ContainerUpdate {
                    id: updated.id.as_str().to_owned(),
                    image: updated.image.clone(),
                    labels: updated.labels.clone(),
                    snapshot_key: updated.snapshot_key.clone(),
                };
                tx.emit(&namespace, event)?;
                Ok(updated)
            })
            .await
    }

    /// Removes the record; whether a task runs is the caller's to ask, as with containerd.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete(&self, cx: &Cx, id: &ContainerId) -> Result<()> {
        let (namespace, id) = (cx.namespace().clone(), id.clone());
        self.0
            .update(move |tx| {
                let key = key(&namespace, &id);
                if !tx.view().contains(CONTAINER, &key)? {
                    return Err(Error::not_found(format!("container {id}")));
                }
                tx.frees();
                tx.delete(CONTAINER, &key)?;
                tx.emit(&namespace, Event::ContainerDelete { id: id.into_string() })
            })
            .await
    }
}

fn apply(updated: &mut Container, sent: Container, mask: &FieldMask) -> Result<()> {
    if mask.is_everything() {
        if updated.snapshotter != sent.snapshotter {
            return Err(Error::invalid_argument("container.Snapshotter field is immutable"));
        }
        if updated.runtime.name != sent.runtime.name {
            return Err(Error::invalid_argument("container.Runtime.Name field is immutable"));
        }
        updated.labels = sent.labels;
        updated.spec = sent.spec;
        updated.extensions = sent.extensions;
        updated.image = sent.image;
        updated.snapshot_key = sent.snapshot_key;
        return Ok(());
    }
    for (field, key) in mask.paths() {
        match (field, key) {
            ("labels", Some(key)) => mask::set_label(&mut updated.labels, &sent.labels, key),
            ("labels", None) => updated.labels = sent.labels.clone(),
            ("extensions", Some(key)) => match sent.extensions.get(key) {
                Some(value) => {
                    updated.extensions.insert(key.to_owned(), value.clone());
                }
                None => {
                    updated.extensions.remove(key);
                }
            },
            ("extensions", None) => updated.extensions = sent.extensions.clone(),
            ("spec", None) => updated.spec = sent.spec.clone(),
            ("image", None) => updated.image = sent.image.clone(),
            ("snapshotkey", None) => updated.snapshot_key = sent.snapshot_key.clone(),
            _ => {
                return Err(Error::invalid_argument(format!(
                    "cannot update {:?} field on {:?}",
                    mask::whole(field, key),
                    sent.id
                )));
            }
        }
    }
    Ok(())
}
