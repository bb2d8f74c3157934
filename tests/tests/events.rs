//! Events reach unmodified clients: after the commit, in order, in the right namespace.
#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::process::Stdio;

use gantry_api::containerd::events::ContainerDelete;
use gantry_api::containerd::services::events::v1 as events;
use gantry_api::containerd::services::events::v1::events_client::EventsClient;
use gantry_tests::poll::soon;
use gantry_tests::wire::within;
use gantry_tests::{Ctr, Daemon};
use prost::Message;
use prost_types::Any;
use tokio::io::{AsyncBufReadExt, BufReader};
use tonic::Streaming;

type Events = Streaming<gantry_api::containerd::types::Envelope>;

async fn subscribe(daemon: &Daemon, filters: &[&str]) -> Events {
    let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let request = events::SubscribeRequest { filters };
    EventsClient::new(daemon.channel()).subscribe(request).await.unwrap().into_inner()
}

async fn next(events: &mut Events) -> gantry_api::containerd::types::Envelope {
    soon("the next event", events.message()).await.unwrap().unwrap()
}

async fn publish(daemon: &Daemon, topic: &str) {
    // A type that clients know: they leave out what they cannot print.
    let message = ContainerDelete { id: topic.to_owned() };
    let type_url = "containerd.events.ContainerDelete".to_owned();
    let event = Some(Any { type_url, value: message.encode_to_vec() });
    let request = events::PublishRequest { topic: topic.to_owned(), event };
    EventsClient::new(daemon.channel()).publish(within(daemon.namespace(), request)).await.unwrap();
}

#[tokio::test]
async fn what_a_client_publishes_arrives_in_order_and_untouched() {
    let daemon = Daemon::start().await;
    let mut all = subscribe(&daemon, &[]).await;
    let mut some = subscribe(&daemon, &["topic==\"/test/2\"", "topic~=|^/test/4|"]).await;
    for n in 0..6 {
        publish(&daemon, &format!("/test/{n}")).await;
    }
    for n in 0..6 {
        let envelope = next(&mut all).await;
        assert_eq!(envelope.topic, format!("/test/{n}"));
        assert_eq!(envelope.namespace, daemon.namespace());
        let event = envelope.event.unwrap();
        assert_eq!(event.type_url, "containerd.events.ContainerDelete");
        assert_eq!(event.value, ContainerDelete { id: envelope.topic }.encode_to_vec());
    }
    assert_eq!(next(&mut some).await.topic, "/test/2");
    assert_eq!(next(&mut some).await.topic, "/test/4");
}

#[tokio::test]
async fn a_change_is_told_to_an_unmodified_client() {
    for ctr in Ctr::all("events") {
        let daemon = Daemon::start().await;
        let mut watch = ctr.command(daemon.socket(), daemon.namespace());
        let mut watch = watch.arg("events").stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        // Nothing tells when a subscription stands, so knock until one knock is heard.
        let heard = async {
            loop {
                publish(&daemon, "/test/knock").await;
                let line = tokio::time::timeout(gantry_tests::poll::KNOCK, lines.next_line());
                if line.await.is_ok() {
                    break;
                }
            }
        };
        soon("a knock to be heard", heard).await;
        ctr.ok(&daemon, &["containers", "create", "--rootfs", "/var/empty", "c", "true"]).await;
        ctr.ok(&daemon, &["containers", "rm", "c"]).await;
        let mut told = Vec::new();
        while told.len() < 2 {
            let line = soon("an event", lines.next_line()).await.unwrap().unwrap();
            if line.contains("/containers/") {
                told.push(line);
            }
        }
        assert!(told[0].contains("/containers/create"), "{}: {told:?}", ctr.name);
        assert!(told[1].contains("/containers/delete"), "{}: {told:?}", ctr.name);
        assert!(told[0].contains(daemon.namespace()), "{}: {told:?}", ctr.name);
        watch.kill().await.unwrap();
    }
}

#[tokio::test]
async fn a_stop_ends_a_subscription_at_once() {
    let mut daemon = Daemon::start().await;
    let mut events = subscribe(&daemon, &[]).await;
    daemon.stop();
    let end = soon("the end of the stream", events.message()).await;
    assert!(end.is_err() || end.unwrap().is_none());
}

#[tokio::test]
async fn a_filter_that_does_not_parse_is_refused() {
    let daemon = Daemon::setup().allow_log("failed parsing subscription filters").start().await;
    let request = events::SubscribeRequest { filters: vec!["topic==".to_owned()] };
    let mut client = EventsClient::new(daemon.channel());
    let refused = match soon("an answer", client.subscribe(request)).await {
        Err(status) => status,
        Ok(stream) => soon("a refusal", stream.into_inner().message()).await.unwrap_err(),
    };
    assert!(!refused.message().is_empty(), "{refused:?}");
}
