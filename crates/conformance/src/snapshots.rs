//! What every snapshotter must do.
//!
//! | cases | of |
//! |---|---|
//! | [`records`] | states, keys, parents, labels, filters, namespaces |
//! | [`leases`] | what a call leaves in its lease |
//! | [`files`] | what a mounted snapshot shows; these need root |
//! | [`crowd`] | calls that meet |
//!
//! [`model`] checks any sequence of calls against a naive model.
//!
//! ```ignore
//! gantry_conformance::snapshotter_cases!(make_subject); // async fn make_subject() -> Subject
//! ```

pub mod crowd;
pub mod files;
pub mod leases;
pub mod model;
pub mod mounted;
pub mod records;

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use gantry_core::filter::Filters;
use gantry_core::snapshot::{Mount, SnapshotInfo, Snapshotter};
use gantry_core::{CallCx, Cx, Error, Kind, Labels, LeaseId, Namespace, Result, SnapshotKey};

use mounted::Mounted;

/// The leases of the store that the snapshotter under test keeps its records in.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Makes a lease.
    async fn create(&self, cx: &Cx, id: &LeaseId) -> Result<()>;
    /// The keys of this snapshotter's snapshots that the lease holds, in byte order.
    async fn held(&self, cx: &Cx, id: &LeaseId) -> Result<Vec<String>>;
}

/// A snapshotter to be tested, with nothing in it.
pub struct Subject {
    /// The snapshotter.
    pub snapshotter: Arc<dyn Snapshotter>,
    /// Its store's leases; without them the lease cases pass unseen.
    pub leases: Option<Arc<dyn Leases>>,
    /// What must live as long: temporary folders, servers.
    pub keep: Box<dyn Any + Send>,
}

/// What a case gets.
pub struct World {
    /// The snapshotter under test.
    pub snapshotter: Arc<dyn Snapshotter>,
    /// A call in the namespace `one`.
    pub cx: Cx,
    leases: Option<Arc<dyn Leases>>,
    work: tempfile::TempDir,
    _keep: Box<dyn Any + Send>,
}

/// Runs one case on `subject`.
///
/// # Panics
/// When the case finds the contract broken.
pub async fn run<F: Future<Output = ()>>(subject: Subject, case: impl FnOnce(World) -> F) {
    let Subject { snapshotter, leases, keep } = subject;
    let work = tempfile::tempdir().unwrap();
    case(World { snapshotter, cx: namespace("one"), leases, work, _keep: keep }).await;
}

/// A call in the namespace `name`.
pub fn namespace(name: &str) -> Cx {
    CallCx::default().in_namespace(Namespace::new(name).unwrap(), None)
}

/// A key.
pub fn key(text: &str) -> SnapshotKey {
    SnapshotKey::new(text).unwrap()
}

/// Labels from pairs.
pub fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    Labels::unchecked(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())))
}

/// Checks that a call failed as `kind`, its text ending in the class.
#[track_caller]
pub fn refused<T: Debug>(outcome: Result<T>, kind: Kind) -> Error {
    let error = outcome.expect_err("the call must be refused");
    assert_eq!(error.kind(), kind, "{}", error.message());
    assert!(error.message().ends_with(kind.class()), "{}", error.message());
    error
}

impl World {
    /// Whether mounts can be made; the file cases are skipped with a line where not.
    pub fn can_mount(&self) -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("skipped: mounting needs root");
        }
        root
    }

    /// Prepares `name` on `parent`.
    pub async fn prepare(&self, name: &str, parent: Option<&str>) -> Vec<Mount> {
        let parent = parent.map(key);
        let none = Labels::default();
        self.snapshotter.prepare(&self.cx, &key(name), parent.as_ref(), none).await.unwrap()
    }

    /// Opens the view `name` of `parent`.
    pub async fn view(&self, name: &str, parent: Option<&str>) -> Vec<Mount> {
        let parent = parent.map(key);
        let none = Labels::default();
        self.snapshotter.view(&self.cx, &key(name), parent.as_ref(), none).await.unwrap()
    }

    /// Commits `active` as `name`.
    pub async fn commit(&self, name: &str, active: &str) {
        self.try_commit(name, active).await.unwrap();
    }

    /// Commits `active` as `name`, or not.
    pub async fn try_commit(&self, name: &str, active: &str) -> Result<()> {
        let none = Labels::default();
        self.snapshotter.commit(&self.cx, &key(name), &key(active), None, none).await
    }

    /// Commits an empty layer `name` on `parent`.
    pub async fn layer(&self, name: &str, parent: Option<&str>) {
        let active = format!("making {name}");
        self.prepare(&active, parent).await;
        self.commit(name, &active).await;
    }

    /// Removes `name`.
    pub async fn remove(&self, name: &str) {
        self.snapshotter.remove(&self.cx, &key(name)).await.unwrap();
    }

    /// The record of `name`.
    pub async fn stat(&self, name: &str) -> SnapshotInfo {
        self.snapshotter.stat(&self.cx, &key(name)).await.unwrap()
    }

    /// Whether there is no `name`.
    pub async fn gone(&self, name: &str) -> bool {
        match self.snapshotter.stat(&self.cx, &key(name)).await {
            Ok(_) => false,
            Err(error) => error.is(Kind::NotFound),
        }
    }

    /// The names of all snapshots that match any of `filters`.
    pub async fn names(&self, filters: &[&str]) -> Vec<String> {
        let filters: Vec<_> = filters.iter().map(|f| (*f).to_owned()).collect();
        let filters = Filters::parse(&filters).unwrap();
        let found = self.snapshotter.list(&self.cx, &filters).await.unwrap();
        found.into_iter().map(|info| info.name.into_string()).collect()
    }

    /// Mounts `mounts` until the result is dropped.
    pub fn mount(&self, mounts: &[Mount]) -> Mounted {
        Mounted::new(mounts, self.work.path()).unwrap()
    }

    /// An empty folder outside every snapshot.
    pub fn folder(&self, name: &str) -> std::path::PathBuf {
        let path = self.work.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }
}

/// Makes a test of each case, on the subject that the given function returns.
#[macro_export]
macro_rules! snapshotter_cases {
    ($factory:path) => {
        $crate::snapshotter_cases! { @ $factory;
            records:
                a_prepared_snapshot_is_active
                a_commit_replaces_the_key_by_the_name
                a_key_commits_once
                a_taken_name_refuses_a_commit_and_the_key_survives
                keys_are_free_again_after_commit_and_removal
                a_key_in_use_refuses_prepare_and_view
                a_view_is_not_committed
                a_parent_must_exist_and_be_committed
                a_parent_stays_while_it_has_children
                what_is_absent_is_not_found
                a_committed_snapshot_is_not_mounted
                mounts_answers_as_prepare_did
                times_tell_creation_from_update
                labels_change_by_mask
                a_commit_does_not_inherit_labels
                lists_match_filters_in_byte_order
                keys_are_any_text
                namespaces_do_not_meet
                a_target_that_exists_refuses_a_prepare
                a_commit_rebases_where_declared
                a_commit_cannot_change_a_parent;
            leases:
                what_a_call_makes_is_leased
                a_commit_swaps_key_for_name
                what_is_in_the_way_is_leased
                a_removal_drops_the_entry
                an_absent_lease_refuses_and_leaves_nothing;
            files:
                layers_show_through
                deletions_hide_what_lies_below
                a_folder_made_anew_is_empty
                a_folder_moves_over_layers
                a_view_cannot_be_written
                siblings_do_not_meet
                attributes_live_on_in_children
                the_root_keeps_mode_and_owner
                a_commit_keeps_what_was_written
                a_chain_of_127_layers_mounts
                usage_leaves_parents_out
                usage_is_live_until_the_commit;
            crowd:
                one_of_many_prepares_of_a_key_wins
                one_of_many_commits_of_a_name_wins
                commits_that_meet_all_succeed
                a_removal_and_a_child_exclude_each_other;
        }
    };
    (@ $factory:path; $($group:ident: $($case:ident)*;)*) => {$(
        mod $group {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let subject = $factory().await;
                    $crate::snapshots::run(subject, $crate::snapshots::$group::$case).await;
                }
            )*
        }
    )*};
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_macro_names_every_case() {
        let this = include_str!("snapshots.rs");
        let groups = [
            include_str!("snapshots/records.rs"),
            include_str!("snapshots/leases.rs"),
            include_str!("snapshots/files.rs"),
            include_str!("snapshots/crowd.rs"),
        ];
        for case in groups.iter().flat_map(|g| g.split("pub async fn ").skip(1)) {
            let name = case.split('(').next().unwrap();
            assert!(this.contains(&format!("  {name}")), "{name} is never run");
        }
    }
}
