//! Opening the store and running transactions on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_core::{Clock, Result};

use crate::journal::Journal;
use crate::kv::{BackendKind, Db, Options, Verdict, export};
use crate::migrate;
use crate::schema::{TABLES, VERSION};
use crate::stores::touched::Touched;
use crate::tx::{Tx, View};

/// Where and how the store is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The folder of the store, `<root>/meta`.
    pub folder: PathBuf,
    /// Which backend keeps it.
    pub backend: BackendKind,
}

/// The export that a clean stop leaves in the store's folder.
pub const LAST_EXPORT: &str = "last-stop.export";

/// The open metadata store.
pub struct Metadata {
    db: Db,
    clock: Arc<dyn Clock>,
    journal: Arc<Journal>,
    touched: Arc<Touched>,
    folder: Option<PathBuf>,
}

impl std::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metadata").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Metadata {
    /// Opens the store, migrating it to this build's schema. Blocks.
    ///
    /// # Errors
    /// `FailedPrecondition` when the store is newer than this build (it is left untouched);
    /// `DataLoss` when it cannot be read; what the file system fails with.
    pub fn open(options: &OpenOptions, clock: Arc<dyn Clock>) -> Result<Arc<Self>> {
        migrate::refuse_newer(&options.folder)?;
        let db = Db::open(&options.folder, options.backend, TABLES, &Options::default())?;
        migrate::run(&db, &options.folder, migrate::MIGRATIONS)?;
        Self::over(db, clock, Some(options.folder.clone()))
    }

    /// A store that lives in memory, for tests.
    ///
    /// # Errors
    /// None that depends on the caller.
    pub fn in_memory(clock: Arc<dyn Clock>) -> Result<Arc<Self>> {
        Self::over(Db::in_memory(TABLES)?, clock, None)
    }

    fn over(db: Db, clock: Arc<dyn Clock>, folder: Option<PathBuf>) -> Result<Arc<Self>> {
        let journal = db.read_blocking(|read| Journal::load(View::of(read)))?;
        Ok(Arc::new(Self {
            db,
            clock,
            journal: Arc::new(journal),
            touched: Arc::new(Touched::default()),
            folder,
        }))
    }

    /// Writes the whole store to the file `path`, as JSON lines with version and checksum.
    /// Blocks; the file appears under its name once it is whole and on disk.
    ///
    /// # Errors
    /// What the file system or the store fails with.
    pub fn export(&self, path: &Path) -> Result<export::Summary> {
        let version = migrate::version(&self.db)?.unwrap_or(VERSION);
        Ok(export::write(&self.db, version, path)?)
    }

    /// Fills the empty store of `options` from the export `path`, in one transaction. Blocks.
    ///
    /// # Errors
    /// `FailedPrecondition` when the store is not empty or the export is of a newer build;
    /// `DataLoss` when the export is not whole.
    pub fn import(options: &OpenOptions, path: &Path) -> Result<usize> {
        let export = export::Export::open(path)?;
        migrate::refuse_newer_export(path, export.schema())?;
        migrate::refuse_newer(&options.folder)?;
        let db = Db::open(&options.folder, options.backend, TABLES, &Options::default())?;
        let entries = export.len();
        let done = export
            .import_into(&db)
            .map_err(gantry_core::Error::from)
            .and_then(|()| migrate::run(&db, &options.folder, migrate::MIGRATIONS));
        db.close()?;
        done.map(|()| entries)
    }

    /// Exports the store beside itself ([`LAST_EXPORT`]) and closes it. Blocks.
    ///
    /// # Errors
    /// What the file system or the store fails with; the store is closed all the same.
    pub fn close(&self) -> Result<()> {
        let exported = match &self.folder {
            Some(folder) => self.export(&folder.join(LAST_EXPORT)).map(drop),
            None => Ok(()),
        };
        let closed = self.db.clone().close().map_err(gantry_core::Error::from);
        exported.map_err(|e| e.context("export on stop")).and(closed)
    }

    /// The journal of events.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }
    /// The clock that stamps records.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
    /// The key-value store below, for export and check.
    pub fn db(&self) -> &Db {
        &self.db
    }
    /// The store's folder; `None` in memory.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }
    pub(crate) fn touched(&self) -> &Arc<Touched> {
        &self.touched
    }

    /// Runs `f` on one consistent state, on a blocking thread.
    ///
    /// # Errors
    /// What `f` or the store fails with.
    pub async fn read<T: Send + 'static>(
        &self,
        f: impl FnOnce(View<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.db.read(move |read| f(View::of(read))).await
    }

    /// As [`Metadata::read`] on the caller's thread, which must be one that may block.
    ///
    /// # Errors
    /// What `f` or the store fails with.
    pub fn read_blocking<T>(&self, f: impl FnOnce(View<'_>) -> Result<T>) -> Result<T> {
        self.db.read_blocking(move |read| f(View::of(read)))
    }

    /// Runs `f` as one transaction on the writer thread; returns once it is on disk. If `f` fails
    /// nothing of it remains, unless it asked for [`Tx::keep_on_error`].
    ///
    /// # Errors
    /// What `f` or the store fails with.
    pub async fn update<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Tx<'_, '_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.db.update(self.closure(f)).await
    }

    /// As [`Metadata::update`] on the caller's thread, which must be one that may block.
    ///
    /// # Errors
    /// What `f` or the store fails with.
    pub fn update_blocking<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Tx<'_, '_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.db.update_blocking(self.closure(f))
    }

    fn closure<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Tx<'_, '_>) -> Result<T> + Send + 'static,
    ) -> impl FnOnce(&mut crate::kv::Txn<'_>) -> Verdict<T, gantry_core::Error> + Send + 'static
    {
        let now = self.clock.now();
        let journal = Arc::clone(&self.journal);
        let touched = Arc::clone(&self.touched);
        move |txn| {
            let mut tx = Tx::new(txn, now, journal, touched);
            match f(&mut tx) {
                Ok(value) => Verdict::Commit(Ok(value)),
                Err(error) if tx.keeps_on_error() => Verdict::Commit(Err(error)),
                Err(error) => Verdict::Abort(error),
            }
        }
    }
}
