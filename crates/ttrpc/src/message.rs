//! The messages of ttrpc, what their fields mean, and the status of a call.

use std::time::Duration;

pub use gantry_api::google::rpc::Status;
pub use gantry_api::ttrpc::{KeyValue, Request, Response};

/// How long the caller of `request` waits; `None` when it does not say.
///
/// A time that has passed already (negative) is zero.
pub fn timeout(request: &Request) -> Option<Duration> {
    match request.timeout_nano {
        0 => None,
        nanos => Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))),
    }
}

/// The first value of `key` in the metadata of `request`.
pub fn metadata<'a>(request: &'a Request, key: &str) -> Option<&'a str> {
    request.metadata.iter().find(|pair| pair.key == key).map(|pair| pair.value.as_str())
}

/// A status of this code and text.
pub fn status(code: Code, message: impl Into<String>) -> Status {
    Status { code: code as i32, message: message.into(), details: Vec::new() }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// The gRPC status codes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name = $number,)* }

        impl Code {
            /// The code of this number (`Status::code`); [`Code::Unknown`] for a number nobody knows.
            pub fn from_number(number: i32) -> Self {
                match number {
                    $($number => Self::$name,)*
                    _ => Self::Unknown,
                }
            }
        }
    };
}

codes! {
    /// Success.
    Ok = 0,
    /// The caller gave up.
    Cancelled = 1,
    /// A failure without a class.
    Unknown = 2,
    /// The request is wrong whatever the state.
    InvalidArgument = 3,
    /// Too late.
    DeadlineExceeded = 4,
    /// No such object.
    NotFound = 5,
    /// The object is there already.
    AlreadyExists = 6,
    /// Not allowed.
    PermissionDenied = 7,
    /// Something is full.
    ResourceExhausted = 8,
    /// The state does not allow it.
    FailedPrecondition = 9,
    /// Lost against a concurrent call.
    Aborted = 10,
    /// Beyond the end.
    OutOfRange = 11,
    /// Not provided.
    Unimplemented = 12,
    /// A broken invariant.
    Internal = 13,
    /// Try again later.
    Unavailable = 14,
    /// Data is lost.
    DataLoss = 15,
    /// Who are you?
    Unauthenticated = 16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_in_the_past_is_zero_and_none_is_none() {
        let request = |nanos| Request { timeout_nano: nanos, ..Request::default() };
        assert_eq!(timeout(&request(0)), None);
        assert_eq!(timeout(&request(-5)), Some(Duration::ZERO));
        assert_eq!(timeout(&request(2_000_000_000)), Some(Duration::from_secs(2)));
    }

    #[test]
    fn an_unknown_number_is_unknown() {
        assert_eq!(Code::from_number(12), Code::Unimplemented);
        assert_eq!(Code::from_number(99), Code::Unknown);
    }
}
