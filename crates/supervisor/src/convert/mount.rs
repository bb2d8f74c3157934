//! Mounts.

use gantry_api::containerd::types;
use gantry_core::snapshot::Mount;

/// As a client sends it.
pub fn from_wire(sent: Vec<types::Mount>) -> Vec<Mount> {
    sent.into_iter()
        .map(|mount| Mount {
            kind: mount.r#type,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        })
        .collect()
}

/// As clients get it.
pub fn to_wire(mounts: Vec<Mount>) -> Vec<types::Mount> {
    mounts
        .into_iter()
        .map(|mount| types::Mount {
            r#type: mount.kind,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        })
        .collect()
}
