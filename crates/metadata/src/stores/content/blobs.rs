//! Blobs, and content as namespaces see it.

use std::collections::{BTreeMap, BTreeSet};

use gantry_core::content::Info;
use gantry_core::filter::Filters;
use gantry_core::model::Event;
use gantry_core::{Cx, Digest, Error, FieldMask, Labels, Namespace, Result, Timestamp};

use super::{CONTENT_KIND, ingests};
use crate::codec;
use crate::schema::{BLOB, CONTENT, Key, NAMESPACE, Parts};
use crate::stores::{leases, mask};
use crate::{Tx, View};

/// A blob on disk, shared by all namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// When it was first committed.
    pub created_at: Timestamp,
}

pub(super) fn blob_key(digest: &Digest) -> Vec<u8> {
    Key::new().last(digest.as_str())
}

pub(super) fn content_key(namespace: &Namespace, digest: &Digest) -> Vec<u8> {
    Key::of(namespace).last(digest.as_str())
}

fn stored_digest(text: Option<&str>) -> Result<Digest> {
    Digest::parse(text.unwrap_or_default())
        .map_err(|e| Error::data_loss(format!("stored digest: {}", e.message())))
}

pub(super) fn find(view: View<'_>, namespace: &Namespace, digest: &Digest) -> Result<Option<Info>> {
    view.get::<Info>(CONTENT, &content_key(namespace, digest), digest.clone())
}

/// The content as the namespace sees it.
///
/// # Errors
/// `NotFound`.
pub fn info(view: View<'_>, namespace: &Namespace, digest: &Digest) -> Result<Info> {
    find(view, namespace, digest)?
        .ok_or_else(|| Error::not_found(format!("content digest {digest}")))
}

/// All content of the namespace that matches, in byte order of the digests.
///
/// # Errors
/// `DataLoss` when a record is damaged.
pub fn list(view: View<'_>, namespace: &Namespace, filters: &Filters) -> Result<Vec<Info>> {
    let mut found = Vec::new();
    view.each_below(CONTENT, &Key::of(namespace).prefix(), |key, value| {
        let mut parts = Parts::of(key);
        parts.identifier();
        let info = codec::decode::<Info>(CONTENT, stored_digest(parts.last())?, &value)?;
        if filters.matches(&info) {
            found.push(info);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Changes labels, the only thing that may change.
///
/// # Errors
/// `NotFound`; `InvalidArgument` for another mask path or a label that is too long.
pub fn update(
    tx: &mut Tx<'_, '_>,
    cx: &Cx,
    digest: &Digest,
    labels: &Labels,
    mask: &FieldMask,
) -> Result<Info> {
    let mut updated = info(tx.view(), cx.namespace(), digest)?;
    if mask.is_everything() {
        updated.labels = labels.clone();
    }
    for (field, label) in mask.paths() {
        match (field, label) {
            ("labels", Some(label)) => mask::set_label(&mut updated.labels, labels, label),
            ("labels", None) => updated.labels = labels.clone(),
            _ => {
                return Err(Error::invalid_argument(format!(
                    "cannot update {:?} field on content info {:?}",
                    mask::whole(field, label),
                    digest.as_str()
                )));
            }
        }
    }
    check_labels(&updated.labels)?;
    updated.updated_at = tx.now();
    tx.put(CONTENT, &content_key(cx.namespace(), digest), &updated)?;
    Ok(updated)
}

pub(super) fn check_labels(labels: &Labels) -> Result<()> {
    labels.iter().try_for_each(|(key, value)| {
        gantry_core::labels::check_label(key, value).map_err(|e| e.context("info.Labels"))
    })
}

/// Removes the namespace's view of the blob and reports it; the file goes with a later sweep.
///
/// # Errors
/// `NotFound`.
pub fn delete(tx: &mut Tx<'_, '_>, cx: &Cx, digest: &Digest) -> Result<()> {
    info(tx.view(), cx.namespace(), digest)?;
    tx.frees();
    tx.delete(CONTENT, &content_key(cx.namespace(), digest))?;
    leases::release(tx, cx, CONTENT_KIND, digest.as_str())?;
    tx.emit(cx.namespace(), Event::ContentDelete { digest: digest.clone() })
}

/// The record of a blob, if there is one.
///
/// # Errors
/// `DataLoss` when it is damaged.
pub fn blob(view: View<'_>, digest: &Digest) -> Result<Option<Blob>> {
    view.get::<Blob>(BLOB, &blob_key(digest), digest.clone())
}

/// All blobs, by digest.
///
/// # Errors
/// `DataLoss` when a record is damaged.
pub fn blobs(view: View<'_>) -> Result<BTreeMap<Digest, Blob>> {
    let mut found = BTreeMap::new();
    view.each_below(BLOB, &[], |key, value| {
        let digest = stored_digest(Parts::of(key).last())?;
        found.insert(digest.clone(), codec::decode::<Blob>(BLOB, digest, &value)?);
        Ok(())
    })?;
    Ok(found)
}

/// Blobs that no content and no ingest names.
///
/// # Errors
/// `DataLoss` when a record is damaged.
pub fn unused(view: View<'_>) -> Result<Vec<Digest>> {
    let mut used = ingests::shared(view)?;
    view.each_key_below(CONTENT, &[], |key| {
        let mut parts = Parts::of(key);
        parts.identifier();
        used.insert(stored_digest(parts.last())?);
        Ok(())
    })?;
    let mut unused = Vec::new();
    view.each_key_below(BLOB, &[], |key| {
        let digest = stored_digest(Parts::of(key).last())?;
        if !used.contains(&digest) {
            unused.push(digest);
        }
        Ok(())
    })?;
    Ok(unused)
}

/// Removes the records of those `candidates` that are still unused and returns them; their files
/// are garbage from then on.
///
/// # Errors
/// `DataLoss` when a record is damaged.
pub fn forget(tx: &mut Tx<'_, '_>, candidates: Vec<Digest>) -> Result<Vec<Digest>> {
    if candidates.is_empty() {
        return Ok(candidates);
    }
    let shared = ingests::shared(tx.view())?;
    let mut namespaces = Vec::new();
    tx.view().each_key_below(NAMESPACE, &[], |key| {
        namespaces.push(Namespace::new(Parts::of(key).last().unwrap_or_default())?);
        Ok(())
    })?;
    let mut forgotten = Vec::new();
    for digest in candidates {
        let mut used = shared.contains(&digest);
        for namespace in &namespaces {
            used = used || tx.view().contains(CONTENT, &content_key(namespace, &digest))?;
        }
        if !used && tx.view().contains(BLOB, &blob_key(&digest))? {
            tx.delete(BLOB, &blob_key(&digest))?;
            forgotten.push(digest);
        }
    }
    Ok(forgotten)
}

/// What cannot be right in the records alone: content whose blob is not recorded, or recorded
/// with another size.
///
/// # Errors
/// What the store below fails with; a record that does not decode is reported, not failed on.
pub fn damage(view: View<'_>) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    view.each_below(CONTENT, &[], |key, value| {
        let mut parts = Parts::of(key);
        let namespace = parts.identifier().unwrap_or_default();
        let read = || {
            let info = codec::decode::<Info>(CONTENT, stored_digest(parts.last())?, &value)?;
            Ok((blob(view, &info.digest)?, info))
        };
        let at = format!("content {} in namespace {namespace}", parts.last().unwrap_or_default());
        let problem = match read() {
            Err::<_, Error>(e) => e.message(),
            Ok((None, _)) => "its blob is not recorded".to_owned(),
            Ok((Some(blob), info)) if blob.size != info.size => {
                format!("{} bytes here, {} bytes in the blob's record", info.size, blob.size)
            }
            Ok(_) => return Ok(()),
        };
        found.insert(format!("{at}: {problem}"));
        Ok(())
    })?;
    Ok(found)
}
