//! When a collection runs: soon after the start, when it pays, and when a client waits for one.
//!
//! The rules are containerd's (its `gc` scheduler): a first run shortly after the start, then one
//! when something was deleted or many rows changed, never more of the time than
//! [`Schedule::pause`]. A synchronous delete asks with [`Scheduler::collect_now`] and waits; several
//! that ask while one runs share the next.
//!
//! A run that fails is logged and tried again at the next occasion; it takes nothing down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_core::{CallCx, Error, Result};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Collector;
use crate::Metadata;

/// When to run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// From the start to the first run.
    pub startup: Duration,
    /// Largest share of time that collections take, 0.0 to 0.5.
    pub pause: f64,
    /// How many deleted rows call for a run.
    pub deletions: u64,
    /// How many written rows call for a run; 0 for never.
    pub mutations: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { startup: Duration::from_millis(100), pause: 0.02, deletions: 1, mutations: 100 }
    }
}

impl Schedule {
    /// Whether so many changes since the last run call for another.
    pub fn is_due(&self, written: u64, deleted: u64) -> bool {
        (deleted > 0 && deleted >= self.deletions)
            || (self.mutations > 0 && written >= self.mutations)
    }

    /// How long to rest after a run of `length`.
    pub fn rest(&self, length: Duration) -> Duration {
        let share = self.pause.clamp(0.001, 0.5);
        length.mul_f64(1.0 / share - 1.0).clamp(REST_MIN, REST_MAX)
    }
}

const REST_MIN: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_secs(60);

type Waiter = oneshot::Sender<Result<(), Arc<Error>>>;

/// A handle on the loop that runs collections.
#[derive(Clone, Debug)]
pub struct Scheduler {
    requests: mpsc::Sender<Waiter>,
}

impl Scheduler {
    /// A handle, and the loop that serves it until `stop`; the caller spawns it.
    pub fn new(
        metadata: Arc<Metadata>,
        collector: Arc<Collector>,
        schedule: Schedule,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (requests, inbox) = mpsc::channel(1024);
        (Self { requests }, run(metadata, collector, schedule, inbox, stop))
    }

    /// Runs a collection that begins after this call and waits for its end.
    ///
    /// # Errors
    /// What the collection fails with; `Cancelled` and `DeadlineExceeded` of the call;
    /// `Unavailable` when the daemon stops.
    pub async fn collect_now(&self, cx: &CallCx) -> Result<()> {
        let (done, result) = oneshot::channel();
        let stopped = || Error::unavailable("garbage collection has stopped");
        self.requests.send(done).await.map_err(|_| stopped())?;
        tokio::select! {
            result = result => match result {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(Error::new(error.kind(), error.message())),
                Err(_) => Err(stopped()),
            },
            () = cx.cancellation().cancelled() => Err(Error::cancelled("wait for garbage collection")),
            () = tokio::time::sleep(cx.remaining(WAIT_MAX)) => {
                Err(Error::deadline_exceeded("wait for garbage collection"))
            }
        }
    }
}

/// Longest that a synchronous delete waits when its call has no deadline.
const WAIT_MAX: Duration = Duration::from_secs(300);

async fn run(
    metadata: Arc<Metadata>,
    collector: Arc<Collector>,
    schedule: Schedule,
    mut inbox: mpsc::Receiver<Waiter>,
    stop: CancellationToken,
) {
    let mut base = (0, 0);
    let mut not_before = Instant::now() + schedule.startup;
    let mut first = true;
    loop {
        let (written, deleted) = metadata.touched().counts();
        let due = first || schedule.is_due(written - base.0, deleted - base.1);
        let rest = not_before.saturating_duration_since(Instant::now());
        let mut waiters = Vec::new();
        tokio::select! {
            () = stop.cancelled() => return,
            request = inbox.recv() => match request {
                Some(waiter) => waiters.push(waiter),
                None => return,
            },
            () = tokio::time::sleep(rest), if due => {}
            () = metadata.touched().changed(), if !due => continue,
        }
        while let Ok(waiter) = inbox.try_recv() {
            waiters.push(waiter);
        }
        // Taken before: what is removed while this run looks is for the next one, and what this run
        // removes calls for one more, which finds nothing.
        base = metadata.touched().counts();
        let began = Instant::now();
        let result = collector.collect().await;
        match &result {
            Ok(collected) => tracing::debug!(
                removed = collected.removed.len(),
                kept = collected.kept,
                took_us = began.elapsed().as_micros(),
                "garbage collected"
            ),
            Err(error) => tracing::warn!(error = error.message(), "garbage collection failed"),
        }
        let result = result.map(drop).map_err(Arc::new);
        for waiter in waiters {
            // A waiter that is gone was cancelled.
            let _ = waiter.send(result.clone());
        }
        not_before = Instant::now() + schedule.rest(began.elapsed());
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_pays_after_a_deletion_or_many_writes() {
        let schedule = Schedule::default();
        assert!(!schedule.is_due(99, 0));
        assert!(schedule.is_due(100, 0));
        assert!(schedule.is_due(0, 1));
        assert!(!Schedule { mutations: 0, ..schedule }.is_due(1_000_000, 0));
    }

    #[test]
    fn collections_take_at_most_their_share() {
        let schedule = Schedule::default();
        assert_eq!(schedule.rest(Duration::from_millis(10)), Duration::from_millis(490));
        assert_eq!(schedule.rest(Duration::ZERO), REST_MIN);
        assert_eq!(schedule.rest(Duration::from_secs(100)), REST_MAX);
    }
}
