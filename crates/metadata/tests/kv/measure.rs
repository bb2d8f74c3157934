//! What the store costs: run by hand, `cargo test -p gantry-metadata --test kv -- --ignored measure`.

use std::time::{Duration, Instant};

use gantry_metadata::kv::{BackendKind, Db};

use super::{A, B, BOTH, commit, open};

fn rss_kib() -> (String, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    (
        format!("rss {} KiB, anon {} KiB", field("VmRSS"), field("RssAnon")),
        field("Threads").parse().unwrap(),
    )
}

fn report(what: &str, db: &Db) {
    let (rss, threads) = rss_kib();
    println!("{what}: {rss}, {threads} threads, {} KiB on disk", db.size_on_disk().unwrap() >> 10);
}

fn percentiles(mut all: Vec<Duration>) -> String {
    all.sort();
    let at = |p: usize| all[(all.len() - 1) * p / 100];
    format!("p50 {:?} p90 {:?} p99 {:?}", at(50), at(90), at(99))
}

fn one(kind: BackendKind) {
    let base = std::env::var_os("GANTRY_KV_DIR").unwrap_or_else(|| "/tmp".into());
    let dir = tempfile::tempdir_in(base).unwrap();
    println!("before: {}", rss_kib().0);
    let db = open(dir.path(), kind);
    report(&format!("{kind:?} opened"), &db);
    let mut took = Vec::new();
    for n in 0..2000u32 {
        let start = Instant::now();
        commit(&db, move |txn| {
            txn.put(A, n.to_be_bytes(), vec![7; 400])?;
            txn.put(B, n.to_be_bytes(), vec![7; 40])
        })
        .unwrap();
        took.push(start.elapsed());
    }
    println!("{kind:?} one writer: {}", percentiles(took));
    let start = Instant::now();
    let threads: Vec<_> = (0..16u32)
        .map(|t| {
            let db = db.clone();
            std::thread::spawn(move || {
                for n in 0..500u32 {
                    let key = (t << 16 | n).to_be_bytes();
                    commit(&db, move |txn| txn.put(B, key, vec![7; 400])).unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    println!("{kind:?} 16 writers: {:?} per update", start.elapsed() / 8000);
    report(&format!("{kind:?} after 10k updates"), &db);
    // Hot and cold mixed: one entry stays, fifty are overwritten.
    for n in 0..6000u32 {
        commit(&db, move |txn| {
            txn.put(A, [b"cold", &n.to_be_bytes()[..]].concat(), vec![1; 400])?;
            for hot in 0..50u32 {
                txn.put(
                    B,
                    [b"hot", &(hot * 131 % 1000).to_be_bytes()[..]].concat(),
                    vec![n as u8; 600],
                )?;
            }
            Ok(())
        })
        .unwrap();
        if n % 1000 == 999 {
            report(&format!("{kind:?} hot and cold, {n}"), &db);
        }
    }
    let start = Instant::now();
    let mut count = 0;
    db.read_blocking(|state| {
        state.for_each(A, b"", None, &mut |_, _| {
            count += 1;
            true
        })
    })
    .unwrap();
    println!("{kind:?} walk of {count}: {:?}", start.elapsed());
    db.close().unwrap();
    let start = Instant::now();
    let db = open(dir.path(), kind);
    println!("{kind:?} reopen: {:?}", start.elapsed());
    report(&format!("{kind:?} reopened"), &db);
    db.close().unwrap();
}

#[test]
#[ignore = "prints figures, checks nothing"]
fn measure() {
    match std::env::var("GANTRY_KV_KIND").as_deref() {
        Ok("redb") => one(BackendKind::Redb),
        Ok("sled") => one(BackendKind::Sled),
        _ => BOTH.into_iter().for_each(one),
    }
}

#[test]
#[ignore = "prints figures, checks nothing"]
fn measure_large() {
    for kind in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path(), kind);
        for count in [100u32, 500, 1000, 2000] {
            let start = Instant::now();
            commit(&db, move |txn| {
                (0..count).try_for_each(|n| txn.put(A, n.to_be_bytes(), vec![9; 6000]))
            })
            .unwrap();
            println!("{kind:?} one commit of {count} entries: {:?}", start.elapsed());
        }
        let start = Instant::now();
        db.close().unwrap();
        println!("{kind:?} close: {:?}", start.elapsed());
        let start = Instant::now();
        let db = open(dir.path(), kind);
        println!("{kind:?} open: {:?}", start.elapsed());
        db.close().unwrap();
    }
}
