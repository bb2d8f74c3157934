//! The records of tasks: what must outlive the daemon about a shim and the processes it serves.
//!
//! An exit changes the record and enters the event journal in one transaction, and whether it is
//! new is decided in that transaction: so it is told once, whoever tells it and how often.

use gantry_core::model::{ContainerName, Envelope};
use gantry_core::task::{Exit, Heard, TaskState};
use gantry_core::{ContainerId, Error, Namespace, Result, Timestamp};

use crate::schema::{Key, Parts, TASK};
use crate::{Tx, View};

/// A task as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Absolute path of its bundle.
    pub bundle: String,
    /// The shim that serves it.
    pub shim: Shim,
    /// The boot that it belongs to.
    pub boot_id: [u8; 16],
    /// Its standard streams.
    pub stdio: Stdio,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// What changes about it.
    pub state: TaskState,
}

/// The process behind a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shim {
    /// Absolute path of its program.
    pub binary: String,
    /// Where it listens: `unix://` and a path, or the name of an abstract socket.
    pub address: String,
    /// What it speaks there: `ttrpc`.
    pub protocol: String,
    /// The version of the task API that it serves.
    pub api_version: u32,
    /// 0 when not known.
    pub pid: u32,
    /// When it was started, in clock ticks since boot; 0 when not known.
    pub start_time: u64,
    /// Whether it leaves the files of `gantry-shim-state` and waits for acknowledgements.
    pub gantry: bool,
}

/// The standard streams of a process, as the client named them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Where input comes from; empty for none.
    pub stdin: String,
    /// Where output goes.
    pub stdout: String,
    /// Where errors go.
    pub stderr: String,
    /// Whether it has a terminal.
    pub terminal: bool,
}

/// What became of word of an exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Recorded and published; the task's state since.
    Recorded(TaskState),
    /// Known before: nothing was published. The number of the entry that did.
    Known(u64),
    /// There is no such task, or it is another one of the same name: nothing was published.
    NoTask,
}

fn key(name: &ContainerName) -> Vec<u8> {
    Key::of(&name.namespace).last(name.id.as_str())
}

impl View<'_> {
    /// The task of a container.
    ///
    /// # Errors
    /// `DataLoss` when its record is damaged.
    pub fn task(&self, name: &ContainerName) -> Result<Option<Task>> {
        self.get::<Task>(TASK, &key(name), ())
    }

    /// All tasks of all namespaces.
    ///
    /// # Errors
    /// `DataLoss` when a record is damaged.
    pub fn tasks(&self) -> Result<Vec<(ContainerName, Task)>> {
        let mut found = Vec::new();
        self.each_below(TASK, &[], |key, value| {
            let mut parts = Parts::of(key);
            let (namespace, id) = match (parts.identifier(), parts.last()) {
                (Some(namespace), Some(id)) => (Namespace::new(namespace)?, ContainerId::new(id)?),
                _ => return Err(Error::data_loss("key of a stored task")),
            };
            let task = crate::codec::decode::<Task>(TASK, (), &value)?;
            found.push((ContainerName { namespace, id }, task));
            Ok(())
        })?;
        Ok(found)
    }
}

impl Tx<'_, '_> {
    /// Records a task, in place of any other of that container.
    ///
    /// # Errors
    /// What the store below fails with.
    pub fn put_task(&mut self, name: &ContainerName, task: &Task) -> Result<()> {
        self.put(TASK, &key(name), task)
    }

    /// Changes what is known of a task that exists; returns its state since.
    ///
    /// # Errors
    /// `DataLoss` when its record is damaged; what the store below fails with.
    pub fn change_task(
        &mut self,
        name: &ContainerName,
        change: impl FnOnce(&mut TaskState),
    ) -> Result<Option<TaskState>> {
        let Some(mut task) = self.view().task(name)? else { return Ok(None) };
        let before = task.state.clone();
        change(&mut task.state);
        if task.state != before {
            self.put_task(name, &task)?;
        }
        Ok(Some(task.state))
    }

    /// Records an exit and publishes `envelope`, which reports it, unless that was done before.
    /// With `replay` also subscribers yet to come get it (see [`crate::journal`]). Commits on a
    /// full disk too.
    ///
    /// # Errors
    /// `DataLoss` when the record is damaged; what the store below fails with.
    pub fn tell_exit(
        &mut self,
        name: &ContainerName,
        exit: Exit,
        envelope: Envelope,
        replay: bool,
    ) -> Result<Told> {
        self.raw().draw_on_reserve();
        let Some(mut task) = self.view().task(name)? else { return Ok(Told::NoTask) };
        match task.state.hear(&exit) {
            Heard::Known(sequence) => Ok(Told::Known(sequence)),
            Heard::Stranger => Ok(Told::NoTask),
            Heard::New => {
                let sequence = self.emit_exit(envelope, replay)?;
                if let Some(oldest) = task.state.record(exit, sequence) {
                    self.release_exit(oldest)?;
                }
                self.put_task(name, &task)?;
                Ok(Told::Recorded(task.state))
            }
        }
    }

    /// Removes the record of a task; its exits become ordinary entries of the journal. Whether
    /// there was one.
    ///
    /// # Errors
    /// What the store below fails with.
    pub fn delete_task(&mut self, name: &ContainerName) -> Result<bool> {
        self.raw().draw_on_reserve();
        let Some(task) = self.view().task(name)? else { return Ok(false) };
        for sequence in task.state.sequences() {
            self.release_exit(sequence)?;
        }
        self.delete(TASK, &key(name))?;
        Ok(true)
    }
}
