//! What a shim leaves in its bundle for whoever comes after: the daemon that was away, the
//! `delete` command, an operator.
//!
//! | file | module | what it answers |
//! |---|---|---|
//! | `exits.journal` | [`journal`] | which exits has no daemon acknowledged yet? |
//! | `state.page` | [`page`] | what is the task's state, without asking its shim? |
//!
//! Both have one writer (the shim) and any number of readers, which need no lock. Both are made for
//! the death of the writer at any instruction; neither is made for power loss, because a container
//! does not survive that either: nothing is synced, and each file carries the boot id so that what
//! an earlier boot left is known for what it is.
//!
//! All numbers are little-endian. A reader refuses a version it does not know.
//! Must not: know protobuf, tokio, or either program.

pub mod checksum;
mod error;
pub mod journal;
pub mod page;

pub use error::Error;
pub use journal::{Exit, Journal};
pub use page::{Identity, Page, State, Status};

/// Name of the exit journal in the bundle.
pub const JOURNAL_FILE: &str = "exits.journal";
/// Name of the state page in the bundle.
pub const PAGE_FILE: &str = "state.page";

/// A point in time: seconds and nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// Reads and writes numbers at fixed places; out of range reads as zero and writes nothing, which
/// a fixed layout never does.
mod field {
    pub(crate) fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
        bytes.get(at..at + N).and_then(|slice| slice.try_into().ok()).unwrap_or([0; N])
    }
    pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
        if let Some(place) = bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }
    pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(get(bytes, at))
    }
    pub(crate) fn get_u64(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(get(bytes, at))
    }
}
