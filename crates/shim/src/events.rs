//! Telling the daemon what happened.
//!
//! One queue per container, in order: the head is sent until the daemon has taken it, and what
//! comes after waits. Queues do not wait for each other. While the daemon is away each head is
//! retried with a growing pause, at once when a daemon connects to us ([`Publisher::nudge`]).
//!
//! Exits are also in their bundle's journal. One is settled when the daemon has taken the event, or,
//! with [`Ack::Rpc`], when it has called `AckExits`; until then it is sent again over every new
//! connection.
//!
//! Never dropped: creations, starts, exits, out-of-memory, deletions. What only decorates (exec
//! added and started, paused, resumed) is dropped beyond [`QUEUE_MAX`] per container, and an event
//! that the daemon refuses as malformed is dropped with a line in the log: it would be refused for
//! ever.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use gantry_api::containerd::services::events::ttrpc::v1::ForwardRequest;
use gantry_api::containerd::types::Envelope;
use gantry_core::{Clock, SystemClock};
use gantry_shim_state::Journal;
use gantry_ttrpc::{CallError, Client, Code};
use prost::Name;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::timeout;

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
/// Bound on one event; containerd's.
const FORWARD: Duration = Duration::from_secs(5);
/// Bound on connecting to the daemon.
const CONNECT: Duration = Duration::from_secs(5);
/// Pauses between attempts: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Events of one container beyond which those that only decorate are dropped.
pub const QUEUE_MAX: usize = 4096;

/// When an exit is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// The daemon took the event: all that containerd offers.
    Forward,
    /// The daemon called `gantry.shim.v1.Shim/AckExits`.
    Rpc,
}

/// The journal entry behind an exit's event.
#[derive(Clone, Debug)]
pub struct Journaled {
    /// The journal of its container.
    pub journal: Rc<RefCell<Journal>>,
    /// Its number there.
    pub seq: u64,
    /// When the process was started, in clock ticks since boot.
    pub start_time: u64,
}

#[derive(Clone, Debug)]
struct Item {
    envelope: Rc<Envelope>,
    exit: Option<Journaled>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Item>,
    /// Sent and not settled; only with [`Ack::Rpc`].
    sent: Vec<Item>,
    working: bool,
    dropped: u64,
}

/// The way to the daemon.
#[derive(Clone, Debug)]
pub struct Publisher(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    address: Option<PathBuf>,
    namespace: String,
    ack: Ack,
    client: RefCell<Option<Client>>,
    connecting: Mutex<()>,
    queues: RefCell<HashMap<String, Queue>>,
    /// Counts daemons that connected to us, so that none between two attempts is missed.
    nudges: watch::Sender<u64>,
    emptied: Notify,
    /// Whether the daemon could be reached at the last attempt; only changes are logged.
    reachable: Cell<bool>,
}

enum Outcome {
    Taken,
    Refused(String),
    Later(String),
}

impl Publisher {
    /// A publisher for the daemon's ttrpc socket; without one, events go nowhere.
    pub fn new(address: Option<&Path>, namespace: &str, ack: Ack) -> Self {
        Self(Rc::new(Inner {
            address: address.map(Path::to_owned),
            namespace: namespace.to_owned(),
            ack,
            client: RefCell::new(None),
            connecting: Mutex::new(()),
            queues: RefCell::default(),
            nudges: watch::Sender::new(0),
            emptied: Notify::new(),
            reachable: Cell::new(true),
        }))
    }

    /// Queues an event of `container`.
    pub fn publish<M: Name>(
        &self,
        container: &str,
        topic: &str,
        event: &M,
        exit: Option<Journaled>,
    ) {
        let now = SystemClock.now();
        let envelope = Rc::new(Envelope {
            timestamp: Some(crate::wire::timestamp(now)),
            namespace: self.0.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(crate::wire::any(event)),
        });
        if self.0.address.is_none() {
            return;
        }
        {
            let mut queues = self.0.queues.borrow_mut();
            let queue = queues.entry(container.to_owned()).or_default();
            let decorates = matches!(
                topic,
                "/tasks/exec-added" | "/tasks/exec-started" | "/tasks/paused" | "/tasks/resumed"
            );
            if decorates && queue.waiting.len() >= QUEUE_MAX {
                queue.dropped += 1;
                return;
            }
            queue.waiting.push_back(Item { envelope, exit });
        }
        self.work(container);
    }

    /// The daemon has these exits of `container` on disk.
    pub fn settle(&self, container: &str, seqs: &[u64]) {
        let settled = |item: &Item| item.exit.as_ref().is_some_and(|exit| seqs.contains(&exit.seq));
        let mut queues = self.0.queues.borrow_mut();
        if let Some(queue) = queues.get_mut(container) {
            queue.sent.retain(|item| !settled(item));
            // The head may be on its way just now: its sender removes it.
            let head = queue.waiting.pop_front();
            queue.waiting.retain(|item| !settled(item));
            queue.waiting.extend_front_one(head);
            if queue.is_idle() {
                queues.remove(container);
                self.0.emptied.notify_waiters();
            }
        }
    }

    /// A daemon has just connected to us: what waits is tried at once.
    pub fn nudge(&self) {
        self.0.nudges.send_modify(|count| *count += 1);
    }

    /// Events that no daemon has taken, or settled.
    pub fn queued(&self) -> usize {
        self.0.queues.borrow().values().map(|queue| queue.waiting.len() + queue.sent.len()).sum()
    }

    /// Returns when nothing waits to be sent. Exits that are sent and not settled do not count.
    pub async fn flushed(&self) {
        loop {
            let emptied = self.0.emptied.notified();
            if self.0.queues.borrow().values().all(|queue| queue.waiting.is_empty()) {
                return;
            }
            emptied.await;
        }
    }

    fn work(&self, container: &str) {
        let mut queues = self.0.queues.borrow_mut();
        let Some(queue) = queues.get_mut(container) else { return };
        if !std::mem::replace(&mut queue.working, true) {
            let (publisher, container) = (self.clone(), container.to_owned());
            tokio::task::spawn_local(async move { publisher.send_all(&container).await });
        }
    }

    async fn send_all(&self, container: &str) {
        let mut pause = PAUSE.0;
        let mut nudges = self.0.nudges.subscribe();
        loop {
            nudges.mark_unchanged();
            let head = {
                let mut queues = self.0.queues.borrow_mut();
                let Some(queue) = queues.get_mut(container) else { return };
                match queue.waiting.front() {
                    Some(head) => head.clone(),
                    None => {
                        queue.working = false;
                        if queue.is_idle() {
                            queues.remove(container);
                        }
                        drop(queues);
                        self.0.emptied.notify_waiters();
                        return;
                    }
                }
            };
            match self.forward(&head).await {
                Outcome::Taken => {
                    pause = PAUSE.0;
                    self.reached(None);
                    self.taken(container, head);
                }
                Outcome::Refused(why) => {
                    crate::log::error!(container, "daemon refused {}: {why}", head.envelope.topic);
                    self.pop(container, &head);
                }
                Outcome::Later(why) => {
                    self.reached(Some(&why));
                    // Ignored: whichever comes first, it is time to try again.
                    let _ = timeout(pause, nudges.changed()).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    fn reached(&self, failure: Option<&str>) {
        if self.0.reachable.replace(failure.is_none()) != failure.is_none() {
            match failure {
                Some(why) => crate::log::warn!("", "events wait for the daemon: {why}"),
                None => crate::log::info!("", "events reach the daemon again"),
            }
        }
    }

    fn pop(&self, container: &str, head: &Item) {
        if let Some(queue) = self.0.queues.borrow_mut().get_mut(container)
            && queue.waiting.front().is_some_and(|item| Rc::ptr_eq(&item.envelope, &head.envelope))
        {
            queue.waiting.pop_front();
        }
    }

    fn taken(&self, container: &str, head: Item) {
        self.pop(container, &head);
        let Some(exit) = &head.exit else { return };
        match self.0.ack {
            Ack::Forward => {
                if let Err(error) = exit.journal.borrow_mut().acknowledge(exit.seq) {
                    crate::log::warn!(container, "exit stays in the journal: {error}");
                }
            }
            // Acknowledged while it was on its way: then it is not pending any more.
            Ack::Rpc if !exit.journal.borrow().pending().iter().any(|e| e.seq == exit.seq) => {}
            Ack::Rpc => {
                if let Some(queue) = self.0.queues.borrow_mut().get_mut(container) {
                    queue.sent.push(head);
                }
            }
        }
    }

    async fn forward(&self, item: &Item) -> Outcome {
        let client = match self.connection().await {
            Ok(client) => client,
            Err(error) => return Outcome::Later(error.to_string()),
        };
        let request = ForwardRequest { envelope: Some((*item.envelope).clone()) };
        let numbers = item.exit.as_ref().map(|e| (e.seq.to_string(), e.start_time.to_string()));
        let mut metadata = vec![("containerd-namespace-ttrpc", self.0.namespace.as_str())];
        if let Some((seq, start_time)) = &numbers {
            metadata.push(("gantry-exit-seq", seq));
            metadata.push(("gantry-exit-start-time", start_time));
        }
        match client.call::<_, ()>(SERVICE, "Forward", &request, &metadata, Some(FORWARD)).await {
            Ok(()) => Outcome::Taken,
            Err(CallError::Status(status)) if status.code == Code::InvalidArgument as i32 => {
                Outcome::Refused(status.message)
            }
            Err(error) => Outcome::Later(error.to_string()),
        }
    }

    async fn connection(&self) -> io::Result<Client> {
        let _one_at_a_time = self.0.connecting.lock().await;
        if let Some(client) = self.0.client.borrow().as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let address = self.0.address.as_deref().unwrap_or(Path::new(""));
        let stream = timeout(CONNECT, UnixStream::connect(address)).await??;
        let (reader, writer) = stream.into_split();
        let (client, driver) = Client::new(reader, writer);
        *self.0.client.borrow_mut() = Some(client.clone());
        let publisher = self.clone();
        tokio::task::spawn_local(async move {
            driver.await;
            publisher.disconnected();
        });
        Ok(client)
    }

    /// What the lost daemon may not have written down is sent again, in its old order.
    fn disconnected(&self) {
        let mut again = Vec::new();
        for (container, queue) in &mut *self.0.queues.borrow_mut() {
            if queue.sent.is_empty() {
                continue;
            }
            // What is on its way fails with the connection and stays at the head of its queue.
            for item in queue.sent.drain(..).rev() {
                queue.waiting.push_front(item);
            }
            again.push(container.clone());
        }
        for container in again {
            self.work(&container);
        }
    }
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty() && !self.working
    }
}

trait ExtendFront<T> {
    fn extend_front_one(&mut self, item: Option<T>);
}

impl<T> ExtendFront<T> for VecDeque<T> {
    fn extend_front_one(&mut self, item: Option<T>) {
        if let Some(item) = item {
            self.push_front(item);
        }
    }
}
