//! Messages inside `google.protobuf.Any`, with type URLs as containerd's clients compare them: the
//! bare full name. Reading accepts any prefix (`type.googleapis.com/`), as Go's registry does.
//!
//! Must not re-encode an `Any` that only passes through: its bytes are somebody else's.

use prost::{DecodeError, Message, Name};
use prost_types::Any;

/// Why an [`Any`] is not the message that was wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// It holds another type.
    #[error("expected {expected}, got type URL {found:?}")]
    WrongType {
        /// Full name of the wanted message.
        expected: String,
        /// The type URL that came.
        found: String,
    },
    /// Its type is right, its bytes are not.
    #[error("malformed {type_name}")]
    Malformed {
        /// Full name of the wanted message.
        type_name: String,
        /// What is wrong with the bytes.
        source: DecodeError,
    },
}

/// Encodes `message` under its bare full name (`containerd.events.TaskExit`).
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// Decodes the message in `any`, which has to be an `M`.
///
/// # Errors
/// [`UnpackError::WrongType`] when it is something else, the empty `Any` included;
/// [`UnpackError::Malformed`] when its bytes do not decode.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<M, UnpackError> {
    if !is::<M>(any) {
        return Err(UnpackError::WrongType {
            expected: M::full_name(),
            found: any.type_url.clone(),
        });
    }
    M::decode(any.value.as_slice())
        .map_err(|source| UnpackError::Malformed { type_name: M::full_name(), source })
}

/// Whether `any` says it holds an `M`, with or without a prefix before the name.
pub fn is<M: Name>(any: &Any) -> bool {
    type_name(&any.type_url) == M::full_name()
}

/// The message's full name in a type URL: what follows the last slash.
///
/// Only for protobuf messages. URLs of JSON payloads
/// (`types.containerd.io/opencontainers/runtime-spec/1/Spec`) are names as a whole.
pub fn type_name(type_url: &str) -> &str {
    type_url.rsplit_once('/').map_or(type_url, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::events::{TaskExit, TaskStart};

    fn start() -> TaskStart {
        TaskStart { container_id: "web".to_owned(), pid: 7 }
    }

    #[test]
    fn the_type_url_is_the_bare_name() {
        assert_eq!(pack(&start()).type_url, "containerd.events.TaskStart");
    }

    #[test]
    fn what_was_packed_unpacks() {
        assert_eq!(unpack(&pack(&start())), Ok(start()));
    }

    #[test]
    fn a_prefix_is_accepted_on_reading() {
        for prefix in ["/", "type.googleapis.com/", "example.org/a/b/"] {
            let mut any = pack(&start());
            any.type_url.insert_str(0, prefix);
            assert_eq!(unpack(&any), Ok(start()), "{prefix}");
        }
    }

    #[test]
    fn another_type_is_refused_and_named() {
        let found = "containerd.events.TaskStart".to_owned();
        let expected = "containerd.events.TaskExit".to_owned();
        assert_eq!(
            unpack::<TaskExit>(&pack(&start())),
            Err(UnpackError::WrongType { expected, found })
        );
        assert!(unpack::<TaskExit>(&Any::default()).is_err());
    }

    #[test]
    fn a_name_that_merely_ends_alike_is_another_type() {
        let mut any = pack(&start());
        any.type_url = "example.containerd.events.TaskStart".to_owned();
        assert!(!is::<TaskStart>(&any));
    }

    #[test]
    fn broken_bytes_are_told_from_a_wrong_type() {
        let mut any = pack(&start());
        any.value = vec![0x0a, 0xff];
        assert!(matches!(unpack::<TaskStart>(&any), Err(UnpackError::Malformed { .. })));
    }
}
