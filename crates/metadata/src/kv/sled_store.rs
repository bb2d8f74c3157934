//! The store on sled 0.34, with the guards that its known faults call for.
//!
//! - An interrupted open leaves `snap.*.generating`, which a later open takes for a snapshot and
//!   fails on for ever: removed before each open.
//! - A damaged snapshot fails the open, though it is but an index of the log: set aside, retried.
//! - A damaged log may panic, in open and later: every call is under `catch_unwind` and a panic
//!   becomes [`StoreError::Corrupt`].
//! - `flush` is no fsync on Linux: an own `fdatasync` on the same file follows it.
//! - `flush` can miss the wake-up when a write fails: it runs on sled's pool and is asked again.
//! - After a failed write the handle is dead: [`Live::reopen`] makes a new one.
//! - Large values leak files: the limit on values keeps them out.
//!
//! One tree holds all tables: key = table, NUL, key. So an atomic batch of sled is an atomic batch
//! over tables. Invariant: table names hold no NUL.

use std::any::Any;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};

use super::flush::flush;
use super::overlay::Batch;
use super::read::{Pair, Read, Table, prefix_end};
use super::reserve::Reserve;
use super::seal::{Audit, Audited};
use super::versioned::{Live, Versioned};
use super::{BackendKind, MetaStore, Options, StoreError, compact, dir};

/// Released when an open finds no room to write its snapshot, and made again after it.
const SPARE_FILE: &str = "spare";
const SPARE_BYTES: u64 = 1 << 20;

/// How often and how far apart an open asks for the lock that a dying process still holds: 5 s.
const LOCK_ATTEMPTS: u32 = 250;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The live sled store.
pub(crate) struct Sled {
    dir: PathBuf,
    options: Options,
    /// `None` only when a reopen failed.
    db: RwLock<Option<sled::Db>>,
    /// Our own descriptor of sled's file: sled never gives the kernel's answer to an fsync.
    file: File,
    reserve: Reserve,
    /// An fdatasync failed: what the page cache shows may never reach the disk.
    distrusted: AtomicBool,
}

/// How to add the store up when it has been opened; its error is damage.
type Judge<'a> = &'a dyn Fn(Audit<'_>) -> Result<Audited, String>;

/// Opens or makes the store in `dir`, which exists. `tables` are the known ones.
pub(crate) fn open(
    dir: &Path,
    tables: &BTreeSet<Table>,
    options: &Options,
    judge: Judge<'_>,
) -> Result<(Versioned<Sled>, Audited), StoreError> {
    compact::clean(dir)?;
    let examine = |db: &sled::Db| audit(dir, db, tables, judge);
    let (mut db, mut audited) = open_hardened(dir, options, &examine)?;
    let path = dir.join(BackendKind::Sled.file());
    let length = fs::metadata(&path).map_or(0, |meta| meta.len());
    if compact::wanted(length, audited.bytes, options.compact_above) {
        tracing::info!(length, held = audited.bytes, "writing the metadata store anew");
        let open_new = |new: &Path| open_unlocked(new, options);
        let copied = catch_unwind(AssertUnwindSafe(|| {
            compact::copy(dir, &db, open_new, |error| translate(dir, error))
        }));
        match copied.unwrap_or_else(|payload| Err(panicked(dir, &*payload))) {
            Ok(()) => {
                guarded(dir, || {
                    drop(db);
                    Ok(())
                })?;
                if let Err(error) = compact::replace(dir) {
                    // Either log is whole; the audit below says so.
                    tracing::warn!(%error, "putting the new metadata log in place failed");
                }
                (db, audited) = open_hardened(dir, options, &examine)?;
            }
            Err(error) => {
                tracing::warn!(%error, "the metadata store stays as long as it is");
                compact::clean(dir)?;
            }
        }
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| StoreError::io(format!("open {}", path.display()), error))?;
    let reserve = Reserve::new(options.reserve_bytes);
    reserve.top_up(&file);
    file.sync_all().map_err(|error| StoreError::io("sync the metadata store", error))?;
    dir::sync(dir)?;
    let live = Sled {
        dir: dir.to_owned(),
        options: options.clone(),
        db: RwLock::new(Some(db)),
        file,
        reserve,
        distrusted: AtomicBool::new(false),
    };
    Ok((Versioned::new(live), audited))
}

/// One open with every remedy that loses nothing, each at most once.
fn open_hardened<T>(
    dir: &Path,
    options: &Options,
    examine: &dyn Fn(&sled::Db) -> Result<T, StoreError>,
) -> Result<(sled::Db, T), StoreError> {
    let spare = dir.join(SPARE_FILE);
    let (mut may_free, mut may_set_aside) = (spare.exists(), true);
    loop {
        // Before every attempt: a failed one leaves its own.
        for leftover in dir::files(dir, |name| name.ends_with(".generating"))? {
            tracing::warn!(path = %leftover.display(), "removing an unfinished snapshot");
            remove(&leftover)?;
        }
        let opened = open_unlocked(dir, options);
        match opened.and_then(|db| examine(&db).map(|examined| (db, examined))) {
            Ok(opened) => {
                make_spare(&spare);
                return Ok(opened);
            }
            Err(StoreError::Full { .. }) if may_free => {
                tracing::warn!("disk full: opening the metadata store with its spare space");
                may_free = false;
                remove(&spare)?;
            }
            Err(StoreError::Corrupt { detail, .. })
                if may_set_aside && set_snapshots_aside(dir)? =>
            {
                tracing::warn!(detail, "metadata store damaged: reading the log without snapshot");
                may_set_aside = false;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Moves all snapshots out of sled's sight; false: there was none.
fn set_snapshots_aside(dir: &Path) -> Result<bool, StoreError> {
    let snapshots = dir::files(dir, |name| name.starts_with("snap."))?;
    for path in &snapshots {
        let aside = path.with_file_name("damaged-snap");
        fs::rename(path, aside).map_err(|error| StoreError::io("set a snapshot aside", error))?;
    }
    Ok(!snapshots.is_empty())
}

/// Opens, waiting a bounded while for the lock.
fn open_unlocked(dir: &Path, options: &Options) -> Result<sled::Db, StoreError> {
    let mut attempt = 0;
    loop {
        let config = sled::Config::default()
            .path(dir)
            .cache_capacity(options.cache_bytes)
            .flush_every_ms(None);
        match guarded(dir, || config.open()) {
            Err(StoreError::Locked { .. }) if attempt < LOCK_ATTEMPTS => attempt += 1,
            outcome => return outcome,
        }
        std::thread::sleep(LOCK_PAUSE);
    }
}

/// Reads everything once and adds it up.
fn audit(
    dir: &Path,
    db: &sled::Db,
    tables: &BTreeSet<Table>,
    judge: Judge<'_>,
) -> Result<Audited, StoreError> {
    let corrupt = |detail| StoreError::Corrupt { path: dir.to_owned(), detail };
    let mut audit = Audit::new(tables);
    let mut strange = None;
    guarded(dir, || {
        for pair in db.iter() {
            let (full, value) = pair?;
            match split_key(&full) {
                Some((table, key)) => audit.entry(table, key, &value),
                None => strange = Some(full),
            }
        }
        Ok(())
    })?;
    match strange {
        Some(key) => Err(corrupt(format!("a key of no table: {key:?}"))),
        None => judge(audit).map_err(corrupt),
    }
}

/// Table and key of a key in the one tree.
fn split_key(full: &[u8]) -> Option<(&str, &[u8])> {
    let end = full.iter().position(|byte| *byte == 0)?;
    Some((std::str::from_utf8(&full[..end]).ok()?, &full[end + 1..]))
}

/// Whether an open finds as much space as the spare file would give.
fn room(dir: &Path) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) >= SPARE_BYTES)
}

fn make_spare(path: &Path) {
    let made = || -> std::io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        if file.metadata()?.len() < SPARE_BYTES {
            fallocate(&file, FallocateFlags::empty(), 0, SPARE_BYTES)?;
        }
        Ok(())
    };
    if let Err(error) = made() {
        // Tried again at the next open; the reserve inside the database file is there anyway.
        tracing::warn!(%error, "no spare space for the next start of the metadata store");
        let _ = fs::remove_file(path);
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    fs::remove_file(path)
        .map_err(|error| StoreError::io(format!("remove {}", path.display()), error))
}

/// Runs one call into sled; its panics and errors become ours.
fn guarded<T>(dir: &Path, call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    // sled's state after a panic is not used again: whoever gets `Corrupt` from a write stops, and
    // reads have no state.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(outcome) => outcome.map_err(|error| translate(dir, error)),
        Err(payload) => Err(panicked(dir, &*payload)),
    }
}

fn panicked(dir: &Path, payload: &(dyn Any + Send)) -> StoreError {
    StoreError::Corrupt {
        path: dir.to_owned(),
        detail: format!("sled panicked: {}", super::panic_text(payload)),
    }
}

fn translate(dir: &Path, error: sled::Error) -> StoreError {
    match error {
        // sled has one kind for this, "other", and its own text.
        sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => {
            StoreError::Locked { path: dir.to_owned() }
        }
        // What is missing from the file was once in it.
        sled::Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            StoreError::Corrupt { path: dir.to_owned(), detail: error.to_string() }
        }
        sled::Error::Io(error) => StoreError::io("sled", error),
        sled::Error::Corruption { at, .. } => StoreError::Corrupt {
            path: dir.to_owned(),
            detail: format!("sled found a bad checksum at {at:?}"),
        },
        other => StoreError::Backend { what: "sled", detail: other.to_string() },
    }
}

/// The key in the one tree.
fn full_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(table.0.len() + 1 + key.len());
    full.extend_from_slice(table.0.as_bytes());
    full.push(0);
    full.extend_from_slice(key);
    full
}

impl Sled {
    fn with<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, StoreError> {
        match &*self.lock() {
            Some(db) => guarded(&self.dir, || call(db)),
            None => Err(StoreError::Stopped { detail: "reopening failed".to_owned() }),
        }
    }

    fn lock(&self) -> RwLockReadGuard<'_, Option<sled::Db>> {
        self.db.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn fdatasync(&self) -> Result<(), StoreError> {
        fail::fail_point!("kv.commit/fdatasync", |arg| {
            self.distrusted.store(true, Ordering::Relaxed);
            Err(StoreError::injected(arg))
        });
        self.file.sync_data().map_err(|error| {
            self.distrusted.store(true, Ordering::Relaxed);
            StoreError::io("sync the metadata store", error)
        })
    }
}

impl Read for Sled {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|db| Ok(db.get(full_key(table, key))?.map(|value| value.to_vec())))
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        let prefix = table.0.len() + 1;
        let from = full_key(table, start);
        let until = match end {
            Some(end) => full_key(table, end),
            // A table name is not empty, so its prefix has an end.
            None => prefix_end(&full_key(table, &[])).unwrap_or_default(),
        };
        if until <= from {
            return Ok(Vec::new());
        }
        self.with(|db| {
            let range = db.range(from..until).take(limit);
            range.map(|pair| pair.map(|(k, v)| (k[prefix..].to_vec(), v.to_vec()))).collect()
        })
    }
}

impl Live for Sled {
    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        fail::fail_point!("kv.commit/apply", |arg| Err(StoreError::injected(arg)));
        let mut writes = sled::Batch::default();
        for (table, key, value) in batch.iter() {
            let key = full_key(table, key);
            match value {
                Some(value) => writes.insert(key, value.as_slice()),
                None => writes.remove(key),
            }
        }
        self.with(|db| db.apply_batch(writes))
    }

    fn sync(&self) -> Result<(), StoreError> {
        fail::fail_point!("kv.commit/flush", |arg| Err(StoreError::injected(arg)));
        let db = self.lock().clone();
        let Some(db) = db else {
            return Err(StoreError::Stopped { detail: "reopening failed".to_owned() });
        };
        flush(&db).map_err(|error| translate(&self.dir, error))?;
        self.fdatasync()?;
        self.reserve.top_up(&self.file);
        Ok(())
    }

    fn reopen(&self) -> Result<(), StoreError> {
        // sled's flush may have been told of a failed disk flush by the kernel, which tells each
        // descriptor once; so ours still is.
        if self.distrusted.load(Ordering::Relaxed) || self.file.sync_data().is_err() {
            self.distrusted.store(true, Ordering::Relaxed);
            return Err(StoreError::Stopped { detail: "a disk flush failed".to_owned() });
        }
        // Reads can do with the dead handle; an open without room would leave none.
        let spare = self.dir.join(SPARE_FILE);
        if !spare.exists() && !room(&self.dir) {
            return Err(StoreError::Full { what: "no room to open the store anew".to_owned() });
        }
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        let old = db.take();
        // Its drop flushes, unless a write has failed, and may panic on what made it fail.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(old)));
        let (reopened, ()) = open_hardened(&self.dir, &self.options, &|_| Ok(()))?;
        *db = Some(reopened);
        Ok(())
    }
}

impl MetaStore for Versioned<Sled> {
    fn view(&self) -> Result<Box<dyn Read + '_>, StoreError> {
        Ok(Box::new(Self::view(self)))
    }

    fn commit(&self, batch: &Batch, old: Batch) -> Result<(), StoreError> {
        Self::commit(self, batch, old)
    }

    fn has_reserve(&self) -> bool {
        let live = self.live();
        live.reserve.whole(&live.file)
    }

    fn size_on_disk(&self) -> Result<u64, StoreError> {
        dir::size(&self.live().dir)
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        let live = self.into_live();
        let db = live.db.into_inner().unwrap_or_else(PoisonError::into_inner);
        guarded(&live.dir, || {
            drop(db);
            Ok(())
        })?;
        if live.distrusted.load(Ordering::Relaxed) {
            return Ok(());
        }
        live.file.sync_all().map_err(|error| StoreError::io("sync the metadata store", error))
    }
}
