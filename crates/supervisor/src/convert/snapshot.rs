//! Snapshots.

use gantry_api::containerd::services::snapshots::v1 as wire;
use gantry_core::snapshot::{SnapshotInfo, SnapshotKind, Usage};
use gantry_core::{Result, SnapshotKey};

/// A parent that a client may leave out.
///
/// # Errors
/// None: any text that is not empty is a key.
pub fn parent(text: String) -> Result<Option<SnapshotKey>> {
    if text.is_empty() { Ok(None) } else { SnapshotKey::new(text).map(Some) }
}

/// As clients get it.
pub fn to_wire(info: SnapshotInfo) -> wire::Info {
    let kind = match info.kind {
        SnapshotKind::View => wire::Kind::View,
        SnapshotKind::Active => wire::Kind::Active,
        SnapshotKind::Committed => wire::Kind::Committed,
    };
    wire::Info {
        name: info.name.into_string(),
        parent: info.parent.map(SnapshotKey::into_string).unwrap_or_default(),
        kind: kind.into(),
        created_at: super::time(info.created_at),
        updated_at: super::time(info.updated_at),
        labels: super::labels(info.labels),
    }
}

/// As clients get it.
pub fn usage_to_wire(usage: Usage) -> wire::UsageResponse {
    wire::UsageResponse { size: usage.size, inodes: usage.inodes }
}
