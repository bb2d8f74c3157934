//! The snapshotters' contract, kept by overlayfs.

mod support;

use gantry_conformance::snapshots::Subject;
use gantry_plugin_snapshots::Overlay;

async fn overlay() -> Subject {
    support::subject(Overlay::open).await
}

gantry_conformance::snapshotter_cases!(overlay);
