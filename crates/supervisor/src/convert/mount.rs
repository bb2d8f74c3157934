//! Mounts, and what became of those that the daemon made.

use std::collections::HashMap;

use gantry_api::containerd::types;
use gantry_core::snapshot::Mount;
use gantry_core::{Error, MountName, Result};
use gantry_metadata::stores::{Activation, ActiveMount};

/// The name of an activation that should exist. An empty one names none.
///
/// # Errors
/// `NotFound`.
pub fn existing(name: String) -> Result<MountName> {
    MountName::new(name).map_err(|_| Error::not_found("mount \"\""))
}

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
    mounts.into_iter().map(one).collect()
}

fn one(mount: Mount) -> types::Mount {
    types::Mount {
        r#type: mount.kind,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    }
}

/// An activation as clients get it.
pub fn activation(activation: Activation) -> types::ActivationInfo {
    types::ActivationInfo {
        name: activation.name.into_string(),
        active: activation.active.into_iter().map(active).collect(),
        system: to_wire(activation.system),
        labels: super::labels(activation.labels),
    }
}

fn active(active: ActiveMount) -> types::ActiveMount {
    types::ActiveMount {
        mount: Some(one(active.mount)),
        mounted_at: super::time(active.mounted_at),
        mount_point: active.mount_point,
        data: HashMap::new(),
    }
}
