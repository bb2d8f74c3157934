//! From an ingest to a blob; the crate's header has the order of the steps. Blocks.

use std::io;

use gantry_core::{Cx, Digest, Error, Kind, Labels, Result};
use gantry_metadata::stores::content::{self as records, Blob, Commit, Ingest};

use crate::body::Body;
use crate::layout;
use crate::store::Shared;

/// What the client says the blob is.
pub(crate) struct Wanted {
    /// 0 when it does not say.
    pub(crate) size: u64,
    pub(crate) expected: Option<Digest>,
    pub(crate) labels: Labels,
}

impl Wanted {
    fn check_size(&self, ingest: &Ingest, offset: u64) -> Result<()> {
        if self.size != 0 && self.size != offset {
            return Err(Error::failed_precondition(format!(
                "{:?} failed size validation: {offset} != {}",
                ingest.reference, self.size
            )));
        }
        // Before the file moves: the transaction would refuse them anyway.
        self.labels.iter().try_for_each(|(key, value)| {
            gantry_core::labels::check_label(key, value).map_err(|e| e.context("info.Labels"))
        })
    }
}

/// Gives the namespace a blob that another one has.
pub(crate) fn link(
    shared: &Shared,
    cx: &Cx,
    ingest: &Ingest,
    blob: &Blob,
    wanted: Wanted,
) -> Result<()> {
    wanted.check_size(ingest, blob.size)?;
    if wanted.expected.as_ref().is_some_and(|expected| *expected != blob.digest) {
        return Err(Error::failed_precondition(format!(
            "{:?} unexpected digest",
            ingest.reference
        )));
    }
    let _one = shared.digests.hold(cx, &blob.digest)?;
    // The ingest's record keeps the blob's; only an abort could have let it go.
    if shared.layout.blob_size(&blob.digest)? != Some(blob.size) {
        return Err(Error::not_found(format!("content {}", blob.digest)));
    }
    let outcome = record(shared, cx, ingest, &blob.digest, blob.size, wanted.labels);
    if ends_ingest(&outcome) {
        // An earlier, private try under this ref may have left a file.
        discard(shared, ingest);
    }
    outcome
}

/// Makes a blob of what was written. Returns the digest, also when the commit fails.
pub(crate) fn place(
    shared: &Shared,
    cx: &Cx,
    ingest: &Ingest,
    body: Body,
    wanted: Wanted,
) -> (Digest, Result<()>) {
    let mut digest = body.digest();
    let outcome = try_place(shared, cx, ingest, body, wanted, &mut digest);
    (digest, outcome)
}

fn try_place(
    shared: &Shared,
    cx: &Cx,
    ingest: &Ingest,
    body: Body,
    wanted: Wanted,
    digest: &mut Digest,
) -> Result<()> {
    let size = body.offset();
    wanted.check_size(ingest, size)?;
    if let Some(expected) = &wanted.expected {
        if expected.algorithm() != body.algorithm() {
            // The writer was opened before anybody said which algorithm it would be.
            *digest = body.rehash(cx, expected.algorithm())?;
        }
        if expected != digest {
            return Err(Error::failed_precondition(format!(
                "unexpected commit digest {digest}, expected {expected}"
            )));
        }
    }
    fail::fail_point!("content.commit/before-sync", |_| Err(Error::unknown("failpoint")));
    body.sync()?;
    drop(body);

    let _one = shared.digests.hold(cx, digest)?;
    let known = shared.metadata.read_blocking(|view| records::blob(view, digest))?;
    let present = known.is_some_and(|blob| blob.size == size)
        && shared.layout.blob_size(digest)? == Some(size);
    if !present {
        rename(shared, ingest, digest)?;
    }
    fail::fail_point!("content.commit/before-record");
    let outcome = record(shared, cx, ingest, digest, size, wanted.labels);
    if present {
        if ends_ingest(&outcome) {
            discard(shared, ingest);
        }
    } else if outcome.is_err() {
        put_back(shared, ingest, digest);
    }
    outcome
}

fn rename(shared: &Shared, ingest: &Ingest, digest: &Digest) -> Result<()> {
    fail::fail_point!("content.commit/before-rename", |_| Err(Error::unknown("failpoint")));
    shared.layout.place(ingest.number, digest).map_err(|e| {
        if e.kind() == io::ErrorKind::NotFound {
            // Aborted while this writer held it.
            return Error::not_found(format!("reference {}", ingest.reference));
        }
        put_back(shared, ingest, digest);
        Error::io(format!("move ingest to blob {digest}"), e)
    })?;
    fail::fail_point!("content.commit/after-rename", |_| {
        put_back(shared, ingest, digest);
        Err(Error::unknown("failpoint"))
    });
    Ok(())
}

/// The one transaction.
fn record(
    shared: &Shared,
    cx: &Cx,
    ingest: &Ingest,
    digest: &Digest,
    size: u64,
    labels: Labels,
) -> Result<()> {
    let commit = Commit {
        reference: ingest.reference.clone(),
        number: ingest.number,
        digest: digest.clone(),
        size,
        labels,
    };
    let cx = cx.clone();
    let outcome = shared.metadata.update_blocking(move |tx| records::commit(tx, &cx, commit));
    fail::fail_point!("content.commit/after-record");
    outcome
}

/// Whether the ingest's record is gone.
fn ends_ingest(outcome: &Result<()>) -> bool {
    match outcome {
        Ok(()) => true,
        Err(e) => e.is(Kind::AlreadyExists),
    }
}

fn discard(shared: &Shared, ingest: &Ingest) {
    if let Err(e) = layout::remove(&shared.layout.ingest(ingest.number)) {
        // The next sweep tries again.
        tracing::warn!(error = e.message(), "cannot remove a finished ingest's file");
    }
}

/// After a failed commit: the ingest gets its file back, unless a record names the blob now.
fn put_back(shared: &Shared, ingest: &Ingest, digest: &Digest) {
    // A store that failed in the middle cannot say; the file then stays for the sweep, which asks
    // again after the restart.
    let unnamed = shared.metadata.read_blocking(|view| records::blob(view, digest));
    if !matches!(unnamed, Ok(None)) {
        return;
    }
    match shared.layout.put_back(ingest.number, digest) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%digest, error = %e, "cannot give a failed commit's file back");
        }
        _ => {}
    }
}
