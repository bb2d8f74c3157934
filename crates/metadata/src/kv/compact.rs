//! Writes a sled store anew when its log has grown far beyond what it holds.
//!
//! sled frees a segment of its log (512 KiB) when nothing in it lives, and never moves what lives
//! there: long-lived entries among short-lived ones pin a segment each. Measured: 43 MiB for
//! 3 MiB. So an open that finds such a log copies the entries into a new one.
//!
//! ```text
//! compacting/db    copied and synced          kv.compact/copied
//! snap.*           removed, synced            kv.compact/unindexed   (the log alone is enough)
//! compacting/db -> db, synced                 kv.compact/renamed
//! ```
//!
//! Invariant: a kill at any point leaves one whole log under its name. Must not: run while the
//! store is in use; be the reason that a store does not open (a failure leaves the old log).

use std::fs::{self, File};
use std::path::Path;

use super::{BackendKind, StoreError, dir};

const NEW: &str = "compacting";
/// Bytes per batch of the copy: more would only take memory.
const BATCH_BYTES: usize = 1 << 20;
/// How many times what it holds a log may be long.
const RATIO: u64 = 8;

/// Whether a log of `length` bytes is to be written anew. `above`: shorter ones never are.
pub(crate) fn wanted(length: u64, held: u64, above: u64) -> bool {
    length > above && length > held.saturating_mul(RATIO)
}

/// Removes what a killed compaction left.
pub(crate) fn clean(dir: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(dir.join(NEW)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io("remove an unfinished compaction", error))
        }
        _ => Ok(()),
    }
}

/// Copies `db` into a new log beside it, complete and on disk.
pub(crate) fn copy(
    dir: &Path,
    db: &sled::Db,
    open: impl FnOnce(&Path) -> Result<sled::Db, StoreError>,
    failed: impl Fn(sled::Error) -> StoreError,
) -> Result<(), StoreError> {
    clean(dir)?;
    let path = dir.join(NEW);
    fs::create_dir(&path).map_err(|error| StoreError::io("make a new log", error))?;
    let new = open(&path)?;
    let (mut batch, mut bytes) = (sled::Batch::default(), 0);
    for pair in db.iter() {
        let (key, value) = pair.map_err(&failed)?;
        bytes += key.len() + value.len();
        batch.insert(key, value);
        if bytes >= BATCH_BYTES {
            new.apply_batch(std::mem::take(&mut batch)).map_err(&failed)?;
            bytes = 0;
        }
    }
    new.apply_batch(batch).map_err(&failed)?;
    new.flush().map_err(&failed)?;
    drop(new);
    File::open(path.join(BackendKind::Sled.file()))
        .and_then(|file| file.sync_all())
        .map_err(|error| StoreError::io("sync a new log", error))?;
    fail::fail_point!("kv.compact/copied", |arg| Err(StoreError::injected(arg)));
    Ok(())
}

/// Puts the new log in the place of the old one, which is closed.
pub(crate) fn replace(dir: &Path) -> Result<(), StoreError> {
    for snapshot in dir::files(dir, |name| name.starts_with("snap."))? {
        fs::remove_file(&snapshot)
            .map_err(|error| StoreError::io(format!("remove {}", snapshot.display()), error))?;
    }
    dir::sync(dir)?;
    fail::fail_point!("kv.compact/unindexed", |arg| Err(StoreError::injected(arg)));
    let file = BackendKind::Sled.file();
    fs::rename(dir.join(NEW).join(file), dir.join(file))
        .map_err(|error| StoreError::io("put the new log in place", error))?;
    dir::sync(dir)?;
    fail::fail_point!("kv.compact/renamed", |arg| Err(StoreError::injected(arg)));
    clean(dir)
}
