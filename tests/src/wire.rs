//! gRPC over the daemon's unix socket: typed through `gantry_api`'s clients, or raw by method name.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Longest message a test takes: what containerd's clients take.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Connections live on a thread of their own: a test may block its own thread, and a peer that does
/// not answer its GOAWAY would hold up the daemon's stop for the whole grace.
static CONNECTIONS: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime for connections")
});

/// Connects to `socket`; the error is the transport's.
pub async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    // Only the authority of this address goes over the wire; Go's clients say the same.
    let endpoint = Endpoint::from_static("http://localhost");
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let connecting = async move { endpoint.connect_with_connector(connector).await };
    CONNECTIONS.spawn(connecting).await.expect("connecting does not panic")
}

/// `message` with the namespace in its metadata, as every client sends it.
pub fn within<T>(namespace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::try_from(namespace).expect("a namespace of ASCII");
    request.metadata_mut().insert("containerd-namespace", value);
    request
}

/// Whether the daemon answers that it serves.
pub async fn is_serving(channel: &Channel) -> Result<(), Status> {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let request = HealthCheckRequest { service: String::new() };
    let reply = HealthClient::new(channel.clone()).check(request).await?.into_inner();
    match reply.status() {
        ServingStatus::Serving => Ok(()),
        other => Err(Status::unavailable(format!("health is {other:?}"))),
    }
}

/// What a raw call gave.
#[derive(Debug)]
pub struct Answer {
    /// Messages received, encoded.
    pub messages: Vec<Bytes>,
    /// How the call ended; `None` when it was still open at the limit.
    pub end: Option<Result<(), Status>>,
}

/// Calls `method` (`/package.Service/Name`) with encoded messages, whatever its kind: on the wire
/// a unary call is a stream of one message each way. The request ends after `messages`; answers
/// are taken until the end, or until `limit`.
pub async fn call(
    channel: &Channel,
    method: &str,
    namespace: Option<&str>,
    messages: Vec<Vec<u8>>,
    limit: Duration,
) -> Answer {
    let mut answer = Answer { messages: Vec::new(), end: None };
    let talk = async {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
        client.ready().await.map_err(|e| Status::unavailable(format!("not ready: {e}")))?;
        let path = http::uri::PathAndQuery::try_from(method).expect("a method name");
        let stream = tokio_stream::iter(messages);
        let request = match namespace {
            Some(namespace) => within(namespace, stream),
            None => Request::new(stream),
        };
        let mut replies = client.streaming(request, path, Raw).await?.into_inner();
        while let Some(message) = replies.message().await? {
            answer.messages.push(message);
        }
        Ok(())
    };
    let end = tokio::time::timeout(limit, talk).await.ok();
    answer.end = end;
    answer
}

/// Messages as they are.
#[derive(Clone, Copy, Debug)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
