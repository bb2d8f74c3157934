//! Content over the wire: the write stream above all.

use std::collections::HashMap;

use bytes::Bytes;
use gantry_api::containerd::services::content::v1 as wire;
use gantry_api::containerd::services::leases::v1 as leases;
use gantry_core::Digest;
use leases::leases_client::LeasesClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use wire::content_client::ContentClient;
use wire::{WriteAction, WriteContentRequest, WriteContentResponse};

use crate::process::{Daemon, leased, refused, within};

/// One write stream from the client's side.
struct Write {
    requests: mpsc::Sender<WriteContentRequest>,
    replies: Streaming<WriteContentResponse>,
}

impl Write {
    /// Opens a stream with its first message and returns it with the first reply.
    async fn open(
        daemon: &Daemon,
        lease: &str,
        first: WriteContentRequest,
    ) -> Result<(Self, WriteContentResponse), Status> {
        let (requests, queue) = mpsc::channel(1);
        requests.send(first).await.unwrap();
        let request = match lease {
            "" => within("n", ReceiverStream::new(queue)),
            lease => leased("n", lease, ReceiverStream::new(queue)),
        };
        let mut replies = ContentClient::new(daemon.channel())
            .max_encoding_message_size(32 << 20)
            .write(request)
            .await?
            .into_inner();
        let reply = replies.message().await?.unwrap();
        Ok((Self { requests, replies }, reply))
    }

    async fn say(&mut self, request: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        self.requests.send(request).await.unwrap();
        Ok(self.replies.message().await?.unwrap())
    }
}

fn message(action: WriteAction) -> WriteContentRequest {
    WriteContentRequest { action: action.into(), ..WriteContentRequest::default() }
}

fn stat(reference: &str) -> WriteContentRequest {
    WriteContentRequest { r#ref: reference.into(), ..message(WriteAction::Stat) }
}

fn data(offset: i64, bytes: &'static [u8]) -> WriteContentRequest {
    WriteContentRequest { offset, data: bytes.into(), ..message(WriteAction::Write) }
}

fn commit(total: i64, expected: &str) -> WriteContentRequest {
    let expected = expected.into();
    // A client commits at the offset where it stands.
    WriteContentRequest { total, expected, offset: total, ..message(WriteAction::Commit) }
}

async fn blob(daemon: &Daemon, bytes: &'static [u8]) -> String {
    let digest = Digest::of(bytes).as_str().to_owned();
    let (mut write, _) = Write::open(daemon, "", stat("blob")).await.unwrap();
    write.say(data(0, bytes)).await.unwrap();
    // Nothing else keeps it: a collection may come at any moment.
    let labels = HashMap::from([("containerd.io/gc.root".to_owned(), "test".to_owned())]);
    let commit = commit(bytes.len() as i64, &digest);
    write.say(WriteContentRequest { labels, ..commit }).await.unwrap();
    digest
}

#[tokio::test]
async fn a_blob_is_written_committed_and_read() {
    let daemon = Daemon::start().await;
    let (mut write, reply) = Write::open(&daemon, "", stat("r")).await.unwrap();
    assert_eq!((reply.offset, reply.total), (0, 0));
    assert_eq!(reply.digest, Digest::of(b"").as_str());
    assert!(reply.started_at.unwrap().seconds > 0);
    assert_eq!(write.say(data(0, b"hello ")).await.unwrap().offset, 6);
    let reply = write.say(data(6, b"world")).await.unwrap();
    assert_eq!((reply.offset, reply.digest.as_str()), (11, Digest::of(b"hello world").as_str()));
    let root = "containerd.io/gc.root".to_owned();
    let labels = HashMap::from([(root, "1".to_owned()), ("b".to_owned(), String::new())]);
    let digest = Digest::of(b"hello world").as_str().to_owned();
    let reply = write.say(WriteContentRequest { labels, ..commit(11, &digest) }).await.unwrap();
    assert_eq!((reply.offset, reply.digest.as_str()), (11, digest.as_str()));
    assert!(write.replies.message().await.unwrap().is_none(), "a commit ends the stream");

    let mut client = ContentClient::new(daemon.channel());
    let info = client.info(within("n", wire::InfoRequest { digest: digest.clone() })).await;
    let info = info.unwrap().into_inner().info.unwrap();
    assert_eq!((info.size, info.labels.len()), (11, 1), "an empty label is none");
    let request = wire::ReadContentRequest { digest: digest.clone(), offset: 6, size: 3 };
    let mut pieces = client.read(within("n", request)).await.unwrap().into_inner();
    let piece = pieces.message().await.unwrap().unwrap();
    assert_eq!((piece.offset, &piece.data[..]), (0, &b"wor"[..]));
    let beyond = wire::ReadContentRequest { digest, offset: 12, size: 0 };
    let beyond = client.read(within("n", beyond)).await;
    refused(beyond, Code::OutOfRange, "read past object length 11 bytes: out of range");
    daemon.stop().await;
}

#[tokio::test]
async fn a_ref_is_locked_until_its_stream_ends_and_then_resumes() {
    let daemon = Daemon::start().await;
    let (mut write, _) = Write::open(&daemon, "", stat("r")).await.unwrap();
    write.say(data(0, b"half")).await.unwrap();
    let status = Write::open(&daemon, "", stat("r")).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().starts_with("ref r locked for "), "{status}");
    drop(write);
    // The daemon learns of the dropped stream a moment later; clients go on trying, too.
    let (mut write, reply) = loop {
        match Write::open(&daemon, "", stat("r")).await {
            Ok(opened) => break opened,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
    };
    assert_eq!((reply.offset, reply.digest.as_str()), (4, Digest::of(b"half").as_str()));
    let status = write.say(data(3, b"x")).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert_eq!(status.message(), "write @3 must occur at current offset 4: out of range");
    daemon.stop().await;
}

#[tokio::test]
async fn offset_zero_starts_over_and_a_failed_commit_keeps_the_data() {
    let daemon = Daemon::start().await;
    let (mut write, _) = Write::open(&daemon, "", stat("r")).await.unwrap();
    write.say(data(0, b"first")).await.unwrap();
    assert_eq!(write.say(data(0, b"second")).await.unwrap().offset, 6);
    let status = write.say(commit(7, "")).await.unwrap_err();
    // The offset is checked first, as the client's idea of the write is wrong.
    assert_eq!(status.code(), Code::OutOfRange);
    let (mut write, reply) = loop {
        match Write::open(&daemon, "", stat("r")).await {
            Ok(opened) => break opened,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
    };
    assert_eq!(reply.offset, 6);
    let wrong = Digest::of(b"something else");
    let status = write.say(commit(6, wrong.as_str())).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let mut client = ContentClient::new(daemon.channel());
    let found = client.status(within("n", wire::StatusRequest { r#ref: "r".into() })).await;
    assert_eq!(found.unwrap().into_inner().status.unwrap().offset, 6);
    let listed = client.list_statuses(within("n", wire::ListStatusesRequest::default())).await;
    assert_eq!(listed.unwrap().into_inner().statuses.len(), 1);
    client.abort(within("n", wire::AbortRequest { r#ref: "r".into() })).await.unwrap();
    let again = client.abort(within("n", wire::AbortRequest { r#ref: "r".into() })).await;
    assert_eq!(again.unwrap_err().code(), Code::NotFound);
    daemon.stop().await;
}

#[tokio::test]
async fn a_write_of_a_blob_that_exists_ends_and_leases_it() {
    let daemon = Daemon::start().await;
    let digest = blob(&daemon, b"there").await;
    let mut client = LeasesClient::new(daemon.channel());
    for id in ["early", "late"] {
        let request = leases::CreateRequest { id: id.into(), ..Default::default() };
        client.create(within("n", request)).await.unwrap();
    }
    let early = WriteContentRequest { expected: digest.clone(), ..stat("r1") };
    let status = Write::open(&daemon, "early", early).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);

    let (mut write, _) = Write::open(&daemon, "late", stat("r2")).await.unwrap();
    write.say(data(0, b"there")).await.unwrap();
    let status = write.say(commit(5, &digest)).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    let text = format!("blob with expected digest {digest} exists: already exists");
    assert_eq!(status.message(), text);
    for id in ["early", "late"] {
        let held = leases::ListResourcesRequest { id: id.into() };
        let held = client.list_resources(within("n", held)).await.unwrap().into_inner();
        let content = held.resources.iter().any(|r| r.r#type == "content" && r.id == digest);
        assert!(content, "{id} holds {held:?}");
    }
    let found = ContentClient::new(daemon.channel())
        .status(within("n", wire::StatusRequest { r#ref: "r2".into() }))
        .await;
    assert_eq!(found.unwrap_err().code(), Code::NotFound, "the ingest is gone");
    let unknown = Write::open(&daemon, "no-such-lease", stat("r3")).await.map(drop);
    let status = unknown.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "lease does not exist: not found");
    daemon.stop().await;
}

#[tokio::test]
async fn a_piece_of_eight_mebibytes_passes_and_one_beyond_the_limit_does_not() {
    let daemon = Daemon::start().await;
    let piece = |bytes: usize| WriteContentRequest {
        data: Bytes::from(vec![7; bytes]),
        ..message(WriteAction::Write)
    };
    let (mut write, _) = Write::open(&daemon, "", stat("r")).await.unwrap();
    assert_eq!(write.say(piece(8 << 20)).await.unwrap().offset, 8 << 20);
    drop(write);
    let (mut write, _) = Write::open(&daemon, "", stat("other")).await.unwrap();
    let status = write.say(piece(16 << 20)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    daemon.stop().await;
}

#[tokio::test]
async fn what_is_malformed_is_refused() {
    let daemon = Daemon::start().await;
    let first = |request| Write::open(&daemon, "", request);
    let status = first(stat("")).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "first message must have a reference: invalid argument");
    let bad_digest = WriteContentRequest { expected: "nonsense".into(), ..stat("r") };
    assert_eq!(first(bad_digest).await.map(drop).unwrap_err().code(), Code::InvalidArgument);
    let negative = WriteContentRequest { total: -1, ..stat("r") };
    assert_eq!(first(negative).await.map(drop).unwrap_err().code(), Code::InvalidArgument);
    let unheard_of = WriteContentRequest { action: 9, ..stat("r") };
    assert_eq!(first(unheard_of).await.map(drop).unwrap_err().code(), Code::InvalidArgument);

    let mut client = ContentClient::new(daemon.channel());
    let info = client.info(within("n", wire::InfoRequest { digest: "x".into() })).await;
    refused(info, Code::InvalidArgument, "\"x\" failed validation: invalid argument");
    let none = client.update(within("n", wire::UpdateRequest::default())).await;
    refused(none, Code::InvalidArgument, "info is required: invalid argument");
    let found = client.status(within("n", wire::StatusRequest { r#ref: String::new() })).await;
    assert_eq!(found.unwrap_err().code(), Code::NotFound);
    daemon.stop().await;
}

#[tokio::test]
async fn a_list_comes_in_batches_and_an_empty_one_in_none() {
    let daemon = Daemon::start().await;
    let mut client = ContentClient::new(daemon.channel());
    let mut batches = async |namespace: &str| -> Vec<usize> {
        let request = within(namespace, wire::ListContentRequest::default());
        let mut stream = client.list(request).await.unwrap().into_inner();
        let mut sizes = Vec::new();
        while let Some(batch) = stream.message().await.unwrap() {
            sizes.push(batch.info.len());
        }
        sizes
    };
    assert_eq!(batches("n").await, [0; 0]);
    blob(&daemon, b"one").await;
    blob(&daemon, b"two").await;
    assert_eq!(batches("n").await, [2]);
    assert_eq!(batches("other").await, [0; 0]);
    daemon.stop().await;
}
