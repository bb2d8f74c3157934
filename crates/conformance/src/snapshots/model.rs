//! A naive model of a snapshotter's records: a map, and the rules in the order in which they are
//! asked. Any sequence of calls must fare on the implementation as it does here.

use std::collections::BTreeMap;

use gantry_core::filter::Filters;
use gantry_core::snapshot::{SnapshotKind, Snapshotter};
use gantry_core::{Cx, Kind, Labels, Result, SnapshotKey};

use super::key;

/// A call. Texts stand for keys and names alike.
#[derive(Clone, Debug)]
pub enum Call {
    /// Prepare of a key on a parent.
    Prepare(String, Option<String>),
    /// View of a parent under a key.
    View(String, Option<String>),
    /// Commit to a name, of a key, with a parent to rebase on.
    Commit(String, String, Option<String>),
    /// Removal.
    Remove(String),
}

/// The records as they should be: name to kind and parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    snapshots: BTreeMap<String, (SnapshotKind, Option<String>)>,
    rebases: bool,
}

impl Model {
    /// Nothing, for a snapshotter that rebases or does not.
    pub fn new(rebases: bool) -> Self {
        Self { snapshots: BTreeMap::new(), rebases }
    }

    /// How many snapshots there are.
    pub fn len(&self) -> usize {
        self.snapshots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty()
    }

    fn parent_error(&self, parent: Option<&String>) -> Option<Kind> {
        match self.snapshots.get(parent?) {
            None => Some(Kind::NotFound),
            Some((SnapshotKind::Committed, _)) => None,
            Some(_) => Some(Kind::InvalidArgument),
        }
    }

    /// What `call` does; `None` is success.
    pub fn step(&mut self, call: &Call) -> Option<Kind> {
        match call {
            Call::Prepare(name, parent) => self.open(SnapshotKind::Active, name, parent),
            Call::View(name, parent) => self.open(SnapshotKind::View, name, parent),
            Call::Commit(name, from, parent) => self.commit(name, from, parent.as_ref()),
            Call::Remove(name) => {
                if !self.snapshots.contains_key(name) {
                    return Some(Kind::NotFound);
                }
                if self.snapshots.values().any(|(_, parent)| parent.as_ref() == Some(name)) {
                    return Some(Kind::FailedPrecondition);
                }
                self.snapshots.remove(name);
                None
            }
        }
    }

    fn open(&mut self, kind: SnapshotKind, name: &str, parent: &Option<String>) -> Option<Kind> {
        if self.snapshots.contains_key(name) {
            return Some(Kind::AlreadyExists);
        }
        if let Some(error) = self.parent_error(parent.as_ref()) {
            return Some(error);
        }
        self.snapshots.insert(name.to_owned(), (kind, parent.clone()));
        None
    }

    fn commit(&mut self, name: &str, from: &str, parent: Option<&String>) -> Option<Kind> {
        if self.snapshots.contains_key(name) {
            return Some(Kind::AlreadyExists);
        }
        let parent = match self.snapshots.get(from) {
            None => return Some(Kind::NotFound),
            Some((SnapshotKind::Active, None)) => {
                if parent.is_some() && !self.rebases {
                    return Some(Kind::NotImplemented);
                }
                parent
            }
            Some((SnapshotKind::Active, Some(has))) => {
                if parent.is_some_and(|asked| asked != has) {
                    return Some(Kind::InvalidArgument);
                }
                Some(has)
            }
            Some(_) => return Some(Kind::FailedPrecondition),
        };
        if let Some(error) = self.parent_error(parent) {
            return Some(error);
        }
        let parent = parent.cloned();
        self.snapshots.remove(from);
        self.snapshots.insert(name.to_owned(), (SnapshotKind::Committed, parent));
        None
    }
}

/// Makes each call on both and compares what comes of it.
///
/// # Panics
/// At the first difference.
pub async fn agree(snapshotter: &dyn Snapshotter, cx: &Cx, calls: &[Call]) -> Model {
    let mut model = Model::new(snapshotter.capabilities().contains(&"rebase"));
    for call in calls {
        let expected = model.step(call);
        let outcome = make(snapshotter, cx, call).await;
        let got = outcome.as_ref().err().map(gantry_core::Error::kind);
        assert_eq!(got, expected, "{call:?} on {model:?}: {outcome:?}");
        let listed = snapshotter.list(cx, &Filters::default()).await.unwrap().into_iter();
        let listed: BTreeMap<_, _> = listed
            .map(|i| (i.name.into_string(), (i.kind, i.parent.map(SnapshotKey::into_string))))
            .collect();
        assert_eq!(listed, model.snapshots, "after {call:?}");
    }
    model
}

async fn make(snapshotter: &dyn Snapshotter, cx: &Cx, call: &Call) -> Result<()> {
    let none = Labels::default();
    match call {
        Call::Prepare(name, parent) => {
            let parent = parent.as_deref().map(key);
            snapshotter.prepare(cx, &key(name), parent.as_ref(), none).await.map(drop)
        }
        Call::View(name, parent) => {
            let parent = parent.as_deref().map(key);
            snapshotter.view(cx, &key(name), parent.as_ref(), none).await.map(drop)
        }
        Call::Commit(name, from, parent) => {
            let parent = parent.as_deref().map(key);
            snapshotter.commit(cx, &key(name), &key(from), parent.as_ref(), none).await
        }
        Call::Remove(name) => snapshotter.remove(cx, &key(name)).await,
    }
}
