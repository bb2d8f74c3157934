//! A store in memory, through its handle.

use std::sync::atomic::{AtomicBool, Ordering};

use super::super::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use super::*;

const T: Table = Table("t");

fn db() -> Db {
    Db::in_memory(&[T]).unwrap()
}

#[tokio::test]
async fn commit_keeps_and_abort_drops() {
    let db = db();
    let answer: Result<u8, StoreError> = db
        .update(|txn| {
            txn.put(T, "a", "1").unwrap();
            assert_eq!(txn.get(T, b"a").unwrap(), Some(b"1".to_vec()));
            Verdict::Commit(Ok(7))
        })
        .await;
    assert_eq!(answer.unwrap(), 7);
    let answer: Result<(), StoreError> = db
        .update(|txn| {
            txn.delete(T, b"a");
            Verdict::Abort(StoreError::Closed)
        })
        .await;
    assert!(matches!(answer, Err(StoreError::Closed)));
    let answer: Result<(), StoreError> = db
        .update(|txn| {
            txn.put(T, "b", "2").unwrap();
            Verdict::Commit(Err(StoreError::Reentrant))
        })
        .await;
    assert!(matches!(answer, Err(StoreError::Reentrant)));
    let all = db.read(|state| state.scan_prefix(T, b"")).await.unwrap();
    assert_eq!(all, vec![(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"2".to_vec())]);
}

#[tokio::test]
async fn a_panic_and_an_unknown_table_fail_alone() {
    let db = db();
    let answer: Result<(), StoreError> = db
        .update(|txn| {
            txn.put(T, "a", "1").unwrap();
            panic!("boom")
        })
        .await;
    assert!(matches!(answer, Err(StoreError::Panicked { message }) if message == "boom"));
    let answer: Result<(), StoreError> = db
        .update(|txn| {
            txn.put(T, "a", "1").unwrap();
            txn.delete(Table("nope"), b"a");
            Verdict::Commit(Ok(()))
        })
        .await;
    assert!(matches!(answer, Err(StoreError::UnknownTable { .. })));
    assert_eq!(db.len(T).unwrap(), 0);
}

#[tokio::test]
async fn callbacks_run_before_the_answer_and_only_after_a_commit() {
    let db = db();
    let called = Arc::new(AtomicBool::new(false));
    let flag = called.clone();
    let answer: Result<(), StoreError> = db
        .update(|txn| {
            txn.after_commit(Box::new(move || flag.store(true, Ordering::SeqCst)));
            Verdict::Abort(StoreError::Closed)
        })
        .await;
    answer.unwrap_err();
    assert!(!called.load(Ordering::SeqCst));
    let (flag, inner) = (called.clone(), db.clone());
    let answer: Result<(), StoreError> = db
        .update(move |txn| {
            txn.after_commit(Box::new(move || {
                let again: Result<(), StoreError> =
                    inner.update_blocking(|_| Verdict::Commit(Ok(())));
                flag.store(matches!(again, Err(StoreError::Reentrant)), Ordering::SeqCst);
            }));
            Verdict::Commit(Ok(()))
        })
        .await;
    answer.unwrap();
    assert!(called.load(Ordering::SeqCst));
}

#[test]
fn a_closed_store_says_so() {
    let db = db();
    let other = db.clone();
    db.close().unwrap();
    let answer: Result<(), StoreError> = other.update_blocking(|_| Verdict::Commit(Ok(())));
    assert!(matches!(answer, Err(StoreError::Closed)));
    let answer: Result<(), StoreError> = other.read_blocking(|_| Ok(()));
    assert!(matches!(answer, Err(StoreError::Closed)));
}

#[test]
fn what_is_too_large_is_refused_with_its_size() {
    let db = db();
    let answer: Result<(), StoreError> = db.update_blocking(|txn| {
        txn.put(T, "fits", vec![0; VALUE_BYTES_MAX]).unwrap();
        txn.put(T, vec![b'k'; KEY_BYTES_MAX], "fits").unwrap();
        Verdict::from(txn.put(T, "large", vec![0; VALUE_BYTES_MAX + 1]))
    });
    let error = answer.unwrap_err();
    assert_eq!(error.to_string(), "value in table t has 32769 bytes, at most 32768 are stored");
    assert_eq!(gantry_core::Error::from(error).kind(), gantry_core::Kind::InvalidArgument);
    let answer: Result<(), StoreError> =
        db.update_blocking(|txn| Verdict::from(txn.put(T, vec![0; KEY_BYTES_MAX + 1], "")));
    assert!(matches!(answer, Err(StoreError::TooLarge { what: "key", .. })));
    assert_eq!(db.len(T).unwrap(), 0);
}

#[tokio::test]
async fn callbacks_run_in_the_order_of_the_commits() {
    let db = db();
    let order = Arc::new(Mutex::new(Vec::new()));
    let updates: Vec<_> = (0..50)
        .map(|n| {
            let (db, order) = (db.clone(), order.clone());
            tokio::spawn(async move {
                let seen: Result<Vec<u8>, StoreError> = db
                    .update(move |txn| {
                        let seen = txn.scan_prefix(T, b"").unwrap().len();
                        txn.put(T, [n], "x").unwrap();
                        txn.after_commit(Box::new(move || order.lock().unwrap().push(seen)));
                        Verdict::Commit(Ok(vec![n]))
                    })
                    .await;
                seen.unwrap()
            })
        })
        .collect();
    for update in updates {
        update.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), (0..50).collect::<Vec<usize>>());
}
