//! The writer thread: runs update closures in groups and commits each group once.
//!
//! Invariants: one group at a time; a reply, also to an abort, leaves only when everything the
//! closure could have read is on disk; after a failed commit every member of the group hears of
//! it and the next group starts from the state before.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::job::{Job, Ran, Reply};
use super::overlay::{Batch, Overlay};
use super::queue::Queue;
use super::read::{Read, Table};
use super::seal::{Mark, Seal};
use super::txn::{AfterCommit, Txn};
use super::views::Broken;
use super::{MetaStore, StoreError};

/// Closures per group: bounds what the first of them waits for.
const GROUP_MAX: usize = 256;
/// Bytes per group. A group is the unit that the space kept back must be able to hold.
const GROUP_BYTES_MAX: usize = 1 << 20;

/// Serves `queue` until it is closed and empty. `seal` is that of the store's state.
pub(crate) fn run(
    store: &dyn MetaStore,
    tables: &BTreeSet<Table>,
    queue: &Queue,
    mut seal: Seal,
    mark: Option<&Mark>,
) {
    let _abandon = Abandon(queue);
    while let Some(job) = queue.next() {
        let mut group = Group::default();
        group.gather(store, tables, job, queue);
        group.end(store, &mut seal, mark);
    }
}

/// Leaves nobody waiting when the thread ends, however it does.
struct Abandon<'a>(&'a Queue);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Commits `writes` under the next seal.
pub(crate) fn commit(
    store: &dyn MetaStore,
    writes: &mut Batch,
    seal: &mut Seal,
) -> Result<(), StoreError> {
    let mut old = writes.old_values(&*store.view()?)?;
    let next = seal.stamp(writes, &mut old);
    store.commit(writes, old)?;
    *seal = next;
    Ok(())
}

#[derive(Default)]
struct Group {
    writes: Batch,
    bytes: usize,
    after: Vec<AfterCommit>,
    replies: Vec<(Reply, Result<(), StoreError>)>,
}

impl Group {
    /// Runs `first` and what waits behind it. The view ends with this, as a commit wants.
    fn gather(
        &mut self,
        store: &dyn MetaStore,
        tables: &BTreeSet<Table>,
        first: Job,
        queue: &Queue,
    ) {
        let view = match store.view() {
            Ok(view) => view,
            Err(error) => {
                // The closure has to run for its caller to be answered; it reads only failures.
                let broken = Broken(error.clone());
                let ran = first(&mut Txn::new(&broken, tables));
                return self.replies.push((ran.reply, Err(error)));
            }
        };
        let mut next = Some(first);
        while let Some(job) = next.take() {
            self.run(store, &*view, tables, job);
            if self.replies.len() < GROUP_MAX && self.bytes < GROUP_BYTES_MAX {
                next = queue.try_next();
            }
        }
    }

    fn run(&mut self, store: &dyn MetaStore, view: &dyn Read, tables: &BTreeSet<Table>, job: Job) {
        let state = Overlay { above: &self.writes, below: view };
        let mut txn = Txn::new(&state, tables);
        let Ran { commit, reply } = job(&mut txn);
        let admitted = !commit || txn.may_draw() || store.has_reserve();
        let outcome = match (commit, admitted) {
            (false, _) => Ok(()),
            (true, false) => Err(StoreError::Full { what: "write refused".to_owned() }),
            (true, true) => txn.finish().map(|(writes, after)| {
                self.bytes += writes.bytes();
                self.writes.merge(writes);
                self.after.extend(after);
            }),
        };
        self.replies.push((reply, outcome));
    }

    fn end(mut self, store: &dyn MetaStore, seal: &mut Seal, mark: Option<&Mark>) {
        let committed = if self.writes.is_empty() {
            Ok(())
        } else {
            commit(store, &mut self.writes, seal).inspect(|()| {
                if let Some(mark) = mark {
                    mark.write(seal.commits);
                }
            })
        };
        if let Err(error) = &committed {
            tracing::error!(%error, closures = self.replies.len(), "metadata commit failed");
        } else {
            fail::fail_point!("kv.commit/after-commit");
            for call in self.after {
                if catch_unwind(AssertUnwindSafe(call)).is_err() {
                    tracing::error!("an after-commit callback panicked");
                }
            }
        }
        for (reply, outcome) in self.replies {
            reply(committed.clone().and(outcome));
        }
    }
}
