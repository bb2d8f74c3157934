//! Namespaces.

use gantry_api::containerd::services::namespaces::v1 as wire;
use gantry_core::model::NamespaceInfo;
use gantry_core::{Namespace, Result};

/// As a client sends it.
///
/// # Errors
/// `InvalidArgument` for the name or a label.
pub fn from_wire(sent: wire::Namespace) -> Result<NamespaceInfo> {
    Ok(NamespaceInfo {
        name: Namespace::new(sent.name)?,
        labels: super::labels_checked("namespace.Labels", sent.labels)?,
    })
}

/// As clients get it.
pub fn to_wire(info: NamespaceInfo) -> wire::Namespace {
    wire::Namespace { name: info.name.into_string(), labels: super::labels(info.labels) }
}
