//! How the store fails, and which kind each failure is to the domain.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use gantry_core::{Error, Kind};

/// A failure of the store. Cheap to clone: every transaction of a failed group gets it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system of the store is full; nothing was changed. Deletes still work.
    #[error("no space left for metadata: {what}; free disk space or delete images and snapshots")]
    Full {
        /// What was being done.
        what: String,
    },
    /// An operation on the store's files failed.
    #[error("metadata store: {what}")]
    Io {
        /// What was being done.
        what: String,
        /// The operating system's error.
        #[source]
        source: Arc<io::Error>,
    },
    /// What is on disk cannot be read. The directory is left as it is.
    #[error(
        "metadata store {path} is damaged ({detail}): keep a copy of the directory, move it away, \
         then start with the last export (`gantryd meta import`)"
    )]
    Corrupt {
        /// The store's directory or file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Another process has the store open.
    #[error("metadata store {path} is in use by another process: stop the other gantryd first")]
    Locked {
        /// The store's directory or file.
        path: PathBuf,
    },
    /// An export cannot be read or imported.
    #[error("metadata export {path}, line {line}: {detail}")]
    Export {
        /// The export.
        path: PathBuf,
        /// Where, from 1; 0 when it has no line.
        line: u64,
        /// What is wrong.
        detail: String,
    },
    /// An import into a store that holds something.
    #[error("the metadata store is not empty (table {table}): import into a new one")]
    NotEmpty {
        /// A table with entries.
        table: &'static str,
    },
    /// The directory holds the data of another backend.
    #[error(
        "metadata store {path} was made with backend {found}, not {wanted}: set the backend back, \
         or export with {found} and import with {wanted}"
    )]
    OtherBackend {
        /// The store's directory.
        path: PathBuf,
        /// The backend whose files are there.
        found: &'static str,
        /// The backend it was to be opened with.
        wanted: &'static str,
    },
    /// A value above [`super::VALUE_BYTES_MAX`] or a key above [`super::KEY_BYTES_MAX`].
    #[error("{what} in table {table} has {bytes} bytes, at most {max} are stored")]
    TooLarge {
        /// "key" or "value".
        what: &'static str,
        /// The table's name.
        table: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A table that the store was not opened with.
    #[error("metadata table {table} is not registered")]
    UnknownTable {
        /// The table's name.
        table: String,
    },
    /// A transaction panicked; it alone was discarded.
    #[error("metadata transaction panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// The store is closed, or closing.
    #[error("metadata store is closed")]
    Closed,
    /// An update from inside the writer thread would wait for itself.
    #[error("metadata update from within the writer thread")]
    Reentrant,
    /// The store refuses everything after a failure it could not undo; reopening heals it.
    #[error("metadata store stopped after a failure ({detail}); restart gantryd")]
    Stopped {
        /// The first failure.
        detail: String,
    },
    /// A failure inside the backend that has no better name.
    #[error("metadata store: {what}: {detail}")]
    Backend {
        /// What was being done.
        what: &'static str,
        /// The backend's text.
        detail: String,
    },
}

impl StoreError {
    /// An operating system's error: [`StoreError::Full`] when disk or quota is exhausted.
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { what: what.into() }
            }
            _ => Self::Io { what: what.into(), source: Arc::new(source) },
        }
    }

    /// After the failure `cause`, taking the commit back failed, too: what commits get until it
    /// works. A full disk stays one to the caller.
    pub(crate) fn stopped(cause: &Self, again: &Self) -> Self {
        match cause {
            Self::Full { what } => Self::Full { what: format!("{what}; {again}") },
            other => Self::Stopped { detail: format!("{other}; {again}") },
        }
    }

    /// What a failpoint stands for: its argument is an errno, EIO when there is none. Used where
    /// failpoints are compiled in.
    #[allow(dead_code)]
    pub(crate) fn injected(errno: Option<String>) -> Self {
        Self::io("failpoint", Self::injected_errno(errno))
    }

    /// As [`StoreError::injected`], as the operating system gives it.
    #[allow(dead_code)]
    pub(crate) fn injected_errno(errno: Option<String>) -> io::Error {
        let errno = errno.and_then(|text| text.parse().ok()).unwrap_or(5);
        io::Error::from_raw_os_error(errno)
    }

    /// The kind the domain sees.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Full { .. } => Kind::ResourceExhausted,
            Self::NotEmpty { .. } => Kind::FailedPrecondition,
            Self::Corrupt { .. } | Self::Export { .. } => Kind::DataLoss,
            Self::Locked { .. } | Self::OtherBackend { .. } => Kind::FailedPrecondition,
            Self::TooLarge { .. } => Kind::InvalidArgument,
            Self::Closed | Self::Stopped { .. } => Kind::Unavailable,
            Self::Io { .. } => Kind::Unknown,
            Self::UnknownTable { .. }
            | Self::Panicked { .. }
            | Self::Reentrant
            | Self::Backend { .. } => Kind::Internal,
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        // The text of this link becomes the context; its source, if any, the rest of the chain.
        let (kind, text) = (error.kind(), error.to_string());
        match error {
            StoreError::Io { source, .. } => Self::caused(kind, text, source),
            _ => Self::new(kind, text),
        }
    }
}
