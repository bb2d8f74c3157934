//! Migrations: each step once, exported first, killed anywhere and run again; newer stores refused.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use gantry_core::{Kind, SystemClock};
use gantry_metadata::kv::{BackendKind, Db, Options, Verdict, export::Export};
use gantry_metadata::migrate::{self, FAILPOINTS, Migration};
use gantry_metadata::schema::{IMAGE, META, TABLES};
use gantry_metadata::{LAST_EXPORT, Metadata, OpenOptions};

/// Two steps that must run in order and once: the second counts on the first.
const STEPS: &[Migration] = &[
    Migration {
        to: 2,
        run: |txn| {
            let ran = txn.get(META, b"ran").map(Option::unwrap_or_default)?;
            Ok(txn.put(META, b"ran".to_vec(), [ran, b"2".to_vec()].concat())?)
        },
    },
    Migration {
        to: 3,
        run: |txn| {
            let ran = txn.get(META, b"ran").map(Option::unwrap_or_default)?;
            Ok(txn.put(META, b"ran".to_vec(), [ran, b"3".to_vec()].concat())?)
        },
    },
];

use gantry_metadata::kv::Read;

fn open(folder: &Path) -> Db {
    Db::open(folder, BackendKind::Sled, TABLES, &Options::default()).unwrap()
}

fn options(folder: &Path) -> OpenOptions {
    OpenOptions { folder: folder.to_owned(), backend: BackendKind::Sled }
}

/// A store of version 1 with one image's row in it.
fn version_one(folder: &Path) {
    let metadata = Metadata::open(&options(folder), Arc::new(SystemClock)).unwrap();
    metadata
        .db()
        .update_blocking::<_, gantry_core::Error>(|txn| {
            txn.put(IMAGE, b"n\0i".to_vec(), b"\0".to_vec()).unwrap();
            Verdict::Commit(Ok(()))
        })
        .unwrap();
    metadata.close().unwrap();
}

fn ran(db: &Db) -> Vec<u8> {
    db.read_blocking::<_, gantry_core::Error>(|read| {
        Ok(read.get(META, b"ran")?.unwrap_or_default())
    })
    .unwrap()
}

/// Names and bytes of all files.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}

#[test]
fn each_step_runs_once_and_an_export_of_the_old_version_stays() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("meta");
    version_one(&folder);
    for _ in 0..2 {
        let db = open(&folder);
        migrate::run(&db, &folder, STEPS).unwrap();
        assert_eq!(ran(&db), b"23");
        assert_eq!(migrate::version(&db).unwrap(), Some(3));
        db.close().unwrap();
    }
    let export = Export::open(&folder.join("before-migration-from-1.export")).unwrap();
    assert_eq!(export.schema(), 1);
    let again = dir.path().join("again");
    let file = folder.join("before-migration-from-1.export");
    Metadata::import(&options(&again), &file).unwrap();
    let db = open(&again);
    let found = db.read_blocking::<_, gantry_core::Error>(|read| Ok(read.get(IMAGE, b"n\0i")?));
    assert!(found.unwrap().is_some());
    db.close().unwrap();
}

#[test]
fn a_newer_store_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("meta");
    version_one(&folder);
    let db = open(&folder);
    migrate::run(&db, &folder, STEPS).unwrap();
    db.close().unwrap();
    let before = files(&folder);
    let error = Metadata::open(&options(&folder), Arc::new(SystemClock)).unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    let text = error.message();
    assert!(text.contains("has schema version 3, this build knows 1"), "{text}");
    assert!(before == files(&folder), "refusing changed the store's files");
}

#[test]
fn an_import_takes_only_an_empty_store_and_a_whole_export() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("meta");
    version_one(&folder);
    let file = folder.join(LAST_EXPORT);
    let error = Metadata::import(&options(&folder), &file).unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition, "{}", error.message());
    let torn = dir.path().join("torn");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&torn, &text[..text.len() / 2]).unwrap();
    let other = dir.path().join("other");
    assert!(Metadata::import(&options(&other), &torn).is_err());
    Metadata::import(&options(&other), &file).unwrap();
}

const FOLDER: &str = "GANTRY_TEST_MIGRATE_FOLDER";
const POINT: &str = "GANTRY_TEST_MIGRATE_POINT";
const HIT: &str = "GANTRY_TEST_MIGRATE_HIT";

/// Not a case of its own: what the case below starts as a process and lets die.
#[test]
fn child_migrates() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let (point, hit) = (std::env::var(POINT).unwrap(), std::env::var(HIT).unwrap());
    let hit: usize = hit.parse().unwrap();
    let seen = std::sync::atomic::AtomicUsize::new(0);
    fail::cfg_callback(point, move || {
        if seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == hit {
            // As kill -9: nothing is cleaned up.
            std::process::abort();
        }
    })
    .unwrap();
    let folder = Path::new(&folder);
    let db = open(folder);
    migrate::run(&db, folder, STEPS).unwrap();
    db.close().unwrap();
}

#[test]
fn a_migration_that_was_killed_anywhere_is_finished_by_the_next() {
    let mut deaths = 0;
    for point in FAILPOINTS {
        for hit in 0..2 {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join("meta");
            version_one(&folder);
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child_migrates", "--test-threads=1"])
                .env(FOLDER, &folder)
                .env(POINT, point)
                .env(HIT, hit.to_string())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .status()
                .unwrap();
            deaths += usize::from(status.signal().is_some());
            let db = open(&folder);
            migrate::run(&db, &folder, STEPS).unwrap();
            assert_eq!(ran(&db), b"23", "killed at {point}, hit {hit}");
            db.close().unwrap();
            let refused = Metadata::open(&options(&folder), Arc::new(SystemClock)).unwrap_err();
            assert_eq!(refused.kind(), Kind::FailedPrecondition);
        }
    }
    // Exported once, stepped twice, one version file.
    assert_eq!(deaths, 4, "a failpoint was not reached");
}
