//! The tar format, both ways: ustar, PAX and GNU archives in, PAX archives out.
//!
//! What counts as an archive and what it says is decided here once, the way Go's `archive/tar`
//! decides it, because scanners, registries and other runtimes read layers with that parser: an
//! archive that says one thing to them and another to us is how files get smuggled past a scan
//! (CVE-2025-62518). The `tar` crate is not used: it splits PAX records at newlines, so binary
//! values (`security.capability`) are lost, has no bound on extension headers, and knows no
//! negative or sub-second times.
//!
//! Invariants: no allocation grows with a number read from the archive alone; every extension
//! header is bounded by [`EXTENSION_BYTES_MAX`]; the size of data is that of the last PAX `size`
//! record, else of the header, and nothing for links, devices and directories.
//!
//! Must not: touch a file system.

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub(crate) use reader::Reader;
pub(crate) use writer::Writer;

use std::io;

/// Unit of the format: headers are one block, data is padded to whole ones.
pub(crate) const BLOCK: usize = 512;

/// Most bytes of one PAX or GNU extension header; Go's parser has the same bound.
pub const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// Prefix of the PAX keys that hold extended attributes.
pub(crate) const PAX_XATTR: &[u8] = b"SCHILY.xattr.";

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Regular,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
    /// A type flag that makes nothing known.
    Other(u8),
}

impl EntryKind {
    /// Whether data may follow the header; for the others Go's parser takes the size as zero.
    fn has_data(self) -> bool {
        matches!(self, Self::Regular | Self::Other(_))
    }
}

/// Seconds and nanoseconds since the epoch; before it, `nanos` still counts forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time {
    pub(crate) secs: i64,
    pub(crate) nanos: u32,
}

/// A stretch of data within a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// One file of an archive, as its headers describe it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) kind: EntryKind,
    /// The name as written, neither cleaned nor checked.
    pub(crate) name: Vec<u8>,
    /// The target of a link as written.
    pub(crate) link: Vec<u8>,
    /// Size of the file, holes included.
    pub(crate) size: u64,
    /// Permission, set-id and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: i64,
    pub(crate) gid: i64,
    pub(crate) mtime: Time,
    pub(crate) atime: Option<Time>,
    pub(crate) major: i64,
    pub(crate) minor: i64,
    /// Extended attributes in byte order of their names.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data goes when the file has holes.
    pub(crate) sparse: Option<Vec<Segment>>,
}

/// Why bytes are no archive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// The bytes could not be had; what they say is unknown.
    #[error("read archive")]
    Read(#[source] io::Error),
    #[error("invalid archive: {what} (header at byte {offset})")]
    Invalid { what: String, offset: u64 },
    #[error("invalid archive: it ends within {within}")]
    Truncated { within: &'static str },
}

impl From<ArchiveError> for gantry_core::Error {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Read(source) => crate::pipe::unwrap_error(source),
            other => Self::invalid_argument(other.to_string()),
        }
    }
}
