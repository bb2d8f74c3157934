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
//! Exits that the daemon learns of at its start happened while nobody could be told: they are kept
//! for *replay*. Every subscriber that registers until [`Tx::close_replay`] gets them first, once,
//! in order; a daemon that dies before that replays them again at its next start.
//!
//! A subscriber that does not read is dropped once [`QUEUE_MAX`] events wait for it: it never
//! delays a publisher and never fills the memory.

use std::collections::{BTreeMap, VecDeque};
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
/// Rows read at a time.
const SCAN_STEP: usize = 512;

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
    outlets: Mutex<Outlets>,
}

#[derive(Default)]
struct Outlets {
    subscribers: Vec<mpsc::Sender<Arc<Recorded>>>,
    /// By number.
    replay: BTreeMap<u64, Arc<Recorded>>,
}

/// What a row of the table `exit` says; an empty one is [`Keep::Task`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Its task exists.
    Task = 0,
    /// Its task exists, and it is replayed.
    TaskAndReplay = 1,
    /// Its task is gone, but it is replayed.
    Replay = 2,
}

impl Keep {
    fn of(row: &[u8]) -> Self {
        match row {
            [1] => Self::TaskAndReplay,
            [2] => Self::Replay,
            _ => Self::Task,
        }
    }
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
        let mut replay = BTreeMap::new();
        for (key, row) in exits(view)? {
            if Keep::of(&row) != Keep::Task
                && let Some(event) = event_at(view, key)?
            {
                replay.insert(key, Arc::new(event));
            }
        }
        Ok(Self {
            next: AtomicU64::new(last + 1),
            trimmed_to: AtomicU64::new(first.unwrap_or(last + 1)),
            outlets: Mutex::new(Outlets { subscribers: Vec::new(), replay }),
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

    /// Registers a subscriber: it gets what is kept for replay, then every event handed out after
    /// this returns.
    pub fn subscribe(&self) -> Subscription {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let mut outlets = self.lock();
        outlets.subscribers.push(sender);
        Subscription { replay: outlets.replay.values().cloned().collect(), receiver }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Outlets> {
        self.outlets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_out(&self, event: &Arc<Recorded>) {
        Self::send(&mut self.lock(), event);
    }

    /// For those who listen now, and for those who will until the replay is closed.
    fn hand_out_and_keep(&self, event: &Arc<Recorded>) {
        let mut outlets = self.lock();
        outlets.replay.insert(event.sequence, Arc::clone(event));
        Self::send(&mut outlets, event);
    }

    fn send(outlets: &mut Outlets, event: &Arc<Recorded>) {
        // A full queue means a stuck reader: dropping its sender ends its stream.
        outlets.subscribers.retain(|subscriber| subscriber.try_send(Arc::clone(event)).is_ok());
    }

    fn replayed(&self) -> Vec<u64> {
        self.lock().replay.keys().copied().collect()
    }

    pub(crate) fn append(self: Arc<Self>, tx: &mut Tx<'_, '_>, envelope: Envelope) -> Result<()> {
        let event = self.write(tx, envelope)?;
        tx.raw().after_commit(Box::new(move || self.hand_out(&event)));
        Ok(())
    }

    /// The entry for `envelope`, written and not yet handed out.
    fn write(&self, tx: &mut Tx<'_, '_>, envelope: Envelope) -> Result<Arc<Recorded>> {
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
        Ok(Arc::new(Recorded { sequence, envelope }))
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

impl Tx<'_, '_> {
    /// As [`Tx::emit_envelope`] for an exit: the entry stays until [`Tx::release_exit`]. With
    /// `replay` it is also kept for subscribers yet to come. Returns its number.
    pub(crate) fn emit_exit(&mut self, envelope: Envelope, replay: bool) -> Result<u64> {
        let journal = self.journal();
        let event = journal.write(self, envelope)?;
        let sequence = event.sequence;
        let keep = if replay { Keep::TaskAndReplay } else { Keep::Task };
        self.keep_exit(sequence, keep)?;
        self.raw().after_commit(Box::new(move || match keep {
            Keep::Task => journal.hand_out(&event),
            _ => journal.hand_out_and_keep(&event),
        }));
        Ok(sequence)
    }

    /// Has the exit of this number, recorded before but perhaps told to nobody, replayed. To be
    /// called only before anybody can subscribe.
    ///
    /// # Errors
    /// What the store below fails with.
    pub fn replay_exit(&mut self, sequence: u64) -> Result<()> {
        let Some(event) = event_at(self.view(), sequence)? else { return Ok(()) };
        self.keep_exit(sequence, Keep::TaskAndReplay)?;
        let journal = self.journal();
        self.raw().after_commit(Box::new(move || {
            journal.lock().replay.insert(sequence, Arc::new(event));
        }));
        Ok(())
    }

    /// Ends the keeping of an exit for its task; one that is replayed stays until that is over.
    pub(crate) fn release_exit(&mut self, sequence: u64) -> Result<()> {
        if self.journal().replayed().contains(&sequence) {
            return self.keep_exit(sequence, Keep::Replay);
        }
        self.forget_exit(sequence)
    }

    /// Ends the replay: subscribers that register from now on get new events only.
    ///
    /// # Errors
    /// What the store below fails with.
    pub fn close_replay(&mut self) -> Result<()> {
        let journal = self.journal();
        for sequence in journal.replayed() {
            match self.view().raw().get(EXIT, &sequence.to_be_bytes())?.as_deref().map(Keep::of) {
                Some(Keep::TaskAndReplay) => self.keep_exit(sequence, Keep::Task)?,
                Some(Keep::Replay) => self.forget_exit(sequence)?,
                Some(Keep::Task) | None => {}
            }
        }
        self.raw().after_commit(Box::new(move || journal.lock().replay.clear()));
        Ok(())
    }

    fn keep_exit(&mut self, sequence: u64, keep: Keep) -> Result<()> {
        Ok(self.raw().put(EXIT, sequence.to_be_bytes(), vec![keep as u8])?)
    }

    fn forget_exit(&mut self, sequence: u64) -> Result<()> {
        let key = sequence.to_be_bytes();
        self.unmark(EXIT, &key);
        // Trimming has been here and will not come again.
        if sequence < self.journal().trimmed_to.load(Ordering::SeqCst) {
            self.delete(EVENT, &key)?;
        }
        Ok(())
    }
}

fn exits(view: View<'_>) -> Result<Vec<(u64, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut start = Vec::new();
    loop {
        let rows = view.raw().scan(EXIT, &start, None, SCAN_STEP)?;
        let last = rows.last().map(|(key, _)| key.clone());
        let full = rows.len() == SCAN_STEP;
        found.extend(
            rows.into_iter()
                .filter_map(|(key, row)| Some((u64::from_be_bytes(key.try_into().ok()?), row))),
        );
        match last {
            Some(last) if full => start = [last, vec![0]].concat(),
            _ => return Ok(found),
        }
    }
}

fn event_at(view: View<'_>, sequence: u64) -> Result<Option<Recorded>> {
    let value = crate::values::get(view.raw(), EVENT, &sequence.to_be_bytes())?;
    value.map(|value| decode(sequence, &value)).transpose()
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
    replay: VecDeque<Arc<Recorded>>,
    receiver: mpsc::Receiver<Arc<Recorded>>,
}

impl Subscription {
    /// The next event; `None` once the subscriber was dropped for not reading, after the events
    /// that were waiting. Cancel safe.
    pub async fn next(&mut self) -> Option<Arc<Recorded>> {
        match self.replay.pop_front() {
            Some(event) => Some(event),
            None => self.receiver.recv().await,
        }
    }
    /// The next event if one waits already.
    pub fn try_next(&mut self) -> Option<Arc<Recorded>> {
        self.replay.pop_front().or_else(|| self.receiver.try_recv().ok())
    }
}
