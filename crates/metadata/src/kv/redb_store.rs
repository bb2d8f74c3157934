//! The store on redb 4: one file, its own versions of the state, one fdatasync per commit.
//!
//! After a failed write redb refuses everything on the old handle but reads. Then the file is
//! opened anew, once no view uses the old handle, and what the failed commit may have left is
//! taken back, so that both backends promise the same.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    TableHandle,
};

use super::overlay::Batch;
use super::read::{Pair, Read, Table};
use super::reserve::Reserve;
use super::seal::{self, Audit, Audited};
use super::versioned::differing;
use super::{BackendKind, MetaStore, Options, StoreError, dir};

/// How long a failed commit waits for the views of the old handle before it leaves the rest to
/// the next commit.
const VIEWS_END: Duration = Duration::from_secs(2);

/// As for sled: 5 s for a dying process to let go of the lock.
const LOCK_ATTEMPTS: u32 = 250;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

fn definition(table: Table) -> Definition {
    TableDefinition::new(table.0)
}

struct State {
    /// Absent while it is opened anew, and when that failed.
    db: Option<Arc<Database>>,
    /// It is being opened anew; views wait.
    reopening: bool,
    /// A failed commit: the values before it, and why it failed.
    unsettled: Option<(Batch, StoreError)>,
}

/// The redb store.
pub(crate) struct Redb {
    dir: PathBuf,
    path: PathBuf,
    tables: BTreeSet<Table>,
    options: Options,
    state: Mutex<State>,
    /// Signalled when a view or a reopening ends.
    changed: Condvar,
    /// For stat and fallocate; redb syncs its own.
    file: std::fs::File,
    reserve: Reserve,
    /// A disk flush failed: what the page cache shows may never reach the disk.
    distrusted: AtomicBool,
}

/// Opens or makes the store in `dir`, which exists. `tables` are the known ones; `judge` adds the
/// store up, and its error is damage.
pub(crate) fn open(
    dir: &Path,
    tables: &BTreeSet<Table>,
    options: &Options,
    judge: &dyn Fn(Audit<'_>) -> Result<Audited, String>,
) -> Result<(Redb, Audited), StoreError> {
    let path = dir.join(BackendKind::Redb.file());
    let db = open_unlocked(&path, tables, options)?;
    let corrupt = |detail| StoreError::Corrupt { path: path.clone(), detail };
    let mut audit = Audit::new(tables);
    guarded(&path, || walk(&db, &mut audit))?;
    let audited = judge(audit).map_err(corrupt)?;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| StoreError::io(format!("open {}", path.display()), error))?;
    let reserve = Reserve::new(options.reserve_bytes);
    reserve.top_up(&file);
    dir::sync(dir)?;
    let store = Redb {
        dir: dir.to_owned(),
        path,
        tables: tables.clone(),
        options: options.clone(),
        state: Mutex::new(State { db: Some(Arc::new(db)), reopening: false, unsettled: None }),
        changed: Condvar::new(),
        file,
        reserve,
        distrusted: AtomicBool::new(false),
    };
    Ok((store, audited))
}

/// Shows every entry of every table to `audit`.
fn walk(db: &Database, audit: &mut Audit<'_>) -> Result<(), redb::Error> {
    let txn = db.begin_read()?;
    for table in txn.list_tables()? {
        let open = txn.open_table(TableDefinition::<&[u8], &[u8]>::new(table.name()))?;
        for pair in open.iter()? {
            let (key, value) = pair?;
            audit.entry(table.name(), key.value(), value.value());
        }
    }
    Ok(())
}

/// Runs one call into redb; its panics, on damaged pages, and errors become ours.
fn guarded<T, E: Into<redb::Error>>(
    path: &Path,
    call: impl FnOnce() -> Result<T, E>,
) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(outcome) => outcome.map_err(|error| translate(path, error)),
        Err(payload) => Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail: format!("redb panicked: {}", super::panic_text(&*payload)),
        }),
    }
}

fn open_unlocked(
    path: &Path,
    tables: &BTreeSet<Table>,
    options: &Options,
) -> Result<Database, StoreError> {
    let cache = usize::try_from(options.cache_bytes).unwrap_or(usize::MAX);
    let mut attempt = 0;
    let db = loop {
        match guarded(path, || Database::builder().set_cache_size(cache).create(path)) {
            Err(StoreError::Locked { .. }) if attempt < LOCK_ATTEMPTS => attempt += 1,
            outcome => break outcome?,
        }
        std::thread::sleep(LOCK_PAUSE);
    };
    guarded(path, || -> Result<(), redb::Error> {
        let known: Vec<String> = {
            let txn = db.begin_read()?;
            txn.list_tables()?.map(|table| table.name().to_owned()).collect()
        };
        let mut wanted = tables.iter().chain([&seal::TABLE]);
        if !wanted.all(|table| known.iter().any(|name| name == table.0)) {
            let txn = db.begin_write()?;
            for table in tables.iter().chain([&seal::TABLE]) {
                txn.open_table(definition(*table))?;
            }
            txn.commit()?;
        }
        Ok(())
    })?;
    Ok(db)
}

fn translate(path: &Path, error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(error) => match error.kind() {
            // No redb file, or not all of it.
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
                StoreError::Corrupt { path: path.to_owned(), detail: error.to_string() }
            }
            _ => StoreError::io("redb", error),
        },
        redb::Error::Corrupted(detail) => StoreError::Corrupt { path: path.to_owned(), detail },
        redb::Error::DatabaseAlreadyOpen => StoreError::Locked { path: path.to_owned() },
        other => StoreError::Backend { what: "redb", detail: other.to_string() },
    }
}

impl Redb {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handle; waits while it is being replaced.
    fn db(&self) -> Result<Arc<Database>, StoreError> {
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), 2 * VIEWS_END, |state| state.reopening)
            .unwrap_or_else(PoisonError::into_inner);
        state.db.clone().ok_or_else(|| StoreError::Stopped {
            detail: "opening the file anew failed".to_owned(),
        })
    }

    fn write(&self, db: &Database, batch: &Batch) -> Result<(), StoreError> {
        fail::fail_point!("kv.commit/apply", |arg| Err(StoreError::injected(arg)));
        guarded(&self.path, || -> Result<(), redb::Error> {
            let mut txn = db.begin_write()?;
            txn.set_durability(Durability::Immediate)?;
            for table in batch.tables() {
                let mut open = txn.open_table(definition(table))?;
                for (_, key, value) in batch.iter().filter(|(of, _, _)| *of == table) {
                    match value {
                        Some(value) => open.insert(key.as_slice(), value.as_slice()).map(drop)?,
                        None => open.remove(key.as_slice()).map(drop)?,
                    }
                }
            }
            fail::fail_point!("kv.commit/flush", |arg| {
                Err(redb::Error::Io(StoreError::injected_errno(arg)))
            });
            fail::fail_point!("kv.commit/fdatasync", |arg| {
                self.distrusted.store(true, Ordering::Relaxed);
                Err(redb::Error::Io(StoreError::injected_errno(arg)))
            });
            Ok(txn.commit()?)
        })?;
        self.reserve.top_up(&self.file);
        Ok(())
    }

    /// Opens the file anew and brings it back to the values before the failed commit.
    fn take_back(&self) -> Result<(), StoreError> {
        let mut state = self.lock();
        let Some((old, cause)) = state.unsettled.clone() else { return Ok(()) };
        let stopped = |again: StoreError| StoreError::stopped(&cause, &again);
        // redb does not say whether it was a write or the flush that failed. Each descriptor is
        // told of a failed flush once, so ours still is.
        if self.file.sync_data().is_err() || self.distrusted.load(Ordering::Relaxed) {
            self.distrusted.store(true, Ordering::Relaxed);
            return Err(StoreError::Stopped { detail: format!("{cause}; a disk flush failed") });
        }
        if let Some(db) = state.db.take() {
            state.reopening = true;
            let (back, waited) = self
                .changed
                .wait_timeout_while(state, VIEWS_END, |_| Arc::strong_count(&db) > 1)
                .unwrap_or_else(PoisonError::into_inner);
            state = back;
            state.reopening = false;
            self.changed.notify_all();
            if waited.timed_out() {
                state.db = Some(db);
                return Err(stopped(StoreError::Backend {
                    what: "redb",
                    detail: "a reader still uses the old handle".to_owned(),
                }));
            }
            // It may panic on what made it fail.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
        }
        let opened = open_unlocked(&self.path, &self.tables, &self.options);
        let db = Arc::new(opened.map_err(stopped)?);
        let txn = db.begin_read().map_err(|error| stopped(translate(&self.path, error)))?;
        let back = {
            let view = View { txn: Some(txn), db: Some(db.clone()), store: self };
            differing(&view, &old).map_err(stopped)?
        };
        if !back.is_empty() {
            self.write(&db, &back).map_err(stopped)?;
        }
        state.db = Some(db);
        state.unsettled = None;
        Ok(())
    }
}

impl MetaStore for Redb {
    fn view(&self) -> Result<Box<dyn Read + '_>, StoreError> {
        let db = self.db()?;
        let txn = db.begin_read().map_err(|error| translate(&self.path, error))?;
        Ok(Box::new(View { txn: Some(txn), db: Some(db), store: self }))
    }

    fn commit(&self, batch: &Batch, old: Batch) -> Result<(), StoreError> {
        let unsettled = self.lock().unsettled.is_some();
        if unsettled {
            self.take_back()?;
        }
        let outcome = self.write(&*self.db()?, batch);
        if let Err(error) = &outcome {
            self.lock().unsettled = Some((old, error.clone()));
            if let Err(again) = self.take_back() {
                tracing::error!(error = %again, "the failed commit is not taken back yet");
            }
        }
        outcome
    }

    fn has_reserve(&self) -> bool {
        self.reserve.whole(&self.file)
    }

    fn size_on_disk(&self) -> Result<u64, StoreError> {
        dir::size(&self.dir)
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        // redb writes its free lists and marks the file clean when the handle goes.
        drop(self.lock().db.take());
        self.file.sync_all().map_err(|error| StoreError::io("sync the metadata store", error))
    }
}

/// One version of the state.
struct View<'a> {
    txn: Option<ReadTransaction>,
    db: Option<Arc<Database>>,
    store: &'a Redb,
}

impl View<'_> {
    fn table(
        &self,
        table: Table,
    ) -> Result<redb::ReadOnlyTable<&'static [u8], &'static [u8]>, StoreError> {
        let txn = self.txn.as_ref().ok_or(StoreError::Closed)?;
        txn.open_table(definition(table)).map_err(|error| translate(&self.store.path, error))
    }
}

impl Read for View<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let open = self.table(table)?;
        guarded(&self.store.path, || {
            open.get(key).map(|found| found.map(|value| value.value().to_vec()))
        })
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(Vec::new());
        }
        let open = self.table(table)?;
        guarded(&self.store.path, || {
            let range = match end {
                Some(end) => open.range::<&[u8]>(start..end),
                None => open.range::<&[u8]>(start..),
            };
            range?
                .take(limit)
                .map(|pair| pair.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
                .collect::<Result<Vec<Pair>, redb::StorageError>>()
        })
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        // In this order: whoever waits for the handle must find neither.
        drop(self.txn.take());
        drop(self.db.take());
        self.store.changed.notify_all();
    }
}
