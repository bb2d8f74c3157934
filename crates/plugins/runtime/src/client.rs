//! Speaking to a shim: the task API over ttrpc, version 3 or 2.
//!
//! A shim's refusal passes through with its code and text. A connection that breaks is
//! `Unavailable`: whether the shim did the work is unknown.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gantry_api::containerd::task::v3 as wire;
use gantry_core::{Error, Kind, Namespace, Result};
use gantry_ttrpc::{CallError, Code};
use prost::Message;
use tokio::net::UnixStream;
use tokio_util::task::TaskTracker;

use crate::bootstrap::{Endpoint, LATEST};

/// The metadata key that tells a shim the namespace.
const NAMESPACE: &str = "containerd-namespace-ttrpc";
/// Pause between attempts to reach a socket that does not answer yet.
const REDIAL: Duration = Duration::from_millis(10);

/// A connection to the shim of one task; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    rpc: gantry_ttrpc::Client,
    version: Arc<AtomicU32>,
    namespace: Arc<str>,
    id: Arc<str>,
}

/// Connects to `address`: `unix://` and a path, or the name of an abstract socket.
///
/// # Errors
/// Those of connect(2); `Unsupported` for another kind of address.
pub(crate) async fn dial(address: &str) -> io::Result<UnixStream> {
    match address.split_once("://") {
        Some(("unix", path)) => UnixStream::connect(path).await,
        Some((scheme, _)) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("address {address:?}: {scheme} sockets are not supported"),
        )),
        None => {
            let name = std::os::unix::net::SocketAddr::from_abstract_name(address)?;
            let stream = std::os::unix::net::UnixStream::connect_addr(&name)?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        }
    }
}

/// As [`dial`], again and again until it answers, for at most `bound`: a shim that has just been
/// started may not listen yet.
///
/// # Errors
/// The last attempt's.
pub(crate) async fn dial_until(address: &str, bound: Duration) -> Result<UnixStream> {
    let deadline = tokio::time::Instant::now() + bound;
    loop {
        let error = match tokio::time::timeout_at(deadline, dial(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        let hopeless = error.kind() == io::ErrorKind::Unsupported;
        if hopeless || tokio::time::Instant::now() + REDIAL >= deadline {
            return Err(Error::io(format!("dial shim at {address:?}"), error));
        }
        tokio::time::sleep(REDIAL).await;
    }
}

impl Client {
    /// Speaks to the shim at the other end of `stream` about the task `id`.
    pub(crate) fn new(
        stream: UnixStream,
        version: u32,
        namespace: &Namespace,
        id: &str,
        tracker: &TaskTracker,
    ) -> Self {
        let (reader, writer) = stream.into_split();
        let (rpc, driver) = gantry_ttrpc::Client::new(reader, writer);
        tracker.spawn(driver);
        Self {
            rpc,
            version: Arc::new(AtomicU32::new(version.clamp(2, LATEST))),
            namespace: namespace.as_str().into(),
            id: id.into(),
        }
    }

    /// Dials `endpoint` for at most `bound`.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        namespace: &Namespace,
        id: &str,
        tracker: &TaskTracker,
        bound: Duration,
    ) -> Result<Self> {
        let stream = dial_until(&endpoint.address, bound).await?;
        Ok(Self::new(stream, endpoint.version, namespace, id, tracker))
    }

    /// The version of the task API in use.
    pub(crate) fn version(&self) -> u32 {
        self.version.load(Ordering::Relaxed)
    }
    /// The task that it is about.
    pub(crate) fn id(&self) -> String {
        self.id.as_ref().to_owned()
    }
    /// Whether `other` is the same connection.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.version, &other.version)
    }
    /// Returns when the connection is gone. Cancel safe.
    pub(crate) async fn closed(&self) {
        self.rpc.closed().await;
    }

    /// Calls `method` and waits for at most `bound`, or as long as the connection lives.
    pub(crate) async fn call<A: Message, B: Message + Default>(
        &self,
        method: &str,
        argument: &A,
        bound: Option<Duration>,
    ) -> Result<B> {
        let service = format!("containerd.task.v{}.Task", self.version());
        let metadata = [(NAMESPACE, &*self.namespace)];
        let answer = self.rpc.call(&service, method, argument, &metadata, bound).await;
        answer.map_err(failure)
    }

    /// Says hello, and falls back to an older API when the shim does not know the newer one: a
    /// program may have been replaced while its processes run.
    pub(crate) async fn connect(&self, bound: Duration) -> Result<wire::ConnectResponse> {
        let request = wire::ConnectRequest { id: self.id() };
        match self.call("Connect", &request, Some(bound)).await {
            Err(error) if error.is(Kind::NotImplemented) && self.version() > 2 => {
                self.version.store(2, Ordering::Relaxed);
                self.call("Connect", &request, Some(bound)).await
            }
            answer => answer,
        }
    }

    /// The state of the task, or of one of its execs.
    pub(crate) async fn state(&self, exec: &str, bound: Duration) -> Result<wire::StateResponse> {
        let request = wire::StateRequest { id: self.id(), exec_id: exec.to_owned() };
        self.call("State", &request, Some(bound)).await
    }

    /// Returns when the process has ended; bounded by the connection alone.
    pub(crate) async fn wait(&self, exec: &str) -> Result<wire::WaitResponse> {
        let request = wire::WaitRequest { id: self.id(), exec_id: exec.to_owned() };
        self.call("Wait", &request, None).await
    }

    /// Asks the shim to end. That the connection breaks is an answer too.
    pub(crate) async fn shutdown(&self, bound: Duration) -> Result<()> {
        let request = wire::ShutdownRequest { id: self.id(), now: false };
        match self.call::<_, ()>("Shutdown", &request, Some(bound)).await {
            Err(error) if error.is(Kind::Unavailable) => Ok(()),
            answer => answer,
        }
    }
}

fn failure(error: CallError) -> Error {
    match error {
        CallError::Status(status) => {
            Error::new(kind(Code::from_number(status.code)), status.message)
        }
        CallError::Closed => Error::unavailable("ttrpc: closed"),
        CallError::DeadlineExceeded => Error::deadline_exceeded(""),
        CallError::Request(source) => {
            Error::caused(Kind::ResourceExhausted, "request to the shim", source)
        }
        CallError::Response(source) => Error::caused(Kind::Internal, "answer of the shim", source),
    }
}

fn kind(code: Code) -> Kind {
    match code {
        Code::Ok | Code::Unknown => Kind::Unknown,
        Code::Cancelled => Kind::Cancelled,
        Code::InvalidArgument => Kind::InvalidArgument,
        Code::DeadlineExceeded => Kind::DeadlineExceeded,
        Code::NotFound => Kind::NotFound,
        Code::AlreadyExists => Kind::AlreadyExists,
        Code::PermissionDenied => Kind::PermissionDenied,
        Code::ResourceExhausted => Kind::ResourceExhausted,
        Code::FailedPrecondition => Kind::FailedPrecondition,
        Code::Aborted => Kind::Aborted,
        Code::OutOfRange => Kind::OutOfRange,
        Code::Unimplemented => Kind::NotImplemented,
        Code::Internal => Kind::Internal,
        Code::Unavailable => Kind::Unavailable,
        Code::DataLoss => Kind::DataLoss,
        Code::Unauthenticated => Kind::Unauthenticated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shims_refusal_keeps_code_and_text() {
        let status = gantry_ttrpc::message::status(Code::NotFound, "process does not exist x");
        let error = failure(CallError::Status(status));
        assert_eq!(error.message(), "process does not exist x: not found");
        let status = gantry_ttrpc::message::status(Code::Unknown, "cannot start a stopped process");
        let error = failure(CallError::Status(status));
        assert_eq!(
            (error.kind(), error.message()),
            (Kind::Unknown, "cannot start a stopped process".into())
        );
    }

    #[tokio::test]
    async fn a_socket_that_appears_late_is_reached_and_an_odd_address_is_not_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let address = format!("unix://{}", path.display());
        let dialing =
            tokio::spawn(async move { dial_until(&address, Duration::from_secs(20)).await });
        tokio::task::yield_now().await;
        let _listener = tokio::net::UnixListener::bind(&path).unwrap();
        dialing.await.unwrap().unwrap();
        let error = dial_until("vsock://1:2", Duration::from_secs(3600)).await.unwrap_err();
        assert!(error.message().contains("vsock sockets are not supported"), "{}", error.message());
    }
}
