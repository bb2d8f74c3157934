//! The harness catches what it says it catches, on a real daemon.
#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::process::Command;

use gantry_tests::Daemon;

#[tokio::test]
#[should_panic(expected = "left behind")]
async fn a_process_left_behind_fails_the_test() {
    let daemon = Daemon::start().await;
    let mut left = Command::new("sleep").arg("600").env("LEFT", daemon.root()).spawn().unwrap();
    drop(daemon);
    let _ = left.wait();
}

#[tokio::test]
#[should_panic(expected = "unannounced")]
async fn a_warning_nobody_announced_fails_the_test() {
    let daemon = Daemon::start().await;
    let log = daemon.home().join("log");
    let line = format!("{}2026-01-01T00:00:00Z  WARN gantryd: odd\n", daemon.log());
    std::fs::write(log, line).unwrap();
    drop(daemon);
}

#[tokio::test]
async fn an_announced_warning_does_not() {
    let daemon = Daemon::start().await;
    daemon.allow_log("odd");
    let line = format!("{}2026-01-01T00:00:00Z  WARN gantryd: odd\n", daemon.log());
    std::fs::write(daemon.home().join("log"), line).unwrap();
}
