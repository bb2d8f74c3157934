//! The shim under containerd 1.6 as Debian builds it, driven by that version's `ctr`: a daemon that
//! knows nothing of us. Needs root, runc, busybox, and the programs that `cargo xtask clients`
//! installs (or `GANTRY_CTR16`, with `containerd` beside it); without them it says so and passes.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are not in a #[test]
#![allow(unreachable_pub)] // a program of tests, not a library

mod daemon;

use std::fs;

use daemon::{Containerd, able, eventually};

#[test]
fn a_container_runs_and_its_code_comes_back() {
    let Some(containerd) = Containerd::start() else { return };
    let out = containerd.ctr(&[
        "run",
        "--rm",
        "RUNTIME",
        "--rootfs",
        "ROOTFS",
        "t",
        "/bin/echo",
        "hello",
    ]);
    assert_eq!((out.code, out.stdout.as_str()), (0, "hello\n"), "{}", out.stderr);
    let out = containerd
        .ctr(&["run", "--rm", "RUNTIME", "--rootfs", "ROOTFS", "t", "/bin/sh", "-c", "exit 7"]);
    assert_eq!(out.code, 7, "{}", out.stderr);
    let out = containerd.ctr(&["run", "--rm", "RUNTIME", "--rootfs", "ROOTFS", "t", "/no/such"]);
    assert!(
        out.stderr.contains("OCI runtime create failed") && out.stderr.contains("/no/such"),
        "{}",
        out.stderr
    );
    containerd.no_shim_is_left();
}

#[test]
fn a_task_is_seen_signalled_and_entered_from_outside() {
    let Some(containerd) = Containerd::start() else { return };
    containerd.detached("t", "sleep 1000");
    assert!(containerd.tasks().contains("RUNNING"));
    let out = containerd.ctr(&[
        "task",
        "exec",
        "--exec-id",
        "e",
        "t",
        "/bin/sh",
        "-c",
        "echo inside; exit 3",
    ]);
    assert_eq!((out.code, out.stdout.as_str()), (3, "inside\n"), "{}", out.stderr);
    let metrics = containerd.ok(&["task", "metrics", "t"]);
    assert!(metrics.contains("pids.current"), "{metrics}");
    assert!(containerd.ok(&["task", "ps", "t"]).lines().count() >= 2);
    containerd.ok(&["task", "pause", "t"]);
    assert!(containerd.tasks().contains("PAUSED"));
    containerd.ok(&["task", "resume", "t"]);
    assert!(containerd.tasks().contains("RUNNING"));
    containerd.ok(&["task", "kill", "-s", "SIGKILL", "t"]);
    eventually("the task stops", || containerd.tasks().contains("STOPPED"));
    let out = containerd.ctr(&["task", "rm", "t"]);
    assert!(out.stderr.contains("137"), "{}", out.stderr);
    containerd.ok(&["container", "rm", "t"]);
    containerd.no_shim_is_left();
}

#[test]
fn a_containers_output_goes_to_a_file() {
    let Some(containerd) = Containerd::start() else { return };
    let log = containerd.dir().join("t.log");
    let uri = format!("file://{}", log.display());
    containerd.ok(&[
        "run",
        "-d",
        "--log-uri",
        &uri,
        "RUNTIME",
        "--rootfs",
        "ROOTFS",
        "t",
        "/bin/sh",
        "-c",
        "echo logged; echo too >&2",
    ]);
    eventually("the task stops", || containerd.tasks().contains("STOPPED"));
    containerd.ok(&["task", "rm", "t"]);
    let mut lines: Vec<String> =
        fs::read_to_string(&log).unwrap().lines().map(Into::into).collect();
    lines.sort();
    assert_eq!(lines, ["logged", "too"]);
}

#[test]
fn a_container_has_a_terminal() {
    let Some(containerd) = Containerd::start() else { return };
    if !able("script") {
        return;
    }
    let command = containerd.command_line(&[
        "run",
        "--rm",
        "-t",
        "RUNTIME",
        "--rootfs",
        "ROOTFS",
        "t",
        "/bin/sh",
        "-c",
        "'tty; stty size; exit 5'",
    ]);
    let out = std::process::Command::new("timeout")
        .args([
            "-k",
            "1",
            "30",
            "script",
            "-qec",
            &format!("stty rows 33 cols 99; {command}"),
            "/dev/null",
        ])
        .stdin(std::process::Stdio::piped())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("/dev/pts/0"), "{text}");
    assert_eq!(out.status.code(), Some(5), "{text}");
}

#[test]
fn containers_live_on_while_the_daemon_is_killed_and_comes_back() {
    let Some(mut containerd) = Containerd::start() else { return };
    let log = containerd.dir().join("t.log");
    containerd.detached_to(&log, "t", "while :; do echo tick; sleep 0.1; done");
    containerd.detached("u", "sleep 1000");
    let pid = |containerd: &Containerd, id: &str| containerd.pid_of(id);
    let (before, other) = (pid(&containerd, "t"), pid(&containerd, "u"));
    let lines = || fs::read_to_string(&log).unwrap_or_default().lines().count();
    eventually("it ticks", || lines() > 2);
    containerd.kill();
    let so_far = lines();
    eventually("it ticks without a daemon", || lines() > so_far + 3);
    containerd.restart();
    assert_eq!((pid(&containerd, "t"), pid(&containerd, "u")), (before, other));
    let out = containerd.ctr(&["task", "exec", "--exec-id", "e", "t", "/bin/echo", "again"]);
    assert_eq!(out.stdout, "again\n", "{}", out.stderr);
    let events = containerd.events();
    containerd.ok(&["task", "kill", "-s", "SIGKILL", "u"]);
    eventually("the exit is told", || events.text().contains("/tasks/exit"));
    for id in ["t", "u"] {
        containerd.ctr(&["task", "kill", "-s", "SIGKILL", id]);
    }
    eventually("both stop", || !containerd.tasks().contains("RUNNING"));
    for id in ["t", "u"] {
        containerd.ctr(&["task", "rm", id]);
        containerd.ok(&["container", "rm", id]);
    }
    containerd.no_shim_is_left();
}

#[test]
fn an_exit_while_the_daemon_is_away_is_told_when_it_is_back() {
    let Some(mut containerd) = Containerd::start() else { return };
    let flag = containerd.rootfs().join("tmp/end");
    containerd.detached("t", "while [ ! -e /tmp/end ]; do sleep 0.05; done; exit 9");
    containerd.kill();
    fs::write(&flag, "").unwrap();
    // The shim writes the exit down before it tells anyone, and nobody is there to be told.
    let page = containerd.bundle("t").join("state.page");
    eventually("the exit is written down", || {
        gantry_shim_state::page::read(&page)
            .is_ok_and(|(_, state)| state.exit.is_some_and(|e| e.0 == 9))
    });
    let journal = containerd.bundle("t").join("exits.journal");
    assert_eq!(gantry_shim_state::journal::read(&journal).unwrap().pending.len(), 1);
    containerd.restart();
    eventually("the shim delivers", || {
        gantry_shim_state::journal::read(&journal).unwrap().pending.is_empty()
    });
    assert!(containerd.tasks().contains("STOPPED"));
    let out = containerd.ctr(&["task", "rm", "t"]);
    assert!(out.stderr.contains("exit code 9"), "{}", out.stderr);
}

#[test]
fn a_killed_shim_is_cleaned_up_with_the_true_end_of_its_container() {
    let Some(containerd) = Containerd::start() else { return };
    containerd.detached("t", "sleep 1000");
    let events = containerd.events();
    let init = containerd.pid_of("t");
    let address = fs::read_to_string(containerd.bundle("t").join("address")).unwrap();
    let socket = std::path::PathBuf::from(address.strip_prefix("unix://").unwrap());
    assert!(socket.exists());
    for pid in containerd.shims() {
        gantry_sys::process::Pidfd::open(pid).unwrap().signal(9).unwrap();
    }
    eventually("containerd notices", || events.text().contains("/tasks/exit"));
    assert!(events.text().contains("\"exit_status\":137"), "{}", events.text());
    eventually("the container is gone", || {
        !std::path::Path::new(&format!("/proc/{init}/exe")).exists()
    });
    assert_eq!(containerd.mounts(), 0);
    assert!(!socket.exists(), "the dead shim's socket");
}
