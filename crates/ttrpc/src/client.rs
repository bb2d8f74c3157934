//! One connection from the client's side: any number of calls at a time.
//!
//! A call whose bound passes is forgotten here while the server may still work on it: the protocol
//! cannot cancel. The bound travels with the request so that a server which keeps to it stops too.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};

use crate::frame::{self, Incoming};
use crate::message::{Code, KeyValue, Request, Response, Status, status};

/// Requests that may wait for the connection to take them.
const QUEUE: usize = 64;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server answered so.
    #[error("{}", .0.message)]
    Status(Status),
    /// The connection broke before an answer came: whether the server did the work is unknown.
    #[error("ttrpc: closed")]
    Closed,
    /// The bound passed.
    #[error("context deadline exceeded")]
    DeadlineExceeded,
    /// The request does not fit a frame.
    #[error("request")]
    Request(#[source] io::Error),
    /// The answer is not what the caller expects.
    #[error("response")]
    Response(#[source] prost::DecodeError),
}

impl CallError {
    /// The code of the answer, if one came.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Status(status) => Some(Code::from_number(status.code)),
            _ => None,
        }
    }
}

/// A connection to a server; clones share it. It closes when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    closed: watch::Receiver<bool>,
}

#[derive(Debug)]
struct Shared {
    // A plain lock: held to look up and to number, never across an await.
    calls: Mutex<Calls>,
}

#[derive(Debug)]
struct Calls {
    next_stream: u32,
    waiting: HashMap<u32, oneshot::Sender<Response>>,
    requests: Option<mpsc::Sender<Vec<u8>>>,
}

impl Shared {
    fn with<T>(&self, f: impl FnOnce(&mut Calls) -> T) -> T {
        f(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Client {
    /// Takes over a connection; the future does its work and ends with it, to be spawned.
    pub fn new<R, W>(reader: R, writer: W) -> (Self, impl Future<Output = ()> + use<R, W>)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let (requests, queue) = mpsc::channel(QUEUE);
        let calls = Calls { next_stream: 1, waiting: HashMap::new(), requests: Some(requests) };
        let shared = Arc::new(Shared { calls: Mutex::new(calls) });
        let (closing, closed) = watch::channel(false);
        // The driver must not keep the client alive, or a dropped client would never close.
        let weak = Arc::downgrade(&shared);
        let driver = async move {
            tokio::select! {
                () = write_requests(writer, queue) => {}
                () = read_responses(reader, &weak) => {}
            }
            if let Some(shared) = weak.upgrade() {
                shared.with(|calls| {
                    calls.requests = None;
                    calls.waiting.clear();
                });
            }
            closing.send_replace(true);
        };
        (Self { shared, closed }, driver)
    }

    /// Calls `method` of `service` and waits at most `timeout`; without one, as long as the
    /// connection lives.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call<A: Message, B: Message + Default>(
        &self,
        service: &str,
        method: &str,
        argument: &A,
        metadata: &[(&str, &str)],
        timeout: Option<Duration>,
    ) -> Result<B, CallError> {
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: argument.encode_to_vec(),
            timeout_nano: timeout.map_or(0, |t| i64::try_from(t.as_nanos()).unwrap_or(i64::MAX)),
            metadata: metadata
                .iter()
                .map(|(key, value)| KeyValue { key: (*key).into(), value: (*value).into() })
                .collect(),
        };
        let answer = self.call_raw(&request);
        let response = match timeout {
            None => answer.await?,
            Some(bound) => tokio::time::timeout(bound, answer)
                .await
                .map_err(|_| CallError::DeadlineExceeded)??,
        };
        match response.status {
            Some(status) if status.code != Code::Ok as i32 => Err(CallError::Status(status)),
            _ => B::decode(response.payload.as_slice()).map_err(CallError::Response),
        }
    }

    /// Sends `request` as it is and waits as long as the connection lives.
    ///
    /// # Errors
    /// [`CallError::Closed`] or [`CallError::Request`]; a status is part of the response.
    pub async fn call_raw(&self, request: &Request) -> Result<Response, CallError> {
        let (sender, answer) = oneshot::channel();
        let Some(requests) = self.shared.with(|calls| calls.requests.clone()) else {
            return Err(CallError::Closed);
        };
        // The place in the queue first, then the number: so numbers rise in the order they travel.
        let slot = requests.reserve().await.map_err(|_| CallError::Closed)?;
        let stream = self.shared.with(|calls| {
            let stream = calls.next_stream;
            let frame = frame::encode(stream, frame::REQUEST, 0, request)?;
            // Ids are never used twice: after the last one the connection takes no more calls.
            match stream.checked_add(2) {
                Some(next) => calls.next_stream = next,
                None => calls.requests = None,
            }
            calls.waiting.insert(stream, sender);
            slot.send(frame);
            Ok::<u32, io::Error>(stream)
        });
        let stream = stream.map_err(CallError::Request)?;
        // However this call ends, nothing of it stays behind.
        let _forget = Forget { shared: &self.shared, stream };
        answer.await.map_err(|_| CallError::Closed)
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Returns when the connection is gone. Cancel safe.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        // An error means that the driver was dropped: gone as well.
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

struct Forget<'a> {
    shared: &'a Shared,
    stream: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.with(|calls| calls.waiting.remove(&self.stream));
    }
}

async fn write_requests(mut writer: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        if writer.write_all(&frame).await.is_err() {
            return;
        }
    }
}

async fn read_responses(mut reader: impl AsyncRead + Unpin, shared: &std::sync::Weak<Shared>) {
    loop {
        let (stream, response) = match frame::read(&mut reader).await {
            Ok(Some(Incoming::Frame(header, data))) if header.kind == frame::RESPONSE => {
                let Ok(response) = Response::decode(data.as_slice()) else { return };
                (header.stream, response)
            }
            Ok(Some(Incoming::Frame(..))) => continue,
            Ok(Some(Incoming::Oversized(header))) => {
                let text = frame::oversized(header.length as usize);
                let status = Some(status(Code::ResourceExhausted, text));
                (header.stream, Response { status, payload: Vec::new() })
            }
            Ok(None) | Err(_) => return,
        };
        let Some(shared) = shared.upgrade() else { return };
        if let Some(waiting) = shared.with(|calls| calls.waiting.remove(&stream)) {
            // Ignored: the caller gave up meanwhile.
            let _ = waiting.send(response);
        }
    }
}
