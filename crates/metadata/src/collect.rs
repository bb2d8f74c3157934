//! Garbage collection: marks on a snapshot of the store, sweeps in small transactions.
//!
//! ```text
//! 1. begin to note every row that is written                    (stores::touched)
//! 2. tell all records to a gantry_gc::View, off the writer thread
//! 3. in one transaction per batch: tell the rows noted since, each a root, mark again if there
//!    were any, remove what is still unmarked
//! 4. when all is swept: the owners of the data take back their files and folders ([`Reclaim`])
//! ```
//!
//! Clients go on writing all the while. A row that refers to a candidate was either there in step
//! 2, and marked it, or is written later, and then its note marks it before the batch that would
//! remove it: batches and writes run on the same thread. A row that goes away meanwhile only makes
//! garbage for the next run.
//!
//! Invariants: nothing that a live lease, image or container reaches is removed; records go before
//! data; a kill at any point leaves records that the next run removes and data that the next
//! reclaim removes.
//! Must not: run two collections at once ([`Collector`] holds a lock over one).

mod schedule;
mod sweep;
mod tell;

pub use schedule::{Schedule, Scheduler};

use std::sync::Arc;

use async_trait::async_trait;
use gantry_core::{Cx, Error, Result};
use gantry_gc::Node;

use crate::Metadata;

/// How many records one transaction removes: short enough that no client waits noticeably.
const BATCH: usize = 128;

/// Takes back data whose record is gone: files of blobs, folders of snapshots.
#[async_trait]
pub trait Reclaim: Send + Sync {
    /// A name for logs.
    fn name(&self) -> &str;
    /// Removes all data that no record names; returns when it is gone.
    async fn reclaim(&self) -> Result<()>;
}

/// What one collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// What was removed, in the order of removal.
    pub removed: Vec<Node>,
    /// How many records stayed.
    pub kept: usize,
}

/// Runs collections.
pub struct Collector {
    metadata: Arc<Metadata>,
    reclaimers: Vec<Arc<dyn Reclaim>>,
    running: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.reclaimers.iter().map(|r| r.name()).collect();
        f.debug_struct("Collector").field("reclaimers", &names).finish_non_exhaustive()
    }
}

impl Collector {
    /// A collector over `metadata` that lets `reclaimers` take back data.
    pub fn new(metadata: Arc<Metadata>, reclaimers: Vec<Arc<dyn Reclaim>>) -> Self {
        Self { metadata, reclaimers, running: tokio::sync::Mutex::new(()) }
    }

    /// One collection: when this returns, what was garbage when it began is gone, files and
    /// folders included. Waits for a collection under way, since that one may have begun before
    /// the caller's last write.
    ///
    /// # Errors
    /// The first failure; every step that can still go on does.
    pub async fn collect(&self) -> Result<Collected> {
        let _one = self.running.lock().await;
        let swept = self.sweep().await;
        let mut failure = swept.as_ref().err().map(Error::message);
        for reclaimer in &self.reclaimers {
            if let Err(error) = reclaimer.reclaim().await {
                failure.get_or_insert(format!("reclaim {}: {}", reclaimer.name(), error.message()));
            }
        }
        match (swept, failure) {
            (Ok(collected), None) => Ok(collected),
            (Err(error), _) => Err(error.context("collect garbage")),
            (Ok(_), Some(failure)) => Err(Error::unknown(failure).context("collect garbage")),
        }
    }

    async fn sweep(&self) -> Result<Collected> {
        let notes = Arc::clone(self.metadata.touched());
        notes.watch();
        let swept = self.mark_and_sweep().await;
        notes.unwatch();
        swept
    }

    async fn mark_and_sweep(&self) -> Result<Collected> {
        // A closure that ran before notes were taken may not be on disk yet, and would be neither
        // in the notes nor in the view: an empty transaction queues behind it.
        self.metadata.update(|_| Ok(())).await?;
        let now = self.metadata.clock().now();
        let view = self.metadata.read(move |view| tell::everything(view, now)).await?;
        let mut state = sweep::Sweep::new(view);
        let mut removed = Vec::new();
        while !state.is_done() {
            let notes = Arc::clone(self.metadata.touched());
            let (next, gone) = self
                .metadata
                .update(move |tx| {
                    let noted = notes.drain();
                    state.overtaken(tx.view(), &noted)?;
                    let gone = state.batch(tx, BATCH)?;
                    Ok((state, gone))
                })
                .await?;
            state = next;
            removed.extend(gone);
        }
        Ok(Collected { removed, kept: state.kept() })
    }
}

/// The call in whose name a collection removes something.
fn cx_of(namespace: &str) -> Result<Cx> {
    let namespace = gantry_core::Namespace::new(namespace)?;
    Ok(gantry_core::CallCx::default().in_namespace(namespace, None))
}
