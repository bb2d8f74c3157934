//! The numbers of snapshots.
//!
//! Counted in memory from above every number that a record or a folder has, so that giving one out
//! costs no transaction. A number is *in flight* from before its folder is made until its record
//! is on disk or its folder is gone again; a sweep leaves such folders alone.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gantry_core::snapshot::SnapshotId;

/// Gives out numbers.
#[derive(Debug)]
pub(super) struct Ids {
    next: AtomicU64,
    in_flight: Mutex<BTreeSet<SnapshotId>>,
}

impl Ids {
    /// Numbers above `last`.
    pub(super) fn above(last: u64) -> Arc<Self> {
        Arc::new(Self { next: AtomicU64::new(last + 1), in_flight: Mutex::default() })
    }

    /// The next number, in flight until the returned guard goes.
    pub(super) fn take(self: &Arc<Self>) -> InFlight {
        // The lock is held over both: else a sweep could see the folder of a number that is
        // neither in flight nor recorded.
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        let id = SnapshotId(self.next.fetch_add(1, Ordering::Relaxed));
        in_flight.insert(id);
        InFlight { id, ids: Arc::clone(self) }
    }

    /// The number that will be given out next.
    pub(super) fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// The numbers in flight.
    pub(super) fn in_flight(&self) -> BTreeSet<SnapshotId> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A number in flight.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) id: SnapshotId,
    ids: Arc<Ids>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut in_flight = self.ids.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        in_flight.remove(&self.id);
    }
}
