//! The snapshotters' contract, kept by full copies.

mod support;

use gantry_conformance::snapshots::Subject;
use gantry_plugin_snapshots::Native;

async fn native() -> Subject {
    support::subject(Native::open).await
}

gantry_conformance::snapshotter_cases!(native);
