//! Intents: what is about to be made outside the store.
//!
//! Before a side effect that a crash could orphan (a mount, a shim, a snapshot at a proxy), an
//! intent is committed; with the record that names the result, it is ended in the same
//! transaction. Whatever intent the next start finds was interrupted, and [`recover`] hands it to
//! the [`Recoverer`] of its kind, which converges the outside with the records. Recovering is
//! idempotent: it may itself be killed and run again.

use async_trait::async_trait;
use gantry_api::gantry::store::v1 as wire;
use gantry_core::{Error, Namespace, Result};
use prost::Message;

use crate::Metadata;
use crate::codec::to_time;
use crate::schema::{INTENT, META};
use crate::tx::Tx;

const NEXT: &[u8] = b"next-intent";

/// Names one intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntentId(pub u64);

/// An intent that was begun and not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Its id.
    pub id: IntentId,
    /// Which recoverer it is for.
    pub kind: String,
    /// The namespace it belongs to.
    pub namespace: Namespace,
    /// What the recoverer needs; its own format.
    pub payload: Vec<u8>,
}

/// Converges what an interrupted intent left behind.
#[async_trait]
pub trait Recoverer: Send + Sync {
    /// The kind of intents it takes.
    fn kind(&self) -> &'static str;
    /// Undoes or finishes what `intent` began. The intent is ended when this succeeds.
    async fn recover(&self, intent: &Intent) -> Result<()>;
}

impl Tx<'_, '_> {
    /// Records that `payload` is about to be made.
    ///
    /// # Errors
    /// What the store below fails with.
    pub fn begin_intent(
        &mut self,
        kind: &str,
        namespace: &Namespace,
        payload: Vec<u8>,
    ) -> Result<IntentId> {
        let id = self.count(NEXT)?;
        let record = wire::IntentRecord {
            kind: kind.to_owned(),
            namespace: namespace.as_str().to_owned(),
            payload,
            created_at: Some(to_time(self.now())),
        };
        self.put_message(INTENT, &id.to_be_bytes(), &record)?;
        Ok(IntentId(id))
    }

    /// Ends an intent; one that is gone is success.
    ///
    /// # Errors
    /// What the store below fails with.
    pub fn end_intent(&mut self, id: IntentId) -> Result<()> {
        self.delete(INTENT, &id.0.to_be_bytes())
    }

    /// The next number of the counter `name`, beginning with 1.
    ///
    /// # Errors
    /// What the store below fails with.
    pub fn count(&mut self, name: &[u8]) -> Result<u64> {
        let last = self.view().raw().get(META, name)?;
        let last = last.and_then(|v| <[u8; 8]>::try_from(v).ok()).map_or(0, u64::from_be_bytes);
        let next = last + 1;
        self.raw().put(META, name, next.to_be_bytes())?;
        Ok(next)
    }
}

/// All intents that were begun and not ended, oldest first.
///
/// # Errors
/// `DataLoss` when one does not decode.
pub async fn pending(metadata: &Metadata) -> Result<Vec<Intent>> {
    metadata
        .read(|view| {
            let mut intents = Vec::new();
            view.each_below(INTENT, &[], |key, value| {
                let damaged = || Error::data_loss("stored intent");
                let id = <[u8; 8]>::try_from(key).map_err(|_| damaged())?;
                let record = wire::IntentRecord::decode(value.as_slice()).map_err(|_| damaged())?;
                intents.push(Intent {
                    id: IntentId(u64::from_be_bytes(id)),
                    kind: record.kind,
                    namespace: Namespace::new(record.namespace)?,
                    payload: record.payload,
                });
                Ok(())
            })?;
            Ok(intents)
        })
        .await
}

/// Hands every pending intent to the recoverer of its kind and ends it. One that fails, or that
/// nobody recovers, stays for the next start; the others go on. Returns what went wrong.
///
/// # Errors
/// Only when the intents cannot be read.
pub async fn recover(metadata: &Metadata, recoverers: &[&dyn Recoverer]) -> Result<Vec<Error>> {
    let mut failures = Vec::new();
    for intent in pending(metadata).await? {
        let what = format!("recover intent {} of kind {:?}", intent.id.0, intent.kind);
        let Some(recoverer) = recoverers.iter().find(|r| r.kind() == intent.kind) else {
            failures.push(Error::failed_precondition(format!("{what}: nobody recovers that kind")));
            continue;
        };
        let done = match recoverer.recover(&intent).await {
            Ok(()) => metadata.update(move |tx| tx.end_intent(intent.id)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            failures.push(error.context(what));
        }
    }
    Ok(failures)
}
