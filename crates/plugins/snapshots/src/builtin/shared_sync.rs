//! One sync for many: callers that come while one is under way share the next.
//!
//! A caller's files are complete when it calls. A sync that began before may have passed them
//! over; so a caller rides only on one that begins after its call.
//!
//! ```text
//! sync      |--- 1 ---|--- 2 ---|
//! caller A  ^ leads 1 .
//! caller B     ^......leads 2   .
//! caller C       ^....rides on 2.
//! ```
//!
//! Invariant: a failed sync fails everybody who rode on it, for the kernel reports a lost write
//! once.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use gantry_core::{Error, Kind, Result};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct SharedSync {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How many syncs have begun; one is under way while this is above `ended`.
    begun: u64,
    ended: u64,
    /// The last one that failed, and how.
    failed: Option<(u64, Kind, String)>,
    #[cfg(test)]
    waiting: usize,
}

impl SharedSync {
    /// Returns once a run of `sync` that began after this call has ended. Blocks.
    ///
    /// # Errors
    /// What that run failed with.
    pub(super) fn run(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut state = self.lock();
        let mine = state.begun + 1;
        loop {
            if state.ended >= mine {
                return match &state.failed {
                    Some((run, kind, text)) if *run >= mine => Err(Error::new(*kind, text)),
                    _ => Ok(()),
                };
            }
            if state.begun == state.ended {
                break;
            }
            #[cfg(test)]
            {
                state.waiting += 1;
            }
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.begun += 1;
        drop(state);
        // Stays as the outcome if `sync` panics: nobody must wait for a run that will not end.
        let mut run = Run {
            shared: self,
            failure: Some((Kind::Internal, "sync was interrupted".to_owned())),
        };
        let outcome = sync();
        run.failure = outcome.as_ref().err().map(|e| (e.kind(), e.message()));
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run under way; its end is told when this goes.
struct Run<'a> {
    shared: &'a SharedSync,
    failure: Option<(Kind, String)>,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended += 1;
        if let Some((kind, text)) = self.failure.take() {
            state.failed = Some((state.ended, kind, text));
        }
        drop(state);
        self.shared.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};
    use std::thread;

    /// Holds a first run open until `riders` more callers wait, then lets all go on. Returns how
    /// often `later` ran and what the riders got.
    fn behind_a_slow_run(riders: usize, later: fn() -> Result<()>) -> (usize, Vec<Result<()>>) {
        let shared = Arc::new(SharedSync::default());
        let runs = Arc::new(AtomicUsize::new(0));
        let (began, has_begun) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let leader = Arc::clone(&shared);
        let first = thread::spawn(move || {
            leader.run(|| {
                began.send(()).unwrap();
                may_go.recv().unwrap();
                Ok(())
            })
        });
        has_begun.recv().unwrap();
        let others: Vec<_> = (0..riders)
            .map(|_| {
                let (shared, runs) = (Arc::clone(&shared), Arc::clone(&runs));
                thread::spawn(move || {
                    shared.run(|| {
                        runs.fetch_add(1, Ordering::SeqCst);
                        later()
                    })
                })
            })
            .collect();
        while shared.lock().waiting < riders {
            thread::yield_now();
        }
        assert_eq!(runs.load(Ordering::SeqCst), 0, "nobody rides on a run already under way");
        go.send(()).unwrap();
        first.join().unwrap().unwrap();
        let outcomes = others.into_iter().map(|t| t.join().unwrap()).collect();
        (runs.load(Ordering::SeqCst), outcomes)
    }

    #[test]
    fn callers_behind_a_run_share_the_next() {
        let (runs, outcomes) = behind_a_slow_run(8, || Ok(()));
        assert_eq!(runs, 1);
        assert!(outcomes.iter().all(Result::is_ok));
    }

    #[test]
    fn a_failure_reaches_everybody_who_rode_on_it() {
        let (runs, outcomes) = behind_a_slow_run(4, || Err(Error::resource_exhausted("full")));
        assert_eq!(runs, 1);
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert_eq!(
                (error.kind(), error.message()),
                (Kind::ResourceExhausted, "full: resource exhausted".into())
            );
        }
    }

    #[test]
    fn a_run_that_panics_holds_nobody() {
        let shared = SharedSync::default();
        let panics = std::panic::AssertUnwindSafe(|| shared.run(|| panic!("crash")));
        assert!(std::panic::catch_unwind(panics).is_err());
        shared.run(|| Ok(())).unwrap();
    }

    #[test]
    fn one_after_the_other_each_runs_its_own() {
        let shared = SharedSync::default();
        let runs = AtomicUsize::new(0);
        for _ in 0..3 {
            let run = || {
                runs.fetch_add(1, Ordering::SeqCst);
                Ok(())
            };
            shared.run(run).unwrap();
        }
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }
}
