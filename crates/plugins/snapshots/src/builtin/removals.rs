//! Removes folders behind the reply, one at a time.
//!
//! A worker runs on a blocking thread while there is work and not otherwise. The queue is bounded:
//! whoever finds it full removes its folder itself. A folder that cannot be removed is logged once
//! and left to the next sweep.
//!
//! Must not: remove a folder that a record names; that is for the caller to know.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_core::snapshot::{Driver, SnapshotId};
use gantry_core::{Error, Result};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Most folders that wait to be removed.
const QUEUE_MAX: usize = 4096;

/// See the module.
pub(super) struct Removals<D> {
    driver: Arc<D>,
    runtime: Handle,
    queue: Mutex<Queue>,
    /// How many of the queued ones were dealt with.
    done: watch::Sender<u64>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<SnapshotId>,
    /// Waiting or being removed.
    known: BTreeSet<SnapshotId>,
    /// Could not be removed; told once.
    failed: BTreeSet<SnapshotId>,
    /// How many were queued since the start.
    queued: u64,
    working: bool,
}

impl<D: Driver + 'static> Removals<D> {
    pub(super) fn new(driver: Arc<D>, runtime: Handle) -> Arc<Self> {
        let (done, _) = watch::channel(0);
        Arc::new(Self { driver, runtime, queue: Mutex::default(), done })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the folder of `id` removed. Blocks only where the queue is full.
    pub(super) fn push(self: &Arc<Self>, id: SnapshotId) {
        let mut queue = self.lock();
        if !queue.known.insert(id) {
            return;
        }
        if queue.waiting.len() >= QUEUE_MAX {
            drop(queue);
            self.remove(id);
            return;
        }
        queue.waiting.push_back(id);
        queue.queued += 1;
        if !std::mem::replace(&mut queue.working, true) {
            let shift = Shift { removals: Arc::clone(self), ended: false };
            self.runtime.spawn_blocking(move || shift.work());
        }
    }

    fn remove(&self, id: SnapshotId) {
        // A panic must not end the worker: those who wait for the queue would wait for ever.
        let removal = AssertUnwindSafe(|| self.driver.remove(id));
        let outcome = catch_unwind(removal)
            .unwrap_or_else(|_| Err(Error::internal("removing the folder panicked")));
        let mut queue = self.lock();
        queue.known.remove(&id);
        match outcome {
            Ok(()) => drop(queue.failed.remove(&id)),
            Err(error) if queue.failed.insert(id) => {
                tracing::warn!(id = id.0, error = error.message(), "snapshot folder stays for now");
            }
            Err(_) => {}
        }
    }

    /// Returns once everything queued before this call was dealt with.
    pub(super) async fn idle(&self) {
        let queued = self.lock().queued;
        // The sender lives as long as this, so waiting cannot fail.
        let _ = self.done.subscribe().wait_for(|done| *done >= queued).await;
    }

    /// Which of `ids` could not be removed.
    ///
    /// # Errors
    /// `FailedPrecondition` that names them.
    pub(super) fn check(&self, ids: &BTreeSet<SnapshotId>) -> Result<()> {
        let left: Vec<_> = self.lock().failed.intersection(ids).map(|id| id.0).collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(Error::failed_precondition(format!(
            "snapshot folders {left:?} cannot be removed; the log says why"
        )))
    }
}

/// The worker's turn. It ends what it began even when the runtime drops it without running it.
struct Shift<D: Driver + 'static> {
    removals: Arc<Removals<D>>,
    ended: bool,
}

impl<D: Driver + 'static> Shift<D> {
    fn work(mut self) {
        loop {
            let mut queue = self.removals.lock();
            let Some(id) = queue.waiting.pop_front() else {
                // Under the lock: whoever queues next must find that nobody works.
                queue.working = false;
                drop(queue);
                self.ended = true;
                return;
            };
            drop(queue);
            self.removals.remove(id);
            self.removals.done.send_modify(|done| *done += 1);
        }
    }
}

impl<D: Driver + 'static> Drop for Shift<D> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut queue = self.removals.lock();
        // Cut short by a shutdown: the next sweep finds the folders.
        let left = queue.waiting.len() as u64;
        queue.waiting.clear();
        queue.known.clear();
        queue.working = false;
        drop(queue);
        self.removals.done.send_modify(|done| *done += left);
    }
}
