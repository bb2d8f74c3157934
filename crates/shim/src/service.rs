//! The services of the shim: which call does what.
//!
//! `containerd.task.v2.Task` and `v3` have the same messages and go to the same code. A call is
//! worked on by a task of its own: its connection may break and its caller may give up, the work
//! goes on to its end or to the caller's deadline, whichever is first, and is undone or recorded.

pub mod shim;
pub mod task;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use gantry_core::{Error, Result};
use gantry_ttrpc::message::{self, Request, Status};
use gantry_ttrpc::{Call, server};
use prost::Message;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::events::{Ack, Publisher};
use crate::reap::Reaper;
use crate::task::container::Container;
use crate::wire;

/// Bound on making and starting processes when the caller has none: hooks may take long.
const LONG: Duration = Duration::from_secs(600);
/// Bound on everything else that an engine does.
const SHORT: Duration = Duration::from_secs(120);
/// How much earlier than the caller an engine gives up, so that its error still arrives.
const MARGIN: Duration = Duration::from_millis(50);

/// The shim.
pub struct Shim {
    /// The namespace it serves.
    pub namespace: String,
    /// The id it was started for.
    pub id: String,
    /// Where it listens.
    pub address: String,
    /// Its own number.
    pub pid: u32,
    /// When it was started, in clock ticks since boot.
    pub start_time: u64,
    /// The boot it belongs to.
    pub boot_id: [u8; 16],
    /// Children.
    pub reaper: Rc<Reaper>,
    /// The way to the daemon.
    pub publisher: Publisher,
    pub(crate) containers: RefCell<BTreeMap<String, Rc<Container>>>,
    creating: RefCell<BTreeSet<String>>,
    pub(crate) had_container: Cell<bool>,
    stop: watch::Sender<bool>,
}

impl Shim {
    /// A shim without containers.
    ///
    /// # Errors
    /// Those of `/proc`.
    pub fn new(
        namespace: &str,
        id: &str,
        address: &str,
        daemon: Option<&Path>,
        ack: Ack,
    ) -> std::io::Result<Rc<Self>> {
        let pid = std::process::id();
        Ok(Rc::new(Self {
            namespace: namespace.to_owned(),
            id: id.to_owned(),
            address: address.to_owned(),
            pid,
            start_time: gantry_sys::process::start_time(i32::try_from(pid).unwrap_or(0))?,
            boot_id: gantry_sys::process::boot_id()?,
            reaper: Rc::new(Reaper::default()),
            publisher: Publisher::new(daemon, namespace, ack),
            containers: RefCell::default(),
            creating: RefCell::default(),
            had_container: Cell::new(false),
            stop: watch::Sender::new(false),
        }))
    }

    /// Whether it has no container and makes none.
    pub fn is_empty(&self) -> bool {
        self.containers.borrow().is_empty() && self.creating.borrow().is_empty()
    }

    /// Ends the shim.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Whether it is about to end: it takes no new container.
    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Returns once [`Shim::stop`] was called. Cancel safe.
    pub async fn stopped(&self) {
        // The sender lives as long as we do.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    fn container(&self, id: &str) -> Result<Rc<Container>> {
        let container = self.containers.borrow().get(id).cloned();
        container.ok_or_else(|| Error::not_found("container not created"))
    }

    /// Works on one call and answers it.
    pub async fn answer(self: Rc<Self>, call: Call) {
        let Call { request, reply } = call;
        let deadline = message::timeout(&request).map(|timeout| Instant::now() + timeout);
        let only_waits = request.method == "Wait";
        let mut work =
            tokio::task::spawn_local(async move { self.dispatch(&request, deadline).await });
        let finished = tokio::select! {
            finished = within(deadline, &mut work) => finished,
            // Nothing is lost by forgetting a caller that only waited and is gone.
            () = reply.closed(), if only_waits => None,
        };
        let result = match finished {
            Some(Ok(result)) => result,
            Some(Err(_)) => {
                Err(wire::status_of(&Error::new(gantry_core::Kind::Internal, "call failed")))
            }
            None => {
                if only_waits {
                    work.abort();
                }
                Err(wire::status_of(&Error::deadline_exceeded("")))
            }
        };
        reply.send(result);
    }

    async fn dispatch(
        self: Rc<Self>,
        request: &Request,
        deadline: Option<Instant>,
    ) -> Result<Vec<u8>, Status> {
        match request.service.as_str() {
            "containerd.task.v2.Task" | "containerd.task.v3.Task" => {
                task::dispatch(&self, request, deadline).await
            }
            "gantry.shim.v1.Shim" => shim::dispatch(&self, request),
            other => Err(server::unknown_service(other)),
        }
    }
}

/// The result of `work`, or `None` when the deadline comes first.
async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

/// When an engine gives up.
fn until(deadline: Option<Instant>, bound: Duration) -> Instant {
    let latest = Instant::now() + bound;
    deadline.map_or(latest, |deadline| latest.min(deadline.checked_sub(MARGIN).unwrap_or(deadline)))
}

fn decode<M: Message + Default>(request: &Request) -> Result<M, Status> {
    M::decode(request.payload.as_slice()).map_err(|error| {
        let text = format!("ttrpc: error unmarshalling payload: {error}");
        message::status(gantry_ttrpc::Code::Internal, text)
    })
}

fn encode<M: Message>(result: Result<M>) -> Result<Vec<u8>, Status> {
    result.map(|message| message.encode_to_vec()).map_err(|error| wire::status_of(&error))
}
