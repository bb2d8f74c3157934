//! Snapshots over the wire.

use std::collections::HashMap;

use gantry_api::containerd::services::snapshots::v1 as wire;
use tonic::Code;
use tonic::transport::Channel;
use wire::snapshots_client::SnapshotsClient;

use crate::process::{Daemon, refused, within};

type Client = SnapshotsClient<Channel>;

/// The one that every kernel and file system has.
const NAME: &str = "native";

async fn prepare(
    client: &mut Client,
    key: &str,
    parent: &str,
    labels: &[(&str, &str)],
) -> Result<tonic::Response<wire::PrepareSnapshotResponse>, tonic::Status> {
    let labels: HashMap<_, _> =
        labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let request = wire::PrepareSnapshotRequest {
        snapshotter: NAME.into(),
        key: key.into(),
        parent: parent.into(),
        labels,
    };
    client.prepare(within("n", request)).await
}

async fn commit(client: &mut Client, name: &str, key: &str) -> Result<(), tonic::Status> {
    let request = wire::CommitSnapshotRequest {
        snapshotter: NAME.into(),
        name: name.into(),
        key: key.into(),
        // Nothing else keeps it once its child is gone: a collection may come at any moment.
        labels: HashMap::from([("containerd.io/gc.root".to_owned(), "test".to_owned())]),
        ..wire::CommitSnapshotRequest::default()
    };
    client.commit(within("n", request)).await.map(drop)
}

#[tokio::test]
async fn a_snapshot_is_prepared_committed_stacked_and_listed() {
    let daemon = Daemon::start().await;
    let mut client = SnapshotsClient::new(daemon.channel());
    let key = "extract-1 sha256:abc";
    let mounts = prepare(&mut client, key, "", &[]).await.unwrap().into_inner().mounts;
    assert_eq!(
        (mounts[0].r#type.as_str(), &mounts[0].options[..]),
        ("bind", &["rbind".to_owned(), "rw".to_owned()][..])
    );
    commit(&mut client, "base", key).await.unwrap();
    prepare(&mut client, "top", "base", &[("containerd.io/gc.root", "x")]).await.unwrap();
    let again = prepare(&mut client, "top", "base", &[]).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    let reference = [("containerd.io/snapshot.ref", "base")];
    let exists = prepare(&mut client, "fresh", "", &reference).await.unwrap_err();
    assert_eq!(exists.code(), Code::AlreadyExists, "the target of snapshot.ref is there");

    let stat = |key: &str| {
        within("n", wire::StatSnapshotRequest { snapshotter: NAME.into(), key: key.into() })
    };
    let info = client.stat(stat("top")).await.unwrap().into_inner().info.unwrap();
    assert_eq!((info.parent.as_str(), info.kind()), ("base", wire::Kind::Active));
    assert_eq!(client.stat(stat("fresh")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.stat(stat("")).await.unwrap_err().code(), Code::NotFound);

    let request = wire::ListSnapshotsRequest { snapshotter: NAME.into(), filters: Vec::new() };
    let mut stream = client.list(within("n", request)).await.unwrap().into_inner();
    let listed = stream.message().await.unwrap().unwrap().info;
    assert_eq!(listed.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["base", "top"]);

    let remove = |key: &str| {
        within("n", wire::RemoveSnapshotRequest { snapshotter: NAME.into(), key: key.into() })
    };
    let used = client.remove(remove("base")).await.unwrap_err();
    assert_eq!(used.code(), Code::FailedPrecondition);
    client.remove(remove("top")).await.unwrap();
    client.remove(remove("base")).await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn a_snapshotter_must_be_named_and_loaded() {
    let daemon = Daemon::start().await;
    let mut client = SnapshotsClient::new(daemon.channel());
    let mounts = |snapshotter: &str| {
        let snapshotter = snapshotter.to_owned();
        within("n", wire::MountsRequest { snapshotter, key: "k".into() })
    };
    let unnamed = client.mounts(mounts("")).await;
    refused(unnamed, Code::InvalidArgument, "snapshotter argument missing: invalid argument");
    let absent = client.mounts(mounts("zfs")).await;
    refused(absent, Code::InvalidArgument, "snapshotter not loaded: zfs: invalid argument");
    let cleanup = wire::CleanupRequest { snapshotter: NAME.into() };
    let cleanup = client.cleanup(within("n", cleanup)).await;
    let text = "snapshotter does not implement Cleanup method: not implemented";
    refused(cleanup, Code::Unimplemented, text);
    let update = wire::UpdateSnapshotRequest { snapshotter: NAME.into(), ..Default::default() };
    let update = client.update(within("n", update)).await;
    refused(update, Code::InvalidArgument, "info is required: invalid argument");
    let filters = vec!["kind==".to_owned()];
    let request = wire::ListSnapshotsRequest { snapshotter: NAME.into(), filters };
    let status = client.list(within("n", request)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown);
    daemon.stop().await;
}
