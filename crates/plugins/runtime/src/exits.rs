//! Word of exits and other events of tasks, from shims and from the daemon itself.
//!
//! An exit is recorded with its task in the transaction that puts it into the event journal, and
//! only then is its sender told that it arrived: so it is never lost and never told twice. All
//! other events of tasks are passed on in the order in which they come.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use gantry_api::containerd::events::{TaskDelete, TaskExecStarted, TaskExit, TaskStart};
use gantry_api::timestamp;
use gantry_core::model::{ContainerName, Envelope, TypedAny};
use gantry_core::task::{Exit, Status, TaskState};
use gantry_core::{ContainerId, Error, Result, Timestamp};
use gantry_metadata::stores::Told;
use prost::{Message, Name};

use crate::delete::Deleted;
use crate::task::Task;
use crate::tasks::{Found, Inner, Tasks};

/// The topic of exits.
pub const EXIT_TOPIC: &str = "/tasks/exit";
/// How long an exit waits for its task to be recorded. Shims wait 5 s for an answer.
const CREATING: Duration = Duration::from_secs(4);
/// How long it is remembered which exits of a deleted task were told.
const TOMBSTONE: Duration = Duration::from_secs(60);
/// Most deleted tasks that are remembered.
const TOMBSTONES_MAX: usize = 4096;

/// What is remembered of tasks that were deleted a moment ago: a shim may send word of their exits
/// a little later, or again.
#[derive(Debug, Default)]
pub(crate) struct Tombstones(VecDeque<Tombstone>);

#[derive(Debug)]
struct Tombstone {
    name: ContainerName,
    state: TaskState,
    deleted: Instant,
}

impl Tombstones {
    fn bury(&mut self, name: ContainerName, state: TaskState) {
        while self.0.len() >= TOMBSTONES_MAX
            || self.0.front().is_some_and(|oldest| oldest.deleted.elapsed() > TOMBSTONE)
        {
            self.0.pop_front();
        }
        self.0.push_back(Tombstone { name, state, deleted: Instant::now() });
    }

    /// Whether word of `exit` is news; it is none when told again.
    fn is_news(&mut self, name: &ContainerName, exit: &Exit) -> bool {
        use gantry_core::task::Heard;
        for stone in self.0.iter_mut().filter(|stone| stone.name == *name) {
            match stone.state.hear(exit) {
                Heard::Known(_) => return false,
                Heard::New => {
                    stone.state.record(exit.clone(), 0);
                    return true;
                }
                Heard::Stranger => {}
            }
        }
        true
    }
}

impl Tasks {
    /// Takes an event that a shim forwards; `start_time` is what it says of the process that
    /// ended, 0 when it says nothing (clock ticks since boot). When this returns well, an exit is on disk: the answer
    /// is its acknowledgement.
    ///
    /// # Errors
    /// `InvalidArgument` for an exit that does not decode; `Unavailable` for one whose task is
    /// still being made; what the store fails with. The shim sends it again.
    pub async fn forwarded(&self, envelope: Envelope, start_time: u64) -> Result<()> {
        if envelope.topic != EXIT_TOPIC {
            self.note(&envelope);
            self.inner.metadata.journal().publish(envelope);
            return Ok(());
        }
        let exit: TaskExit = decode(&envelope.event).ok_or_else(|| {
            Error::invalid_argument(format!("event of {EXIT_TOPIC}: not a TaskExit"))
        })?;
        let Ok(id) = ContainerId::new(exit.container_id.clone()) else {
            // No task has such a name.
            self.inner.metadata.journal().publish(envelope);
            return Ok(());
        };
        let name = ContainerName { namespace: envelope.namespace.clone(), id };
        let task = match self.inner.find(&name) {
            Found::Task(task) => Some(task),
            Found::Nothing => None,
            Found::Creating(mut done) => {
                let made = tokio::time::timeout(CREATING, done.wait_for(|done| *done)).await;
                if made.is_err() {
                    return Err(Error::unavailable(format!("task {} is being created", name.id)));
                }
                match self.inner.find(&name) {
                    Found::Task(task) => Some(task),
                    _ => None,
                }
            }
        };
        let of_init = exit.id == exit.container_id || exit.id.is_empty();
        let exit = Exit {
            exec_id: if of_init { String::new() } else { exit.id },
            pid: exit.pid,
            start_time,
            status: exit.exit_status,
            exited_at: time(exit.exited_at.as_ref()).unwrap_or(envelope.timestamp),
            reason: String::new(),
        };
        if let Some(task) = task {
            let told = self.inner.tell(&task, exit.clone(), envelope.clone(), false).await?;
            if told != Told::NoTask {
                return Ok(());
            }
        }
        // Of a task that was deleted meanwhile, or that some other daemon started.
        let news = self.inner.tombstones().is_news(&name, &exit);
        if news {
            self.inner.metadata.journal().publish(envelope);
        }
        Ok(())
    }

    /// Learns from an event that is only passed on.
    fn note(&self, envelope: &Envelope) {
        let task = |id: String| {
            let name = ContainerName {
                namespace: envelope.namespace.clone(),
                id: ContainerId::new(id).ok()?,
            };
            match self.inner.find(&name) {
                Found::Task(task) => Some(task),
                _ => None,
            }
        };
        match envelope.topic.as_str() {
            "/tasks/start" => {
                let Some(event) = decode::<TaskStart>(&envelope.event) else { return };
                if let Some(task) = task(event.container_id) {
                    task.see(Status::Running, event.pid);
                }
            }
            "/tasks/exec-started" => {
                let Some(event) = decode::<TaskExecStarted>(&envelope.event) else { return };
                if let Some(task) = task(event.container_id) {
                    task.exec_started(&event.exec_id, event.pid);
                }
            }
            _ => {}
        }
    }
}

impl Inner {
    fn tombstones(&self) -> std::sync::MutexGuard<'_, Tombstones> {
        self.tombstones.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers for a while what was told of a deleted task.
    pub(crate) fn bury(&self, task: &Task) {
        self.tombstones().bury(task.name.clone(), task.state());
    }

    /// Records an exit that the daemon found out by itself, and publishes it. `at_start` says that
    /// nobody could be told when it happened.
    pub(crate) async fn tell_found(
        &self,
        task: &Arc<Task>,
        exit: Exit,
        at_start: bool,
    ) -> Result<Told> {
        let envelope = envelope(&task.name, &exit);
        self.tell(task, exit, envelope, at_start).await
    }

    /// Records an exit and publishes `envelope`, unless that was done before.
    async fn tell(
        &self,
        task: &Arc<Task>,
        exit: Exit,
        envelope: Envelope,
        at_start: bool,
    ) -> Result<Told> {
        if !exit.exec_id.is_empty() {
            task.exec_ended(&exit.exec_id, exit.pid);
        }
        let missed = at_start || envelope.timestamp < self.started_at;
        let replay = *self.replaying.borrow() && missed;
        let task = task.clone();
        fail::fail_point!("runtime.exit/before-commit", |_| Err(Error::unavailable("failpoint")));
        let told = self
            .metadata
            .update(move |tx| {
                let state: Arc<OnceLock<TaskState>> = Arc::default();
                let recorded = state.clone();
                let shown = task.clone();
                // Before the event is handed out: who hears of the exit finds the task stopped.
                tx.raw().after_commit(Box::new(move || {
                    if let Some(state) = recorded.get() {
                        shown.set_state(state.clone());
                    }
                }));
                let told = tx.tell_exit(&task.name, exit, envelope, replay)?;
                if let Told::Recorded(since) = &told {
                    // Ignored: the cell is new.
                    let _ = state.set(since.clone());
                }
                Ok(told)
            })
            .await?;
        fail::fail_point!("runtime.exit/after-commit", |_| Err(Error::unavailable("failpoint")));
        Ok(told)
    }

    /// Records what the shim says about init.
    pub(crate) async fn record_status(&self, task: &Arc<Task>, status: Status, pid: u32) {
        task.see(status, pid);
        // A page tells as much after a restart.
        if task.shim().gantry {
            return;
        }
        let name = task.name.clone();
        let changed = self
            .metadata
            .update(move |tx| tx.change_task(&name, |state| state.see(status, pid)).map(|_| ()));
        if let Err(error) = changed.await {
            tracing::warn!(id = task.id(), error = error.message(), "cannot record a status");
        }
    }
}

/// The event that reports an exit.
pub(crate) fn envelope(name: &ContainerName, exit: &Exit) -> Envelope {
    let id = match exit.exec_id.as_str() {
        "" => name.id.as_str(),
        exec => exec,
    };
    let event = TaskExit {
        container_id: name.id.as_str().to_owned(),
        id: id.to_owned(),
        pid: exit.pid,
        exit_status: exit.status,
        exited_at: Some(to_time(exit.exited_at)),
    };
    Envelope {
        timestamp: exit.exited_at,
        namespace: name.namespace.clone(),
        topic: EXIT_TOPIC.to_owned(),
        event: TypedAny { type_url: TaskExit::full_name(), value: event.encode_to_vec() },
    }
}

/// The event that reports the deletion of a task.
pub(crate) fn deletion(name: &ContainerName, deleted: Deleted, now: Timestamp) -> Envelope {
    let event = TaskDelete {
        container_id: name.id.as_str().to_owned(),
        pid: deleted.pid,
        exit_status: deleted.status,
        exited_at: Some(to_time(deleted.exited_at)),
        id: String::new(),
    };
    Envelope {
        timestamp: now,
        namespace: name.namespace.clone(),
        topic: "/tasks/delete".to_owned(),
        event: TypedAny { type_url: TaskDelete::full_name(), value: event.encode_to_vec() },
    }
}

fn decode<M: Message + Name + Default>(event: &TypedAny) -> Option<M> {
    let of_type = gantry_api::any::type_name(&event.type_url) == M::full_name();
    of_type.then(|| M::decode(event.value.as_slice()).ok()).flatten()
}

/// A time from the wire, if it is one.
pub(crate) fn time(sent: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    let sent = timestamp::known(sent)?;
    Some(Timestamp { seconds: sent.seconds, nanos: u32::try_from(sent.nanos).unwrap_or(0) })
}

fn to_time(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.seconds, nanos: i32::try_from(time.nanos).unwrap_or(0) }
}
