//! Names of things as types, so that one is never taken for another.
//!
//! Two families. *Identifiers* ([`Namespace`], [`ContainerId`], [`SandboxId`], [`ExecId`]) follow
//! containerd's rule `^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$` with at most 76 bytes and become
//! parts of paths. *Names* ([`ImageName`], [`SnapshotKey`], [`ContentRef`], [`LeaseId`],
//! [`SnapshotterName`], [`MountName`]) are any non-empty text a client sends, slashes, spaces and control
//! characters included: they must never become a path.

use std::fmt;

use crate::error::{Error, Result};

/// Longest identifier in bytes.
pub const IDENTIFIER_BYTES_MAX: usize = 76;

/// Checks containerd's identifier rule.
///
/// # Errors
/// `InvalidArgument` naming the identifier and the rule it breaks.
pub fn check_identifier(id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(Error::invalid_argument("identifier must not be empty"));
    }
    if id.len() > IDENTIFIER_BYTES_MAX {
        return Err(Error::invalid_argument(format!(
            "identifier {id:?} greater than maximum length ({IDENTIFIER_BYTES_MAX} characters)"
        )));
    }
    let words = id.split(['.', '_', '-']);
    let well_formed =
        words.clone().all(|w| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric()));
    if !well_formed {
        return Err(Error::invalid_argument(format!(
            "identifier {id:?} must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$"
        )));
    }
    Ok(())
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, |$value:ident| $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Takes `value` if it keeps to the rule of this type.
            ///
            /// # Errors
            /// `InvalidArgument` that says what is wrong with it.
            pub fn new(value: impl Into<String>) -> Result<Self> {
                let $value: String = value.into();
                $check?;
                Ok(Self($value))
            }
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
            /// The text, owned.
            pub fn into_string(self) -> String {
                self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(value: String) -> Result<Self> {
                Self::new(value)
            }
        }
    };
}

fn non_empty(value: &str, what: &str) -> Result<()> {
    if value.is_empty() {
        return Err(Error::invalid_argument(format!("{what} must not be empty")));
    }
    Ok(())
}

text_type!(
    /// A tenant of the API: an identifier.
    Namespace,
    |v| check_identifier(&v).map_err(|e| e.context("namespace validation"))
);
text_type!(
    /// A container's id: an identifier.
    ContainerId,
    |v| check_identifier(&v)
);
text_type!(
    /// A sandbox's id: an identifier.
    SandboxId,
    |v| check_identifier(&v)
);
text_type!(
    /// The id of an exec within a task: an identifier.
    ExecId,
    |v| check_identifier(&v)
);
text_type!(
    /// An image's name in the store; any text, usually a full reference.
    ImageName,
    |v| non_empty(&v, "image name")
);
text_type!(
    /// The key of a snapshot as the client names it; any text (`extract-1 sha256:..` has a space).
    SnapshotKey,
    |v| non_empty(&v, "snapshot key")
);
text_type!(
    /// The name of a write in progress; any text.
    ContentRef,
    |v| non_empty(&v, "content ref")
);
text_type!(
    /// A lease's id; any text.
    LeaseId,
    |v| non_empty(&v, "lease id")
);
text_type!(
    /// The name under which a snapshotter is loaded, such as `overlayfs`.
    SnapshotterName,
    |v| non_empty(&v, "snapshotter name")
);
text_type!(
    /// The name of an activated list of mounts; any text, for a task the id of its container.
    MountName,
    |v| non_empty(&v, "mount name")
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn identifiers_follow_containerds_rule() {
        for good in ["a", "A-1", "moby", "plugins.moby", "a_b.c-d", &"x".repeat(76)] {
            assert!(check_identifier(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a.", "-a", "a--b", "a/b", "a b", "é", "..", &"x".repeat(77)] {
            assert!(check_identifier(bad).unwrap_err().is(Kind::InvalidArgument), "{bad}");
        }
    }

    #[test]
    fn names_take_what_identifiers_refuse() {
        let key = "extract-12-xx sha256:abc/../\n";
        assert_eq!(SnapshotKey::new(key).unwrap().as_str(), key);
        assert!(ImageName::new("docker.io/library/busybox:latest").is_ok());
        assert!(ContentRef::new("").is_err());
    }

    #[test]
    fn a_malformed_namespace_says_so() {
        let text = Namespace::new("a b").unwrap_err().message();
        assert!(text.starts_with("namespace validation: identifier \"a b\" must match"), "{text}");
        assert!(text.ends_with(": invalid argument"), "{text}");
    }
}
