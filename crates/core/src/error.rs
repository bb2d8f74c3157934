//! How a call fails: a kind, a chain of contexts, and the text that clients see.
//!
//! containerd's clients act on the code and, here and there, on the text. The text is the chain
//! `context: detail: <class>`, where `<class>` is the fixed phrase of the kind and stands exactly
//! once, at the end: Go clients strip one trailing class and put it back. [`Error::message`]
//! builds that text; [`Kind::class`] holds the phrases.
//!
//! Invariants: wrapping an error in context keeps its kind; [`std::fmt::Display`] prints one link
//! of the chain and never its source.

use std::error::Error as StdError;
use std::fmt;

/// Result of everything that can fail in the domain.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is; maps one to one to the gRPC codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A plain error without a class; clients see code Unknown.
    Unknown,
    /// The request itself is wrong, whatever the state of the system.
    InvalidArgument,
    /// The named object does not exist.
    NotFound,
    /// The object to be made exists.
    AlreadyExists,
    /// The caller may not do this.
    PermissionDenied,
    /// A disk, quota or queue is full.
    ResourceExhausted,
    /// The system is not in the state the call needs.
    FailedPrecondition,
    /// Lost against a concurrent call.
    Aborted,
    /// An offset beyond the end.
    OutOfRange,
    /// Not provided, or not for these arguments.
    NotImplemented,
    /// A broken invariant of our own.
    Internal,
    /// Try again later: nothing is wrong with the request.
    Unavailable,
    /// Stored data is lost or corrupt.
    DataLoss,
    /// Credentials are missing or wrong.
    Unauthenticated,
    /// The caller gave up.
    Cancelled,
    /// A bound on a wait was reached.
    DeadlineExceeded,
}

impl Kind {
    /// The phrase that ends the text of an error of this kind; empty for [`Kind::Unknown`].
    pub fn class(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::InvalidArgument => "invalid argument",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::PermissionDenied => "permission denied",
            Self::ResourceExhausted => "resource exhausted",
            Self::FailedPrecondition => "failed precondition",
            Self::Aborted => "aborted",
            Self::OutOfRange => "out of range",
            Self::NotImplemented => "not implemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::DataLoss => "data loss",
            Self::Unauthenticated => "unauthorized",
            Self::Cancelled => "context canceled",
            Self::DeadlineExceeded => "context deadline exceeded",
        }
    }
}

/// A failure of a domain operation.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident,)*) => {
        $($(#[$doc])* pub fn $name(context: impl Into<String>) -> Self {
            Self::new(Kind::$kind, context)
        })*
    };
}

impl Error {
    /// An error of `kind`; `context` says what failed, without the class text.
    pub fn new(kind: Kind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    constructors! {
        /// See [`Kind::Unknown`].
        unknown => Unknown,
        /// See [`Kind::InvalidArgument`].
        invalid_argument => InvalidArgument,
        /// See [`Kind::NotFound`].
        not_found => NotFound,
        /// See [`Kind::AlreadyExists`].
        already_exists => AlreadyExists,
        /// See [`Kind::PermissionDenied`].
        permission_denied => PermissionDenied,
        /// See [`Kind::ResourceExhausted`].
        resource_exhausted => ResourceExhausted,
        /// See [`Kind::FailedPrecondition`].
        failed_precondition => FailedPrecondition,
        /// See [`Kind::Aborted`].
        aborted => Aborted,
        /// See [`Kind::OutOfRange`].
        out_of_range => OutOfRange,
        /// See [`Kind::NotImplemented`].
        not_implemented => NotImplemented,
        /// See [`Kind::Internal`].
        internal => Internal,
        /// See [`Kind::Unavailable`].
        unavailable => Unavailable,
        /// See [`Kind::DataLoss`].
        data_loss => DataLoss,
        /// See [`Kind::Unauthenticated`].
        unauthenticated => Unauthenticated,
        /// See [`Kind::Cancelled`].
        cancelled => Cancelled,
        /// See [`Kind::DeadlineExceeded`].
        deadline_exceeded => DeadlineExceeded,
    }

    /// An error of `kind` caused by `source`, whose text follows the context.
    pub fn caused(
        kind: Kind,
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { kind, context: context.into(), source: Some(source.into()) }
    }

    /// An error of the operating system. A full disk or quota is [`Kind::ResourceExhausted`],
    /// anything else [`Kind::Unknown`]: an absent file of ours is not an absent object of theirs.
    pub fn io(context: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        let kind = match source.kind() {
            E::StorageFull | E::QuotaExceeded => Kind::ResourceExhausted,
            _ => Kind::Unknown,
        };
        Self::caused(kind, context, source)
    }

    /// The same failure seen from further out: `context` goes in front, the kind stays.
    #[must_use]
    pub fn context(self, context: impl Into<String>) -> Self {
        Self { kind: self.kind, context: context.into(), source: Some(Box::new(self)) }
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the failure is of `kind`.
    pub fn is(&self, kind: Kind) -> bool {
        self.kind == kind
    }

    /// The whole chain with the class text once at its end, as clients see it.
    pub fn message(&self) -> String {
        let mut links = vec![self.context.as_str()];
        let mut texts = Vec::new();
        let mut next: Option<&(dyn StdError + 'static)> =
            self.source.as_deref().map(|e| e as &(dyn StdError + 'static));
        while let Some(error) = next {
            match error.downcast_ref::<Error>() {
                Some(ours) => links.push(&ours.context),
                None => texts.push(error.to_string()),
            }
            next = error.source();
        }
        let class = self.kind.class();
        let mut parts: Vec<&str> = links;
        parts.extend(texts.iter().map(String::as_str));
        parts.retain(|part| !part.is_empty());
        let ended = parts
            .last()
            .is_some_and(|last| *last == class || last.ends_with(&format!(": {class}")));
        if !class.is_empty() && !ended {
            parts.push(class);
        }
        parts.join(": ")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.context.is_empty() { self.kind.class() } else { &self.context })
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

/// Adds context to any result whose error converts into [`Error`].
pub trait ResultExt<T> {
    /// Wraps the error, if there is one, in `context`.
    fn context(self, context: impl Into<String>) -> Result<T>;
    /// As [`ResultExt::context`], building the text only on failure.
    fn with_context<S: Into<String>>(self, context: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for std::result::Result<T, E> {
    fn context(self, context: impl Into<String>) -> Result<T> {
        self.map_err(|e| e.into().context(context))
    }
    fn with_context<S: Into<String>>(self, context: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| e.into().context(context()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_stands_once_at_the_end() {
        let inner = Error::not_found("container \"x\" in namespace \"n\"");
        assert_eq!(inner.message(), "container \"x\" in namespace \"n\": not found");
        let outer = inner.context("load task");
        assert_eq!(outer.kind(), Kind::NotFound);
        assert_eq!(outer.message(), "load task: container \"x\" in namespace \"n\": not found");
        assert_eq!(Error::not_found("").message(), "not found");
        assert_eq!(Error::not_found("task x not found").message(), "task x not found: not found");
        assert_eq!(Error::unknown("boom").message(), "boom");
    }

    #[test]
    fn a_foreign_cause_stands_before_the_class() {
        let full = std::io::Error::from_raw_os_error(28);
        let error = Error::io("write blob", full).context("commit");
        assert_eq!(error.kind(), Kind::ResourceExhausted);
        let text = error.message();
        assert!(text.starts_with("commit: write blob: No space left"), "{text}");
        assert!(text.ends_with(": resource exhausted"), "{text}");
    }

    #[test]
    fn display_prints_one_link() {
        let error = Error::unknown("inner").context("outer");
        assert_eq!(error.to_string(), "outer");
    }
}
