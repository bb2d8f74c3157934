//! Every backend against a plain map: any sequence of updates, aborts, panics, reads and reopens.

use std::collections::BTreeMap;
use std::sync::mpsc;

use gantry_metadata::kv::{Db, Read, StoreError, Table, Verdict};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{A, B, BOTH, TABLES, open};

type Model = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

#[derive(Clone, Debug)]
enum Write {
    Put(bool, Vec<u8>, Vec<u8>),
    Delete(bool, Vec<u8>),
    /// Reads back a range inside the transaction.
    Scan(bool, Vec<u8>, Option<Vec<u8>>, usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Commit,
    CommitError,
    Abort,
    Panic,
}

#[derive(Clone, Debug)]
enum Step {
    /// Sent at once, so that they form groups.
    Updates(Vec<(Vec<Write>, End)>),
    Get(bool, Vec<u8>),
    Scan(bool, Vec<u8>, Option<Vec<u8>>, usize),
    Reopen,
}

fn table(second: bool) -> Table {
    if second { B } else { A }
}

/// Few keys, so that they collide; prefixes of each other and of other tables' spaces.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(prop_oneof![Just(0u8), Just(b'a'), Just(b'b'), Just(0xff)], 0..4),
        (0u8..40).prop_map(|n| vec![b'k', n]),
    ]
}

fn range() -> impl Strategy<Value = (Vec<u8>, Option<Vec<u8>>, usize)> {
    (key(), proptest::option::of(key()), prop_oneof![0usize..6, Just(usize::MAX)])
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        6 => (any::<bool>(), key(), vec(any::<u8>(), 0..200))
            .prop_map(|(t, k, v)| Write::Put(t, k, v)),
        3 => (any::<bool>(), key()).prop_map(|(t, k)| Write::Delete(t, k)),
        1 => (any::<bool>(), range()).prop_map(|(t, (s, e, l))| Write::Scan(t, s, e, l)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        5 => Just(End::Commit),
        1 => Just(End::CommitError),
        2 => Just(End::Abort),
        1 => Just(End::Panic),
    ];
    prop_oneof![
        8 => vec((vec(write(), 0..12), end), 1..6).prop_map(Step::Updates),
        2 => (any::<bool>(), key()).prop_map(|(t, k)| Step::Get(t, k)),
        4 => (any::<bool>(), range()).prop_map(|(t, (s, e, l))| Step::Scan(t, s, e, l)),
        1 => Just(Step::Reopen),
    ]
}

fn scan_model(
    model: &Model,
    table: Table,
    start: &[u8],
    end: Option<&[u8]>,
    limit: usize,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    model
        .iter()
        .filter(|((of, key), _)| {
            *of == table && key.as_slice() >= start && end.is_none_or(|end| key.as_slice() < end)
        })
        .take(limit)
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect()
}

/// What one update does to the model and what its scans see on the way.
fn play(model: &mut Model, writes: &[Write]) -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut seen = Vec::new();
    for write in writes {
        match write {
            Write::Put(t, k, v) => drop(model.insert((table(*t), k.clone()), v.clone())),
            Write::Delete(t, k) => drop(model.remove(&(table(*t), k.clone()))),
            Write::Scan(t, s, e, l) => seen.push(scan_model(model, table(*t), s, e.as_deref(), *l)),
        }
    }
    seen
}

type Seen = Vec<Vec<(Vec<u8>, Vec<u8>)>>;

async fn update(db: Db, writes: Vec<Write>, end: End) -> (Result<(), StoreError>, Option<Seen>) {
    let (sender, receiver) = mpsc::channel();
    let answer = db
        .update(move |txn| {
            let mut seen = Vec::new();
            for write in writes {
                match write {
                    Write::Put(t, k, v) => txn.put(table(t), k, v).unwrap(),
                    Write::Delete(t, k) => txn.delete(table(t), &k),
                    Write::Scan(t, s, e, l) => {
                        seen.push(txn.scan(table(t), &s, e.as_deref(), l).unwrap());
                    }
                }
            }
            sender.send(seen).unwrap();
            match end {
                End::Commit => Verdict::Commit(Ok(())),
                End::CommitError => Verdict::Commit(Err(StoreError::Closed)),
                End::Abort => Verdict::Abort(StoreError::Reentrant),
                End::Panic => panic!("as the test wants"),
            }
        })
        .await;
    (answer, receiver.recv().ok())
}

/// Runs `steps` against a store; the updates of one step are queued in order and then awaited, so
/// that most of them share a group.
fn check(mut db: Db, reopen: impl Fn(Db) -> Db, steps: &[Step]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Updates(updates) => {
                let sent: Vec<_> = updates
                    .iter()
                    .map(|(writes, end)| runtime.spawn(update(db.clone(), writes.clone(), *end)))
                    .collect();
                for (sent, (writes, end)) in sent.into_iter().zip(updates) {
                    let mut after = model.clone();
                    let expected = play(&mut after, writes);
                    let (answer, seen) = runtime.block_on(sent).unwrap();
                    prop_assert_eq!(seen, Some(expected));
                    let right = match end {
                        End::Commit => answer.is_ok(),
                        End::CommitError => matches!(answer, Err(StoreError::Closed)),
                        End::Abort => matches!(answer, Err(StoreError::Reentrant)),
                        End::Panic => matches!(answer, Err(StoreError::Panicked { .. })),
                    };
                    prop_assert!(right, "{:?}", answer);
                    if matches!(end, End::Commit | End::CommitError) {
                        model = after;
                    }
                }
            }
            Step::Get(t, k) => {
                let got = db.read_blocking(|state| state.get(table(*t), k)).unwrap();
                prop_assert_eq!(got.as_ref(), model.get(&(table(*t), k.clone())));
            }
            Step::Scan(t, s, e, l) => {
                let got =
                    db.read_blocking(|state| state.scan(table(*t), s, e.as_deref(), *l)).unwrap();
                prop_assert_eq!(got, scan_model(&model, table(*t), s, e.as_deref(), *l));
            }
            Step::Reopen => db = reopen(db),
        }
    }
    for t in TABLES {
        prop_assert_eq!(super::all(&db, *t), scan_model(&model, *t, b"", None, usize::MAX));
    }
    db.close().unwrap();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("GANTRY_KV_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(24),
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_backend_is_the_map(steps in vec(step(), 1..24)) {
        check(Db::in_memory(TABLES).unwrap(), |db| db, &steps)?;
        for kind in BOTH {
            let dir = tempfile::tempdir().unwrap();
            check(open(dir.path(), kind), |db| {
                db.close().unwrap();
                open(dir.path(), kind)
            }, &steps)?;
        }
    }
}
