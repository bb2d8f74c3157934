//! Schema versions: which one a store has, and the steps from one to the next.
//!
//! The version stands twice: in the table `meta`, where it changes in the transaction of the
//! migration, and in the file `schema-version` beside the store, so that a store newer than this
//! build is refused before it is opened (opening may write).
//!
//! A migration is one transaction on exactly the version before it, so a kill leaves the old
//! version or the new one. Before the first step the store is exported to a file beside it
//! (`before-migration-from-N.export`), with which the older build can go on.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use gantry_core::{Error, Result};

use crate::kv::{Db, Txn, Verdict, export};
use crate::schema::{META, VERSION};

const VERSION_KEY: &[u8] = b"schema-version";
const VERSION_FILE: &str = "schema-version";

/// Where a run can be made to end by tests.
pub const FAILPOINTS: &[&str] =
    &["meta.migrate/exported", "meta.migrate/stepped", "meta.migrate/version-file"];

/// One step from a schema version to the next.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// The version it leads to, from the one before.
    pub to: u32,
    /// What it does; runs in one transaction.
    pub run: fn(&mut Txn<'_>) -> Result<()>,
}

/// All steps, append only.
pub const MIGRATIONS: &[Migration] = &[];

/// Refuses a store that a newer build wrote, without opening it.
///
/// # Errors
/// `FailedPrecondition` that names both versions and the remedy.
pub fn refuse_newer(folder: &Path) -> Result<()> {
    let path = folder.join(VERSION_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(format!("read {}", path.display()), e)),
    };
    // A torn file decides nothing: the version in the store does, once it is open.
    match text.trim().parse::<u32>() {
        Ok(found) => refuse(folder, found),
        Err(_) => Ok(()),
    }
}

/// The version that the open store has.
///
/// # Errors
/// What the store fails with.
pub fn version(db: &Db) -> Result<Option<u32>> {
    db.read_blocking(|read| {
        let value = read.get(META, VERSION_KEY)?;
        Ok(value.and_then(|v| <[u8; 4]>::try_from(v).ok()).map(u32::from_be_bytes))
    })
}

/// Refuses an export that a newer build wrote.
///
/// # Errors
/// `FailedPrecondition` that names both versions and the remedy.
pub fn refuse_newer_export(path: &Path, found: u32) -> Result<()> {
    refuse(path, found)
}

fn refuse(folder: &Path, found: u32) -> Result<()> {
    if found <= VERSION {
        return Ok(());
    }
    Err(Error::failed_precondition(format!(
        "metadata in {} has schema version {found}, this build knows {VERSION}: \
         run the newer build, or import its export into an empty root",
        folder.display()
    )))
}

/// Brings the open store to the last version of `migrations`.
///
/// # Errors
/// `FailedPrecondition` for a newer store; what a migration or the file system fails with.
pub fn run(db: &Db, folder: &Path, migrations: &[Migration]) -> Result<()> {
    let last = migrations.last().map_or(VERSION, |m| m.to.max(VERSION));
    let Some(mut version) = version(db)? else {
        set_version(db, last)?;
        return write_version_file(folder, last);
    };
    if version > last {
        return refuse(folder, version);
    }
    if version < last {
        let path = folder.join(format!("before-migration-from-{version}.export"));
        export::write(db, version, &path)
            .map_err(|e| Error::from(e).context("export before a migration"))?;
        fail::fail_point!("meta.migrate/exported");
    }
    for step in migrations {
        if step.to <= version {
            continue;
        }
        let (run, to) = (step.run, step.to);
        db.update_blocking(move |txn| {
            let done = run(txn)
                .and_then(|()| Ok(txn.put(META, VERSION_KEY.to_vec(), to.to_be_bytes())?));
            match done {
                Ok(()) => Verdict::Commit(Ok(())),
                Err(error) => Verdict::Abort(error),
            }
        })
        .map_err(|e: Error| e.context(format!("migrate the metadata to schema version {to}")))?;
        version = to;
        fail::fail_point!("meta.migrate/stepped");
    }
    write_version_file(folder, version)
}

fn set_version(db: &Db, version: u32) -> Result<()> {
    db.update_blocking(move |txn| {
        match txn.put(META, VERSION_KEY.to_vec(), version.to_be_bytes()) {
            Ok(()) => Verdict::Commit(Ok(())),
            Err(error) => Verdict::Abort(Error::from(error)),
        }
    })
}

fn write_version_file(folder: &Path, version: u32) -> Result<()> {
    let path = folder.join(VERSION_FILE);
    let text = format!("{version}\n");
    if fs::read_to_string(&path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    let failed = |e| Error::io(format!("write {}", path.display()), e);
    let temporary = folder.join("schema-version.new");
    fs::write(&temporary, &text).map_err(failed)?;
    fs::File::open(&temporary).and_then(|f| f.sync_all()).map_err(failed)?;
    fail::fail_point!("meta.migrate/version-file");
    fs::rename(&temporary, &path).map_err(failed)?;
    fs::File::open(folder).and_then(|f| f.sync_all()).map_err(failed)
}
