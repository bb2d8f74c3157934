//! A full disk: reads and deletes go on, writes are refused with the right kind, nothing breaks.
//!
//! Each case is this test binary again in a mount namespace of its own, on a small file system
//! that ends with it: tmpfs, and ext4 on a loop device, where allocation is delayed.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_core::Kind;
use gantry_metadata::kv::{BackendKind, Db, Options, StoreError};

use super::{A, B, BOTH, TABLES, all, commit};

const RESERVE: u64 = 4 << 20;

fn open(dir: &Path, kind: BackendKind, reserve_bytes: u64) -> Db {
    let options = Options { reserve_bytes, ..Options::default() };
    Db::open(&dir.join("meta"), kind, TABLES, &options).unwrap()
}

fn put(db: &Db, key: String, bytes: usize) -> Result<(), StoreError> {
    commit(db, move |txn| {
        txn.put(A, key.clone(), vec![5; bytes])?;
        txn.put(B, key, "x")
    })
}

/// Writes until nothing fits.
fn ballast(dir: &Path) -> PathBuf {
    let path = dir.join("ballast");
    let mut file = File::create(&path).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; size]).and_then(|()| file.sync_data()).is_ok() {}
    }
    path
}

/// Puts until the store refuses; how many went in.
fn fill(db: &Db, prefix: &str) -> usize {
    for n in 0..100_000 {
        if let Err(error) = put(db, format!("{prefix}{n:06}"), 3000) {
            assert_eq!(error.kind(), Kind::ResourceExhausted, "{error:?}");
            return n;
        }
    }
    panic!("the disk never fills");
}

fn same(db: &Db) -> usize {
    let keys = |table| all(db, table).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    let first = keys(A);
    assert_eq!(first, keys(B));
    first.len()
}

/// Fills the disk, deletes on it, and dies without closing.
fn first_life(dir: &Path, kind: BackendKind) {
    let db = open(dir, kind, RESERVE);
    for n in 0..400 {
        put(&db, format!("old{n:06}"), 3000).unwrap();
    }
    ballast(dir);
    let late = fill(&db, "late");
    assert_eq!(same(&db), 400 + late, "what was refused is not there");
    // Delete what is there but a hundred, one commit each.
    for (key, _) in all(&db, A).into_iter().skip(100) {
        commit(&db, move |txn| {
            txn.delete(A, &key);
            txn.delete(B, &key);
            Ok(())
        })
        .unwrap();
    }
    // What must not be lost goes through as well.
    for n in 0..200 {
        commit(&db, move |txn| {
            txn.draw_on_reserve();
            txn.put(B, format!("exit{}", n % 10), vec![6; 300])
        })
        .unwrap();
    }
    println!("{kind:?}: {late} puts went into the full disk before it was refused");
    std::process::exit(0);
}

/// Opens on the full disk, and goes on when there is space again.
fn second_life(dir: &Path, kind: BackendKind) {
    let db = open(dir, kind, RESERVE);
    assert_eq!(all(&db, A).len(), 100);
    assert_eq!(all(&db, B).len(), 110);
    commit(&db, |txn| {
        (0..10).for_each(|n| txn.delete(B, format!("exit{n}").as_bytes()));
        Ok(())
    })
    .unwrap();
    fs::remove_file(dir.join("ballast")).unwrap();
    put(&db, "again".to_owned(), 3000).unwrap();
    assert_eq!(same(&db), 101);
    db.close().unwrap();
    let db = open(dir, kind, RESERVE);
    assert_eq!(same(&db), 101);
    db.close().unwrap();
}

/// Without any reserve the backend itself runs into the end of the disk.
fn unprotected(dir: &Path, kind: BackendKind) {
    let db = open(dir, kind, 0);
    for n in 0..100 {
        put(&db, format!("old{n:06}"), 3000).unwrap();
    }
    let ballast = ballast(dir);
    let late = fill(&db, "late");
    println!("{kind:?} without reserve: {late} went in");
    assert_eq!(same(&db), 100 + late);
    // It goes on: what healing set free is filled, then it is refused again, and so on.
    let mut there = 100 + late;
    for round in 0..3 {
        there += fill(&db, &format!("more{round}"));
        assert_eq!(same(&db), there);
    }
    fs::remove_file(ballast).unwrap();
    put(&db, "again".to_owned(), 3000).unwrap();
    assert_eq!(same(&db), there + 1);
    db.close().unwrap();
    let db = open(dir, kind, 0);
    assert_eq!(same(&db), there + 1);
    db.close().unwrap();
}

#[test]
fn child() {
    let Some(dir) = std::env::var_os("GANTRY_KV_FULL") else { return };
    let dir = Path::new(&dir);
    let kind = BOTH.into_iter().find(|kind| dir.ends_with(kind.name())).unwrap();
    match std::env::var("GANTRY_KV_LIFE").as_deref() {
        Ok("first") => first_life(dir, kind),
        Ok("second") => second_life(dir, kind),
        _ => unprotected(dir, kind),
    }
}

/// Runs the lives on a fresh small file system of `kind`, which the shell command mounts on `$M`.
fn in_namespace(kind_of_fs: &str, mount: &str) {
    let dir = tempfile::tempdir().unwrap();
    for kind in BOTH {
        for lives in [&["first", "second"][..], &["only"][..]] {
            let runs: String = lives
                .iter()
                .map(|life| {
                    format!(
                        "GANTRY_KV_LIFE={life} timeout -k 5 120 \"$0\" --exact full_disk::child \
                         --nocapture --test-threads=1\n"
                    )
                })
                .collect();
            let script = format!(
                "set -e\n{mount}\n[ $(stat -f -c %T $M) = {kind_of_fs} ]\nmkdir $M/{}\n{runs}",
                kind.name()
            );
            let output = Command::new("unshare")
                .args(["--mount", "--propagation", "private", "sh", "-c", &script])
                .arg(std::env::current_exe().unwrap())
                .env("M", dir.path())
                .env("GANTRY_KV_FULL", dir.path().join(kind.name()))
                .output()
                .unwrap();
            let out = String::from_utf8_lossy(&output.stdout);
            let err = String::from_utf8_lossy(&output.stderr);
            println!("{kind_of_fs} {kind:?} {lives:?}:\n{out}{err}");
            assert!(output.status.success(), "{kind_of_fs} {kind:?} {lives:?}: {out}{err}");
        }
    }
}

#[test]
fn tmpfs_fills_up() {
    in_namespace("tmpfs", "mount -t tmpfs -o size=24m,mode=700 none $M");
}

#[test]
fn ext4_fills_up() {
    in_namespace(
        "ext2/ext3",
        "mount -t tmpfs -o size=64m none $M\ntruncate -s 40m $M/image\n\
         mkfs.ext4 -q -F -m 0 $M/image\nmount -o loop $M/image $M",
    );
}
