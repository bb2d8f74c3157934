//! One change of one name at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_core::{Cx, Error, MountName, Namespace, Result};
use tokio::sync::OwnedMutexGuard;

/// Longest wait for another change of the same name when the call has no deadline. Longer than a
/// program that makes a file system may run.
const WAIT_MAX: Duration = Duration::from_secs(120);

type Locks = HashMap<(Namespace, MountName), Arc<tokio::sync::Mutex<()>>>;

/// Who holds which name. Names that nobody holds take no room.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<Locks>);

impl Names {
    /// Waits until nobody else changes `name`; holds it until the guard is dropped.
    ///
    /// # Errors
    /// `Cancelled`; `DeadlineExceeded`.
    pub(crate) async fn hold(&self, cx: &Cx, name: &MountName) -> Result<OwnedMutexGuard<()>> {
        let lock = {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // A guard and a waiter own a share each.
            held.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(held.entry((cx.namespace().clone(), name.clone())).or_default())
        };
        let what = || format!("wait for another change of mount {name:?}");
        tokio::select! {
            guard = lock.lock_owned() => Ok(guard),
            () = cx.cancellation().cancelled() => Err(Error::cancelled(what())),
            () = tokio::time::sleep(cx.remaining(WAIT_MAX)) => Err(Error::deadline_exceeded(what())),
        }
    }
}

#[cfg(test)]
mod tests {
    use gantry_core::CallCx;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn a_name_is_held_once_and_forgotten_when_free() {
        let names = Names::default();
        let cancel = CancellationToken::new();
        let cx = |ns: &str| {
            let namespace = Namespace::new(ns).unwrap();
            CallCx::background(cancel.clone()).in_namespace(namespace, None)
        };
        let (a, b) = (MountName::new("a").unwrap(), MountName::new("b").unwrap());
        let held = names.hold(&cx("one"), &a).await.unwrap();
        drop(names.hold(&cx("one"), &b).await.unwrap());
        drop(names.hold(&cx("two"), &a).await.unwrap());
        let waits = cx("one");
        let mut second = std::pin::pin!(names.hold(&waits, &a));
        assert!(futures_ready(second.as_mut()).await.is_none());
        drop(held);
        drop(second.await.unwrap());
        let held = names.hold(&cx("one"), &b).await.unwrap();
        assert_eq!(names.0.lock().unwrap().len(), 1);
        cancel.cancel();
        let kind = names.hold(&cx("one"), &b).await.unwrap_err().kind();
        assert_eq!(kind, gantry_core::Kind::Cancelled);
        drop(held);
    }

    async fn futures_ready<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = std::future::ready(()) => None,
        }
    }
}
