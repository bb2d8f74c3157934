//! The exit journal against a model, and against damage.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are not in a #[test]

use std::fs;
use std::path::Path;

use gantry_shim_state::journal::{self, Contents};
use gantry_shim_state::{Error, Exit, Journal, Time};
use proptest::prelude::*;

fn exit(n: u64) -> Exit {
    Exit {
        seq: 0,
        container_id: "c".repeat(usize::try_from(n % 76 + 1).unwrap()),
        exec_id: if n.is_multiple_of(3) { String::new() } else { format!("exec-{n}") },
        pid: u32::try_from(n).unwrap() + 1,
        start_time: n << 33,
        boot_id: [7; 16],
        status: u32::try_from(n % 256).unwrap(),
        exited_at: Time { seconds: -5 + i64::try_from(n).unwrap(), nanos: 999_999_999 },
    }
}

fn by_seq(mut exits: Vec<Exit>) -> Vec<Exit> {
    exits.sort_by_key(|e| e.seq);
    exits
}

fn pending(path: &Path) -> Vec<Exit> {
    let Contents { pending, damaged } = journal::read(path).unwrap();
    assert_eq!(damaged, 0);
    by_seq(pending)
}

#[derive(Clone, Debug)]
enum Step {
    Append,
    Acknowledge(prop::sample::Index),
    AcknowledgeUnknown(u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Append),
        4 => any::<prop::sample::Index>().prop_map(Step::Acknowledge),
        1 => (10_000u64..).prop_map(Step::AcknowledgeUnknown),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_reader_sees_what_was_appended_and_not_acknowledged(
        steps in proptest::collection::vec(step(), 0..400)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exits.journal");
        let mut journal = Journal::open(&path).unwrap();
        let mut model: Vec<Exit> = Vec::new();
        let mut last = 0;
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Append => {
                    let seq = journal.append(exit(n as u64)).unwrap();
                    prop_assert!(seq > last, "numbers rise, also over compaction and reopening");
                    last = seq;
                    model.push(Exit { seq, ..exit(n as u64) });
                }
                Step::Acknowledge(which) if !model.is_empty() => {
                    let gone = model.remove(which.index(model.len()));
                    journal.acknowledge(gone.seq).unwrap();
                }
                Step::Acknowledge(_) => {}
                Step::AcknowledgeUnknown(seq) => journal.acknowledge(seq).unwrap(),
                Step::Reopen => journal = Journal::open(&path).unwrap(),
            }
            prop_assert_eq!(journal.pending(), &model[..]);
        }
        prop_assert_eq!(pending(&path), model);
    }

    #[test]
    fn a_flipped_byte_costs_at_most_its_own_record(at in 32usize..32 + 256 * 8, flip in 1u8..) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exits.journal");
        let mut journal = Journal::open(&path).unwrap();
        for n in 0..8 {
            journal.append(exit(n)).unwrap();
        }
        let whole = pending(&path);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= flip;
        fs::write(&path, bytes).unwrap();
        let read = journal::read(&path).unwrap();
        prop_assert_eq!(read.damaged, 1);
        let struck = (at - 32) / 256;
        let left: Vec<Exit> =
            whole.into_iter().enumerate().filter(|(i, _)| *i != struck).map(|(_, e)| e).collect();
        prop_assert_eq!(by_seq(read.pending), left);
    }

    #[test]
    fn a_cut_file_keeps_its_whole_records_and_takes_new_ones(cut in 32usize..32 + 256 * 4) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exits.journal");
        let mut journal = Journal::open(&path).unwrap();
        for n in 0..4 {
            journal.append(exit(n)).unwrap();
        }
        drop(journal);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..cut]).unwrap();
        let whole = (cut - 32) / 256;
        let mut journal = Journal::open(&path).unwrap();
        prop_assert_eq!(journal.pending().len(), whole);
        journal.append(exit(77)).unwrap();
        prop_assert_eq!(pending(&path).len(), whole + 1);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exits.journal");
        fs::write(&path, &bytes).unwrap();
        prop_assert!(journal::read(&path).is_err());
    }
}

#[test]
fn the_file_stays_small_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("exits.journal");
    let mut journal = Journal::open(&path).unwrap();
    let held = journal.append(exit(0)).unwrap();
    for n in 1..2000 {
        let seq = journal.append(exit(n)).unwrap();
        journal.acknowledge(seq).unwrap();
    }
    assert!(fs::metadata(&path).unwrap().len() <= 32 + 256 * 80);
    assert_eq!(pending(&path).iter().map(|e| e.seq).collect::<Vec<_>>(), [held]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn readers_are_told_of_execs_before_their_init() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("exits.journal");
    let mut journal = Journal::open(&path).unwrap();
    for exec_id in ["", "a", "b"] {
        let exec_id = exec_id.to_owned();
        journal.append(Exit { container_id: "c".into(), exec_id, ..Exit::default() }).unwrap();
    }
    let order: Vec<String> =
        journal::read(&path).unwrap().pending.into_iter().map(|e| e.exec_id).collect();
    assert_eq!(order, ["a", "b", ""]);
}

#[test]
fn files_of_others_are_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("exits.journal");
    assert!(journal::read(&path).unwrap_err().is_missing());
    fs::write(&path, "not one of ours at all, really not").unwrap();
    assert!(matches!(Journal::open(&path), Err(Error::Foreign(_))));
    assert_eq!(fs::read(&path).unwrap(), b"not one of ours at all, really not");
    fs::remove_file(&path).unwrap();
    Journal::open(&path).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 2;
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(journal::read(&path), Err(Error::Version { found: 2, .. })));
    let mut journal = Journal::open(&dir.path().join("other.journal")).unwrap();
    let long = Exit { exec_id: "x".repeat(77), ..Exit::default() };
    assert!(matches!(journal.append(long), Err(Error::LongId(77))));
}
