//! Who holds a ref, and who is changing a blob.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_core::{ContentRef, Cx, Digest, Error, Namespace, Result, Timestamp};

use crate::elapsed;

type RefKey = (Namespace, ContentRef);

/// The refs that writers hold, and since when.
#[derive(Debug, Default)]
pub(crate) struct Refs(Mutex<HashMap<RefKey, Timestamp>>);

/// A held ref; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct HeldRef {
    refs: Arc<Refs>,
    key: RefKey,
}

impl Refs {
    /// Takes `reference`.
    ///
    /// # Errors
    /// `Unavailable` when it is held; clients try again.
    pub(crate) fn hold(
        self: &Arc<Self>,
        namespace: &Namespace,
        reference: &ContentRef,
        now: Timestamp,
    ) -> Result<HeldRef> {
        let key = (namespace.clone(), reference.clone());
        let mut held = lock(&self.0);
        if let Some(since) = held.get(&key) {
            // How long tells a leaked lock from a race, in a client's log.
            return Err(Error::unavailable(format!(
                "ref {reference} locked for {} (since {})",
                elapsed::go_text(now.since(*since)),
                since.to_rfc3339()
            )));
        }
        held.insert(key.clone(), now);
        Ok(HeldRef { refs: Arc::clone(self), key })
    }
}

impl Drop for HeldRef {
    fn drop(&mut self) {
        lock(&self.refs.0).remove(&self.key);
    }
}

/// How often a waiting commit looks whether its caller is still there.
const PATIENCE: Duration = Duration::from_millis(100);

/// The blobs whose file or record is being changed.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    held: Mutex<HashSet<Digest>>,
    freed: Condvar,
}

/// A held digest; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct HeldDigest<'a> {
    digests: &'a Digests,
    digest: Digest,
}

impl Digests {
    /// Takes `digest`, waiting for whoever holds it. Blocks.
    ///
    /// # Errors
    /// `Cancelled` or `DeadlineExceeded` of the call.
    pub(crate) fn hold(&self, cx: &Cx, digest: &Digest) -> Result<HeldDigest<'_>> {
        let mut held = lock(&self.held);
        while !held.insert(digest.clone()) {
            cx.check()?;
            let waited = self.freed.wait_timeout(held, PATIENCE);
            held = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(HeldDigest { digests: self, digest: digest.clone() })
    }

    /// Takes `digest` if nobody holds it.
    pub(crate) fn try_hold(&self, digest: &Digest) -> Option<HeldDigest<'_>> {
        let free = lock(&self.held).insert(digest.clone());
        free.then(|| HeldDigest { digests: self, digest: digest.clone() })
    }
}

impl Drop for HeldDigest<'_> {
    fn drop(&mut self) {
        lock(&self.digests.held).remove(&self.digest);
        self.digests.freed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
