//! The key-value store as its users see it, over every backend.

// Helpers outside of test functions may fail a test, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod damage;
mod export;
mod full_disk;
mod measure;
mod model;
mod torture;

use std::path::Path;

use gantry_metadata::kv::{BackendKind, Db, Options, StoreError, Table, Txn, Verdict};

const A: Table = Table("alpha");
const B: Table = Table("beta");
const TABLES: &[Table] = &[A, B];
const BOTH: [BackendKind; 2] = [BackendKind::Sled, BackendKind::Redb];

fn open(dir: &Path, kind: BackendKind) -> Db {
    try_open(dir, kind).unwrap()
}

fn try_open(dir: &Path, kind: BackendKind) -> Result<Db, StoreError> {
    let mut options = Options::default();
    if let Some(bytes) = std::env::var("GANTRY_KV_RESERVE").ok().and_then(|n| n.parse().ok()) {
        options.reserve_bytes = bytes;
    }
    Db::open(&dir.join("meta"), kind, TABLES, &options)
}

/// An update that commits.
fn commit(
    db: &Db,
    f: impl FnOnce(&mut Txn<'_>) -> Result<(), StoreError> + Send + 'static,
) -> Result<(), StoreError> {
    db.update_blocking(|txn| Verdict::from(f(txn)))
}

/// Everything in a table.
fn all(db: &Db, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    db.read_blocking(|state| state.scan_prefix(table, b"")).unwrap()
}
