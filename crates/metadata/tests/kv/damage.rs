//! What is found damaged is healed without loss where that is possible, and named where not;
//! never a panic, never a wait without end.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use gantry_core::Kind;
use gantry_metadata::kv::{self, BackendKind, Db, Options, StoreError};

use super::{A, B, BOTH, TABLES, all, commit, open, try_open};

/// A store with something in it, closed.
fn filled(kind: BackendKind) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path(), kind);
    for first in (0..400u32).step_by(10) {
        commit(&db, move |txn| {
            (first..first + 10).try_for_each(|n| {
                txn.put(A, n.to_be_bytes(), vec![u8::try_from(n % 251).unwrap(); 3000])?;
                txn.put(B, n.to_be_bytes(), n.to_le_bytes())
            })
        })
        .unwrap();
    }
    db.close().unwrap();
    dir
}

fn assert_whole(dir: &Path, kind: BackendKind) {
    let db = open(dir, kind);
    assert_eq!(all(&db, A).len(), 400);
    assert_eq!(all(&db, B).len(), 400);
    commit(&db, |txn| txn.put(A, "after", "damage")).unwrap();
    db.close().unwrap();
    let db = open(dir, kind);
    assert_eq!(all(&db, A).len(), 401);
    db.close().unwrap();
}

fn snapshot(dir: &Path) -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir(dir.join("meta"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snap."))
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.pop().unwrap()
}

#[test]
fn a_damaged_snapshot_is_set_aside() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 3] = [
        ("truncated", |path| {
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }),
        ("empty", |path| fs::write(path, b"").unwrap()),
        ("flipped", |path| {
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x55;
            fs::write(path, bytes).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let dir = filled(BackendKind::Sled);
        // A second open makes sled write the snapshot that holds everything.
        open(dir.path(), BackendKind::Sled).close().unwrap();
        damage(&snapshot(dir.path()));
        println!("{name}");
        assert_whole(dir.path(), BackendKind::Sled);
    }
}

#[test]
fn an_unfinished_snapshot_is_removed() {
    let dir = filled(BackendKind::Sled);
    let leftover = dir.path().join("meta/snap.FFFFFFFFFFFFFFFF.generating");
    fs::write(&leftover, b"half a snapshot").unwrap();
    assert_whole(dir.path(), BackendKind::Sled);
    assert!(!leftover.exists());
}

fn db_file(dir: &Path, kind: BackendKind) -> PathBuf {
    dir.join("meta").join(if kind == BackendKind::Sled { "db" } else { "redb" })
}

/// Opens and reads everything: the number of entries of both tables.
fn read_all(dir: &Path, kind: BackendKind) -> Result<(usize, usize), StoreError> {
    let db = try_open(dir, kind)?;
    let found = db.read_blocking(|state| {
        Ok::<_, StoreError>((state.scan_prefix(A, b"")?.len(), state.scan_prefix(B, b"")?.len()))
    });
    let closed = db.close();
    let found = found?;
    closed?;
    Ok(found)
}

/// Damage costs nothing, or ends in an error of kind DataLoss that names the place and the remedy;
/// the remedy works.
fn assert_named(dir: &Path, kind: BackendKind, what: &str) {
    match read_all(dir, kind) {
        Ok((first, second)) => {
            println!("{kind:?} {what}: opens with {first} and {second} entries");
            assert_eq!((first, second), (400, 400), "{kind:?} {what}: lost without a word");
        }
        Err(error) => {
            println!("{kind:?} {what}: {error}");
            assert_eq!(error.kind(), Kind::DataLoss, "{kind:?} {what}: {error:?}");
            let text = error.to_string();
            assert!(text.contains("meta import"), "{text}");
            assert!(text.contains(dir.to_str().unwrap()), "{text}");
            let aside = kv::quarantine(&dir.join("meta")).unwrap();
            assert!(aside.exists());
            let db = open(dir, kind);
            assert_eq!(all(&db, A).len(), 0);
            db.close().unwrap();
        }
    }
}

#[test]
fn a_short_file_is_named() {
    for kind in BOTH {
        let length = fs::metadata(db_file(filled(kind).path(), kind)).unwrap().len();
        for keep in [0, 1, 100, 4096, length / 3, length / 2, length - (1 << 19), length - 1] {
            let dir = filled(kind);
            let path = db_file(dir.path(), kind);
            fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(keep).unwrap();
            assert_named(dir.path(), kind, &format!("cut to {keep} of {length}"));
        }
    }
}

#[test]
fn zeros_and_flips_are_named() {
    for kind in BOTH {
        let length = fs::metadata(db_file(filled(kind).path(), kind)).unwrap().len();
        for (offset, bytes) in [
            (length - (1 << 19), vec![0; 1 << 19]),
            (length / 2, vec![0; 1 << 18]),
            (0, vec![0; 4096]),
            (0, vec![0x55; 64]),
            (length / 3, vec![0x55; 64]),
            (length / 2 + 12345, vec![0x55; 64]),
        ] {
            let dir = filled(kind);
            let path = db_file(dir.path(), kind);
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&bytes, offset).unwrap();
            let what = format!("{} bytes {:#x} at {offset} of {length}", bytes.len(), bytes[0]);
            assert_named(dir.path(), kind, &what);
        }
    }
}

#[test]
fn the_other_backends_directory_is_refused() {
    for (made, asked) in
        [(BackendKind::Sled, BackendKind::Redb), (BackendKind::Redb, BackendKind::Sled)]
    {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), made).close().unwrap();
        let error = try_open(dir.path(), asked).map(drop).unwrap_err();
        assert!(matches!(error, StoreError::OtherBackend { .. }), "{error}");
        open(dir.path(), made).close().unwrap();
    }
}

#[test]
fn a_second_opener_is_told_so() {
    for kind in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path(), kind);
        let error = try_open(dir.path(), kind).map(drop).unwrap_err();
        assert!(matches!(error, StoreError::Locked { .. }), "{error}");
        db.close().unwrap();
    }
}

#[test]
fn an_absent_parent_is_an_error_with_the_path() {
    for kind in BOTH {
        let path = Path::new("/nonexistent/gantry/meta");
        let error = Db::open(path, kind, TABLES, &Options::default()).map(drop).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/gantry/meta"), "{error}");
    }
}

#[test]
fn a_loss_is_accepted_once_on_request() {
    let dir = filled(BackendKind::Sled);
    let path = db_file(dir.path(), BackendKind::Sled);
    let length = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - (1 << 19)).unwrap();
    let refused = try_open(dir.path(), BackendKind::Sled).map(drop).unwrap_err();
    assert_eq!(refused.kind(), Kind::DataLoss, "{refused}");
    let options = Options { accept_loss: true, ..Options::default() };
    let db = Db::open(&dir.path().join("meta"), BackendKind::Sled, TABLES, &options).unwrap();
    let left = all(&db, A).len();
    assert!(left > 0 && left < 400, "{left}");
    db.verify().unwrap();
    db.close().unwrap();
    let db = open(dir.path(), BackendKind::Sled);
    assert_eq!(all(&db, A).len(), left);
    commit(&db, |txn| txn.put(A, "after", "loss")).unwrap();
    db.close().unwrap();
    open(dir.path(), BackendKind::Sled).close().unwrap();
}
