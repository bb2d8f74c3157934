//! Killed with SIGKILL at any moment, the store keeps what it acknowledged and tears nothing.
//!
//! The child is this test binary again: several threads update two tables and print what was
//! acknowledged. The parent kills it, often while it opens, and now and then looks at the store.
//! `GANTRY_KV_ROUNDS` sets the number of kills.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use gantry_metadata::kv::{BackendKind, Db};

use super::{A, B, all, commit, open};

const THREADS: u8 = 3;
const SLOTS: u32 = 40;

/// What update `n` of a thread does to its slots, in both tables: one put, and now and then a
/// delete of another slot.
fn play(n: u32, mut put: impl FnMut(u8, Vec<u8>), mut delete: impl FnMut(u8)) {
    let slot = |n: u32| u8::try_from(n % SLOTS).unwrap();
    let length = usize::try_from(8 + n * 37 % 1500).unwrap();
    let value: Vec<u8> = n.to_be_bytes().iter().copied().cycle().take(length).collect();
    put(slot(n), value);
    if n.is_multiple_of(3) {
        delete(slot(n + SLOTS / 2));
    }
}

fn update(db: &Db, thread: u8, n: u32) {
    commit(db, move |txn| {
        let mut writes: Vec<(u8, Option<Vec<u8>>)> = Vec::new();
        let mut deletes = Vec::new();
        play(n, |slot, value| writes.push((slot, Some(value))), |slot| deletes.push(slot));
        for (slot, value) in writes.into_iter().chain(deletes.into_iter().map(|s| (s, None))) {
            for table in [A, B] {
                match &value {
                    Some(value) => txn.put(table, [thread, slot], value.clone())?,
                    None => txn.delete(table, &[thread, slot]),
                }
            }
        }
        txn.put(B, [b'n', thread], n.to_be_bytes())
    })
    .unwrap();
}

fn last(db: &Db, thread: u8) -> u32 {
    let stored = db.read_blocking(|state| state.get(B, &[b'n', thread])).unwrap();
    stored.map_or(0, |bytes| u32::from_be_bytes(bytes.try_into().unwrap()))
}

#[test]
fn child() {
    let Some(dir) = std::env::var_os("GANTRY_KV_TORTURE") else { return };
    let kind = match std::env::var("GANTRY_KV_KIND").as_deref() {
        Ok("redb") => BackendKind::Redb,
        _ => BackendKind::Sled,
    };
    let db = open(Path::new(&dir), kind);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let db = db.clone();
            scope.spawn(move || {
                for n in last(&db, thread) + 1.. {
                    update(&db, thread, n);
                    // One write, so that a kill never tears a line; not captured by the harness.
                    let line = format!("ack {thread} {n}\n");
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                }
            });
        }
    });
}

/// xorshift64: the moments are to vary, nothing more.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Lets a child run for `micros`, kills it, and notes what it had acknowledged.
fn run_and_kill(dir: &Path, kind: BackendKind, micros: u64, acked: &mut BTreeMap<u8, u32>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "torture::child", "--nocapture", "--test-threads=1"])
        .env("GANTRY_KV_TORTURE", dir)
        .env("GANTRY_KV_KIND", kind.name())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The one place where time itself is what is tested.
    std::thread::sleep(Duration::from_micros(micros));
    let ended = child.try_wait().unwrap();
    child.kill().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
        // The harness may have left the beginning of a line of its own.
        if let Some(at) = line.find("ack ") {
            let mut words = line[at + 4..].split_whitespace().map(|word| word.parse().unwrap());
            let (thread, n): (u32, u32) = (words.next().unwrap(), words.next().unwrap());
            acked.insert(u8::try_from(thread).unwrap(), n);
        }
        line.clear();
    }
    let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    child.wait().unwrap();
    assert!(ended.is_none(), "the child ended by itself: {ended:?}: {said}");
}

fn verify(dir: &Path, kind: BackendKind, acked: &BTreeMap<u8, u32>) {
    let db = open(dir, kind);
    let mut expected: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for thread in 0..THREADS {
        let last = last(&db, thread);
        let acked = acked.get(&thread).copied().unwrap_or(0);
        assert!(last >= acked, "thread {thread}: {acked} acknowledged, {last} there");
        // Two turns of the slots decide what they hold.
        for n in last.saturating_sub(4 * SLOTS).max(1)..=last {
            let mut gone = Vec::new();
            play(
                n,
                |slot, value| drop(expected.insert(vec![thread, slot], value)),
                |slot| {
                    gone.push(vec![thread, slot]);
                },
            );
            gone.iter().for_each(|key| drop(expected.remove(key)));
        }
    }
    let expected: Vec<_> = expected.into_iter().collect();
    assert_eq!(all(&db, A), expected, "first table");
    let second: Vec<_> = all(&db, B).into_iter().filter(|(key, _)| key[0] != b'n').collect();
    assert_eq!(second, expected, "second table");
    db.close().unwrap();
}

fn torture(kind: BackendKind, rounds: u64) {
    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut acked = BTreeMap::new();
    for round in 0..rounds {
        // Half of them while the child starts and opens.
        let most = if random.below(2) == 0 { 60_000 } else { 400_000 };
        run_and_kill(dir.path(), kind, random.below(most), &mut acked);
        // Not after every kill: an open must also stand the leftovers of two.
        if random.below(3) > 0 || round + 1 == rounds {
            verify(dir.path(), kind, &acked);
        }
    }
    println!("{kind:?}: {rounds} kills, acknowledged {acked:?}");
    assert!(rounds < 20 || acked.values().any(|n| *n > 100), "hardly an update: {acked:?}");
}

fn rounds() -> u64 {
    std::env::var("GANTRY_KV_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

#[test]
fn sled_stands_kill_9() {
    torture(BackendKind::Sled, rounds());
}

#[test]
fn redb_stands_kill_9() {
    torture(BackendKind::Redb, rounds() / 2);
}
