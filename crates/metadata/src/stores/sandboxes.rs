//! Sandboxes: the records; their processes belong to a controller. No events.

use std::sync::Arc;

use gantry_core::filter::Filters;
use gantry_core::model::Sandbox;
use gantry_core::{Cx, Error, FieldMask, Namespace, Result, SandboxId};

use super::{mask, namespaces};
use crate::schema::{Key, Parts, SANDBOX};
use crate::{Metadata, View};

fn key(namespace: &Namespace, id: &SandboxId) -> Vec<u8> {
    Key::of(namespace).last(id.as_str())
}

fn load(view: View<'_>, namespace: &Namespace, id: &SandboxId) -> Result<Sandbox> {
    view.get::<Sandbox>(SANDBOX, &key(namespace, id), id.clone())?
        .ok_or_else(|| Error::not_found(format!("bucket {:?} not found", id.as_str())))
}

fn check(sandbox: &Sandbox) -> Result<()> {
    for (label, value) in sandbox.labels.iter() {
        gantry_core::labels::check_label(label, value).map_err(|e| e.context("sandbox.Labels"))?;
    }
    Ok(())
}

/// The sandboxes of all namespaces, each call within one.
#[derive(Clone, Debug)]
pub struct Sandboxes(Arc<Metadata>);

impl Sandboxes {
    /// The sandboxes in `metadata`.
    pub fn new(metadata: Arc<Metadata>) -> Self {
        Self(metadata)
    }

    /// The sandbox `id`.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get(&self, cx: &Cx, id: &SandboxId) -> Result<Sandbox> {
        let (namespace, id) = (cx.namespace().clone(), id.clone());
        self.0.read(move |view| load(view, &namespace, &id)).await
    }

    /// All sandboxes that match, in byte order of their ids.
    ///
    /// # Errors
    /// `DataLoss` when a record is damaged.
    pub async fn list(&self, cx: &Cx, filters: Filters) -> Result<Vec<Sandbox>> {
        let namespace = cx.namespace().clone();
        self.0
            .read(move |view| {
                let mut found = Vec::new();
                view.each_below(SANDBOX, &Key::of(&namespace).prefix(), |key, value| {
                    let mut parts = Parts::of(key);
                    parts.identifier();
                    let id = SandboxId::new(parts.last().unwrap_or_default())?;
                    let sandbox = crate::codec::decode::<Sandbox>(SANDBOX, id, &value)?;
                    if filters.matches(&sandbox) {
                        found.push(sandbox);
                    }
                    Ok(())
                })?;
                Ok(found)
            })
            .await
    }

    /// Records `sandbox`; its times are ignored and set.
    ///
    /// # Errors
    /// `InvalidArgument` naming the field; `AlreadyExists`.
    pub async fn create(&self, cx: &Cx, mut sandbox: Sandbox) -> Result<Sandbox> {
        check(&sandbox).map_err(|e| e.context("failed to validate sandbox"))?;
        let namespace = cx.namespace().clone();
        self.0
            .update(move |tx| {
                let key = key(&namespace, &sandbox.id);
                if tx.view().contains(SANDBOX, &key)? {
                    return Err(Error::already_exists(format!(
                        "create error: sandbox bucket {:?} already exists",
                        sandbox.id
                    )));
                }
                namespaces::ensure(tx, &namespace)?;
                sandbox.created_at = tx.now();
                sandbox.updated_at = tx.now();
                tx.put(SANDBOX, &key, &sandbox)?;
                Ok(sandbox)
            })
            .await
    }

    /// Changes what the mask names, or without one labels, extensions, spec and runtime.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` naming the field.
    pub async fn update(&self, cx: &Cx, sent: Sandbox, mask: FieldMask) -> Result<Sandbox> {
        let namespace = cx.namespace().clone();
        self.0
            .update(move |tx| {
                let mut updated = load(tx.view(), &namespace, &sent.id)?;
                apply(&mut updated, sent, &mask)?;
                check(&updated)?;
                updated.updated_at = tx.now();
                tx.put(SANDBOX, &key(&namespace, &updated.id), &updated)?;
                Ok(updated)
            })
            .await
    }

    /// Removes the record.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete(&self, cx: &Cx, id: &SandboxId) -> Result<()> {
        let (namespace, id) = (cx.namespace().clone(), id.clone());
        self.0
            .update(move |tx| {
                load(tx.view(), &namespace, &id)
                    .map_err(|e| e.context(format!("failed to delete sandbox {id:?}")))?;
                tx.frees();
                tx.delete(SANDBOX, &key(&namespace, &id))
            })
            .await
    }
}

fn apply(updated: &mut Sandbox, sent: Sandbox, mask: &FieldMask) -> Result<()> {
    if mask.is_everything() {
        if updated.runtime.name != sent.runtime.name {
            return Err(Error::invalid_argument("sandbox.Runtime.Name field is immutable"));
        }
        updated.labels = sent.labels;
        updated.extensions = sent.extensions;
        updated.spec = sent.spec;
        updated.runtime = sent.runtime;
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
            ("runtime", None) => updated.runtime = sent.runtime.clone(),
            _ => {
                return Err(Error::invalid_argument(format!(
                    "cannot update {:?} field on sandbox {:?}",
                    mask::whole(field, key),
                    sent.id
                )));
            }
        }
    }
    Ok(())
}
