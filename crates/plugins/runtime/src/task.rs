//! One task in memory: what is recorded of it, and the way to its shim.
//!
//! The recorded state changes only when a transaction has reached the disk, in the order of the
//! transactions; whoever waits for an exit waits for that. The link says how the shim can be
//! reached: not yet or not now ([`Link::Silent`]), by a connection ([`Link::Up`]), or never again
//! because it is dead by proof ([`Link::Gone`]), in which case the exit of init is recorded.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_core::model::ContainerName;
use gantry_core::task::{Exit, Status, TaskState};
use gantry_core::{CallCx, Error, Kind, Result, Timestamp};
use gantry_metadata::stores::{self, Shim, Stdio};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bundle::Bundle;
use crate::client::Client;

/// How the shim can be reached.
#[derive(Clone, Debug)]
pub(crate) enum Link {
    /// It does not answer, or has not been asked since the daemon started.
    Silent,
    /// By this connection.
    Up(Client),
    /// It is dead.
    Gone,
}

/// How a process ended, as its shim's Wait tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The code, or 128 and the signal.
    pub status: u32,
    /// When.
    pub exited_at: Timestamp,
}

impl From<&Exit> for Ended {
    fn from(exit: &Exit) -> Self {
        Self { status: exit.status, exited_at: exit.exited_at }
    }
}

/// The end of an exec's wait, shared by all who wait; errors are not cloneable, their parts are.
pub(crate) type ExecEnd = Option<std::result::Result<Ended, (Kind, String)>>;

/// A process as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The container's id, or the exec's.
    pub id: String,
    /// Its number; 0 when there is none yet.
    pub pid: u32,
    /// What it is doing.
    pub status: Status,
    /// Its standard streams.
    pub stdio: Stdio,
    /// How it ended.
    pub ended: Option<Ended>,
}

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) name: ContainerName,
    pub(crate) bundle: Bundle,
    pub(crate) stdio: Stdio,
    shim: Mutex<Shim>,
    state: watch::Sender<TaskState>,
    link: watch::Sender<Link>,
    /// What the shim's Wait told of init; the recorded exit follows.
    waited: watch::Sender<Option<Ended>>,
    /// Execs that run, with their numbers.
    execs: Mutex<HashMap<String, u32>>,
    pub(crate) exec_waits: Mutex<HashMap<String, watch::Receiver<ExecEnd>>>,
    deleting: watch::Sender<bool>,
    /// Ends what runs in the background for this task.
    pub(crate) stop: CancellationToken,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Task {
    pub(crate) fn new(
        name: ContainerName,
        bundle: Bundle,
        record: stores::Task,
        link: Link,
        stop: CancellationToken,
    ) -> Self {
        Self {
            name,
            bundle,
            stdio: record.stdio,
            shim: Mutex::new(record.shim),
            state: watch::Sender::new(record.state),
            link: watch::Sender::new(link),
            waited: watch::Sender::new(None),
            execs: Mutex::default(),
            exec_waits: Mutex::default(),
            deleting: watch::Sender::new(false),
            stop,
        }
    }

    pub(crate) fn id(&self) -> &str {
        self.name.id.as_str()
    }
    pub(crate) fn shim(&self) -> Shim {
        locked(&self.shim).clone()
    }
    pub(crate) fn set_shim(&self, shim: Shim) {
        *locked(&self.shim) = shim;
    }

    /// What is recorded.
    pub(crate) fn state(&self) -> TaskState {
        self.state.borrow().clone()
    }
    /// Shows what a transaction has recorded; to be called in the order of the transactions.
    pub(crate) fn set_state(&self, state: TaskState) {
        self.state.send_replace(state);
    }
    /// Notes what the shim says init is doing; not recorded by itself.
    pub(crate) fn see(&self, status: Status, pid: u32) {
        self.state.send_if_modified(|state| {
            let before = state.clone();
            state.see(status, pid);
            *state != before
        });
    }

    pub(crate) fn link(&self) -> Link {
        self.link.borrow().clone()
    }
    pub(crate) fn set_link(&self, link: Link) {
        self.link.send_replace(link);
    }
    pub(crate) fn is_gone(&self) -> bool {
        matches!(*self.link.borrow(), Link::Gone)
    }

    /// The way to the shim, once there is one, waiting for at most `bound`; `None` when it is dead.
    pub(crate) async fn client(&self, cx: &CallCx, bound: Duration) -> Result<Option<Client>> {
        let mut link = self.link.subscribe();
        let settled = link.wait_for(|link| !matches!(link, Link::Silent));
        tokio::select! {
            link = settled => match link.as_deref() {
                Ok(Link::Up(client)) => Ok(Some(client.clone())),
                _ => Ok(None),
            },
            () = tokio::time::sleep(cx.remaining(bound)) => Err(Error::deadline_exceeded(
                format!("shim of task {} does not answer", self.name.id),
            )),
            () = cx.cancellation().cancelled() => Err(Error::cancelled("")),
        }
    }

    /// Returns when the link is no longer the connection that broke. Cancel safe.
    pub(crate) async fn relinked(&self, broken: &Client) {
        let mut link = self.link.subscribe();
        let other = |link: &Link| match link {
            Link::Up(client) => !client.is_same(broken),
            _ => true,
        };
        // An error would mean that the task itself is gone.
        let _ = link.wait_for(other).await;
    }

    /// How init ended, if it did.
    pub(crate) fn ended(&self) -> Option<Ended> {
        let recorded = self.state.borrow().exit.as_ref().map(|told| Ended::from(&told.exit));
        recorded.or(*self.waited.borrow())
    }
    pub(crate) fn set_waited(&self, ended: Ended) {
        self.waited.send_replace(Some(ended));
    }
    /// Waits for the end of init as far as it is recorded. Cancel safe.
    pub(crate) async fn exit_recorded(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| state.exit.is_some()).await;
    }
    /// Waits for the end of init, recorded or told. Cancel safe.
    pub(crate) async fn end(&self) -> Ended {
        let (mut state, mut waited) = (self.state.subscribe(), self.waited.subscribe());
        loop {
            if let Some(ended) = self.ended() {
                return ended;
            }
            // Errors cannot come: both senders live in this task.
            tokio::select! {
                _ = state.changed() => {}
                _ = waited.changed() => {}
            }
        }
    }

    pub(crate) fn exec_started(&self, exec: &str, pid: u32) {
        locked(&self.execs).insert(exec.to_owned(), pid);
    }
    pub(crate) fn exec_ended(&self, exec: &str, pid: u32) {
        let mut execs = locked(&self.execs);
        if execs.get(exec) == Some(&pid) {
            execs.remove(exec);
        }
    }
    /// Execs that run, with their numbers.
    pub(crate) fn running_execs(&self) -> Vec<(String, u32)> {
        locked(&self.execs).iter().map(|(id, pid)| (id.clone(), *pid)).collect()
    }

    /// Begins a deletion, if none is under way; it is over when the guard is dropped.
    pub(crate) fn begin_delete(self: &std::sync::Arc<Self>) -> Option<Deleting> {
        let begun = self.deleting.send_if_modified(|deleting| !std::mem::replace(deleting, true));
        begun.then(|| Deleting(self.clone()))
    }
    /// Returns when no deletion is under way. Cancel safe.
    pub(crate) async fn not_deleting(&self) {
        let _ = self.deleting.subscribe().wait_for(|deleting| !deleting).await;
    }

    /// Init as it is recorded.
    pub(crate) fn recorded(&self) -> Process {
        let state = self.state();
        let ended = self.ended();
        Process {
            id: self.id().to_owned(),
            pid: state.pid,
            status: if ended.is_some() { Status::Stopped } else { state.status },
            stdio: self.stdio.clone(),
            ended,
        }
    }
}

/// A deletion under way.
#[derive(Debug)]
pub(crate) struct Deleting(std::sync::Arc<Task>);

impl Drop for Deleting {
    fn drop(&mut self) {
        self.0.deleting.send_replace(false);
    }
}
