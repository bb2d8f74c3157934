//! The task manager: which containers have a task, and who may change that.
//!
//! A name has a *slot* while something is being done under it: a task that exists, one that is
//! being made, or remains of an interrupted one that are being cleared away. A slot is taken and
//! given back under a plain lock that is never held across an await; so nobody waits for a shim to
//! learn that there is no task.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_core::model::ContainerName;
use gantry_core::{ContainerId, Cx, Error, Result, Timestamp};
use gantry_metadata::Metadata;
use gantry_metadata::stores::Containers;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::exits::Tombstones;
use crate::launch::Launcher;
use crate::task::Task;

/// `delete` commands that run at a time when many shims die at once.
const CLEANUPS_MAX: usize = 4;

/// The tasks of all namespaces. Clones share them.
#[derive(Clone, Debug)]
pub struct Tasks {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) containers: Containers,
    pub(crate) launcher: Launcher,
    pub(crate) cleanups: Semaphore,
    pub(crate) tombstones: Mutex<Tombstones>,
    /// Whether exits found now are told to subscribers yet to come.
    pub(crate) replaying: watch::Sender<bool>,
    /// When this manager was made.
    pub(crate) started_at: Timestamp,
    pub(crate) tracker: TaskTracker,
    pub(crate) stop: CancellationToken,
    slots: Mutex<BTreeMap<ContainerName, Slot>>,
}

#[derive(Clone, Debug)]
enum Slot {
    /// Being made; ends when the receiver says so.
    Creating(watch::Receiver<bool>),
    /// What an interrupted one left is being cleared away.
    Clearing(watch::Receiver<bool>),
    Task(Arc<Task>),
}

/// What is found under a name.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// A task that is still being made: it does not exist yet.
    Creating(watch::Receiver<bool>),
    Task(Arc<Task>),
    Nothing,
}

/// A name taken for making a task or for clearing away; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    inner: Arc<Inner>,
    name: ContainerName,
    done: watch::Sender<bool>,
}

impl Tasks {
    /// A manager of no tasks; [`Tasks::load`] finds those of earlier daemons.
    pub fn new(config: Config, metadata: Arc<Metadata>) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                containers: Containers::new(metadata.clone()),
                started_at: metadata.clock().now(),
                metadata,
                launcher: Launcher::default(),
                cleanups: Semaphore::new(CLEANUPS_MAX),
                tombstones: Mutex::default(),
                replaying: watch::Sender::new(false),
                tracker: TaskTracker::new(),
                stop: CancellationToken::new(),
                slots: Mutex::default(),
            }),
        }
    }

    /// Ends all waits and what runs in the background; tasks and shims live on. Returns when it has
    /// ended, or after `grace`.
    pub async fn stop(&self, grace: Duration) {
        self.inner.stop.cancel();
        self.inner.tracker.close();
        if tokio::time::timeout(grace, self.inner.tracker.wait()).await.is_err() {
            tracing::warn!(left = self.inner.tracker.len(), "task work outlived the grace period");
        }
    }
}

impl Inner {
    fn slots(&self) -> MutexGuard<'_, BTreeMap<ContainerName, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is under `name`.
    pub(crate) fn find(&self, name: &ContainerName) -> Found {
        match self.slots().get(name) {
            Some(Slot::Task(task)) => Found::Task(task.clone()),
            Some(Slot::Creating(done)) => Found::Creating(done.clone()),
            Some(Slot::Clearing(_)) | None => Found::Nothing,
        }
    }

    /// Every task.
    pub(crate) fn all(&self) -> Vec<Arc<Task>> {
        let slots = self.slots();
        let tasks = slots.values().filter_map(|slot| match slot {
            Slot::Task(task) => Some(task.clone()),
            _ => None,
        });
        tasks.collect()
    }

    /// The task of `id`, whose container must exist.
    ///
    /// # Errors
    /// `NotFound`, of the container or of the task.
    pub(crate) async fn task(&self, cx: &Cx, id: &ContainerId) -> Result<Arc<Task>> {
        self.containers.get(cx, id).await?;
        self.existing(cx, id)
    }

    /// As [`Inner::task`], whether or not the container exists.
    pub(crate) fn existing(&self, cx: &Cx, id: &ContainerId) -> Result<Arc<Task>> {
        let name = ContainerName { namespace: cx.namespace().clone(), id: id.clone() };
        match self.find(&name) {
            Found::Task(task) => Ok(task),
            _ => Err(Error::not_found(format!("task {id} not found"))),
        }
    }

    /// Takes `name` for making a task, once remains of an earlier one are cleared away.
    ///
    /// # Errors
    /// `AlreadyExists`; `Unavailable` when clearing away takes longer than `bound`.
    pub(crate) async fn reserve(
        self: &Arc<Self>,
        name: &ContainerName,
        bound: Duration,
    ) -> Result<Reserved> {
        let deadline = tokio::time::Instant::now() + bound;
        loop {
            let mut clearing = match self.take(name, Slot::Creating) {
                Ok(reserved) => return Ok(reserved),
                Err(Slot::Clearing(done)) => done,
                Err(_) => return Err(Error::already_exists(format!("task {}", name.id))),
            };
            // A closed channel means the same as its last word.
            let cleared = clearing.wait_for(|done| *done);
            if tokio::time::timeout_at(deadline, cleared).await.is_err() {
                return Err(Error::unavailable(format!(
                    "what an interrupted task {} left is being cleared away",
                    name.id
                )));
            }
        }
    }

    /// Takes `name` for clearing away, unless it is taken.
    pub(crate) fn reserve_for_clearing(self: &Arc<Self>, name: &ContainerName) -> Option<Reserved> {
        self.take(name, Slot::Clearing).ok()
    }

    fn take(
        self: &Arc<Self>,
        name: &ContainerName,
        slot: fn(watch::Receiver<bool>) -> Slot,
    ) -> std::result::Result<Reserved, Slot> {
        let mut slots = self.slots();
        if let Some(taken) = slots.get(name) {
            return Err(taken.clone());
        }
        let (done, waiting) = watch::channel(false);
        slots.insert(name.clone(), slot(waiting));
        Ok(Reserved { inner: self.clone(), name: name.clone(), done })
    }

    /// Puts a task that was loaded under its name.
    pub(crate) fn insert(&self, task: Arc<Task>) {
        self.slots().insert(task.name.clone(), Slot::Task(task));
    }

    /// Gives back the name of a task that is deleted.
    pub(crate) fn remove(&self, task: &Arc<Task>) {
        let mut slots = self.slots();
        if matches!(slots.get(&task.name), Some(Slot::Task(held)) if Arc::ptr_eq(held, task)) {
            slots.remove(&task.name);
        }
    }
}

impl Reserved {
    pub(crate) fn name(&self) -> &ContainerName {
        &self.name
    }

    /// Puts the task that was made under the name.
    pub(crate) fn fill(self, task: Arc<Task>) {
        self.inner.slots().insert(self.name.clone(), Slot::Task(task));
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut slots = self.inner.slots();
        if !matches!(slots.get(&self.name), Some(Slot::Task(_))) {
            slots.remove(&self.name);
        }
        drop(slots);
        self.done.send_replace(true);
    }
}
