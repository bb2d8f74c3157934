//! Between the shim's terms and the wire's.

use gantry_core::{Error, Kind, Timestamp};
use gantry_shim_state::Time;
use gantry_ttrpc::message::{Code, Status, status};
use prost::Name;
use prost_types::Any;

/// A message with its bare type name: what Go's clients compare by equality.
pub fn any<M: Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// A time on the wire.
pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.seconds,
        nanos: i32::try_from(time.nanos).unwrap_or(999_999_999),
    }
}

/// A time in the files of a bundle.
pub fn file_time(time: Timestamp) -> Time {
    Time { seconds: time.seconds, nanos: time.nanos }
}

/// A time from the files of a bundle.
pub fn from_file_time(time: Time) -> Timestamp {
    Timestamp { seconds: time.seconds, nanos: time.nanos }
}

/// An error as the caller gets it.
pub fn status_of(error: &Error) -> Status {
    let code = match error.kind() {
        Kind::Unknown => Code::Unknown,
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::ResourceExhausted => Code::ResourceExhausted,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::Aborted => Code::Aborted,
        Kind::OutOfRange => Code::OutOfRange,
        Kind::NotImplemented => Code::Unimplemented,
        Kind::Internal => Code::Internal,
        Kind::Unavailable => Code::Unavailable,
        Kind::DataLoss => Code::DataLoss,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::Cancelled => Code::Cancelled,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
    };
    status(code, error.message())
}
