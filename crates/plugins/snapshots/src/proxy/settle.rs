//! Settling what calls left behind: intents that are begun and not under way.
//!
//! A settling reads the pending intents, then what is under way, then the pending ones again. An
//! intent seen first and not under way then has met its call's end; if it is still pending after
//! that, its call has not ended it and never will.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use gantry_core::filter::Filters;
use gantry_core::{CallCx, Cx, Error, Kind, Result};
use gantry_metadata::collect::Reclaim;
use gantry_metadata::intent::{self, Intent};
use gantry_metadata::schema::Parts;
use gantry_metadata::stores::{BACKEND_GARBAGE, Namespaces};
use gantry_metadata::{IntentId, Recoverer};

use super::backend::is_unclear;
use super::commit::{BACKEND_COMMIT, Planned};
use super::{Inner, ProxySnapshotter};

/// What an intent asks for.
enum Settlement {
    Garbage(String),
    Commit(Box<Planned>),
}

impl Inner {
    /// Asks for a settling in the background; one that is asked for and has not begun will do.
    pub(super) fn settle_behind(self: &Arc<Self>) {
        if self.due.swap(true, Ordering::SeqCst) {
            return;
        }
        let inner = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Err(error) = inner.settle().await {
                let snapshotter = inner.records.snapshotter();
                let error = error.message();
                tracing::warn!(%snapshotter, error, "some is left to settle at the snapshotter");
            }
        });
    }

    /// Settles all that was left behind when this was called.
    ///
    /// # Errors
    /// The first failure; the others were tried, unless the other side does not answer.
    pub(super) async fn settle(&self) -> Result<()> {
        let _one_at_a_time = self.settling.lock().await;
        self.due.store(false, Ordering::SeqCst);
        loop {
            let (mut settled, mut failure) = (0, None);
            for intent in self.left_behind().await? {
                match self.settle_one(&intent).await {
                    Ok(()) => settled += 1,
                    Err(error) if is_unclear(&error) => return Err(error),
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            match failure {
                None => return Ok(()),
                // A parent goes once its children have gone.
                Some(_) if settled > 0 => {}
                Some(error) => return Err(error),
            }
        }
    }

    fn settlement(&self, intent: &Intent) -> Option<Settlement> {
        let name = self.records.snapshotter().as_str();
        match intent.kind.as_str() {
            BACKEND_GARBAGE => {
                let mut parts = Parts::of(&intent.payload);
                let ours = parts.sized() == Some(name);
                let key = parts.last().filter(|_| ours)?;
                Some(Settlement::Garbage(key.to_owned()))
            }
            BACKEND_COMMIT => {
                Planned::decode(name, &intent.payload).map(|p| Settlement::Commit(Box::new(p)))
            }
            _ => None,
        }
    }

    async fn left_behind(&self) -> Result<Vec<Intent>> {
        let first: BTreeSet<_> =
            intent::pending(&self.metadata).await?.into_iter().map(|i| i.id).collect();
        if first.is_empty() {
            return Ok(Vec::new());
        }
        let under_way = self.flights.now();
        let mut left = intent::pending(&self.metadata).await?;
        left.retain(|i| {
            first.contains(&i.id) && !under_way.contains(&i.id) && self.settlement(i).is_some()
        });
        Ok(left)
    }

    async fn settle_one(&self, intent: &Intent) -> Result<()> {
        let cx = CallCx::default().in_namespace(intent.namespace.clone(), None);
        match self.settlement(intent) {
            Some(Settlement::Garbage(key)) => self.settle_garbage(&cx, intent.id, key).await,
            Some(Settlement::Commit(planned)) => self.settle_commit(cx, intent.id, *planned).await,
            None => Err(Error::internal("an intent of another snapshotter")),
        }
    }

    /// Removes what nothing names. One that is gone is success.
    pub(super) async fn settle_garbage(
        &self,
        cx: &Cx,
        intent: IntentId,
        key: String,
    ) -> Result<()> {
        try_fail_point!("snapshot.proxy-settle/before-backend");
        let _adopting = self.adopting.lock().await;
        if !self.is_named(&key).await? {
            match self.backend.remove(cx, key).await {
                Err(error) if !error.is(Kind::NotFound) => return Err(error),
                _ => {}
            }
        }
        try_fail_point!("snapshot.proxy-settle/before-record");
        self.metadata.update(move |tx| tx.end_intent(intent)).await
    }
}

impl Inner {
    /// Whether a record of any namespace names `key` of the other side. Several may, where it was
    /// adopted.
    async fn is_named(&self, key: &str) -> Result<bool> {
        let all = Namespaces::new(Arc::clone(&self.metadata)).list(&CallCx::default()).await?;
        let (records, key) = (self.records.clone(), key.to_owned());
        self.metadata
            .read(move |view| {
                for namespace in all {
                    let listed = records.list(view, &namespace.name, &Filters::default())?;
                    if listed.iter().any(|entry| entry.backend_key == key) {
                        return Ok(true);
                    }
                }
                Ok(false)
            })
            .await
    }
}

impl ProxySnapshotter {
    /// Settles all that calls have left behind so far: removes at the other side what no record
    /// names, and finishes what was interrupted.
    ///
    /// # Errors
    /// When the other side does not answer or refuses; what is left is tried again by the next.
    pub async fn settle(&self) -> Result<()> {
        self.inner.settle().await
    }
}

#[async_trait]
impl Reclaim for ProxySnapshotter {
    fn name(&self) -> &str {
        self.name().as_str()
    }
    /// Succeeds also while the other side does not answer: a collection must not fail for that.
    async fn reclaim(&self) -> Result<()> {
        match self.settle().await {
            Err(error) if is_unclear(&error) => {
                let (snapshotter, error) = (self.name(), error.message());
                tracing::warn!(%snapshotter, error, "removed snapshots stay at the snapshotter");
                Ok(())
            }
            outcome => outcome,
        }
    }
}

/// Settles the intents of one kind that an earlier process left, for whichever proxy they are.
///
/// Asks other processes, so it must not stand before the daemon listens.
#[derive(Debug)]
pub struct Recovery {
    kind: &'static str,
    proxies: Vec<Arc<ProxySnapshotter>>,
}

impl Recovery {
    /// One for each kind of intents that proxies leave.
    pub fn of(proxies: &[Arc<ProxySnapshotter>]) -> [Self; 2] {
        [BACKEND_GARBAGE, BACKEND_COMMIT].map(|kind| Self { kind, proxies: proxies.to_vec() })
    }
}

#[async_trait]
impl Recoverer for Recovery {
    fn kind(&self) -> &'static str {
        self.kind
    }
    async fn recover(&self, intent: &Intent) -> Result<()> {
        let proxy = self.proxies.iter().find(|p| p.inner.settlement(intent).is_some());
        let proxy = proxy.ok_or_else(|| {
            Error::failed_precondition("its snapshotter is not configured: add its proxy again")
        })?;
        let _one_at_a_time = proxy.inner.settling.lock().await;
        if proxy.inner.flights.now().contains(&intent.id) {
            return Err(Error::failed_precondition("its call is still under way"));
        }
        proxy.inner.settle_one(intent).await
    }
}
