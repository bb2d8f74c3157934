//! The store while commits fail, stop in the middle, or the process dies there.
//!
//! A test binary of its own, because failpoints are global: every test holds a [`FailScenario`].

// Helpers outside of test functions may fail a test, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use fail::FailScenario;
use gantry_core::Kind;
use gantry_metadata::kv::export;
use gantry_metadata::kv::{
    BackendKind, Db, FAILPOINTS, Options, Read as _, StoreError, Table, Txn, Verdict,
};

const A: Table = Table("alpha");
const B: Table = Table("beta");
const BOTH: [BackendKind; 2] = [BackendKind::Sled, BackendKind::Redb];
/// Bound on what must not block; not a time that anything takes.
const SOON: Duration = Duration::from_secs(30);

fn open(dir: &Path, kind: BackendKind) -> Db {
    Db::open(&dir.join("meta"), kind, &[A, B], &Options::default()).unwrap()
}

fn put(txn: &mut Txn<'_>, key: &str, value: &str) -> Result<(), StoreError> {
    txn.put(A, key, value)?;
    txn.put(B, key, value)
}

fn update(db: &Db, key: &'static str, value: &'static str) -> Result<(), StoreError> {
    db.update_blocking(move |txn| Verdict::from(put(txn, key, value)))
}

/// Both tables, which must agree, as text.
fn state(db: &Db) -> String {
    let text = |table| -> Result<String, StoreError> {
        let pairs = db.read_blocking(|state| state.scan_prefix(table, b""))?;
        let texts = pairs.iter().map(|(key, value)| {
            format!("{}={}", String::from_utf8_lossy(key), String::from_utf8_lossy(value))
        });
        Ok(texts.collect::<Vec<_>>().join(" "))
    };
    let (first, second) = (text(A).unwrap(), text(B).unwrap());
    assert_eq!(first, second);
    first
}

/// Stops the next passage of a failpoint: the receiver hears when it is reached, and it goes on
/// when the sender sends.
fn stop_once(failpoint: &str) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (reached, hear) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    let ends = Mutex::new(Some((reached, wait)));
    fail::cfg_callback(failpoint, move || {
        if let Some((reached, wait)) = ends.lock().unwrap().take() {
            reached.send(()).unwrap();
            wait.recv().unwrap();
        }
    })
    .unwrap();
    (hear, go)
}

#[test]
fn readers_see_only_what_is_on_disk_and_never_wait_for_it() {
    let _scenario = FailScenario::setup();
    for kind in BOTH {
        for failpoint in ["kv.commit/flush", "kv.commit/fdatasync"] {
            let dir = tempfile::tempdir().unwrap();
            let db = open(dir.path(), kind);
            update(&db, "k", "old").unwrap();
            let (reached, go) = stop_once(failpoint);
            let writer = std::thread::spawn({
                let db = db.clone();
                move || update(&db, "k", "new")
            });
            reached.recv_timeout(SOON).unwrap();
            // On a thread, so that a reader that waits fails the test instead of hanging it.
            let (sender, receiver) = mpsc::channel();
            let reader = std::thread::spawn({
                let db = db.clone();
                move || sender.send(state(&db)).unwrap()
            });
            assert_eq!(receiver.recv_timeout(SOON).unwrap(), "k=old", "{kind:?} {failpoint}");
            reader.join().unwrap();
            go.send(()).unwrap();
            writer.join().unwrap().unwrap();
            assert_eq!(state(&db), "k=new");
            fail::remove(failpoint);
            db.close().unwrap();
        }
    }
}

#[test]
fn a_reader_keeps_its_state_while_commits_pass() {
    let _scenario = FailScenario::setup();
    for kind in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path(), kind);
        for key in ["a", "b", "c"] {
            update(&db, key, "0").unwrap();
        }
        let seen = db.read_blocking(|state| {
            let before = state.scan_prefix(A, b"")?;
            for value in ["1", "2", "3"] {
                update(&db, "b", value)?;
                db.update_blocking(move |txn| {
                    txn.delete(A, b"a");
                    txn.delete(B, b"a");
                    Verdict::from(put(txn, "d", value))
                })?;
            }
            assert_eq!(state.get(A, b"a")?, Some(b"0".to_vec()));
            assert_eq!(state.get(B, b"b")?, Some(b"0".to_vec()));
            assert_eq!(state.get(B, b"d")?, None);
            assert_eq!(state.scan_prefix(B, b"")?, before);
            assert_eq!(state.scan(A, b"b", None, 1)?, vec![(b"b".to_vec(), b"0".to_vec())]);
            Ok::<_, StoreError>(before.len())
        });
        assert_eq!(seen.unwrap(), 3);
        assert_eq!(state(&db), "b=3 c=0 d=3");
        db.close().unwrap();
    }
}

type Closure = Box<dyn FnOnce(&mut Txn<'_>) -> Verdict<u32, StoreError> + Send>;

/// Has the writer stand still, queues `updates` behind it, lets it go; the answers in order.
/// All of `updates` share one group.
fn as_one_group(db: &Db, updates: Vec<Closure>) -> Vec<Result<u32, StoreError>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (go, wait) = mpsc::channel::<()>();
    let (reached, hear) = mpsc::channel();
    let blocker = std::thread::spawn({
        let db = db.clone();
        move || {
            // Aborts, so that it makes no commit of its own.
            let _: Result<(), StoreError> = db.update_blocking(move |_| {
                reached.send(()).unwrap();
                wait.recv().unwrap();
                Verdict::Abort(StoreError::Closed)
            });
        }
    });
    hear.recv().unwrap();
    let sent: Vec<_> = updates
        .into_iter()
        .map(|f| {
            let db = db.clone();
            runtime.spawn(async move { db.update(f).await })
        })
        .collect();
    // One turn of the runtime polls, and so queues, all of them.
    runtime.block_on(tokio::task::yield_now());
    go.send(()).unwrap();
    let answers = sent.into_iter().map(|sent| runtime.block_on(sent).unwrap()).collect();
    blocker.join().unwrap();
    answers
}

fn mixed_group(called: &Arc<AtomicUsize>) -> Vec<Closure> {
    let called = called.clone();
    vec![
        Box::new(move |txn| {
            put(txn, "a", "1").unwrap();
            txn.after_commit(Box::new(move || {
                called.fetch_add(1, Ordering::SeqCst);
            }));
            Verdict::Commit(Ok(1))
        }),
        Box::new(|txn| {
            // Sees what the group did before it, and takes it back in vain.
            assert_eq!(txn.get(A, b"a").unwrap(), Some(b"1".to_vec()));
            txn.delete(A, b"a");
            put(txn, "lost", "1").unwrap();
            Verdict::Abort(StoreError::Closed)
        }),
        Box::new(|txn| {
            put(txn, "lost", "2").unwrap();
            panic!("as the test wants")
        }),
        Box::new(|txn| {
            assert_eq!(txn.get(A, b"lost").unwrap(), None);
            put(txn, "b", "2").unwrap();
            Verdict::Commit(Err(StoreError::Reentrant))
        }),
        Box::new(|txn| Verdict::Commit(Ok(txn.scan_prefix(A, b"").unwrap().len() as u32))),
    ]
}

#[test]
fn one_that_fails_takes_nothing_of_its_group() {
    let _scenario = FailScenario::setup();
    for kind in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path(), kind);
        let applied = Arc::new(AtomicUsize::new(0));
        let count = applied.clone();
        fail::cfg_callback("kv.commit/apply", move || {
            count.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
        let called = Arc::new(AtomicUsize::new(0));
        let answers = as_one_group(&db, mixed_group(&called));
        fail::remove("kv.commit/apply");
        assert_eq!(applied.load(Ordering::SeqCst), 1, "one group, one commit");
        assert_eq!(called.load(Ordering::SeqCst), 1);
        assert!(matches!(answers[0], Ok(1)));
        assert!(matches!(answers[1], Err(StoreError::Closed)));
        assert!(matches!(answers[2], Err(StoreError::Panicked { .. })));
        assert!(matches!(answers[3], Err(StoreError::Reentrant)));
        assert!(matches!(answers[4], Ok(2)));
        assert_eq!(state(&db), "a=1 b=2");
        db.close().unwrap();
    }
}

#[test]
fn a_failed_commit_leaves_nothing_and_the_next_one_works() {
    let _scenario = FailScenario::setup();
    for kind in BOTH {
        for failpoint in ["kv.commit/apply", "kv.commit/flush"] {
            for (errno, expected) in [(28, Kind::ResourceExhausted), (5, Kind::Unknown)] {
                let what = format!("{kind:?} {failpoint} {errno}");
                let dir = tempfile::tempdir().unwrap();
                let db = open(dir.path(), kind);
                update(&db, "k", "old").unwrap();
                fail::cfg(failpoint, &format!("1*return({errno})")).unwrap();
                let called = Arc::new(AtomicUsize::new(0));
                let answers = as_one_group(&db, mixed_group(&called));
                for answer in answers {
                    assert_eq!(answer.unwrap_err().kind(), expected, "{what}");
                }
                assert_eq!(called.load(Ordering::SeqCst), 0, "{what}");
                assert_eq!(state(&db), "k=old", "{what}");
                update(&db, "k", "new").unwrap();
                assert_eq!(state(&db), "k=new", "{what}");
                db.verify().unwrap();
                db.close().unwrap();
                let db = open(dir.path(), kind);
                assert_eq!(state(&db), "k=new", "{what}");
                db.close().unwrap();
            }
        }
    }
}

#[test]
fn while_failing_goes_on_reads_go_on() {
    let _scenario = FailScenario::setup();
    for kind in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path(), kind);
        update(&db, "k", "old").unwrap();
        fail::cfg("kv.commit/flush", "return(28)").unwrap();
        for _ in 0..3 {
            let error = update(&db, "k", "new").unwrap_err();
            assert_eq!(error.kind(), Kind::ResourceExhausted, "{kind:?} {error:?}");
            assert_eq!(state(&db), "k=old");
        }
        fail::remove("kv.commit/flush");
        update(&db, "k", "new").unwrap();
        assert_eq!(state(&db), "k=new");
        db.close().unwrap();
    }
}

#[test]
fn after_a_failed_disk_flush_only_reads_go_on() {
    let _scenario = FailScenario::setup();
    for kind in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path(), kind);
        update(&db, "k", "old").unwrap();
        fail::cfg("kv.commit/fdatasync", "1*return(5)").unwrap();
        assert_eq!(update(&db, "k", "new").unwrap_err().kind(), Kind::Unknown);
        assert_eq!(state(&db), "k=old", "{kind:?}");
        let error = update(&db, "k", "new").unwrap_err();
        assert!(matches!(error, StoreError::Stopped { .. }), "{kind:?} {error:?}");
        assert_eq!(error.kind(), Kind::Unavailable);
        assert_eq!(state(&db), "k=old", "{kind:?}");
        db.close().unwrap();
        let db = open(dir.path(), kind);
        update(&db, "k", "new").unwrap();
        assert_eq!(state(&db), "k=new");
        db.close().unwrap();
    }
}

#[test]
fn a_writer_that_dies_leaves_nobody_waiting() {
    let _scenario = FailScenario::setup();
    for kind in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path(), kind);
        fail::cfg("kv.commit/after-commit", "1*panic").unwrap();
        assert!(matches!(update(&db, "k", "1"), Err(StoreError::Closed)));
        assert!(matches!(update(&db, "k", "2"), Err(StoreError::Closed)));
        assert_eq!(state(&db), "k=1", "on disk before the death");
        db.close().unwrap();
        let db = open(dir.path(), kind);
        assert_eq!(state(&db), "k=1");
        db.close().unwrap();
    }
}

#[test]
fn an_export_that_fails_keeps_the_last_one() {
    let _scenario = FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("export");
    let db = open(dir.path(), BackendKind::Redb);
    update(&db, "k", "old").unwrap();
    export::write(&db, 1, &file).unwrap();
    let before = std::fs::read(&file).unwrap();
    update(&db, "k", "new").unwrap();
    for failpoint in ["kv.export/sync", "kv.export/rename"] {
        fail::cfg(failpoint, "1*return(28)").unwrap();
        let error = export::write(&db, 1, &file).unwrap_err();
        assert_eq!(error.kind(), Kind::ResourceExhausted);
        assert_eq!(std::fs::read(&file).unwrap(), before);
        assert!(!dir.path().join("export.tmp").exists());
    }
    export::write(&db, 1, &file).unwrap();
    assert_ne!(std::fs::read(&file).unwrap(), before);
    db.close().unwrap();
}

/// A log with a long-lived entry among many short-lived ones, over and over. On tmpfs, where a
/// commit costs little.
fn bloated(dir: &Path) -> u64 {
    let db = open(dir, BackendKind::Sled);
    for n in 0..5000u32 {
        db.update_blocking(move |txn| {
            if n.is_multiple_of(20) {
                txn.put(A, n.to_be_bytes(), vec![1; 100]).unwrap();
            }
            txn.put(B, n.to_be_bytes(), vec![2; 1200]).unwrap();
            if n >= 30 {
                txn.delete(B, &(n - 30).to_be_bytes());
            }
            Verdict::Commit(Ok::<_, StoreError>(()))
        })
        .unwrap();
    }
    db.close().unwrap();
    std::fs::metadata(dir.join("meta/db")).unwrap().len()
}

fn open_compacting(dir: &Path) -> Result<Db, StoreError> {
    let options = Options { compact_above: 1 << 20, ..Options::default() };
    Db::open(&dir.join("meta"), BackendKind::Sled, &[A, B], &options)
}

fn assert_compact(db: &Db, dir: &Path, before: u64) {
    db.verify().unwrap();
    assert_eq!((db.len(A).unwrap(), db.len(B).unwrap()), (250, 30));
    let after = std::fs::metadata(dir.join("meta/db")).unwrap().len();
    assert!(after < before / 3, "{before} -> {after}");
    assert!(!dir.join("meta/compacting").exists());
    db.update_blocking(|txn| Verdict::from(put(txn, "k", "v"))).unwrap();
}

#[test]
fn a_long_log_is_written_anew() {
    let _scenario = FailScenario::setup();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let before = bloated(dir.path());
    // One that fails costs nothing and is no reason not to open.
    fail::cfg("kv.compact/copied", "1*return(28)").unwrap();
    let db = open_compacting(dir.path()).unwrap();
    db.verify().unwrap();
    assert!(!dir.path().join("meta/compacting").exists());
    db.close().unwrap();
    let db = open_compacting(dir.path()).unwrap();
    assert_compact(&db, dir.path(), before);
    db.close().unwrap();
    let db = open_compacting(dir.path()).unwrap();
    db.verify().unwrap();
    db.close().unwrap();
}

#[test]
fn compacting_child() {
    let Ok(failpoint) = std::env::var("GANTRY_KV_COMPACT_DIE_AT") else { return };
    fail::cfg_callback(failpoint, || std::process::abort()).unwrap();
    let _ = open_compacting(Path::new(&std::env::var("GANTRY_KV_DIR").unwrap()));
}

#[test]
fn death_while_compacting_loses_nothing() {
    let _scenario = FailScenario::setup();
    for failpoint in FAILPOINTS.iter().filter(|name| name.starts_with("kv.compact/")) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let before = bloated(dir.path());
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "compacting_child", "--nocapture", "--test-threads=1"])
            .env("GANTRY_KV_COMPACT_DIE_AT", failpoint)
            .env("GANTRY_KV_DIR", dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(!status.success(), "{failpoint} was not reached");
        let db = open_compacting(dir.path()).unwrap();
        assert_compact(&db, dir.path(), before);
        db.close().unwrap();
    }
}

/// Dies at the n-th passage of a failpoint.
#[test]
fn child() {
    let Ok(failpoint) = std::env::var("GANTRY_KV_DIE_AT") else { return };
    let dir = std::env::var("GANTRY_KV_DIR").unwrap();
    let kind = BOTH.into_iter().find(|kind| Path::new(&dir).ends_with(kind.name())).unwrap();
    let db = open(Path::new(&dir), kind);
    let passages = AtomicUsize::new(0);
    fail::cfg_callback(failpoint, move || {
        if passages.fetch_add(1, Ordering::SeqCst) == 5 {
            std::process::abort();
        }
    })
    .unwrap();
    for n in 0..100u32 {
        let done: Result<(), StoreError> = db.update_blocking(move |txn| {
            let key = format!("{n:03}");
            Verdict::from(put(txn, &key, "x"))
        });
        done.unwrap();
        std::io::stdout().write_all(format!("ack {n}\n").as_bytes()).unwrap();
    }
}

#[test]
fn death_at_any_failpoint_tears_nothing() {
    let _scenario = FailScenario::setup();
    for kind in BOTH {
        for failpoint in FAILPOINTS.iter().filter(|name| name.starts_with("kv.commit/")) {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join(kind.name());
            std::fs::create_dir(&dir).unwrap();
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child", "--nocapture", "--test-threads=1"])
                .env("GANTRY_KV_DIE_AT", failpoint)
                .env("GANTRY_KV_DIR", &dir)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let acked = lines.filter(|line| line.as_ref().unwrap().contains("ack ")).count();
            assert!(!child.wait().unwrap().success());
            let db = open(&dir, kind);
            let there = state(&db).split_whitespace().count();
            assert_eq!(acked, 5, "{kind:?} {failpoint}");
            assert!(there == 5 || there == 6, "{kind:?} {failpoint}: {there}");
            if *failpoint == "kv.commit/after-commit" {
                assert_eq!(there, 6, "what is on disk is there");
            }
            db.close().unwrap();
        }
    }
}
