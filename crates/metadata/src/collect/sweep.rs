//! Carrying a plan out, batch by batch, while clients go on writing.

use std::collections::VecDeque;

use gantry_core::model::Event;
use gantry_core::{ImageName, LeaseId, Namespace, Result, SnapshotKey, SnapshotterName};
use gantry_gc::{Node, Object};

use super::{cx_of, tell};
use crate::kv::Table;
use crate::schema::{CONTENT, IMAGE, INGEST, Key, MOUNT};
use crate::stores::{SnapshotRecords, images, leases};
use crate::{Tx, View};

/// A plan under way.
pub(super) struct Sweep {
    view: gantry_gc::View,
    left: VecDeque<Node>,
    kept: usize,
}

impl Sweep {
    pub(super) fn new(mut view: gantry_gc::View) -> Self {
        let plan = view.plan();
        let mut sweep = Self { view, left: VecDeque::new(), kept: plan.kept };
        sweep.order(plan.remove);
        sweep
    }

    /// Leases first, since they only hold; then what refers before what is referred to, as far as
    /// kinds tell. Within snapshots a child comes to its turn before its parent in
    /// [`Sweep::batch`].
    fn order(&mut self, mut nodes: Vec<Node>) {
        nodes.sort_by_key(|node| match node.object {
            Object::Lease(_) => 0,
            Object::Image(_) => 1,
            Object::Ingest(_) => 2,
            Object::Content(_) => 3,
            _ => 4,
        });
        self.left = nodes.into();
    }

    pub(super) fn is_done(&self) -> bool {
        self.left.is_empty()
    }
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    /// Takes in the rows written since the last look: each is a root, and what they reach stays.
    pub(super) fn overtaken(&mut self, view: View<'_>, noted: &[(Table, Vec<u8>)]) -> Result<()> {
        let mut any = false;
        for (table, key) in noted {
            any |= tell::noted(view, *table, key, &mut self.view)?;
        }
        if any {
            let plan = self.view.plan();
            self.kept = plan.kept;
            let doomed: std::collections::BTreeSet<_> = plan.remove.into_iter().collect();
            self.left.retain(|node| doomed.contains(node));
        }
        Ok(())
    }

    /// Removes at most `limit` records; returns them.
    pub(super) fn batch(&mut self, tx: &mut Tx<'_, '_>, limit: usize) -> Result<Vec<Node>> {
        tx.raw().draw_on_reserve();
        let mut gone = Vec::new();
        // A snapshot with children goes behind them; as each round removes some leaf, the number
        // of turns is bounded by the longest chain. Without progress the rest waits for the next
        // collection: a child has appeared meanwhile, or belongs to a node that stays.
        let mut deferred = 0;
        while gone.len() < limit && deferred < self.left.len() {
            let Some(node) = self.left.pop_front() else { break };
            if remove(tx, &node)? {
                gone.push(node);
                deferred = 0;
            } else {
                self.left.push_back(node);
                deferred += 1;
            }
        }
        if gone.is_empty() {
            self.left.clear();
        }
        Ok(gone)
    }
}

/// Removes one record; `false` when it must wait for its children. One that is gone is success.
fn remove(tx: &mut Tx<'_, '_>, node: &Node) -> Result<bool> {
    let namespace = Namespace::new(node.namespace.as_str())?;
    match &node.object {
        Object::Lease(id) => {
            let id = LeaseId::new(id.as_str())?;
            if tx.view().contains(crate::schema::LEASE, &leases::key(&namespace, &id))? {
                leases::remove(tx, &namespace, &id)?;
            }
        }
        Object::Image(name) => {
            let key = images::key(&namespace, &ImageName::new(name.as_str())?);
            if tx.view().contains(IMAGE, &key)? {
                tx.delete(IMAGE, &key)?;
                tx.emit(&namespace, Event::ImageDelete { name: name.clone() })?;
            }
        }
        Object::Snapshot { snapshotter, key } => {
            let records = SnapshotRecords::new(SnapshotterName::new(snapshotter.as_str())?);
            let key = SnapshotKey::new(key.as_str())?;
            if records.find(tx.view(), &namespace, &key)?.is_some() {
                if records.has_children(tx.view(), &namespace, &key)? {
                    return Ok(false);
                }
                records.remove(tx, &cx_of(&node.namespace)?, &key)?;
            }
        }
        // The blob itself goes with the content store's reclaim, once no namespace names it.
        Object::Content(digest) => tx.delete(CONTENT, &Key::of(&namespace).last(digest))?,
        Object::Ingest(reference) => tx.delete(INGEST, &Key::of(&namespace).last(reference))?,
        // What is mounted goes with the mount manager's reclaim.
        Object::Mount(name) => tx.delete(MOUNT, &Key::of(&namespace).last(name))?,
        // Containers are never collected; streams live in memory and are ended by their manager.
        Object::Container(_) | Object::Stream(_) => {}
    }
    Ok(true)
}
