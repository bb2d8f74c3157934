//! Every RPC that the daemon serves, found by reflection, against good, poor and hostile input.
//!
//! [`rows`] holds one valid request for each. A served RPC without a row fails here, so a new
//! service cannot be forgotten. From each valid request come the poor ones: every field that is
//! set, at any depth, is left out in turn. Whatever is sent, a call ends with a code that names a
//! fault of the request, within its bound, and the connection lives on.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

mod reflect;
mod rows;

use std::collections::BTreeSet;
use std::time::Duration;

use gantry_tests::wire::{self, Answer, call};
use gantry_tests::{Daemon, poll::soon};
use prost_reflect::prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage, Value};
use rows::{Row, Want};
use tonic::Code;

/// How long an open stream is watched, and how long any other call may take.
const OPEN: Duration = Duration::from_millis(200);
const ANSWER: Duration = Duration::from_secs(15);

/// The rows whose service is served, with the method's input type.
async fn served(daemon: &Daemon) -> (DescriptorPool, Vec<Row>) {
    let pool = soon("reflection", reflect::pool(&daemon.channel())).await;
    let rows = rows::all(daemon.namespace(), &compared(daemon));
    let methods = reflect::methods(&pool);
    let served = rows.into_iter().filter(|row| methods.contains(row.method));
    (pool.clone(), served.collect())
}

/// A directory of the test, for the service that compares directories.
fn compared(daemon: &Daemon) -> String {
    let dir = daemon.home().join("compared");
    std::fs::create_dir_all(&dir).unwrap();
    dir.to_string_lossy().into_owned()
}

fn limit(row: &Row) -> Duration {
    if row.want == Want::Open { OPEN } else { ANSWER }
}

async fn send(daemon: &Daemon, row: &Row, messages: Vec<Vec<u8>>) -> Answer {
    let namespace = (!row.anywhere).then(|| daemon.namespace());
    call(&daemon.channel(), &row.path(), namespace, messages, limit(row)).await
}

/// The call must have ended with success, or with a code that blames the request.
async fn blames_the_request(daemon: &Daemon, row: &Row, what: &str, answer: &Answer) {
    match &answer.end {
        None => assert_eq!(row.want, Want::Open, "{} {what}: no answer", row.method),
        Some(Ok(())) => {}
        Some(Err(status)) => {
            let ours = [Code::Unknown, Code::Internal, Code::DataLoss, Code::Unavailable];
            assert!(!ours.contains(&status.code()), "{} {what}: {status:?}", row.method);
            assert!(!status.message().is_empty(), "{} {what}: no text", row.method);
        }
    }
    wire::is_serving(&daemon.channel()).await.unwrap();
}

#[tokio::test]
async fn every_rpc_that_is_served_has_a_row() {
    let daemon = Daemon::start().await;
    let pool = soon("reflection", reflect::pool(&daemon.channel())).await;
    let rows = rows::all(daemon.namespace(), &compared(&daemon));
    let known: BTreeSet<&str> = rows.iter().map(|row| row.method).collect();
    assert_eq!(known.len(), rows.len(), "a method has two rows");
    let methods = reflect::methods(&pool);
    let missing: Vec<&String> = methods.iter().filter(|m| !known.contains(m.as_str())).collect();
    assert!(missing.is_empty(), "served without a row: {missing:?}");
    assert!(methods.contains("containerd.services.version.v1.Version/Version"), "{methods:?}");
}

#[tokio::test]
async fn a_valid_request_is_answered_and_a_poor_one_gets_a_code() {
    let daemon = Daemon::start().await;
    let (pool, rows) = served(&daemon).await;
    for row in &rows {
        let answer = send(&daemon, row, row.messages.clone()).await;
        let code = answer.end.as_ref().map(|end| end.as_ref().map_err(tonic::Status::code));
        let holds = match row.want {
            Want::Ok => code == Some(Ok(&())),
            Want::Open => code.is_none(),
            Want::Code(wanted) => code == Some(Err(wanted)),
        };
        assert!(holds, "{}: wanted {:?}, got {answer:?}", row.method, row.want);
        let input = reflect::input(&pool, row.method);
        for (what, poor) in without_a_field(&input, &row.messages[0]) {
            let messages = [&[poor], &row.messages[1..]].concat();
            let answer = send(&daemon, row, messages).await;
            blames_the_request(&daemon, row, &format!("without {what}"), &answer).await;
        }
    }
}

#[tokio::test]
async fn bytes_that_are_no_message_get_a_code_and_the_connection_lives() {
    let daemon = Daemon::start().await;
    let (_, rows) = served(&daemon).await;
    for row in &rows {
        for garbage in [vec![0xff; 5], vec![0x0a, 0xff, 0xff, 0xff, 0x7f]] {
            let answer = send(&daemon, row, vec![garbage]).await;
            let refused = matches!(&answer.end, Some(Err(_)));
            assert!(refused || row.takes_anything, "{}: {answer:?}", row.method);
            wire::is_serving(&daemon.channel()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_namespace_is_required_and_checked() {
    let daemon = Daemon::start().await;
    let (_, rows) = served(&daemon).await;
    for row in rows.iter().filter(|row| !row.anywhere) {
        let long = "a".repeat(77);
        let cases = [
            (None, Code::FailedPrecondition, "namespace is required"),
            (Some(""), Code::FailedPrecondition, "namespace is required"),
            (Some("../up"), Code::InvalidArgument, "namespace"),
            (Some("a b"), Code::InvalidArgument, "namespace"),
            (Some(long.as_str()), Code::InvalidArgument, "namespace"),
        ];
        for (namespace, code, text) in cases {
            let channel = daemon.channel();
            let answer =
                call(&channel, &row.path(), namespace, row.messages.clone(), limit(row)).await;
            let Some(Err(status)) = &answer.end else {
                panic!("{} in {namespace:?}: {answer:?}", row.method);
            };
            assert_eq!(status.code(), code, "{} in {namespace:?}: {status:?}", row.method);
            assert!(status.message().contains(text), "{}: {status:?}", row.method);
        }
    }
}

/// Every variant of the encoded message in which one set field, at any depth, is absent.
fn without_a_field(input: &MessageDescriptor, message: &[u8]) -> Vec<(String, Vec<u8>)> {
    let whole = DynamicMessage::decode(input.clone(), message).unwrap();
    let mut variants = Vec::new();
    for field in whole.descriptor().fields().filter(|field| whole.has_field(field)) {
        let mut poor = whole.clone();
        poor.clear_field(&field);
        variants.push((field.name().to_owned(), poor.encode_to_vec()));
        let Value::Message(inner) = whole.get_field(&field).into_owned() else { continue };
        for (path, bytes) in without_a_field(&inner.descriptor(), &inner.encode_to_vec()) {
            let inner = DynamicMessage::decode(inner.descriptor(), bytes.as_slice()).unwrap();
            let mut poor = whole.clone();
            poor.set_field(&field, Value::Message(inner));
            variants.push((format!("{}.{path}", field.name()), poor.encode_to_vec()));
        }
    }
    variants
}
