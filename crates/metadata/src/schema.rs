//! Every table of the metadata store, and how their keys are built: the one place.
//!
//! Keys are bytes and list in byte order. A key is a sequence of parts; each part but the last ends
//! itself: an identifier by a zero byte, which it cannot hold, any other text by a length in front
//! ([`Key::sized`]). The last part stands raw, so a table lists in the byte order of the names
//! that clients see. Values are messages of `gantry.store.v1`, see [`crate::codec`].
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | name | schema version and counters |
//! | `namespace` | namespace | `NamespaceRecord` |
//! | `container` | namespace, id | `ContainerRecord` |
//! | `image` | namespace, name | `ImageRecord` |
//! | `lease` | namespace, id | `LeaseRecord` |
//! | `lease_resource` | namespace, sized lease, sized kind, resource | empty |
//! | `blob` | digest | `BlobRecord` |
//! | `content` | namespace, digest | `ContentRecord` |
//! | `ingest` | namespace, ref | `IngestRecord` |
//! | `snapshot` | namespace, sized snapshotter, key | `SnapshotRecord` |
//! | `snapshot_child` | namespace, sized snapshotter, sized parent, child | empty |
//! | `sandbox` | namespace, id | `SandboxRecord` |
//! | `task` | namespace, id | `TaskRecord` |
//! | `mount` | namespace, name | `MountRecord` |
//! | `event` | sequence number | `EventRecord` |
//! | `exit` | sequence number | one byte: why an event that is an exit stays, see [`crate::journal`] |
//! | `intent` | sequence number | `IntentRecord` |
//! | `network`, `endpoint`, `volume` | reserved | |
//! | `chunk` | table, sized key, index | a piece of a value over the size limit |

use crate::kv::Table;

/// The version of the schema that this build writes.
pub const VERSION: u32 = 1;

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: Table = Table($text);)*
        /// All tables, in a fixed order.
        pub const TABLES: &[Table] = &[$($name),*];
    };
}

tables! {
    /// Schema version and counters.
    META = "meta";
    /// Namespaces and their labels.
    NAMESPACE = "namespace";
    /// Containers.
    CONTAINER = "container";
    /// Images.
    IMAGE = "image";
    /// Leases.
    LEASE = "lease";
    /// What leases hold.
    LEASE_RESOURCE = "lease_resource";
    /// Blobs on disk, shared by all namespaces.
    BLOB = "blob";
    /// Blobs as namespaces see them.
    CONTENT = "content";
    /// Writes in progress.
    INGEST = "ingest";
    /// Snapshots.
    SNAPSHOT = "snapshot";
    /// Which snapshots stand on which.
    SNAPSHOT_CHILD = "snapshot_child";
    /// Sandboxes.
    SANDBOX = "sandbox";
    /// Tasks.
    TASK = "task";
    /// Activated mounts.
    MOUNT = "mount";
    /// The journal of events.
    EVENT = "event";
    /// Events that outlive the journal's trimming.
    EXIT = "exit";
    /// What is about to be made outside the store.
    INTENT = "intent";
    /// Reserved for networks.
    NETWORK = "network";
    /// Reserved for endpoints of networks.
    ENDPOINT = "endpoint";
    /// Reserved for volumes.
    VOLUME = "volume";
    /// Pieces of values over the size limit.
    CHUNK = "chunk";
}

/// Builds a key part by part.
#[derive(Clone, Debug, Default)]
pub struct Key(Vec<u8>);

impl Key {
    /// An empty key.
    pub fn new() -> Self {
        Self::default()
    }
    /// A key that begins with an identifier.
    pub fn of(identifier: impl AsRef<str>) -> Self {
        Self::new().identifier(identifier)
    }
    /// Adds an identifier, ended by a zero byte.
    #[must_use]
    pub fn identifier(mut self, part: impl AsRef<str>) -> Self {
        self.0.extend_from_slice(part.as_ref().as_bytes());
        self.0.push(0);
        self
    }
    /// Adds any text with its length in front (four bytes, big endian).
    #[must_use]
    pub fn sized(mut self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        // Texts come from messages of at most 16 MiB, so the length always fits.
        let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(part);
        self
    }
    /// Ends the key with `part`, raw.
    pub fn last(mut self, part: impl AsRef<[u8]>) -> Vec<u8> {
        self.0.extend_from_slice(part.as_ref());
        self.0
    }
    /// The key as it stands: a prefix of all keys that go on from here.
    pub fn prefix(self) -> Vec<u8> {
        self.0
    }
}

/// Takes a key apart in the order in which it was built.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    /// Begins at the first part of `key`.
    pub fn of(key: &'a [u8]) -> Self {
        Self(key)
    }
    /// The next part as an identifier; `None` when the key does not have that form.
    pub fn identifier(&mut self) -> Option<&'a str> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let (part, rest) = self.0.split_at(end);
        self.0 = rest.get(1..)?;
        std::str::from_utf8(part).ok()
    }
    /// The next part as a sized text.
    pub fn sized(&mut self) -> Option<&'a str> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let part = rest.get(..length)?;
        self.0 = rest.get(length..)?;
        std::str::from_utf8(part).ok()
    }
    /// All that is left.
    pub fn last(self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_comes_apart_as_it_was_built(ns in "[a-z0-9]{1,8}", mid in ".{0,12}", last in ".{0,12}") {
            let key = Key::of(&ns).sized(&mid).last(&last);
            let mut parts = Parts::of(&key);
            prop_assert_eq!(parts.identifier(), Some(ns.as_str()));
            prop_assert_eq!(parts.sized(), Some(mid.as_str()));
            prop_assert_eq!(parts.last(), Some(last.as_str()));
        }

        #[test]
        fn no_key_lies_below_the_prefix_of_another_part(a in ".{0,6}", b in ".{0,6}", last in ".{0,6}") {
            let below = Key::of("n").sized(&a).last(&last);
            let prefix = Key::of("n").sized(&b).prefix();
            prop_assert_eq!(below.starts_with(&prefix), a == b);
        }

        #[test]
        fn names_list_in_byte_order(mut names in proptest::collection::vec(".{0,8}", 0..8)) {
            let mut keys: Vec<_> = names.iter().map(|n| Key::of("n").last(n)).collect();
            keys.sort();
            names.sort();
            let listed: Vec<_> = keys.iter().map(|k| {
                let mut parts = Parts::of(k);
                parts.identifier();
                parts.last().unwrap().to_owned()
            }).collect();
            prop_assert_eq!(listed, names);
        }
    }

    #[test]
    fn no_table_is_named_twice() {
        let mut names: Vec<_> = TABLES.iter().map(|t| t.0).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLES.len());
    }
}
