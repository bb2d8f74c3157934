//! Client and server of this crate against each other, and against frames written by hand.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are not in a #[test]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gantry_api::ttrpc::{KeyValue, Request, Response, StringList};
use gantry_ttrpc::message::{self, Code, status};
use gantry_ttrpc::{CallError, Client, frame, server};
use tokio::io::{AsyncWriteExt, DuplexStream};

fn text(s: &str) -> KeyValue {
    KeyValue { key: s.into(), value: String::new() }
}

/// Echoes the key of its argument; `sleep` never answers, `fail` fails, `big` answers too much.
async fn serve(stream: DuplexStream, served: Arc<AtomicUsize>) {
    let (reader, writer) = tokio::io::split(stream);
    let (mut connection, answers) = server::connection(reader, writer);
    tokio::spawn(answers);
    while let Ok(Some(call)) = connection.next().await {
        let served = served.clone();
        tokio::spawn(async move {
            let result = match call.request.method.as_str() {
                "Echo" => Ok(call.request.payload),
                "Sleep" => {
                    std::future::pending::<()>().await;
                    Ok(Vec::new())
                }
                "Slow" => {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    Ok(Vec::new())
                }
                "Big" => Ok(vec![0; frame::DATA_BYTES_MAX]),
                "Timeout" => {
                    let timeout = message::timeout(&call.request).map(|t| t.as_millis());
                    Err(status(Code::Aborted, format!("{timeout:?}")))
                }
                other => Err(server::unknown_method(other)),
            };
            served.fetch_add(1, Ordering::SeqCst);
            call.reply.send(result);
        });
    }
}

fn pair() -> (Client, Arc<AtomicUsize>) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let served = Arc::new(AtomicUsize::new(0));
    tokio::spawn(serve(far, served.clone()));
    let (reader, writer) = tokio::io::split(near);
    let (client, driver) = Client::new(reader, writer);
    tokio::spawn(driver);
    (client, served)
}

async fn call(client: &Client, method: &str, arg: &str) -> Result<KeyValue, CallError> {
    client.call("s", method, &text(arg), &[], None).await
}

#[tokio::test]
async fn many_calls_share_one_connection_and_a_silent_one_holds_up_nobody() {
    let (client, _) = pair();
    let silent = tokio::spawn({
        let client = client.clone();
        async move { call(&client, "Sleep", "").await }
    });
    let mut calls = Vec::new();
    for i in 0..300 {
        let client = client.clone();
        calls.push(tokio::spawn(async move { call(&client, "Echo", &i.to_string()).await }));
    }
    for (i, answer) in calls.into_iter().enumerate() {
        assert_eq!(answer.await.unwrap().unwrap().key, i.to_string());
    }
    assert!(!silent.is_finished());
    silent.abort();
}

#[tokio::test(start_paused = true)]
async fn a_bound_passes_on_both_sides() {
    let (client, served) = pair();
    let bound = Some(Duration::from_secs(2));
    let answer = client.call::<_, KeyValue>("s", "Timeout", &text(""), &[], bound).await;
    assert_eq!(answer.unwrap_err().to_string(), "Some(2000)");
    let answer = client.call::<_, KeyValue>("s", "Slow", &text(""), &[], bound).await;
    assert!(matches!(answer, Err(CallError::DeadlineExceeded)));
    assert_eq!(call(&client, "Echo", "after").await.unwrap().key, "after");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(served.load(Ordering::SeqCst), 3, "the server finished what was given up");
}

#[tokio::test]
async fn errors_carry_code_and_text() {
    let (client, _) = pair();
    let error = call(&client, "Nope", "").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Unimplemented));
    assert_eq!(error.to_string(), "method Nope");
    let error = call(&client, "Big", "").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::ResourceExhausted));
    let huge = StringList { list: vec!["x".repeat(frame::DATA_BYTES_MAX)] };
    let error = client.call::<_, KeyValue>("s", "Echo", &huge, &[], None).await.unwrap_err();
    assert!(matches!(error, CallError::Request(_)), "{error:?}");
    assert_eq!(call(&client, "Echo", "alive").await.unwrap().key, "alive");
}

#[tokio::test]
async fn a_dropped_client_closes_and_its_work_is_finished() {
    tokio::time::pause();
    let (client, served) = pair();
    let slow = tokio::spawn({
        let client = client.clone();
        async move { call(&client, "Slow", "").await }
    });
    tokio::task::yield_now().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    slow.abort();
    drop(client);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(served.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_lost_server_ends_every_call() {
    let (near, far) = tokio::io::duplex(1 << 10);
    let (reader, writer) = tokio::io::split(near);
    let (client, driver) = Client::new(reader, writer);
    tokio::spawn(driver);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { call(&client, "Echo", "").await }
    });
    tokio::task::yield_now().await;
    assert!(!client.is_closed());
    drop(far);
    assert!(matches!(waiting.await.unwrap(), Err(CallError::Closed)));
    client.closed().await;
    assert!(client.is_closed());
    assert!(matches!(call(&client, "Echo", "").await, Err(CallError::Closed)));
}

/// Sends frames by hand and returns the answers in the order they came.
async fn raw(frames: &[(u32, u8, Vec<u8>)], answers: usize) -> Vec<(u32, Response)> {
    use prost::Message;
    let (mut near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(serve(far, Arc::default()));
    for (stream, kind, data) in frames {
        let length = u32::try_from(data.len()).unwrap();
        let header = frame::Header { length, stream: *stream, kind: *kind, flags: 0 };
        near.write_all(&header.encode()).await.unwrap();
        near.write_all(data).await.unwrap();
    }
    let mut got = Vec::new();
    while got.len() < answers {
        match frame::read(&mut near).await.unwrap().unwrap() {
            frame::Incoming::Frame(header, data) => {
                assert_eq!(header.kind, frame::RESPONSE);
                got.push((header.stream, Response::decode(data.as_slice()).unwrap()));
            }
            other => panic!("{other:?}"),
        }
    }
    got
}

#[tokio::test]
async fn frames_that_break_the_rules_are_answered_on_their_stream() {
    use prost::Message;
    let echo = Request { method: "Echo".into(), ..Request::default() }.encode_to_vec();
    let request = frame::REQUEST;
    let frames = [
        (2, request, echo.clone()),
        (5, request, vec![0xff, 0xff]),
        (5, request, echo.clone()),
        (9, frame::DATA, Vec::new()),
        (9, 77, Vec::new()),
        (11, request, vec![0; frame::DATA_BYTES_MAX + 1]),
        (13, request, echo),
    ];
    let got = raw(&frames, 6).await;
    let of = |stream| got.iter().filter(move |(s, _)| *s == stream).map(|(_, r)| r.clone());
    let code = |r: Response| Code::from_number(r.status.map_or(0, |s| s.code));
    assert_eq!(of(2).map(code).collect::<Vec<_>>(), [Code::InvalidArgument]);
    assert_eq!(of(5).map(code).collect::<Vec<_>>(), [Code::InvalidArgument; 2]);
    assert_eq!(of(9).map(code).collect::<Vec<_>>(), [Code::InvalidArgument]);
    assert_eq!(of(11).map(code).collect::<Vec<_>>(), [Code::ResourceExhausted]);
    assert_eq!(of(13).map(code).collect::<Vec<_>>(), [Code::Ok]);
}
