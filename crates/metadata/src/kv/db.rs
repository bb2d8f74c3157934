//! The store as the rest of the daemon holds it.
//!
//! A [`Db`] owns one writer thread. The backend is closed by whoever lets go of it last: the
//! writer, or a read that was still running.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use super::job::{Job, job};
use super::memory::Memory;
use super::overlay::Batch;
use super::queue::Queue;
use super::read::{Read, Table};
use super::seal::{Audit, Audited, Mark, Seal};
use super::txn::{Txn, Verdict, known};
use super::versioned::Versioned;
use super::views::Known;
use super::{BackendKind, MetaStore, StoreError, dir, panic_text, redb_store, sled_store, writer};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of cache; for sled the process grows by several times as much.
    pub cache_bytes: u64,
    /// Bytes kept back on the disk so that deletes work when it is full.
    pub reserve_bytes: u64,
    /// sled: length of the log below which it is never written anew at open. See the module
    /// `compact`.
    pub compact_above: u64,
    /// Open also a store that has lost commits or entries, as long as it can be read. Once, on
    /// the operator's word: what is not in the store is garbage to those who collect it.
    pub accept_loss: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 2 << 20,
            reserve_bytes: 8 << 20,
            compact_above: 32 << 20,
            accept_loss: false,
        }
    }
}

/// A handle on the store; clones share it.
#[derive(Clone)]
pub struct Db {
    shared: Arc<Shared>,
}

struct Shared {
    /// Emptied by the close.
    held: Mutex<Option<Arc<Held>>>,
    tables: BTreeSet<Table>,
    /// The directory, for messages.
    place: PathBuf,
    /// What lies in tables that are not among `tables`.
    hidden: Seal,
    queue: Arc<Queue>,
    writer: Mutex<Option<JoinHandle<()>>>,
    closed: Mutex<mpsc::Receiver<Result<(), StoreError>>>,
}

impl Db {
    /// Opens the store in the directory `path`, making it when it is absent; its parent must
    /// exist. `tables` are all that may be used. Blocking.
    ///
    /// [`StoreError::Locked`]: another process has it open, and did not let go within five
    /// seconds. [`StoreError::Corrupt`]: it cannot be read, or is less than what was committed;
    /// [`super::quarantine`] moves it away. [`StoreError::OtherBackend`]: it is of another kind.
    pub fn open(
        path: &Path,
        kind: BackendKind,
        tables: &'static [Table],
        options: &Options,
    ) -> Result<Self, StoreError> {
        dir::prepare(path, kind)?;
        let (mark, reached) = Mark::open(path)?;
        let known: BTreeSet<Table> = tables.iter().copied().collect();
        let judge = |audit: Audit<'_>| -> Result<Audited, String> {
            if options.accept_loss { Ok(audit.accept(reached)) } else { audit.finish(reached) }
        };
        let (store, audited): (Box<dyn MetaStore>, Audited) = match kind {
            BackendKind::Sled => {
                let (store, audited) = sled_store::open(path, &known, options, &judge)?;
                (Box::new(store), audited)
            }
            BackendKind::Redb => {
                let (store, audited) = redb_store::open(path, &known, options, &judge)?;
                (Box::new(store), audited)
            }
        };
        let mut seal = audited.seal;
        if options.accept_loss {
            tracing::warn!(entries = seal.entries, "the metadata store is taken as it is found");
            writer::commit(&*store, &mut Batch::default(), &mut seal)?;
            mark.write(seal.commits);
        }
        Self::start(store, known, Audited { seal, ..audited }, Some(mark), path.to_owned())
    }

    /// A store that lives in memory, for tests.
    pub fn in_memory(tables: &'static [Table]) -> Result<Self, StoreError> {
        Self::over(Box::new(Versioned::new(Memory::default())), tables)
    }

    /// A store over any backend, which starts empty.
    pub fn over(store: Box<dyn MetaStore>, tables: &'static [Table]) -> Result<Self, StoreError> {
        Self::start(
            store,
            tables.iter().copied().collect(),
            Audited::default(),
            None,
            "in memory".into(),
        )
    }

    fn start(
        store: Box<dyn MetaStore>,
        tables: BTreeSet<Table>,
        audited: Audited,
        mark: Option<Mark>,
        place: PathBuf,
    ) -> Result<Self, StoreError> {
        let (sender, closed) = mpsc::channel();
        let held = Arc::new(Held { store: Some(store), closed: sender });
        let queue = Arc::new(Queue::default());
        let writer = thread::Builder::new()
            .name("meta-writer".to_owned())
            .spawn({
                let (held, tables, queue) = (held.clone(), tables.clone(), queue.clone());
                move || {
                    if let Some(store) = &held.store {
                        writer::run(&**store, &tables, &queue, audited.seal, mark.as_ref());
                    }
                }
            })
            .map_err(|source| StoreError::io("start the writer thread", source))?;
        let shared = Shared {
            held: Mutex::new(Some(held)),
            tables,
            place,
            hidden: audited.hidden,
            queue,
            writer: Mutex::new(Some(writer)),
            closed: Mutex::new(closed),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Runs `f` on a blocking thread against one durable state.
    pub async fn read<T, E>(
        &self,
        f: impl FnOnce(&dyn Read) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let db = self.clone();
        let task = tokio::task::spawn_blocking(move || db.read_blocking(f));
        task.await.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(payload) => Err(StoreError::Panicked { message: panic_text(&*payload) }.into()),
            // The runtime is going down.
            Err(_) => Err(StoreError::Closed.into()),
        })
    }

    /// Runs `f` here against one durable state. Not for the reactor: it reads the disk.
    pub fn read_blocking<T, E>(&self, f: impl FnOnce(&dyn Read) -> Result<T, E>) -> Result<T, E>
    where
        E: From<StoreError>,
    {
        let held = lock(&self.shared.held).clone().ok_or(StoreError::Closed)?;
        let store = held.store.as_ref().ok_or(StoreError::Closed)?;
        let view = store.view()?;
        f(&Known { view: &*view, tables: &self.shared.tables })
    }

    /// Runs `f` on the writer thread and returns when what it did, or read, is on disk. `f` must
    /// be pure: no I/O, no clock, no waiting.
    ///
    /// Cancel safety: once polled, the update happens, whether or not the future is polled to
    /// its end.
    pub async fn update<T, E>(
        &self,
        f: impl FnOnce(&mut Txn<'_>) -> Verdict<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.push(job(f, move |answer| drop(sender.send(answer))))?;
        receiver.await.unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }

    /// As [`Db::update`], waiting here. Not for the reactor; from an after-commit callback it is
    /// refused.
    pub fn update_blocking<T, E>(
        &self,
        f: impl FnOnce(&mut Txn<'_>) -> Verdict<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        if self.on_writer_thread() {
            return Err(StoreError::Reentrant.into());
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        self.push(job(f, move |answer| drop(sender.send(answer))))?;
        receiver.recv().unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }

    /// Entries in `table`.
    pub fn len(&self, table: Table) -> Result<u64, StoreError> {
        known(&self.shared.tables, table)?;
        self.with_store(|store| store.len(table))
    }

    /// Bytes that the store's files occupy.
    pub fn size_on_disk(&self) -> Result<u64, StoreError> {
        self.with_store(|store| store.size_on_disk())
    }

    /// The tables it was opened with, by name.
    pub fn tables(&self) -> impl Iterator<Item = Table> + '_ {
        self.shared.tables.iter().copied()
    }

    /// Adds up all entries of one state and compares with what was committed. Walks everything.
    pub fn verify(&self) -> Result<(), StoreError> {
        let held = lock(&self.shared.held).clone().ok_or(StoreError::Closed)?;
        let view = held.store.as_ref().ok_or(StoreError::Closed)?.view()?;
        let (stored, mut found) = (Seal::read(&*view)?, self.shared.hidden);
        for table in &self.shared.tables {
            view.for_each(*table, &[], None, &mut |key, value| {
                found.add(table.0, &key, &value);
                true
            })?;
        }
        if (found.entries, found.sum) == (stored.entries, stored.sum) {
            return Ok(());
        }
        Err(StoreError::Corrupt {
            path: self.shared.place.clone(),
            detail: format!(
                "{} entries were committed, {} are there, or some have changed",
                stored.entries, found.entries
            ),
        })
    }

    /// Entries in tables that it was not opened with.
    pub(crate) fn left_out(&self) -> u64 {
        self.shared.hidden.entries
    }

    /// Does what is queued, waits for reads that are running, and leaves the files clean and
    /// unlocked. Other handles answer [`StoreError::Closed`] from then on.
    pub fn close(self) -> Result<(), StoreError> {
        if self.on_writer_thread() {
            return Err(StoreError::Reentrant);
        }
        self.shared.stop();
        let closed = lock(&self.shared.closed);
        closed.recv().unwrap_or(Err(StoreError::Closed))
    }

    fn with_store<T>(
        &self,
        f: impl FnOnce(&dyn MetaStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let held = lock(&self.shared.held).clone().ok_or(StoreError::Closed)?;
        f(&**held.store.as_ref().ok_or(StoreError::Closed)?)
    }

    fn push(&self, job: Job) -> Result<(), StoreError> {
        self.shared.queue.push(job).map_err(|_| StoreError::Closed)
    }

    fn on_writer_thread(&self) -> bool {
        let me = thread::current().id();
        lock(&self.shared.writer).as_ref().is_some_and(|writer| writer.thread().id() == me)
    }
}

impl Shared {
    fn stop(&self) {
        self.queue.close();
        let writer = lock(&self.writer).take();
        if let Some(writer) = writer.filter(|w| w.thread().id() != thread::current().id()) {
            // A panic there was logged where it happened.
            let _ = writer.join();
        }
        lock(&self.held).take();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The backend; closes it when the last user lets go.
struct Held {
    store: Option<Box<dyn MetaStore>>,
    closed: mpsc::Sender<Result<(), StoreError>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(store) = self.store.take() {
            let outcome = store.close();
            if let Err(error) = &outcome {
                tracing::error!(%error, "closing the metadata store failed");
            }
            // Nobody listens when the handle was dropped instead of closed.
            let _ = self.closed.send(outcome);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "db_tests.rs"]
mod tests;
