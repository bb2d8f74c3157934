//! How the daemon starts, refuses to start, stops and comes back.
#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use gantry_tests::poll::{SOON, soon};
use gantry_tests::{Ctr, Daemon, poll_until, wire};

#[tokio::test]
async fn unmodified_clients_agree_on_the_version() {
    let daemon = Daemon::start().await;
    for ctr in Ctr::all("version") {
        let shown = ctr.ok(&daemon, &["version"]).await;
        let server = shown.split("Server:").nth(1).unwrap_or_default();
        assert!(server.contains("Version:") && server.contains("UUID:"), "{}: {shown}", ctr.name);
    }
}

#[tokio::test]
async fn unmodified_clients_list_the_plugins() {
    let daemon = Daemon::start().await;
    for ctr in Ctr::all("plugins ls") {
        let shown = ctr.ok(&daemon, &["plugins", "ls"]).await;
        let broken: Vec<&str> = shown.lines().filter(|line| line.ends_with("error")).collect();
        assert!(broken.is_empty(), "{}: {broken:?}", ctr.name);
        for id in ["version", "introspection", "healthcheck"] {
            assert!(shown.lines().any(|line| line.contains(id)), "{}: no {id}", ctr.name);
        }
    }
}

#[tokio::test]
async fn the_server_keeps_its_uuid_over_a_crash() {
    let mut daemon = Daemon::start().await;
    let Some(ctr) = Ctr::all("uuid").pop() else { return };
    let uuid = |text: String| text.lines().find(|l| l.contains("UUID")).map(str::to_owned).unwrap();
    let before = uuid(ctr.ok(&daemon, &["version"]).await);
    daemon.crash().await;
    assert_eq!(uuid(ctr.ok(&daemon, &["version"]).await), before);
}

#[tokio::test]
async fn a_stop_is_clean_and_a_start_follows() {
    let mut daemon = Daemon::start().await;
    daemon.restart().await;
    wire::is_serving(&daemon.channel()).await.unwrap();
}

#[tokio::test]
async fn a_second_daemon_on_the_same_root_is_refused() {
    let daemon = Daemon::start().await;
    let mut second = daemon.command();
    let mut second = second.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let status = poll_until("the second daemon to give up", SOON, || {
        second.try_wait().unwrap().ok_or("it runs")
    });
    let said = std::io::read_to_string(second.stderr.take().unwrap()).unwrap();
    assert!(!status.success());
    assert!(said.contains(&daemon.pid().to_string()), "does not name the holder: {said}");
    wire::is_serving(&daemon.channel()).await.unwrap();
}

#[tokio::test]
async fn an_unknown_key_is_refused_and_the_nearest_named() {
    let said = Daemon::setup().config("[grpc]\nmax_recv_mesage_bytes = 1\n").refused().await;
    assert!(said.contains("max_recv_mesage_bytes"), "{said}");
    assert!(said.contains("max_recv_message_bytes"), "{said}");
}

#[tokio::test]
async fn a_value_of_the_wrong_type_is_refused() {
    let said = Daemon::setup().config("[log]\nlevel = \"shout\"\n").refused().await;
    assert!(said.contains("level") && said.contains("shout"), "{said}");
}

#[tokio::test]
async fn a_socket_path_longer_than_the_kernel_takes_is_refused() {
    let long = "x".repeat(120);
    let setup = Daemon::setup();
    let address = setup.home().join(&long);
    let said = setup.address(address.to_str().unwrap()).refused().await;
    assert!(said.contains("106") || said.contains("long"), "{said}");
}

#[tokio::test]
async fn the_socket_is_open_to_its_owner_and_group_alone() {
    let daemon = Daemon::start().await;
    let mode = std::fs::metadata(daemon.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let root = std::fs::metadata(daemon.root()).unwrap().permissions().mode();
    assert_eq!(root & 0o077 & !0o011, 0, "the root is open to others: {root:o}");
}

#[tokio::test]
async fn failpoints_that_do_not_parse_are_refused() {
    let said = Daemon::setup().failpoint("kv.commit/flush", "explode").refused().await;
    assert!(said.contains("explode"), "{said}");
}

#[tokio::test]
async fn a_client_that_says_nothing_delays_no_stop() {
    let mut daemon = Daemon::start().await;
    let mute = soon("connect", tokio::net::UnixStream::connect(daemon.socket())).await.unwrap();
    let mut polite = tokio::net::UnixStream::connect(daemon.socket()).await.unwrap();
    // The preface of HTTP/2 and empty settings, and then never an answer to anything.
    polite.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let start = Instant::now();
    daemon.stop();
    assert!(start.elapsed() < Duration::from_secs(8), "the stop took {:?}", start.elapsed());
    drop((mute, polite));
}
