//! Blobs and ingests.

use gantry_api::containerd::services::content::v1 as wire;
use gantry_core::content::{Info, Status};
use gantry_core::{Digest, Error, Result};

/// A digest that a client sent.
///
/// # Errors
/// `InvalidArgument` in containerd's words.
pub fn digest(text: &str) -> Result<Digest> {
    Digest::parse(text).map_err(|_| Error::invalid_argument(format!("{text:?} failed validation")))
}

/// A digest that a client may leave out.
///
/// # Errors
/// As [`digest`].
pub fn digest_if_sent(text: &str) -> Result<Option<Digest>> {
    if text.is_empty() { Ok(None) } else { digest(text).map(Some) }
}

/// A number of bytes or an offset for the wire.
pub fn bytes(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// As clients get it.
pub fn to_wire(info: Info) -> wire::Info {
    wire::Info {
        digest: info.digest.as_str().to_owned(),
        size: bytes(info.size),
        created_at: super::time(info.created_at),
        updated_at: super::time(info.updated_at),
        labels: super::labels(info.labels),
    }
}

/// As clients get it.
pub fn status_to_wire(status: Status) -> wire::Status {
    wire::Status {
        started_at: super::time(status.started_at),
        updated_at: super::time(status.updated_at),
        r#ref: status.reference.into_string(),
        offset: bytes(status.offset),
        total: bytes(status.total),
        expected: status.expected.map(|digest| digest.as_str().to_owned()).unwrap_or_default(),
    }
}
