//! The state page: round trips, damage, and readers beside a writer.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are not in a #[test]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use gantry_shim_state::page::{self, Page};
use gantry_shim_state::{Error, Identity, State, Status, Time};
use proptest::prelude::*;

fn identity() -> impl Strategy<Value = Identity> {
    let text = || proptest::collection::vec(".{0,40}", 7..8);
    (text(), any::<bool>(), any::<u32>(), any::<u64>(), any::<[u8; 16]>()).prop_map(
        |(mut texts, terminal, shim_pid, shim_start_time, boot_id)| {
            let mut next = || texts.pop().unwrap();
            Identity {
                namespace: next(),
                container_id: next(),
                bundle: next(),
                stdin: next(),
                stdout: next(),
                stderr: next(),
                address: next(),
                terminal,
                shim_pid,
                shim_start_time,
                boot_id,
            }
        },
    )
}

fn state() -> impl Strategy<Value = State> {
    let statuses = [
        Status::Creating,
        Status::Created,
        Status::Running,
        Status::Stopped,
        Status::Paused,
        Status::Pausing,
        Status::Deleted,
    ];
    let exit = proptest::option::of((any::<u32>(), any::<i64>(), any::<u32>()));
    (prop::sample::select(statuses.to_vec()), any::<u32>(), any::<u64>(), exit, any::<bool>())
        .prop_map(|(status, pid, start_time, exit, oom_killed)| State {
            status,
            pid,
            start_time,
            exit: exit.map(|(status, seconds, nanos)| (status, Time { seconds, nanos })),
            oom_killed,
        })
}

proptest! {
    #[test]
    fn the_last_state_is_the_one_that_is_read(
        identity in identity(), states in proptest::collection::vec(state(), 1..6)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.page");
        let mut page = Page::create(&path, &identity, &states[0]).unwrap();
        prop_assert_eq!(page::read(&path).unwrap(), (identity.clone(), states[0]));
        for state in &states[1..] {
            page.update(state).unwrap();
            prop_assert_eq!(page::read(&path).unwrap(), (identity.clone(), *state));
        }
    }

    #[test]
    fn a_flipped_byte_never_makes_up_a_state(
        identity in identity(), first in state(), second in state(),
        at in any::<prop::sample::Index>(), flip in 1u8..
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.page");
        let mut page = Page::create(&path, &identity, &first).unwrap();
        page.update(&second).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        fs::write(&path, &bytes).unwrap();
        match page::read(&path) {
            Ok((read, state)) => {
                prop_assert_eq!(read, identity);
                prop_assert!(state == second || state == first);
            }
            Err(error) => prop_assert!(!error.is_missing()),
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..900)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.page");
        fs::write(&path, &bytes).unwrap();
        prop_assert!(page::read(&path).is_err());
    }

    #[test]
    fn a_cut_page_is_damaged(identity in identity(), state in state(), cut in any::<prop::sample::Index>()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.page");
        Page::create(&path, &identity, &state).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..cut.index(bytes.len())]).unwrap();
        prop_assert!(page::read(&path).is_err());
    }
}

#[test]
fn readers_beside_a_writer_see_whole_states_that_do_not_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.page");
    let at = |n: u32| State {
        status: Status::Running,
        pid: n,
        start_time: u64::from(n),
        exit: Some((n, Time { seconds: i64::from(n), nanos: n })),
        oom_killed: false,
    };
    let mut page = Page::create(&path, &Identity::default(), &at(0)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut last, mut reads) = (0, 0);
            while !done.load(Ordering::Acquire) || reads < 100 {
                let (_, state) = page::read(&path).unwrap();
                assert_eq!(state, at(state.pid));
                assert!(state.pid >= last, "went back from {last} to {}", state.pid);
                last = state.pid;
                reads += 1;
            }
        });
        for n in 1..=20_000 {
            page.update(&at(n)).unwrap();
        }
        done.store(true, Ordering::Release);
        reader.join().unwrap();
    });
    assert_eq!(page::read(&path).unwrap().1, at(20_000));
}

#[test]
fn pages_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.page");
    assert!(page::read(&path).unwrap_err().is_missing());
    fs::write(&path, [0; 1000]).unwrap();
    assert!(matches!(page::read(&path), Err(Error::Foreign(_))));
    Page::create(&path, &Identity::default(), &State::default()).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 9;
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(page::read(&path), Err(Error::Version { found: 9, .. })));
}
