//! Events: published, forwarded, sent by shims, filtered, in order.

use gantry_api::containerd::events::TaskExit;
use gantry_api::containerd::services::events::ttrpc::v1 as shims;
use gantry_api::containerd::services::events::v1 as wire;
use gantry_api::containerd::services::namespaces::v1 as namespaces;
use gantry_api::containerd::types::Envelope;
use gantry_ttrpc::{CallError, Client, Request, Response};
use namespaces::namespaces_client::NamespacesClient;
use prost::Message;
use prost_types::{Any, Timestamp};
use tokio::net::UnixStream;
use tonic::{Code, Streaming};
use wire::events_client::EventsClient;

use crate::process::{Daemon, refused, within};

async fn subscribe(daemon: &Daemon, filters: &[&str]) -> Streaming<Envelope> {
    let filters = filters.iter().map(ToString::to_string).collect();
    let request = wire::SubscribeRequest { filters };
    EventsClient::new(daemon.channel()).subscribe(request).await.unwrap().into_inner()
}

fn exit(container: &str) -> Any {
    gantry_api::any::pack(&TaskExit { container_id: container.into(), ..TaskExit::default() })
}

fn envelope(topic: &str, event: Any) -> Envelope {
    let timestamp = Some(Timestamp { seconds: 7, nanos: 8 });
    Envelope { timestamp, namespace: "shim".into(), topic: topic.into(), event: Some(event) }
}

#[tokio::test]
async fn a_subscriber_gets_what_its_filters_name_with_the_payload_untouched() {
    let daemon = Daemon::start().await;
    let mut by_field = subscribe(&daemon, &["topic==\"/tasks/exit\",event.container_id==c2"]).await;
    let mut by_topic = subscribe(&daemon, &["topic~=|^/tasks/|"]).await;
    let mut client = EventsClient::new(daemon.channel());
    let odd = Any { type_url: "type.googleapis.com/no.Such".into(), value: vec![0xff, 1] };
    for (topic, event) in [
        ("/tasks/exit", exit("c1")),
        ("/other", exit("c2")),
        ("/tasks/odd", odd.clone()),
        ("/tasks/exit", exit("c2")),
    ] {
        let request = wire::PublishRequest { topic: topic.into(), event: Some(event) };
        client.publish(within("moby", request)).await.unwrap();
    }
    let first = by_field.message().await.unwrap().unwrap();
    assert_eq!((first.namespace.as_str(), first.event), ("moby", Some(exit("c2"))));
    assert!(first.timestamp.unwrap().seconds > 0);
    for expected in [exit("c1"), odd, exit("c2")] {
        assert_eq!(by_topic.message().await.unwrap().unwrap().event, Some(expected));
    }
    daemon.stop().await;
}

#[tokio::test]
async fn what_is_malformed_is_refused() {
    let daemon = Daemon::start().await;
    let mut client = EventsClient::new(daemon.channel());
    let publish = |topic: &str| wire::PublishRequest { topic: topic.into(), event: None };
    let text = "namespace is required: failed precondition";
    refused(client.publish(publish("/t")).await, Code::FailedPrecondition, text);
    let text = "envelope topic \"t\": must start with '/': invalid argument";
    refused(client.publish(within("n", publish("t"))).await, Code::InvalidArgument, text);
    let none = client.forward(wire::ForwardRequest { envelope: None }).await;
    refused(none, Code::InvalidArgument, "envelope is required: invalid argument");
    let undated = Envelope { timestamp: None, ..envelope("/t", exit("c")) };
    let undated = client.forward(wire::ForwardRequest { envelope: Some(undated) }).await;
    let text = "timestamp must be set on forwarded event: invalid argument";
    refused(undated, Code::InvalidArgument, text);
    let filters = vec!["topic~=".to_owned()];
    let status = client.subscribe(wire::SubscribeRequest { filters }).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown);
    let prefix = "subscription error: failed parsing subscription filters: ";
    assert!(status.message().starts_with(prefix), "{status}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_record_is_reported_in_the_namespace_it_concerns() {
    let daemon = Daemon::start().await;
    let mut events = subscribe(&daemon, &[]).await;
    let namespace = Some(namespaces::Namespace { name: "made".into(), ..Default::default() });
    let request = within("other", namespaces::CreateNamespaceRequest { namespace });
    NamespacesClient::new(daemon.channel()).create(request).await.unwrap();
    let event = events.message().await.unwrap().unwrap();
    assert_eq!((event.namespace.as_str(), event.topic.as_str()), ("made", "/namespaces/create"));
    assert_eq!(event.event.unwrap().type_url, "containerd.events.NamespaceCreate");
    daemon.stop().await;
}

#[tokio::test]
async fn a_stop_ends_a_subscription_with_a_reason_to_come_again() {
    let daemon = Daemon::start().await;
    let mut events = subscribe(&daemon, &[]).await;
    let stopped = tokio::spawn(daemon.stop());
    let status = events.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    stopped.await.unwrap();
}

/// A shim's connection.
async fn shim(daemon: &Daemon) -> Client {
    let (reader, writer) = UnixStream::connect(daemon.ttrpc_socket()).await.unwrap().into_split();
    let (client, conversation) = Client::new(reader, writer);
    tokio::spawn(conversation);
    client
}

async fn call(client: &Client, service: &str, method: &str, payload: Vec<u8>) -> Response {
    let (service, method) = (service.to_owned(), method.to_owned());
    let request = Request { service, method, payload, ..Request::default() };
    match client.call_raw(&request).await {
        Ok(response) => response,
        Err(CallError::Status(status)) => Response { status: Some(status), payload: Vec::new() },
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_shims_events_reach_subscribers_in_their_order() {
    const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
    let daemon = Daemon::start().await;
    let mut events = subscribe(&daemon, &["namespace==shim"]).await;
    let client = shim(&daemon).await;
    for number in 0..100 {
        let envelope = Some(envelope("/tasks/exit", exit(&format!("c{number}"))));
        let payload = shims::ForwardRequest { envelope }.encode_to_vec();
        let response = call(&client, SERVICE, "Forward", payload).await;
        assert_eq!(response.status, None);
    }
    for number in 0..100 {
        let event = events.message().await.unwrap().unwrap();
        assert_eq!(event.event, Some(exit(&format!("c{number}"))));
        assert_eq!(event.timestamp, Some(Timestamp { seconds: 7, nanos: 8 }));
    }
    let code = |response: Response| response.status.map(|status| status.code);
    let code_of = |code: Code| Some(i32::from(code));
    let empty = call(&client, SERVICE, "Forward", Vec::new()).await;
    assert_eq!(code(empty), code_of(Code::InvalidArgument));
    let broken = call(&client, SERVICE, "Forward", vec![0xff; 3]).await;
    assert_eq!(code(broken), code_of(Code::InvalidArgument));
    let method = call(&client, SERVICE, "Nope", Vec::new()).await;
    assert_eq!(code(method), code_of(Code::Unimplemented));
    let service = call(&client, "no.Such", "Forward", Vec::new()).await;
    assert_eq!(code(service), code_of(Code::Unimplemented));
    daemon.stop().await;
}
