//! The journal of events: what happened, in order, with numbers.
//!
//! An event that reports a transaction is written in that transaction and reaches subscribers once
//! it is on disk. What clients and shims publish gets a number and stays in memory. Numbers only
//! grow; gaps are normal (an aborted transaction keeps its number).
//!
//! The journal holds at most [`ENTRIES_MAX`] entries or [`AGE_MAX`], but for exits, which stay
//! until their task is deleted. Trimming is a part of later appends: each looks at the two oldest
//! entries, so no append is ever long.
//!
//! A subscriber that does not read is dropped once [`QUEUE_MAX`] events wait for it: it never
//! delays a publisher and never fills the memory.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_api::gantry::store::v1 as wire;
use gantry_core::model::{Envelope, TypedAny};
use gantry_core::{Error, Namespace, Result};
use prost::Message;
use tokio::sync::mpsc;

use crate::codec::{from_time, to_time};
use crate::schema::{EVENT, EXIT};
use crate::tx::{Tx, View};

/// Most entries kept on disk, exits aside.
pub const ENTRIES_MAX: u64 = 10_000;
/// Longest an entry stays on disk, exits aside.
pub const AGE_MAX: Duration = Duration::from_secs(3600);
/// Most events that wait for one subscriber.
pub const QUEUE_MAX: usize = 65_536;

/// An event with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its place in the order of all events.
    pub sequence: u64,
    /// The event.
    pub envelope: Envelope,
}

/// Numbers, stores and hands out events.
pub struct Journal {
    next: AtomicU64,
    /// Everything on disk below this is an exit or gone.
    trimmed_to: AtomicU64,
    subscribers: Mutex<Vec<mpsc::Sender<Arc<Recorded>>>>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Journal {
    pub(crate) fn load(view: View<'_>) -> Result<Self> {
        let mut last = 0;
        let mut first = None;
        view.each_below(EVENT, &[], |key, _| {
            if let Ok(bytes) = <[u8; 8]>::try_from(key) {
                last = u64::from_be_bytes(bytes);
                first.get_or_insert(last);
            }
            Ok(())
        })?;
        Ok(Self {
            next: AtomicU64::new(last + 1),
            trimmed_to: AtomicU64::new(first.unwrap_or(last + 1)),
            subscribers: Mutex::new(Vec::new()),
        })
    }

    /// The number that the next event gets.
    pub fn next_sequence(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    /// Hands `envelope` to every subscriber; it is kept in no store.
    pub fn publish(&self, envelope: Envelope) {
        let sequence = self.next.fetch_add(1, Ordering::SeqCst);
        self.hand_out(&Arc::new(Recorded { sequence, envelope }));
    }

    /// Registers a subscriber: it gets every event handed out after this returns.
    pub fn subscribe(&self) -> Subscription {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        self.lock().push(sender);
        Subscription { receiver }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::Sender<Arc<Recorded>>>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_out(&self, event: &Arc<Recorded>) {
        // A full queue means a stuck reader: dropping its sender ends its stream.
        self.lock().retain(|subscriber| subscriber.try_send(Arc::clone(event)).is_ok());
    }

    pub(crate) fn append(self: Arc<Self>, tx: &mut Tx<'_, '_>, envelope: Envelope) -> Result<()> {
        let sequence = self.next.fetch_add(1, Ordering::SeqCst);
        let record = wire::EventRecord {
            timestamp: Some(to_time(envelope.timestamp)),
            namespace: envelope.namespace.as_str().to_owned(),
            topic: envelope.topic.clone(),
            event: Some(wire::TypedValue {
                type_url: envelope.event.type_url.clone(),
                value: envelope.event.value.clone(),
            }),
        };
        tx.put_message(EVENT, &sequence.to_be_bytes(), &record)?;
        self.trim(tx, sequence)?;
        tx.raw().after_commit(Box::new(move || {
            self.hand_out(&Arc::new(Recorded { sequence, envelope }));
        }));
        Ok(())
    }

    fn trim(&self, tx: &mut Tx<'_, '_>, newest: u64) -> Result<()> {
        let from = self.trimmed_to.load(Ordering::SeqCst);
        for (key, row) in tx.view().raw().scan(EVENT, &from.to_be_bytes(), None, 2)? {
            let Ok(bytes) = <[u8; 8]>::try_from(key.as_slice()) else { continue };
            let sequence = u64::from_be_bytes(bytes);
            let record = crate::values::resolve(tx.view().raw(), EVENT, &key, &row)?;
            let event = decode(sequence, &record)?;
            let old = tx.now().since(event.envelope.timestamp) > AGE_MAX;
            if !old && newest - sequence < ENTRIES_MAX {
                break;
            }
            if !tx.view().contains(EXIT, &key)? {
                tx.delete(EVENT, &key)?;
            }
            // Moved even if the transaction aborts: the entry is met again at the next start.
            self.trimmed_to.fetch_max(sequence + 1, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Every entry on disk from `sequence` on, oldest first.
    ///
    /// # Errors
    /// `DataLoss` when an entry does not decode.
    pub fn since(view: View<'_>, sequence: u64) -> Result<Vec<Recorded>> {
        let mut events = Vec::new();
        view.each_below(EVENT, &[], |key, value| {
            if let Ok(bytes) = <[u8; 8]>::try_from(key) {
                let number = u64::from_be_bytes(bytes);
                if number >= sequence {
                    events.push(decode(number, &value)?);
                }
            }
            Ok(())
        })?;
        Ok(events)
    }
}

fn decode(sequence: u64, value: &[u8]) -> Result<Recorded> {
    let damaged = || Error::data_loss(format!("event {sequence} of the journal"));
    let record = wire::EventRecord::decode(value).map_err(|_| damaged())?;
    let event = record.event.unwrap_or_default();
    Ok(Recorded {
        sequence,
        envelope: Envelope {
            timestamp: from_time(record.timestamp),
            namespace: Namespace::new(record.namespace).map_err(|_| damaged())?,
            topic: record.topic,
            event: TypedAny { type_url: event.type_url, value: event.value },
        },
    })
}

/// A subscriber's end of the journal.
#[derive(Debug)]
pub struct Subscription {
    receiver: mpsc::Receiver<Arc<Recorded>>,
}

impl Subscription {
    /// The next event; `None` once the subscriber was dropped for not reading, after the events
    /// that were waiting. Cancel safe.
    pub async fn next(&mut self) -> Option<Arc<Recorded>> {
        self.receiver.recv().await
    }
    /// The next event if one waits already.
    pub fn try_next(&mut self) -> Option<Arc<Recorded>> {
        self.receiver.try_recv().ok()
    }
}
