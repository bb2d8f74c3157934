//! Blobs under unmodified clients: written, resumed, read, over crashes.
#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::process::Stdio;

use gantry_api::containerd::services::content::v1 as content;
use gantry_api::containerd::services::content::v1::content_client::ContentClient;
use gantry_api::containerd::services::images::v1 as images;
use gantry_api::containerd::services::images::v1::images_client::ImagesClient;
use gantry_api::containerd::types::Descriptor;
use gantry_tests::image::digest;
use gantry_tests::poll::soon;
use gantry_tests::wire::within;
use gantry_tests::{Ctr, Daemon};
use tokio::io::AsyncWriteExt;
use tonic::{Code, Status};

/// Runs `ctr content ARGS` with `input` on its standard input.
async fn feed(ctr: &Ctr, daemon: &Daemon, args: &[&str], input: &[u8]) -> Result<(), String> {
    let mut command = ctr.command(daemon.socket(), daemon.namespace());
    let command = command.arg("content").args(args).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A client that refuses early closes its end; what it says is in the output.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    let output = soon("ctr content", child.wait_with_output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// An image record on `digest`: without a reference, a blob is garbage to the next collection.
async fn keep(daemon: &Daemon, digest: &str) {
    let target = Descriptor {
        media_type: "application/octet-stream".to_owned(),
        digest: digest.to_owned(),
        size: 1,
        ..Default::default()
    };
    let image =
        images::Image { name: "keep".to_owned(), target: Some(target), ..Default::default() };
    let create = images::CreateImageRequest { image: Some(image), ..Default::default() };
    let mut client = ImagesClient::new(daemon.channel());
    client.create(within(daemon.namespace(), create)).await.unwrap();
}

#[tokio::test]
async fn a_blob_outlives_a_crash_bit_for_bit() {
    for ctr in Ctr::all("content") {
        let mut daemon = Daemon::start().await;
        let blob: Vec<u8> = (0..20_000_000_u32).map(|n| (n.wrapping_mul(31) >> 3) as u8).collect();
        let name = digest(&blob);
        keep(&daemon, &name).await;
        feed(&ctr, &daemon, &["ingest", "--expected-digest", &name, "r"], &blob).await.unwrap();
        daemon.crash().await;
        let shown = ctr.ok(&daemon, &["content", "ls", "--quiet"]).await;
        assert_eq!(shown.trim(), name, "{}", ctr.name);
        let mut get = ctr.command(daemon.socket(), daemon.namespace());
        let got = soon("ctr content get", get.args(["content", "get", &name]).output()).await;
        assert!(got.unwrap().stdout == blob, "{}: the blob came back different", ctr.name);
        let file = daemon.root().join("content/blobs").join(name.replace(':', "/"));
        assert!(std::fs::read(&file).unwrap() == blob, "{} is not the blob", file.display());
        ctr.ok(&daemon, &["content", "label", &name, "k=v"]).await;
        daemon.crash().await;
        assert!(ctr.ok(&daemon, &["content", "ls"]).await.contains("k=v"), "{}", ctr.name);
        ctr.ok(&daemon, &["content", "rm", &name]).await;
        assert_eq!(ctr.ok(&daemon, &["content", "ls", "--quiet"]).await, "", "{}", ctr.name);
    }
}

#[tokio::test]
async fn a_blob_that_is_not_what_was_announced_is_refused() {
    let daemon = Daemon::start().await;
    for ctr in Ctr::all("content refused") {
        let other = digest(b"other");
        let args = ["ingest", "--expected-digest", &other, &format!("wrong-{}", ctr.name)];
        let said = feed(&ctr, &daemon, &args, b"these").await.unwrap_err();
        assert!(said.contains("unexpected commit digest") || said.contains(&other), "{said}");
        let size = ["ingest", "--expected-size", "9", &format!("short-{}", ctr.name)];
        feed(&ctr, &daemon, &size, b"these").await.unwrap_err();
        assert_eq!(ctr.ok(&daemon, &["content", "ls", "--quiet"]).await, "", "{}", ctr.name);
    }
}

/// Sends `messages`, half-closes, and gives the replies or the end.
async fn write(
    daemon: &Daemon,
    messages: Vec<content::WriteContentRequest>,
) -> Result<Vec<content::WriteContentResponse>, Status> {
    let mut client = ContentClient::new(daemon.channel());
    let stream = within(daemon.namespace(), tokio_stream::iter(messages));
    let mut replies = client.write(stream).await?.into_inner();
    let mut got = Vec::new();
    while let Some(reply) = soon("a reply", replies.message()).await? {
        got.push(reply);
    }
    Ok(got)
}

fn stat(total: i64, expected: &str) -> content::WriteContentRequest {
    content::WriteContentRequest {
        action: content::WriteAction::Stat.into(),
        r#ref: "half".to_owned(),
        total,
        expected: expected.to_owned(),
        ..Default::default()
    }
}

fn piece(action: content::WriteAction, offset: usize, data: &[u8]) -> content::WriteContentRequest {
    content::WriteContentRequest {
        action: action.into(),
        offset: i64::try_from(offset).unwrap(),
        data: data.to_vec().into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_write_resumes_where_it_stopped_also_after_a_crash() {
    let mut daemon = Daemon::start().await;
    let blob = vec![7; 3 << 20];
    let name = digest(&blob);
    keep(&daemon, &name).await;
    let half = blob.len() / 2;
    let total = i64::try_from(blob.len()).unwrap();
    let begun = vec![stat(total, &name), piece(content::WriteAction::Write, 0, &blob[..half])];
    let replies = write(&daemon, begun).await.unwrap();
    assert_eq!(usize::try_from(replies.last().unwrap().offset).unwrap(), half);
    daemon.restart().await;
    let replies = write(&daemon, vec![stat(total, &name)]).await.unwrap();
    assert_eq!(usize::try_from(replies[0].offset).unwrap(), half, "a clean stop loses nothing");
    daemon.crash().await;
    let replies = write(&daemon, vec![stat(total, &name)]).await.unwrap();
    let from = usize::try_from(replies[0].offset).unwrap();
    assert!(from <= half, "resumes at {from}, sent {half}");
    let rest = piece(content::WriteAction::Commit, from, &blob[from..]);
    let replies = write(&daemon, vec![stat(total, &name), rest]).await.unwrap();
    assert_eq!(replies.last().unwrap().digest, name);
    let again = write(&daemon, vec![stat(total, &name)]).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists, "{again:?}");
}

#[tokio::test]
async fn a_broken_stream_frees_its_ref() {
    let daemon = Daemon::start().await;
    let mut client = ContentClient::new(daemon.channel());
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(stat(0, "")).await.unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let request = within(daemon.namespace(), stream);
    let mut replies = client.write(request).await.unwrap().into_inner();
    soon("the stat", replies.message()).await.unwrap().unwrap();
    let busy = write(&daemon, vec![stat(0, "")]).await.unwrap_err();
    assert_eq!(busy.code(), Code::Unavailable, "{busy:?}");
    drop((sender, replies));
    let free =
        async || write(&daemon, vec![stat(0, "")]).await.map(drop).map_err(|e| e.to_string());
    gantry_tests::poll::poll_async("the ref to be free", gantry_tests::poll::SOON, free).await;
}
