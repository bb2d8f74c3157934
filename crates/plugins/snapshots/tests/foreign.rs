//! The contract, kept through the wire by somebody else's snapshotter: containerd's overlayfs.
//!
//! Taken from `GANTRY_CONTAINERD` or from where `cargo xtask clients` puts Debian's; skipped with a
//! line where absent. Left out is what containerd does otherwise: the mode of a root is not kept.

#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_conformance::snapshots::Subject;
use gantry_metadata::stores::Leases;
use gantry_plugin_snapshots::{Bounds, Overlay};
use support::StoreLeases;

/// A containerd that is killed when this goes.
struct Containerd(Child);

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let chosen = std::env::var_os("GANTRY_CONTAINERD").map(PathBuf::from);
    let program = chosen.unwrap_or_else(|| target.join("clients/c16/usr/bin/containerd"));
    program.is_file().then_some(program)
}

const CONFIG: &str = r#"
version = 2
root = "ROOT/root"
state = "ROOT/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.restart", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
address = "ROOT/socket"
[plugins."io.containerd.gc.v1.scheduler"]
mutation_threshold = 0
startup_delay = "1h"
"#;

fn start(program: &Path, dir: &Path) -> Containerd {
    let config = dir.join("config.toml");
    std::fs::write(&config, CONFIG.replace("ROOT", dir.to_str().unwrap())).unwrap();
    let mut command = Command::new(program);
    command.arg("--config").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
    Containerd(command.spawn().unwrap())
}

async fn containerd() -> Subject {
    let dir = tempfile::tempdir().unwrap();
    let metadata = support::metadata();
    let leases = Some(Arc::new(StoreLeases(Leases::new(Arc::clone(&metadata)))) as Arc<_>);
    let Some(program) = program() else {
        eprintln!("skipped: containerd is absent; `cargo xtask clients` installs it");
        let snapshotter = support::open(&metadata, Overlay::open(dir.path()).unwrap()).await;
        return Subject { snapshotter, leases, keep: Box::new(dir) };
    };
    let process = start(&program, dir.path());
    let socket = dir.path().join("socket");
    let began = Instant::now();
    while tokio::net::UnixStream::connect(&socket).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(60), "containerd does not come up");
        tokio::task::yield_now().await;
    }
    let proxy = support::proxy_for("overlayfs", &metadata, &socket, &[], Bounds::default());
    Subject { snapshotter: proxy, leases, keep: Box::new((process, dir)) }
}

gantry_conformance::snapshotter_cases! { @ containerd;
    records:
        a_prepared_snapshot_is_active
        a_commit_replaces_the_key_by_the_name
        a_key_commits_once
        a_taken_name_refuses_a_commit_and_the_key_survives
        keys_are_free_again_after_commit_and_removal
        a_parent_must_exist_and_be_committed
        a_parent_stays_while_it_has_children
        what_is_absent_is_not_found
        mounts_answers_as_prepare_did
        labels_change_by_mask
        a_commit_does_not_inherit_labels
        lists_match_filters_in_byte_order
        keys_are_any_text
        namespaces_do_not_meet
        a_commit_cannot_change_a_parent;
    leases:
        a_commit_swaps_key_for_name
        what_is_in_the_way_is_leased
        an_absent_lease_refuses_and_leaves_nothing;
    files:
        layers_show_through
        deletions_hide_what_lies_below
        a_view_cannot_be_written
        attributes_live_on_in_children
        usage_is_live_until_the_commit;
    crowd:
        one_of_many_prepares_of_a_key_wins
        commits_that_meet_all_succeed
        a_removal_and_a_child_exclude_each_other;
}
