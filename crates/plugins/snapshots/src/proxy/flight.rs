//! What calls are at work on, so that they and the settling of old intents keep apart.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_core::{Namespace, SnapshotKey};
use gantry_metadata::IntentId;
use tokio::sync::OwnedMutexGuard;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The intents of calls that are under way.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<BTreeSet<IntentId>>);

impl Flights {
    /// `id` is under way until the returned guard goes. Called within the transaction that begins
    /// the intent, so nobody sees it before it is known to be under way.
    pub(super) fn begin(self: &Arc<Self>, id: IntentId) -> Flight {
        lock(&self.0).insert(id);
        Flight { id, flights: Arc::clone(self) }
    }

    /// All that are under way now.
    pub(super) fn now(&self) -> BTreeSet<IntentId> {
        lock(&self.0).clone()
    }
}

/// An intent under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) id: IntentId,
    flights: Arc<Flights>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        lock(&self.flights.0).remove(&self.id);
    }
}

type Name = (Namespace, SnapshotKey);

/// The keys that calls are at work on: one call at a time for each.
///
/// The backend is asked while a key is held, so who waits for it waits at most for the bounds of
/// the calls before it; calls on other keys wait for nobody.
#[derive(Debug, Default)]
pub(super) struct Keys(Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>);

impl Keys {
    /// Waits until nobody else works on any of `keys`.
    ///
    /// Cancel safety: dropped while waiting, it holds nothing.
    pub(super) async fn hold(
        self: &Arc<Self>,
        namespace: &Namespace,
        keys: &[&SnapshotKey],
    ) -> Holding {
        // In one order everywhere, so that no two calls wait for each other.
        let names: BTreeSet<_> = keys.iter().map(|k| (namespace.clone(), (*k).clone())).collect();
        let mut holding = Holding { keys: Arc::clone(self), held: Vec::new() };
        for name in names {
            let mutex = Arc::clone(lock(&self.0).entry(name.clone()).or_default());
            // Noted first: if this is dropped while it waits, the entry must not stay.
            holding.held.push((name, None));
            let guard = mutex.lock_owned().await;
            if let Some((_, held)) = holding.held.last_mut() {
                *held = Some(guard);
            }
        }
        holding
    }
}

/// Keys that nobody else works on.
#[derive(Debug)]
pub(super) struct Holding {
    keys: Arc<Keys>,
    held: Vec<(Name, Option<OwnedMutexGuard<()>>)>,
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut all = lock(&self.keys.0);
        for (name, guard) in &mut self.held {
            drop(guard.take());
            // The map's own count: nobody waits.
            if all.get(name).is_some_and(|mutex| Arc::strong_count(mutex) == 1) {
                all.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_held_by_one_and_forgotten_after() {
        let keys = Arc::new(Keys::default());
        let ns = Namespace::new("ns").unwrap();
        let key = |text: &str| SnapshotKey::new(text).unwrap();
        let (a, b) = (key("a"), key("b"));
        let both = keys.hold(&ns, &[&a, &b, &a]).await;
        let again = Arc::clone(&keys);
        let namespace = ns.clone();
        let waiter = tokio::spawn(async move { again.hold(&namespace, &[&key("b")]).await });
        while lock(&keys.0).values().map(Arc::strong_count).sum::<usize>() < 5 {
            tokio::task::yield_now().await;
        }
        assert!(!waiter.is_finished());
        drop(both);
        drop(waiter.await.unwrap());
        assert!(lock(&keys.0).is_empty());
    }
}
