//! Namespaces, leases, containers and images: what is refused, in which words.

use std::collections::HashMap;

use gantry_api::containerd::services::containers::v1 as containers;
use gantry_api::containerd::services::images::v1 as images;
use gantry_api::containerd::services::leases::v1 as leases;
use gantry_api::containerd::services::namespaces::v1 as namespaces;
use gantry_api::containerd::types::Descriptor;
use prost_types::{Any, FieldMask};
use tonic::Code;

use crate::process::{Daemon, refused, within};
use containers::containers_client::ContainersClient;
use images::images_client::ImagesClient;
use leases::leases_client::LeasesClient;
use namespaces::namespaces_client::NamespacesClient;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() })
}

fn container(id: &str) -> containers::Container {
    containers::Container {
        id: id.into(),
        runtime: Some(containers::container::Runtime { name: "r".into(), options: None }),
        spec: Some(Any { type_url: "types.containerd.io/x".into(), value: b"{\"odd\" :1}".into() }),
        ..containers::Container::default()
    }
}

fn image(name: &str) -> images::Image {
    images::Image {
        name: name.into(),
        target: Some(Descriptor {
            media_type: "m".into(),
            digest: DIGEST.into(),
            size: 1,
            ..Descriptor::default()
        }),
        ..images::Image::default()
    }
}

#[tokio::test]
async fn a_call_without_a_namespace_is_refused_where_one_is_needed() {
    let daemon = Daemon::start().await;
    let text = "namespace is required: failed precondition";
    let mut client = ContainersClient::new(daemon.channel());
    let listed = client.list(containers::ListContainersRequest::default()).await;
    refused(listed, Code::FailedPrecondition, text);
    let streamed = client.list_stream(containers::ListContainersRequest::default()).await;
    refused(streamed, Code::FailedPrecondition, text);
    let mut client = LeasesClient::new(daemon.channel());
    let created = client.create(leases::CreateRequest::default()).await;
    refused(created, Code::FailedPrecondition, text);
    let mut client = NamespacesClient::new(daemon.channel());
    client.list(namespaces::ListNamespacesRequest::default()).await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn a_namespace_that_does_not_exist_has_no_labels() {
    let daemon = Daemon::start().await;
    let mut client = NamespacesClient::new(daemon.channel());
    for name in ["absent", "not a name", ""] {
        let got = client.get(namespaces::GetNamespaceRequest { name: name.into() }).await.unwrap();
        let got = got.into_inner().namespace.unwrap();
        assert_eq!((got.name.as_str(), got.labels.len()), (name, 0));
    }
    let empty = client.create(namespaces::CreateNamespaceRequest::default()).await;
    refused(empty, Code::InvalidArgument, "namespace is required: invalid argument");
    let long = labels(&[("k", &"v".repeat(4096))]);
    let namespace = Some(namespaces::Namespace { name: "n".into(), labels: long });
    let status = client.create(namespaces::CreateNamespaceRequest { namespace }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    daemon.stop().await;
}

#[tokio::test]
async fn a_namespace_in_use_stays() {
    let daemon = Daemon::start().await;
    let sent = images::CreateImageRequest { image: Some(image("i")), ..Default::default() };
    ImagesClient::new(daemon.channel()).create(within("n", sent)).await.unwrap();
    let mut client = NamespacesClient::new(daemon.channel());
    let listed = client.list(namespaces::ListNamespacesRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().namespaces[0].name, "n", "the first write makes a namespace");
    let deleted = client.delete(namespaces::DeleteNamespaceRequest { name: "n".into() }).await;
    let text = "namespace \"n\" must be empty, but it still has images: failed precondition";
    refused(deleted, Code::FailedPrecondition, text);
    daemon.stop().await;
}

#[tokio::test]
async fn a_container_keeps_its_spec_to_the_byte_and_its_runtime_for_ever() {
    let daemon = Daemon::start().await;
    let mut client = ContainersClient::new(daemon.channel());
    let create = |container| within("n", containers::CreateContainerRequest { container });
    let update = |container, update_mask| {
        let request = containers::UpdateContainerRequest { container, update_mask };
        within("n", request)
    };
    let created = client.create(create(Some(container("c")))).await.unwrap().into_inner();
    let created = created.container.unwrap();
    assert_eq!(created.spec, container("c").spec);
    assert!(created.created_at.unwrap().seconds > 0);

    let again = client.create(create(Some(container("c")))).await;
    refused(again, Code::AlreadyExists, "container \"c\": already exists");
    let none = client.create(create(None)).await;
    refused(none, Code::InvalidArgument, "container is required: invalid argument");
    let bare = containers::Container { id: "d".into(), ..Default::default() };
    let status = client.create(create(Some(bare))).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("create container failed validation: "), "{status}");

    let unnamed = client.update(update(Some(container("")), None)).await;
    refused(unnamed, Code::InvalidArgument, "Container.ID required: invalid argument");
    let other = containers::container::Runtime { name: "other".into(), options: None };
    let changed = containers::Container { runtime: Some(other), ..container("c") };
    let changed = client.update(update(Some(changed), None)).await;
    let text = "container.Runtime.Name field is immutable: invalid argument";
    refused(changed, Code::InvalidArgument, text);

    let sent = containers::Container {
        id: "c".into(),
        labels: labels(&[("a.b/c", "1"), ("not-masked", "2")]),
        ..Default::default()
    };
    let masked = client.update(update(Some(sent), mask(&["labels.a.b/c"]))).await.unwrap();
    let masked = masked.into_inner().container.unwrap();
    assert_eq!(masked.labels, labels(&[("a.b/c", "1")]));
    assert_eq!(masked.spec, container("c").spec);
    let everything = client.update(update(Some(container("c")), mask(&[]))).await.unwrap();
    assert_eq!(everything.into_inner().container.unwrap().labels, labels(&[]));
    daemon.stop().await;
}

#[tokio::test]
async fn an_absent_container_is_not_found_whatever_its_id() {
    let daemon = Daemon::start().await;
    let mut client = ContainersClient::new(daemon.channel());
    for id in ["absent", "not an id", ""] {
        let text = format!("container {id:?} in namespace \"n\": not found");
        let request = containers::GetContainerRequest { id: id.into() };
        refused(client.get(within("n", request)).await, Code::NotFound, &text);
    }
    let request = containers::DeleteContainerRequest { id: "not an id".into() };
    assert_eq!(client.delete(within("n", request)).await.unwrap_err().code(), Code::NotFound);
    daemon.stop().await;
}

#[tokio::test]
async fn containers_are_listed_in_order_by_either_call() {
    let daemon = Daemon::start().await;
    let mut client = ContainersClient::new(daemon.channel());
    for id in ["b", "a", "B"] {
        let request = containers::CreateContainerRequest { container: Some(container(id)) };
        client.create(within("n", request)).await.unwrap();
    }
    let filtered = |filters: &[&str]| {
        let filters = filters.iter().map(ToString::to_string).collect();
        within("n", containers::ListContainersRequest { filters })
    };
    let ids = |found: Vec<containers::Container>| {
        found.into_iter().map(|container| container.id).collect::<Vec<_>>()
    };
    let listed = client.list(filtered(&[])).await.unwrap().into_inner().containers;
    assert_eq!(ids(listed), ["B", "a", "b"]);
    let listed = client.list(filtered(&["id==a", "id~=^B"])).await.unwrap().into_inner();
    assert_eq!(ids(listed.containers), ["B", "a"]);
    let mut stream = client.list_stream(filtered(&[])).await.unwrap().into_inner();
    let mut streamed = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        streamed.push(message.container.unwrap());
    }
    assert_eq!(ids(streamed), ["B", "a", "b"]);
    let status = client.list(filtered(&["id=="])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    daemon.stop().await;
}

#[tokio::test]
async fn images_follow_their_masks_and_targets() {
    let daemon = Daemon::start().await;
    let mut client = ImagesClient::new(daemon.channel());
    let epoch = Some(prost_types::Timestamp { seconds: 5, nanos: 0 });
    let sent = images::CreateImageRequest { image: Some(image("i")), source_date_epoch: epoch };
    let created = client.create(within("n", sent.clone())).await.unwrap().into_inner();
    assert_eq!(created.image.unwrap().created_at, epoch);
    let again = client.create(within("n", sent)).await;
    refused(again, Code::AlreadyExists, "image \"i\": already exists");

    let request = |image, update_mask| {
        within("n", images::UpdateImageRequest { image, update_mask, source_date_epoch: None })
    };
    let only_labels =
        images::Image { name: "i".into(), labels: labels(&[("a", "1")]), ..Default::default() };
    let updated = client.update(request(Some(only_labels.clone()), mask(&["labels"]))).await;
    let updated = updated.unwrap().into_inner().image.unwrap();
    assert_eq!((updated.labels, updated.target), (labels(&[("a", "1")]), image("i").target));
    let status = client.update(request(Some(only_labels.clone()), None)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let absent = images::Image { name: "absent".into(), ..only_labels };
    let absent = client.update(request(Some(absent), mask(&["labels"]))).await;
    refused(absent, Code::NotFound, "image \"absent\": not found");
    let unnamed = client.update(request(Some(image("")), None)).await;
    refused(unnamed, Code::InvalidArgument, "Image.Name required: invalid argument");

    for digest in ["nonsense", &DIGEST.replace('e', "f")] {
        let target = Some(Descriptor { digest: digest.into(), ..Descriptor::default() });
        let request = images::DeleteImageRequest { name: "i".into(), sync: false, target };
        assert_eq!(client.delete(within("n", request)).await.unwrap_err().code(), Code::NotFound);
    }
    let target = image("i").target;
    let request = images::DeleteImageRequest { name: "i".into(), sync: true, target };
    client.delete(within("n", request)).await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn a_lease_gets_an_id_and_takes_what_need_not_exist() {
    let daemon = Daemon::start().await;
    let mut client = LeasesClient::new(daemon.channel());
    let created = client.create(within("n", leases::CreateRequest::default())).await.unwrap();
    let id = created.into_inner().lease.unwrap().id;
    let (nanos, tail) = id.split_once('-').unwrap();
    assert!(nanos.parse::<u32>().is_ok() && tail.len() == 4, "{id}");
    let add = |id: &str, kind: &str, resource: &str| {
        let resource = Some(leases::Resource { id: resource.into(), r#type: kind.into() });
        within("n", leases::AddResourceRequest { id: id.into(), resource })
    };
    client.add_resource(add(&id, "content", DIGEST)).await.unwrap();
    client.add_resource(add(&id, "snapshots/overlayfs", "no such")).await.unwrap();
    for (kind, resource, code) in [
        ("content", "nonsense", Code::InvalidArgument),
        ("snapshots", "k", Code::InvalidArgument),
        ("unheard-of", "k", Code::Unimplemented),
    ] {
        let status = client.add_resource(add(&id, kind, resource)).await.unwrap_err();
        assert_eq!(status.code(), code, "{kind}");
    }
    let none = leases::AddResourceRequest { id: id.clone(), resource: None };
    let none = client.add_resource(within("n", none)).await;
    refused(none, Code::InvalidArgument, "resource is required: invalid argument");
    for absent in ["absent", ""] {
        let request = leases::DeleteRequest { id: absent.into(), sync: true };
        let text = format!("lease {absent:?}: not found");
        refused(client.delete(within("n", request)).await, Code::NotFound, &text);
    }
    let held = leases::ListResourcesRequest { id: id.clone() };
    let held = client.list_resources(within("n", held)).await.unwrap().into_inner().resources;
    assert_eq!(held.len(), 2);
    let filters = vec![format!("id=={id:?}")];
    let listed = client.list(within("n", leases::ListRequest { filters })).await.unwrap();
    assert_eq!(listed.into_inner().leases.len(), 1);
    daemon.stop().await;
}
