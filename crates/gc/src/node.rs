//! What is collected: objects by kind and name, within a namespace.

/// An object within a namespace.
///
/// Names are kept as text and not checked: a label may name what never existed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// A lease, by its id.
    Lease(String),
    /// An image, by its name.
    Image(String),
    /// A container, by its id; never collected.
    Container(String),
    /// A namespace's record of a blob, by its digest.
    Content(String),
    /// A write in progress, by its ref.
    Ingest(String),
    /// A snapshot.
    Snapshot {
        /// The snapshotter's name.
        snapshotter: String,
        /// The key, or the name of a committed one.
        key: String,
    },
    /// An open stream, by its id.
    Stream(String),
    /// An activated mount, by its name.
    Mount(String),
}

/// An object and its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// The namespace.
    pub namespace: String,
    /// The object.
    pub object: Object,
}
