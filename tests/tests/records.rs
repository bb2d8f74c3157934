//! Namespaces, leases, containers and images under unmodified clients, over crashes.
#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::collections::HashMap;

use gantry_api::containerd::services::containers::v1 as containers;
use gantry_api::containerd::services::containers::v1::containers_client::ContainersClient;
use gantry_api::containerd::services::images::v1 as images;
use gantry_api::containerd::services::images::v1::images_client::ImagesClient;
use gantry_api::containerd::services::leases::v1 as leases;
use gantry_api::containerd::services::leases::v1::leases_client::LeasesClient;
use gantry_api::containerd::services::namespaces::v1 as namespaces;
use gantry_api::containerd::services::namespaces::v1::namespaces_client::NamespacesClient;
use gantry_api::containerd::types::Descriptor;
use gantry_tests::wire::within;
use gantry_tests::{Ctr, Daemon};
use prost_types::Any;
use tonic::Code;

/// The first words of each line but the heading.
fn first_words(table: &str) -> Vec<&str> {
    table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect()
}

#[tokio::test]
async fn a_namespace_outlives_a_crash() {
    for ctr in Ctr::all("namespaces") {
        let mut daemon = Daemon::start().await;
        ctr.ok(&daemon, &["namespaces", "create", "kept", "owner=us"]).await;
        ctr.ok(&daemon, &["namespaces", "create", "gone"]).await;
        ctr.ok(&daemon, &["namespaces", "label", "kept", "owner=them"]).await;
        ctr.ok(&daemon, &["namespaces", "rm", "gone"]).await;
        daemon.crash().await;
        let shown = ctr.ok(&daemon, &["namespaces", "ls"]).await;
        assert_eq!(first_words(&shown), ["kept"], "{}: {shown}", ctr.name);
        assert!(shown.contains("owner=them"), "{}: {shown}", ctr.name);
    }
}

#[tokio::test]
async fn a_namespace_made_twice_or_in_use_is_refused() {
    let daemon = Daemon::start().await;
    for ctr in Ctr::all("namespaces refused") {
        let name = ctr.name.replace([' ', '.'], "-");
        ctr.ok(&daemon, &["namespaces", "create", &name]).await;
        let said = ctr.fails(&daemon, &["namespaces", "create", &name]).await;
        assert!(said.contains("already exists"), "{}: {said}", ctr.name);
        let args = ["containers", "create", "--rootfs", "/var/empty", "c", "true"];
        let made = ctr.run_in(daemon.socket(), &name, &args).await;
        assert!(made.ok, "{}: {}", ctr.name, made.stderr);
        let said = ctr.fails(&daemon, &["namespaces", "rm", &name]).await;
        assert!(said.contains("must be empty"), "{}: {said}", ctr.name);
        let said = ctr.fails(&daemon, &["namespaces", "create", "../up"]).await;
        assert!(said.contains("../up"), "{}: {said}", ctr.name);
    }
}

#[tokio::test]
async fn a_lease_outlives_a_crash() {
    for ctr in Ctr::all("leases") {
        let mut daemon = Daemon::start().await;
        ctr.ok(&daemon, &["leases", "create", "--id", "kept", "k=v"]).await;
        ctr.ok(&daemon, &["leases", "create", "--id", "gone"]).await;
        let said = ctr.fails(&daemon, &["leases", "create", "--id", "kept"]).await;
        assert!(said.contains("already exists"), "{}: {said}", ctr.name);
        ctr.ok(&daemon, &["leases", "delete", "gone"]).await;
        daemon.crash().await;
        let shown = ctr.ok(&daemon, &["leases", "ls"]).await;
        assert_eq!(first_words(&shown), ["kept"], "{}: {shown}", ctr.name);
        assert!(shown.contains("k=v"), "{}: {shown}", ctr.name);
    }
}

#[tokio::test]
async fn a_container_outlives_a_crash_as_it_was() {
    for ctr in Ctr::all("containers") {
        let mut daemon = Daemon::start().await;
        let create = ["containers", "create", "--label", "k=v", "--rootfs", "/var/empty", "c", "a"];
        ctr.ok(&daemon, &create).await;
        let said = ctr.fails(&daemon, &create).await;
        assert!(said.contains("already exists"), "{}: {said}", ctr.name);
        ctr.ok(&daemon, &["containers", "label", "c", "more=1"]).await;
        let before = ctr.ok(&daemon, &["containers", "info", "c"]).await;
        daemon.crash().await;
        assert_eq!(ctr.ok(&daemon, &["containers", "info", "c"]).await, before, "{}", ctr.name);
        assert!(before.contains("\"more\": \"1\"") && before.contains("\"k\": \"v\""), "{before}");
        let shown = ctr.ok(&daemon, &["containers", "ls", "--quiet"]).await;
        assert_eq!(shown.trim(), "c", "{}", ctr.name);
        ctr.ok(&daemon, &["containers", "rm", "c"]).await;
        daemon.crash().await;
        let said = ctr.fails(&daemon, &["containers", "info", "c"]).await;
        assert!(said.contains("not found"), "{}: {said}", ctr.name);
    }
}

#[tokio::test]
async fn a_spec_comes_back_bit_for_bit() {
    let mut daemon = Daemon::start().await;
    let mut specs = HashMap::new();
    for (id, length) in [("none", 0), ("small", 1), ("limit", 32 << 10), ("large", 3 << 20)] {
        // Not JSON, and not in the order any encoder would choose: nobody may parse it.
        let value: Vec<u8> = (0..length).map(|n| u8::try_from(n * 31 % 251).unwrap()).collect();
        let spec = Any { type_url: format!("types.containerd.io/{id}"), value };
        specs.insert(id, spec.clone());
        let create = containers::CreateContainerRequest { container: Some(container(id, spec)) };
        let mut client = ContainersClient::new(daemon.channel());
        client.create(within(daemon.namespace(), create)).await.unwrap();
    }
    daemon.crash().await;
    let mut client = ContainersClient::new(daemon.channel());
    for (id, spec) in specs {
        let get = containers::GetContainerRequest { id: id.to_owned() };
        let got = client.get(within(daemon.namespace(), get)).await.unwrap().into_inner();
        assert_eq!(got.container.unwrap().spec.unwrap(), spec, "{id}");
    }
}

#[tokio::test]
async fn an_image_record_outlives_a_crash() {
    for ctr in Ctr::all("images") {
        let mut daemon = Daemon::start().await;
        let mut client = ImagesClient::new(daemon.channel());
        let target = Descriptor {
            media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
            digest: format!("sha256:{}", "a".repeat(64)),
            size: 7,
            ..Default::default()
        };
        let name = "registry.example/x/y:1".to_owned();
        let image = images::Image { name, target: Some(target), ..Default::default() };
        let create =
            images::CreateImageRequest { image: Some(image.clone()), ..Default::default() };
        client.create(within(daemon.namespace(), create.clone())).await.unwrap();
        let again = client.create(within(daemon.namespace(), create)).await.unwrap_err();
        assert_eq!(again.code(), Code::AlreadyExists, "{again:?}");
        daemon.crash().await;
        let shown = ctr.ok(&daemon, &["images", "ls", "--quiet"]).await;
        assert_eq!(shown.trim(), image.name, "{}", ctr.name);
        ctr.ok(&daemon, &["images", "rm", "--sync", &image.name]).await;
        assert_eq!(ctr.ok(&daemon, &["images", "ls", "--quiet"]).await, "", "{}", ctr.name);
    }
}

#[tokio::test]
async fn labels_over_the_limit_are_refused_everywhere_but_on_leases() {
    let daemon = Daemon::start().await;
    let own = daemon.namespace();
    let long: HashMap<String, String> = [("k".to_owned(), "v".repeat(4096))].into();
    let full: HashMap<String, String> = [("k".to_owned(), "v".repeat(4095))].into();

    let mut client = NamespacesClient::new(daemon.channel());
    let namespace = |name: &str, labels: &HashMap<String, String>| {
        let namespace = namespaces::Namespace { name: name.to_owned(), labels: labels.clone() };
        namespaces::CreateNamespaceRequest { namespace: Some(namespace) }
    };
    let refused = client.create(namespace("long", &long)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    client.create(namespace("full", &full)).await.unwrap();

    let mut client = ContainersClient::new(daemon.channel());
    let container = |id: &str, labels: &HashMap<String, String>| {
        let container = containers::Container {
            labels: labels.clone(),
            ..container(id, Any { type_url: "x".to_owned(), value: Vec::new() })
        };
        containers::CreateContainerRequest { container: Some(container) }
    };
    let refused = client.create(within(own, container("long", &long))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    client.create(within(own, container("full", &full))).await.unwrap();

    let lease = leases::CreateRequest { id: "long".to_owned(), labels: long };
    LeasesClient::new(daemon.channel()).create(within(own, lease)).await.unwrap();
}

#[tokio::test]
async fn a_missing_object_is_told_by_name_and_kind() {
    let daemon = Daemon::start().await;
    let own = daemon.namespace();
    let get = containers::GetContainerRequest { id: "absent".to_owned() };
    let status = ContainersClient::new(daemon.channel()).get(within(own, get)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("absent"), "{status:?}");
    assert!(status.message().ends_with(": not found"), "{status:?}");
    // Clients read defaults this way: an unknown namespace has no labels, and that is all.
    let get = namespaces::GetNamespaceRequest { name: "absent".to_owned() };
    let got = NamespacesClient::new(daemon.channel()).get(get).await.unwrap().into_inner();
    assert!(got.namespace.unwrap().labels.is_empty());
}

#[tokio::test]
async fn namespaces_do_not_see_each_other() {
    let daemon = Daemon::start().await;
    for ctr in Ctr::all("isolation") {
        let lease = ["leases", "create", "--id", "mine"];
        let (one, two) = (format!("{}-1", daemon.namespace()), format!("{}-2", daemon.namespace()));
        let _ = ctr.run_in(daemon.socket(), &one, &lease).await;
        let shown = ctr.run_in(daemon.socket(), &two, &["leases", "ls", "--quiet"]).await;
        assert_eq!(shown.stdout, "", "{}", ctr.name);
        let shown = ctr.run_in(daemon.socket(), &one, &["leases", "ls", "--quiet"]).await;
        assert_eq!(shown.stdout.trim(), "mine", "{}", ctr.name);
    }
}

fn container(id: &str, spec: Any) -> containers::Container {
    let runtime = containers::container::Runtime {
        name: "io.containerd.runc.v2".to_owned(),
        ..Default::default()
    };
    containers::Container {
        id: id.to_owned(),
        runtime: Some(runtime),
        spec: Some(spec),
        ..Default::default()
    }
}
