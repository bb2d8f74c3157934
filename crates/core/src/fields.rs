//! Field masks of the Update calls.
//!
//! No mask, or one without paths, means "replace everything mutable"; that is containerd's rule
//! and the Go client relies on it, for it always sends a mask message, often an empty one.

/// Paths that an update touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldMask(Vec<String>);

impl FieldMask {
    /// A mask of these paths.
    pub fn new(paths: Vec<String>) -> Self {
        Self(paths)
    }
    /// Whether the update replaces everything.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }
    /// The paths, split at the first dot: `labels.a.b` is (`labels`, `a.b`).
    pub fn paths(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().map(|path| match path.split_once('.') {
            Some((head, rest)) => (head, Some(rest)),
            None => (path.as_str(), None),
        })
    }
}
