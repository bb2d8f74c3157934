//! Between the domain and the messages of `containerd.services.snapshots.v1`, both ways.
//!
//! Must not: decide anything; what a peer sends is checked here and believed from then on.

use gantry_api::containerd::services::snapshots::v1 as wire;
use gantry_api::containerd::types;
use gantry_core::snapshot::{Mount, SnapshotInfo, SnapshotKind, Usage};
use gantry_core::{Error, FieldMask, Kind, Labels, Result, SnapshotKey, Timestamp};
use tonic::{Code, Status};

/// The header that carries the namespace.
pub(crate) const NAMESPACE_HEADER: &str = "containerd-namespace";
/// The header that carries the lease.
pub(crate) const LEASE_HEADER: &str = "containerd-lease";

/// Kinds of failure and their codes, one to one.
const CODES: [(Kind, Code); 16] = [
    (Kind::Unknown, Code::Unknown),
    (Kind::InvalidArgument, Code::InvalidArgument),
    (Kind::NotFound, Code::NotFound),
    (Kind::AlreadyExists, Code::AlreadyExists),
    (Kind::PermissionDenied, Code::PermissionDenied),
    (Kind::ResourceExhausted, Code::ResourceExhausted),
    (Kind::FailedPrecondition, Code::FailedPrecondition),
    (Kind::Aborted, Code::Aborted),
    (Kind::OutOfRange, Code::OutOfRange),
    (Kind::NotImplemented, Code::Unimplemented),
    (Kind::Internal, Code::Internal),
    (Kind::Unavailable, Code::Unavailable),
    (Kind::DataLoss, Code::DataLoss),
    (Kind::Unauthenticated, Code::Unauthenticated),
    (Kind::Cancelled, Code::Cancelled),
    (Kind::DeadlineExceeded, Code::DeadlineExceeded),
];

/// What a peer's failure is here. Its text already ends in its class.
pub(crate) fn error(status: &Status) -> Error {
    let known = CODES.iter().find(|(_, code)| *code == status.code());
    Error::new(known.map_or(Kind::Unknown, |(kind, _)| *kind), status.message())
}

/// What a failure here is to a peer.
pub(crate) fn status(error: &Error) -> Status {
    let known = CODES.iter().find(|(kind, _)| *kind == error.kind());
    Status::new(known.map_or(Code::Unknown, |(_, code)| *code), error.message())
}

/// Labels, those of a peer unchecked: it is for the owner of the object to limit them.
pub(crate) fn labels(sent: std::collections::HashMap<String, String>) -> Labels {
    Labels::unchecked(sent)
}

pub(crate) fn parent(sent: String) -> Option<SnapshotKey> {
    SnapshotKey::new(sent).ok()
}

pub(crate) fn mask(sent: Option<prost_types::FieldMask>) -> FieldMask {
    FieldMask::new(sent.map(|mask| mask.paths).unwrap_or_default())
}

pub(crate) fn mask_to_wire(mask: &FieldMask) -> prost_types::FieldMask {
    let join = |(field, label): (&str, Option<&str>)| match label {
        Some(label) => format!("{field}.{label}"),
        None => field.to_owned(),
    };
    prost_types::FieldMask { paths: mask.paths().map(join).collect() }
}

pub(crate) fn mounts_to_wire(mounts: Vec<Mount>) -> Vec<types::Mount> {
    let convert = |m: Mount| {
        let Mount { kind, source, target, options } = m;
        types::Mount { r#type: kind, source, target, options }
    };
    mounts.into_iter().map(convert).collect()
}

pub(crate) fn mounts(sent: Vec<types::Mount>) -> Vec<Mount> {
    let convert = |m: types::Mount| {
        let types::Mount { r#type: kind, source, target, options } = m;
        Mount { kind, source, target, options }
    };
    sent.into_iter().map(convert).collect()
}

fn time(sent: Option<prost_types::Timestamp>) -> Timestamp {
    let convert = |t: prost_types::Timestamp| Timestamp {
        seconds: t.seconds,
        nanos: u32::try_from(t.nanos).unwrap_or(0),
    };
    sent.map_or(Timestamp::UNSET, convert)
}

fn time_to_wire(time: Timestamp) -> prost_types::Timestamp {
    let nanos = i32::try_from(time.nanos).unwrap_or(0);
    prost_types::Timestamp { seconds: time.seconds, nanos }
}

/// A record as a peer gets it.
pub(crate) fn info_to_wire(info: SnapshotInfo) -> wire::Info {
    let kind = match info.kind {
        SnapshotKind::View => wire::Kind::View,
        SnapshotKind::Active => wire::Kind::Active,
        SnapshotKind::Committed => wire::Kind::Committed,
    };
    wire::Info {
        name: info.name.into_string(),
        parent: info.parent.map(SnapshotKey::into_string).unwrap_or_default(),
        kind: kind.into(),
        created_at: Some(time_to_wire(info.created_at)),
        updated_at: Some(time_to_wire(info.updated_at)),
        labels: info.labels.into_iter().collect(),
    }
}

/// A record as a peer sent it.
///
/// # Errors
/// `Internal` when it lacks a name or has no kind that we know.
pub(crate) fn info(sent: wire::Info) -> Result<SnapshotInfo> {
    let kind = match sent.kind() {
        wire::Kind::View => SnapshotKind::View,
        wire::Kind::Active => SnapshotKind::Active,
        wire::Kind::Committed => SnapshotKind::Committed,
        wire::Kind::Unknown => {
            return Err(Error::internal(format!("snapshot {:?} of unknown kind", sent.name)));
        }
    };
    let name = SnapshotKey::new(sent.name)
        .map_err(|_| Error::internal("the snapshotter sent a snapshot without a name"))?;
    Ok(SnapshotInfo {
        kind,
        name,
        parent: parent(sent.parent),
        labels: labels(sent.labels),
        created_at: time(sent.created_at),
        updated_at: time(sent.updated_at),
    })
}

pub(crate) fn usage_to_wire(usage: Usage) -> wire::UsageResponse {
    wire::UsageResponse { size: usage.size, inodes: usage.inodes }
}

pub(crate) fn usage(sent: &wire::UsageResponse) -> Usage {
    Usage { size: sent.size, inodes: sent.inodes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_comes_back_as_it_went() {
        for (kind, _) in CODES {
            let sent = Error::new(kind, "snapshot \"x\"").context("remove");
            let back = error(&status(&sent));
            assert_eq!((back.kind(), back.message()), (kind, sent.message()));
        }
    }

    #[test]
    fn a_record_comes_back_as_it_went() {
        for kind in [SnapshotKind::Active, SnapshotKind::View, SnapshotKind::Committed] {
            let sent = SnapshotInfo {
                kind,
                name: SnapshotKey::new("a b").unwrap(),
                parent: SnapshotKey::new("p").ok(),
                labels: Labels::unchecked([("k".to_owned(), "v".to_owned())]),
                created_at: Timestamp { seconds: 1, nanos: 2 },
                updated_at: Timestamp { seconds: 3, nanos: 999_999_999 },
            };
            assert_eq!(info(info_to_wire(sent.clone())).unwrap(), sent);
        }
        assert!(info(wire::Info::default()).is_err());
    }

    #[test]
    fn a_mask_comes_back_as_it_went() {
        let sent = FieldMask::new(vec!["labels".into(), "labels.a/b.c".into(), "x".into()]);
        assert_eq!(mask(Some(mask_to_wire(&sent))), sent);
    }
}
