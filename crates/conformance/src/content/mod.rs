//! What every content store must do, as cases that any implementation runs.
//!
//! [`content_store!`](crate::content_store) makes one test per case:
//!
//! ```ignore
//! gantry_conformance::content_store!(local, || async { World::new() });
//! ```
//!
//! The factory gives a fresh, empty [`ContentFixture`] each time; the cases use only what stands
//! in [`gantry_core::content`], so they run the same in process and through a wire.

pub mod commits;
pub mod records;
pub mod sharing;
pub mod writes;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use gantry_core::content::{ContentStore, Writer, WriterOpts};
use gantry_core::model::Resource;
use gantry_core::{
    CallCx, ContentRef, Cx, Digest, Error, Kind, Labels, LeaseId, Namespace, Result,
};

/// A store under test and what surrounds it.
#[async_trait]
pub trait ContentFixture: Send + Sync {
    /// The store, empty, sharing blobs between namespaces.
    fn store(&self) -> Arc<dyn ContentStore>;
    /// Makes a lease in the namespace of the call.
    async fn lease(&self, cx: &Cx, id: &LeaseId) -> Result<()>;
    /// What that lease holds, ordered by kind and id.
    async fn held(&self, cx: &Cx, id: &LeaseId) -> Result<Vec<Resource>>;
}

/// Makes a module `$suite` with one test per case; `$factory` is a closure that gives a future of
/// a [`ContentFixture`].
#[macro_export]
macro_rules! content_store {
    ($suite:ident, $factory:expr) => {
        mod $suite {
            use super::*;
            $crate::content_store!(@cases $factory;
                writes {
                    a_write_resumes_where_it_was_left
                    a_write_restarts_after_truncation
                    truncation_elsewhere_is_refused
                    another_total_restarts
                    an_unknown_total_contradicts_none
                    one_writer_holds_a_ref
                    a_ref_is_any_text
                    an_aborted_write_is_gone
                    an_abort_ends_a_write_that_is_held
                    statuses_list_in_byte_order
                    statuses_match_filters
                    status_follows_the_write
                    a_writer_knows_the_digest_so_far
                    large_chunks_arrive_whole
                }
                commits {
                    a_committed_blob_reads_back
                    an_empty_blob
                    reads_end_with_the_blob
                    an_open_reader_outlives_the_blob
                    what_is_not_said_is_not_checked
                    a_wrong_size_keeps_the_ingest
                    a_wrong_digest_keeps_the_ingest
                    a_commit_frees_the_ref_whatever_comes_of_it
                    a_closed_writer_refuses
                    a_commit_ends_the_ingest
                    sha512_by_the_opening
                    sha512_by_the_commit
                    existing_content_is_not_opened
                    existing_content_is_not_opened_though_its_ref_is_held
                    existing_content_keeps_its_labels
                    concurrent_commits_of_one_blob_agree
                }
                records {
                    labels_come_with_the_commit
                    a_label_too_long_is_refused
                    an_update_without_a_mask_replaces_all_labels
                    an_update_of_one_label_leaves_the_others
                    an_update_of_anything_else_is_refused
                    what_is_absent_is_not_found
                    content_lists_in_byte_order
                    content_matches_filters
                    deleted_content_is_gone_at_once
                    deleted_content_can_be_written_again
                    times_tell_creation_and_change
                    a_lease_holds_what_was_written
                    a_lease_holds_what_was_there_at_the_opening
                    a_lease_holds_what_was_there_at_the_commit
                    an_unknown_lease_is_refused
                    deletion_lets_go_of_the_lease
                }
                sharing {
                    namespaces_see_their_own
                    another_namespaces_blob_needs_no_data
                    a_shared_commit_checks_size_and_digest
                    a_shared_write_may_be_appended_to
                    a_shared_write_may_be_started_over
                    another_total_is_not_shared
                    a_shared_opening_is_no_ingest
                    a_blob_outlives_its_first_namespace
                    the_same_bytes_sent_twice_are_one_blob
                }
            );
        }
    };
    (@cases $factory:expr; $($group:ident { $($case:ident)* })*) => { $($(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let fixture = ($factory)().await;
            $crate::content::$group::$case(&fixture).await;
        }
    )*)* };
}

pub(crate) const NONE: Option<&Digest> = None;

pub(crate) fn cx() -> Cx {
    in_namespace("suite")
}

pub(crate) fn in_namespace(name: &str) -> Cx {
    CallCx::default().in_namespace(Namespace::new(name).unwrap(), None)
}

pub(crate) fn reference(name: &str) -> ContentRef {
    ContentRef::new(name).unwrap()
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::unchecked(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
}

/// `len` bytes that differ with `seed`.
pub(crate) fn bytes(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        // xorshift64: no two offsets look alike, so a misplaced chunk changes the digest.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

pub(crate) async fn open(
    store: &dyn ContentStore,
    cx: &Cx,
    name: &str,
    total: usize,
    expected: Option<&Digest>,
) -> Result<Box<dyn Writer>> {
    let opts =
        WriterOpts { reference: reference(name), total: total as u64, expected: expected.cloned() };
    store.writer(cx, opts).await
}

/// Writes and commits `blob` under a ref of its own.
pub(crate) async fn put(store: &dyn ContentStore, cx: &Cx, blob: &Bytes) -> Result<Digest> {
    put_with(store, cx, blob, Labels::default()).await
}

pub(crate) async fn put_with(
    store: &dyn ContentStore,
    cx: &Cx,
    blob: &Bytes,
    labels: Labels,
) -> Result<Digest> {
    let mut writer = open(store, cx, &format!("put {}", Digest::of(blob)), 0, None).await?;
    writer.truncate(0).await?;
    writer.write(blob.clone()).await?;
    writer.commit(cx, blob.len() as u64, None, labels).await
}

pub(crate) async fn read(store: &dyn ContentStore, cx: &Cx, digest: &Digest) -> Result<Bytes> {
    let reader = store.reader(cx, digest).await?;
    reader.read_at(0, usize::try_from(reader.size()).unwrap()).await
}

/// The error of a call that must fail so.
#[track_caller]
pub(crate) fn fails<T>(outcome: Result<T>, kind: Kind) -> Error {
    match outcome {
        Ok(_) => panic!("succeeded, should have been {kind:?}"),
        Err(error) => {
            assert_eq!(error.kind(), kind, "{}", error.message());
            error
        }
    }
}
