//! Writes in progress, from their first opening to their commit.

use std::collections::BTreeSet;
use std::time::Duration;

use gantry_core::content::{Info, WriterOpts};
use gantry_core::model::{Event, NamespaceInfo};
use gantry_core::{ContentRef, Cx, Digest, Error, Labels, Namespace, Result, Timestamp};

use super::blobs::{self, Blob, blob_key, check_labels, content_key};
use super::{CONTENT_KIND, INGEST_KIND};
use crate::codec;
use crate::schema::{BLOB, CONTENT, INGEST, Key, NAMESPACE, Parts};
use crate::stores::{leases, namespaces};
use crate::{Tx, View};

/// How long an ingest that no lease holds is kept after it was last opened.
pub const INGEST_LIFE: Duration = Duration::from_secs(24 * 3600);

/// The label of a namespace that shares its content under [`Sharing::Isolated`].
const SHAREABLE: &str = "containerd.io/namespace.shareable";

/// The number of an ingest's file; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IngestNumber(pub u64);

/// A write in progress as recorded; how far it is says the length of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingest {
    /// Its ref.
    pub reference: ContentRef,
    /// Its file.
    pub number: IngestNumber,
    /// Bytes expected in all; 0 when unknown.
    pub total: u64,
    /// The blob, known from another namespace, that it was opened on.
    pub shared: Option<Digest>,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When it may be collected though no lease ends; `None` when a lease alone keeps it.
    pub expires_at: Option<Timestamp>,
}

/// Which blobs of other namespaces a write may be opened on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// All.
    #[default]
    Shared,
    /// Those of namespaces labelled `containerd.io/namespace.shareable=true`.
    Isolated,
}

/// A write that was opened.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Its record.
    pub ingest: Ingest,
    /// The blob it was opened on; its record names it.
    pub blob: Option<Blob>,
    /// The file of an earlier try that was given up because the total differed: garbage now.
    pub discarded: Option<IngestNumber>,
}

/// A blob whose file is complete and durable, to be made visible.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The ref it was written under.
    pub reference: ContentRef,
    /// The file it was written to; another write may have taken the ref since.
    pub number: IngestNumber,
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// The labels it gets in this namespace.
    pub labels: Labels,
}

fn key(namespace: &Namespace, reference: &ContentRef) -> Vec<u8> {
    Key::of(namespace).last(reference.as_str())
}

fn missing(reference: &ContentRef) -> Error {
    Error::not_found(format!("reference {reference}"))
}

fn exists(digest: &Digest) -> Error {
    Error::already_exists(format!("content {digest}"))
}

/// The ingest of `reference`.
///
/// # Errors
/// `NotFound`.
pub fn ingest(view: View<'_>, namespace: &Namespace, reference: &ContentRef) -> Result<Ingest> {
    view.get::<Ingest>(INGEST, &key(namespace, reference), reference.clone())?
        .ok_or_else(|| missing(reference))
}

/// All ingests of the namespace in byte order of their refs.
///
/// # Errors
/// `DataLoss` when a record is damaged.
pub fn ingests(view: View<'_>, namespace: &Namespace) -> Result<Vec<Ingest>> {
    let mut found = Vec::new();
    each(view, &Key::of(namespace).prefix(), |ingest| found.push(ingest))?;
    Ok(found)
}

/// The files that ingests name, over all namespaces.
///
/// # Errors
/// `DataLoss` when a record is damaged.
pub fn numbers(view: View<'_>) -> Result<BTreeSet<IngestNumber>> {
    let mut found = BTreeSet::new();
    each(view, &[], |ingest| _ = found.insert(ingest.number))?;
    Ok(found)
}

/// The blobs that ingests were opened on, over all namespaces.
pub(super) fn shared(view: View<'_>) -> Result<BTreeSet<Digest>> {
    let mut found = BTreeSet::new();
    each(view, &[], |ingest| found.extend(ingest.shared))?;
    Ok(found)
}

fn each(view: View<'_>, prefix: &[u8], mut f: impl FnMut(Ingest)) -> Result<()> {
    view.each_below(INGEST, prefix, |key, value| {
        let mut parts = Parts::of(key);
        parts.identifier();
        let reference = ContentRef::new(parts.last().unwrap_or_default())?;
        f(codec::decode::<Ingest>(INGEST, reference, &value)?);
        Ok(())
    })
}

/// Fails if the namespace has `digest`, leasing it, which commits although the call fails.
///
/// # Errors
/// `AlreadyExists`; `NotFound` for the lease.
pub fn lease_existing(tx: &mut Tx<'_, '_>, cx: &Cx, digest: &Digest) -> Result<()> {
    if !tx.view().contains(CONTENT, &content_key(cx.namespace(), digest))? {
        return Ok(());
    }
    leases::hold(tx, cx, CONTENT_KIND, digest.as_str())?;
    tx.keep_on_error();
    Err(exists(digest))
}

/// Opens a write: records a new ingest, or resumes the ref's earlier one. One whose total is known
/// to differ is restarted with a new file.
///
/// # Errors
/// As [`lease_existing`] for the expected digest.
pub fn begin(tx: &mut Tx<'_, '_>, cx: &Cx, opts: &WriterOpts, sharing: Sharing) -> Result<Begun> {
    let namespace = cx.namespace();
    let mut blob = None;
    if let Some(expected) = &opts.expected {
        lease_existing(tx, cx, expected)?;
        blob = shared_blob(tx.view(), expected, sharing)?
            // Another size is a mistake that only the commit can settle.
            .filter(|blob| opts.total == 0 || opts.total == blob.size);
    }
    namespaces::ensure(tx, namespace)?;
    leases::hold(tx, cx, INGEST_KIND, opts.reference.as_str())?;

    let key = key(namespace, &opts.reference);
    let total = blob.as_ref().map_or(opts.total, |b| b.size);
    let earlier = tx.view().get::<Ingest>(INGEST, &key, opts.reference.clone())?;
    let (resumed, discarded) = match earlier {
        Some(e) if total > 0 && e.total > 0 && total != e.total => (None, Some(e.number)),
        other => (other, None),
    };
    let mut ingest = match resumed {
        Some(ingest) => ingest,
        None => Ingest {
            reference: opts.reference.clone(),
            number: IngestNumber(tx.count(b"ingests")?),
            total: 0,
            shared: None,
            started_at: tx.now(),
            expires_at: None,
        },
    };
    if total > 0 {
        ingest.total = total;
    }
    ingest.shared = blob.as_ref().map(|b| b.digest.clone());
    if cx.lease().is_none() {
        ingest.expires_at = Some(tx.now().plus(INGEST_LIFE));
    }
    tx.put(INGEST, &key, &ingest)?;
    Ok(Begun { ingest, blob, discarded })
}

/// The blob, if a namespace other than the caller's may give it away.
fn shared_blob(view: View<'_>, digest: &Digest, sharing: Sharing) -> Result<Option<Blob>> {
    let Some(blob) = blobs::blob(view, digest)? else { return Ok(None) };
    if sharing == Sharing::Shared {
        return Ok(Some(blob));
    }
    let mut shareable = false;
    view.each_below(NAMESPACE, &[], |key, value| {
        let name = Namespace::new(Parts::of(key).last().unwrap_or_default())?;
        let info = codec::decode::<NamespaceInfo>(NAMESPACE, name, &value)?;
        if info.labels.get(SHAREABLE) == Some("true") {
            shareable |= view.contains(CONTENT, &content_key(&info.name, digest))?;
        }
        Ok(())
    })?;
    Ok(shareable.then_some(blob))
}

/// Makes a blob visible in the namespace, ends its ingest and reports it. Its file is in place
/// and durable. Content that is there already keeps its labels; it is leased and the ingest ends,
/// which commits although the call fails.
///
/// # Errors
/// `AlreadyExists`; `NotFound` when the ingest was aborted, or for the lease; `InvalidArgument`
/// for a label that is too long.
pub fn commit(tx: &mut Tx<'_, '_>, cx: &Cx, new: Commit) -> Result<()> {
    check_labels(&new.labels)?;
    let namespace = cx.namespace();
    let ingest = ingest(tx.view(), namespace, &new.reference)?;
    if ingest.number != new.number {
        return Err(missing(&new.reference));
    }
    leases::hold(tx, cx, CONTENT_KIND, new.digest.as_str())?;
    leases::release(tx, cx, INGEST_KIND, new.reference.as_str())?;
    tx.delete(INGEST, &key(namespace, &new.reference))?;
    let now = tx.now();
    // Also when the content exists: the file is in place now, whatever was there before.
    if blobs::blob(tx.view(), &new.digest)?.is_none_or(|b| b.size != new.size) {
        let blob = Blob { digest: new.digest.clone(), size: new.size, created_at: now };
        tx.put(BLOB, &blob_key(&new.digest), &blob)?;
    }
    if blobs::find(tx.view(), namespace, &new.digest)?.is_some() {
        tx.keep_on_error();
        return Err(exists(&new.digest));
    }
    namespaces::ensure(tx, namespace)?;
    let info = Info {
        digest: new.digest.clone(),
        size: new.size,
        created_at: now,
        updated_at: now,
        labels: new.labels,
    };
    tx.put(CONTENT, &content_key(namespace, &new.digest), &info)?;
    let size = i64::try_from(new.size).unwrap_or(i64::MAX);
    tx.emit(namespace, Event::ContentCreate { digest: new.digest, size })
}

/// Ends an ingest and returns its record; its file is garbage from then on.
///
/// # Errors
/// `NotFound`.
pub fn abort(tx: &mut Tx<'_, '_>, cx: &Cx, reference: &ContentRef) -> Result<Ingest> {
    let ingest = ingest(tx.view(), cx.namespace(), reference)?;
    tx.frees();
    tx.delete(INGEST, &key(cx.namespace(), reference))?;
    leases::release(tx, cx, INGEST_KIND, reference.as_str())?;
    Ok(ingest)
}
