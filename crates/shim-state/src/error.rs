//! Why a file of a shim could not be read or written.

use std::io;

/// A failure with a journal or a state page.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file begins with something else.
    #[error("not a {0}")]
    Foreign(&'static str),
    /// Written by a newer version.
    #[error("{file} has version {found}, this program reads version {known}")]
    Version {
        /// Which kind of file.
        file: &'static str,
        /// The version it has.
        found: u32,
        /// The version known here.
        known: u32,
    },
    /// What it says contradicts its checksum.
    #[error("{0} is damaged")]
    Damaged(&'static str),
    /// An id is longer than containerd allows.
    #[error("id of {0} bytes does not fit a record")]
    LongId(usize),
    /// The system refused.
    #[error("{context}")]
    Io {
        /// What was tried.
        context: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(context: impl Into<String>, source: io::Error) -> Self {
        Self::Io { context: context.into(), source }
    }

    /// Whether the file is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
