//! From an error of the domain to a status on the wire: the only place where the two meet.

use gantry_core::{Error, Kind};
use tonic::{Code, Status};

/// Longest text of a status in bytes. It travels in a header, percent-encoded, and clients take
/// 8 KiB of headers or a little more.
const TEXT_BYTES_MAX: usize = 2048;

/// The code of a kind.
pub fn code(kind: Kind) -> Code {
    match kind {
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
    }
}

/// The status that tells clients of `error`.
pub fn status(error: &Error) -> Status {
    Status::new(code(error.kind()), shortened(error.message()))
}

/// Cuts the middle out of a text that is too long: its end is what clients match.
fn shortened(text: String) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text;
    }
    let head = text.floor_char_boundary(TEXT_BYTES_MAX / 2);
    let tail = text.ceil_char_boundary(text.len() - TEXT_BYTES_MAX / 2);
    format!("{} [...] {}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_code_and_the_whole_chain() {
        let error = Error::not_found("container \"x\" in namespace \"n\"").context("load");
        let status = status(&error);
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), "load: container \"x\" in namespace \"n\": not found");
    }

    #[test]
    fn a_text_too_long_keeps_its_class() {
        let long = status(&Error::unavailable("é".repeat(5000)));
        assert!(long.message().len() < TEXT_BYTES_MAX + 16);
        assert!(long.message().ends_with(": unavailable"));
    }
}
