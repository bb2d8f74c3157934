//! Out and in again, by every backend; a file that is not whole is refused.

use std::fs;
use std::path::Path;

use gantry_core::Kind;
use gantry_metadata::kv::export::{self, Export};
use gantry_metadata::kv::{BackendKind, Db, StoreError, Table};

use super::{A, B, BOTH, TABLES, all, commit, open};

fn filled(dir: &Path, kind: BackendKind) -> Db {
    let db = open(dir, kind);
    commit(&db, |txn| {
        for n in 0..300u32 {
            txn.put(A, n.to_be_bytes(), vec![u8::try_from(n % 256).unwrap(); 100])?;
        }
        txn.put(B, Vec::new(), Vec::new())?;
        txn.put(B, "größe\n\"", [0, 255])
    })
    .unwrap();
    db
}

#[test]
fn one_backend_reads_what_the_other_wrote() {
    for (from, to) in
        [(BackendKind::Sled, BackendKind::Redb), (BackendKind::Redb, BackendKind::Sled)]
    {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = here.path().join("export");
        let db = filled(here.path(), from);
        let summary = export::write(&db, 7, &file).unwrap();
        assert_eq!((summary.entries, summary.left_out), (302, 0));
        assert!(!here.path().join("export.tmp").exists());
        let export = Export::open(&file).unwrap();
        assert_eq!((export.schema(), export.len()), (7, 302));
        let new = open(there.path(), to);
        export.import_into(&new).unwrap();
        for table in TABLES {
            assert_eq!(all(&new, *table), all(&db, *table));
        }
        new.verify().unwrap();
        // The same state is the same file.
        export::write(&new, 7, &here.path().join("again")).unwrap();
        assert_eq!(fs::read(&file).unwrap(), fs::read(here.path().join("again")).unwrap());
        // Not into what is not empty.
        let error = Export::open(&file).unwrap().import_into(&new).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        new.close().unwrap();
        db.close().unwrap();
    }
}

#[test]
fn any_change_to_the_file_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("export");
    let db = filled(dir.path(), BackendKind::Redb);
    export::write(&db, 7, &file).unwrap();
    db.close().unwrap();
    let good = fs::read(&file).unwrap();
    let check = |bytes: &[u8], what: String| {
        fs::write(&file, bytes).unwrap();
        let error = Export::open(&file).map(drop).unwrap_err();
        assert!(matches!(error, StoreError::Export { .. }), "{what}: {error:?}");
        assert_eq!(error.kind(), Kind::DataLoss, "{what}");
        assert!(error.to_string().contains(file.to_str().unwrap()), "{what}: {error}");
    };
    for cut in (0..good.len()).step_by(4997).chain([good.len() - 1]) {
        check(&good[..cut], format!("cut at {cut}"));
    }
    for at in (0..good.len()).step_by(1499) {
        for flip in [0x01, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            check(&bad, format!("{flip:#x} at {at}"));
        }
    }
    check(&[&good[..], b"{}\n"].concat(), "more after the end".to_owned());
    fs::write(&file, good).unwrap();
    Export::open(&file).unwrap();
}

#[test]
fn an_unknown_table_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("export");
    let db = filled(dir.path(), BackendKind::Redb);
    export::write(&db, 7, &file).unwrap();
    db.close().unwrap();
    let other = Db::in_memory(&[A, Table("gamma")]).unwrap();
    let error = Export::open(&file).unwrap().import_into(&other).unwrap_err();
    assert!(matches!(error, StoreError::UnknownTable { ref table } if table == "beta"), "{error}");
    assert_eq!(all(&other, A).len(), 0);
}

#[test]
fn tables_of_another_build_are_kept_and_counted() {
    for kind in BOTH {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), kind).close().unwrap();
        let options = gantry_metadata::kv::Options::default();
        let db = Db::open(&dir.path().join("meta"), kind, &[B], &options).unwrap();
        let summary = export::write(&db, 7, &dir.path().join("export")).unwrap();
        assert_eq!((summary.entries, summary.left_out), (2, 300));
        commit(&db, |txn| txn.put(B, "k", "v")).unwrap();
        db.verify().unwrap();
        db.close().unwrap();
        let db = open(dir.path(), kind);
        assert_eq!((all(&db, A).len(), all(&db, B).len()), (300, 3));
        db.close().unwrap();
    }
}

#[test]
fn a_large_store_goes_through_one_transaction() {
    for kind in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("export");
        let big = Db::in_memory(TABLES).unwrap();
        commit(&big, |txn| {
            (0..2000u32).try_for_each(|n| txn.put(A, n.to_be_bytes(), vec![9; 1500]))
        })
        .unwrap();
        export::write(&big, 1, &file).unwrap();
        let db = open(dir.path(), kind);
        Export::open(&file).unwrap().import_into(&db).unwrap();
        db.close().unwrap();
        let db = open(dir.path(), kind);
        assert_eq!(db.len(A).unwrap(), 2000);
        db.close().unwrap();
    }
}
