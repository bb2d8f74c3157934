//! The graph, told record by record.
//!
//! Nodes are numbered as they are first named, by a record or by an edge, so that tables may come
//! in any order and in pieces. Telling a record twice unites what was told.

use std::collections::HashMap;

use gantry_core::{Labels, Timestamp};

use crate::condition::UsedAt;
use crate::label::{self, Label};
use crate::node::{Node, Object};

/// Everything one collection looks at.
#[derive(Debug)]
pub struct View {
    pub(crate) now: Timestamp,
    pub(crate) nodes: Vec<Slot>,
    pub(crate) conditions: Vec<Condition>,
    numbers: HashMap<Node, usize>,
}

/// What is known of one node.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) node: Node,
    /// Whether a record of it was told; otherwise it was only named.
    pub(crate) recorded: bool,
    pub(crate) root: bool,
    /// For a lease: its labels are not to be followed.
    pub(crate) flat: bool,
    /// Edges of the record's own fields; also followed flatly.
    pub(crate) fields: Vec<usize>,
    /// Edges that labels made; not followed flatly.
    pub(crate) labels: Vec<usize>,
    pub(crate) used_at: Vec<Timestamp>,
}

/// `parent` refers to `snapshot` while one of the tests holds.
#[derive(Debug)]
pub(crate) struct Condition {
    pub(crate) parent: usize,
    pub(crate) snapshot: usize,
    pub(crate) tests: Vec<UsedAt>,
}

/// Which labels count on a record besides references.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Content,
    Snapshot,
    Image,
    Container,
    Mount,
}

impl View {
    /// An empty view at the time `now`.
    pub fn new(now: Timestamp) -> Self {
        Self { now, nodes: Vec::new(), conditions: Vec::new(), numbers: HashMap::new() }
    }

    /// A lease. Its resources are told by [`View::leased`].
    pub fn lease(&mut self, namespace: &str, id: &str, labels: &Labels) {
        let live = !self.has_expired(labels);
        let lease = self.record(namespace, Object::Lease(id.to_owned()));
        self.nodes[lease].root |= live;
        self.nodes[lease].flat |= label::is_flat(labels);
    }

    /// A resource that a lease holds, whether or not it exists.
    pub fn leased(&mut self, namespace: &str, lease: &str, resource: Object) {
        let lease = self.number(namespace, Object::Lease(lease.to_owned()));
        self.field(lease, namespace, resource);
    }

    /// An image and the digest it points to.
    pub fn image(&mut self, namespace: &str, name: &str, target: &str, labels: &Labels) {
        let live = !self.has_expired(labels);
        let image = self.record(namespace, Object::Image(name.to_owned()));
        self.nodes[image].root |= live;
        self.field(image, namespace, Object::Content(target.to_owned()));
        self.labelled(image, namespace, labels, On::Image);
    }

    /// A namespace's record of a blob.
    pub fn content(&mut self, namespace: &str, digest: &str, labels: &Labels) {
        let content = self.record(namespace, Object::Content(digest.to_owned()));
        self.labelled(content, namespace, labels, On::Content);
    }

    /// A write in progress. `expires` is its own stamp: a root until then; without one, only a
    /// lease keeps it. `shared` is the blob of another namespace that it was opened on.
    pub fn ingest(
        &mut self,
        namespace: &str,
        reference: &str,
        expires: Option<Timestamp>,
        shared: Option<&str>,
    ) {
        let live = expires.is_some_and(|at| self.now <= at);
        let ingest = self.record(namespace, Object::Ingest(reference.to_owned()));
        self.nodes[ingest].root |= live;
        if let Some(digest) = shared {
            self.field(ingest, namespace, Object::Content(digest.to_owned()));
        }
    }

    /// A snapshot and the name of its parent.
    pub fn snapshot(
        &mut self,
        namespace: &str,
        snapshotter: &str,
        key: &str,
        parent: Option<&str>,
        labels: &Labels,
    ) {
        let of = |key: &str| Object::Snapshot {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let snapshot = self.record(namespace, of(key));
        if let Some(parent) = parent.filter(|p| !p.is_empty()) {
            self.field(snapshot, namespace, of(parent));
        }
        self.labelled(snapshot, namespace, labels, On::Snapshot);
    }

    /// A container and its snapshot; an empty `snapshotter` is none.
    pub fn container(
        &mut self,
        namespace: &str,
        id: &str,
        snapshotter: &str,
        snapshot_key: &str,
        labels: &Labels,
    ) {
        let container = self.record(namespace, Object::Container(id.to_owned()));
        self.nodes[container].root = true;
        if !snapshotter.is_empty() {
            let object = Object::Snapshot {
                snapshotter: snapshotter.to_owned(),
                key: snapshot_key.to_owned(),
            };
            self.field(container, namespace, object);
        }
        self.labelled(container, namespace, labels, On::Container);
    }

    /// A sandbox: no node of its own, but what its labels refer to is a root.
    pub fn sandbox(&mut self, namespace: &str, labels: &Labels) {
        for label in label::read(labels) {
            if let Label::Refers(object) = label {
                let target = self.number(namespace, object);
                self.nodes[target].root = true;
            }
        }
    }

    /// An open stream and the lease it was opened under.
    pub fn stream(&mut self, namespace: &str, id: &str, lease: Option<&str>) {
        let stream = self.record(namespace, Object::Stream(id.to_owned()));
        match lease {
            Some(lease) => self.leased(namespace, lease, Object::Stream(id.to_owned())),
            None => self.nodes[stream].root = true,
        }
    }

    /// An activated mount and the lease it was activated under.
    pub fn mount(&mut self, namespace: &str, name: &str, lease: Option<&str>, labels: &Labels) {
        let mount = self.record(namespace, Object::Mount(name.to_owned()));
        let has_parent = label::read(labels).any(|l| matches!(l, Label::ReferredBy(_)));
        match lease {
            Some(lease) => self.leased(namespace, lease, Object::Mount(name.to_owned())),
            // With a back reference it lives as long as what it names, without one until it is
            // deactivated.
            None => self.nodes[mount].root |= !has_parent,
        }
        self.labelled(mount, namespace, labels, On::Mount);
    }

    /// Makes `node` a root: it changed after the other records were told, so whatever it reaches
    /// stays this time.
    pub fn pin(&mut self, node: Node) {
        let number = self.number(&node.namespace, node.object);
        self.nodes[number].root = true;
    }

    fn has_expired(&self, labels: &Labels) -> bool {
        label::expiry(labels).is_some_and(|at| self.now > at)
    }

    fn labelled(&mut self, record: usize, namespace: &str, labels: &Labels, on: On) {
        for label in label::read(labels) {
            match label {
                Label::Root if matches!(on, On::Content | On::Snapshot) => {
                    self.nodes[record].root = true;
                }
                Label::Refers(object) if on != On::Mount => {
                    let child = self.number(namespace, object);
                    self.nodes[record].labels.push(child);
                }
                Label::ReferredBy(object) => {
                    let parent = self.number(namespace, object);
                    self.nodes[parent].labels.push(record);
                }
                Label::RefersWhile(object, tests) if matches!(on, On::Content | On::Image) => {
                    let snapshot = self.number(namespace, object);
                    self.conditions.push(Condition { parent: record, snapshot, tests });
                }
                Label::UsedAt(time) if on == On::Snapshot => {
                    self.nodes[record].used_at.push(time);
                }
                Label::Root | Label::Refers(_) | Label::RefersWhile(..) | Label::UsedAt(_) => {}
            }
        }
    }

    fn field(&mut self, parent: usize, namespace: &str, object: Object) {
        let child = self.number(namespace, object);
        self.nodes[parent].fields.push(child);
    }

    fn record(&mut self, namespace: &str, object: Object) -> usize {
        let number = self.number(namespace, object);
        self.nodes[number].recorded = true;
        number
    }

    fn number(&mut self, namespace: &str, object: Object) -> usize {
        let node = Node { namespace: namespace.to_owned(), object };
        if let Some(number) = self.numbers.get(&node) {
            return *number;
        }
        let number = self.nodes.len();
        self.nodes.push(Slot {
            node: node.clone(),
            recorded: false,
            root: false,
            flat: false,
            fields: Vec::new(),
            labels: Vec::new(),
            used_at: Vec::new(),
        });
        self.numbers.insert(node, number);
        number
    }
}
