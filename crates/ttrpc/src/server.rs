//! One connection from the server's side.
//!
//! [`Connection::next`] yields the calls; whoever takes them decides where each is worked on, and
//! sends its answer through [`Call::reply`], in any order, at any time. When the connection is gone
//! a late answer is dropped; the work that made it is not disturbed.
//!
//! Stream ids must be odd and rise, as Go's client numbers them; a frame that breaks the rules is
//! answered here and never becomes a call.

use std::io;
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use crate::frame::{self, Incoming};
use crate::message::{Code, Request, Response, Status, status};

/// Most calls of one connection that may be unanswered; beyond it a call is refused at once.
pub const CALLS_IN_FLIGHT_MAX: usize = 4096;

/// Bound on writing one answer. A peer that does not read for so long is taken for gone.
const WRITE: Duration = Duration::from_secs(60);

/// The calls of one connection.
#[derive(Debug)]
pub struct Connection<R> {
    reader: R,
    replies: mpsc::Sender<Vec<u8>>,
    last_stream: u32,
    // Dropped with the connection; the writer then sends what is queued and ends.
    _open: oneshot::Sender<()>,
}

/// One call.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: Reply,
}

/// The way back of one call.
#[derive(Debug)]
pub struct Reply {
    stream: u32,
    slot: mpsc::OwnedPermit<Vec<u8>>,
    alive: mpsc::Sender<Vec<u8>>,
}

impl Reply {
    /// Sends the answer; dropped when the connection is gone.
    pub fn send(self, result: Result<Vec<u8>, Status>) {
        self.slot.send(encode(self.stream, result));
    }

    /// Returns when the connection is gone: nobody will read the answer. Cancel safe.
    pub async fn closed(&self) {
        self.alive.closed().await;
    }
}

fn encode(stream: u32, result: Result<Vec<u8>, Status>) -> Vec<u8> {
    let response = match result {
        Ok(payload) => Response { status: None, payload },
        Err(status) => Response { status: Some(status), payload: Vec::new() },
    };
    frame::encode(stream, frame::RESPONSE, 0, &response).unwrap_or_else(|_| {
        let text = frame::oversized(response.encoded_len());
        let status = Some(status(Code::ResourceExhausted, text));
        frame::encode(stream, frame::RESPONSE, 0, &Response { status, payload: Vec::new() })
            .unwrap_or_default()
    })
}

/// Serves one connection: the calls, and the task that writes the answers, to be spawned. It ends
/// when the [`Connection`] is dropped, after it has written what was answered by then.
pub fn connection<R, W>(
    reader: R,
    writer: W,
) -> (Connection<R>, impl Future<Output = ()> + use<R, W>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (replies, queue) = mpsc::channel(CALLS_IN_FLIGHT_MAX);
    let (open, closed) = oneshot::channel();
    let connection = Connection { reader, replies, last_stream: 0, _open: open };
    (connection, write_all(writer, queue, closed))
}

async fn write_all(
    mut writer: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Vec<u8>>,
    mut closed: oneshot::Receiver<()>,
) {
    let mut open = true;
    loop {
        let frame = tokio::select! {
            biased;
            frame = queue.recv() => frame,
            _ = &mut closed, if open => {
                open = false;
                // From here on only what is queued comes out, then nothing.
                queue.close();
                continue;
            }
        };
        let Some(frame) = frame else { break };
        match tokio::time::timeout(WRITE, writer.write_all(&frame)).await {
            Ok(Ok(())) => {}
            // What is still queued is for a peer that is gone.
            Ok(Err(_)) | Err(_) => break,
        }
    }
    // Ignored: the peer may be gone already.
    let _ = writer.shutdown().await;
}

impl<R: AsyncRead + Unpin> Connection<R> {
    /// The next call; `None` when the peer closed the connection.
    ///
    /// Cancel safety: none. To stop, drop the connection.
    ///
    /// # Errors
    /// Those of the connection; it is of no use afterwards.
    pub async fn next(&mut self) -> io::Result<Option<Call>> {
        loop {
            let (stream, refusal) = match frame::read(&mut self.reader).await? {
                None => return Ok(None),
                Some(Incoming::Oversized(header)) => {
                    let text = frame::oversized(header.length as usize);
                    (header.stream, status(Code::ResourceExhausted, text))
                }
                Some(Incoming::Frame(header, data)) => match self.accept(header, &data) {
                    Ok(Some(request)) => match self.replies.clone().try_reserve_owned() {
                        Ok(slot) => {
                            let alive = self.replies.clone();
                            let reply = Reply { stream: header.stream, slot, alive };
                            return Ok(Some(Call { request, reply }));
                        }
                        Err(mpsc::error::TrySendError::Closed(_)) => return Ok(None),
                        Err(mpsc::error::TrySendError::Full(_)) => {
                            let text = format!("more than {CALLS_IN_FLIGHT_MAX} calls in flight");
                            (header.stream, status(Code::ResourceExhausted, text))
                        }
                    },
                    Ok(None) => continue,
                    Err(status) => (header.stream, status),
                },
            };
            if self.replies.send(encode(stream, Err(refusal))).await.is_err() {
                return Ok(None);
            }
        }
    }

    fn accept(&mut self, header: frame::Header, data: &[u8]) -> Result<Option<Request>, Status> {
        let invalid = |text: String| Err(status(Code::InvalidArgument, text));
        if header.stream % 2 != 1 {
            return invalid("StreamID must be odd for client initiated streams".into());
        }
        match header.kind {
            frame::DATA => invalid("StreamID is no longer active".into()),
            frame::REQUEST if header.stream <= self.last_stream => {
                invalid("StreamID cannot be re-used and must increment".into())
            }
            frame::REQUEST => {
                self.last_stream = header.stream;
                match Request::decode(data) {
                    Ok(request) => Ok(Some(request)),
                    Err(error) => invalid(format!("unmarshal request error: {error}")),
                }
            }
            // Other types may come to mean something later; Go's server ignores them too.
            _ => Ok(None),
        }
    }
}

/// What a server says of a service it does not have, word for word as Go's: daemons decide by it
/// whether to speak an older version.
pub fn unknown_service(service: &str) -> Status {
    status(Code::Unimplemented, format!("service {service}"))
}

/// What a server says of a method it does not have.
pub fn unknown_method(method: &str) -> Status {
    status(Code::Unimplemented, format!("method {method}"))
}
