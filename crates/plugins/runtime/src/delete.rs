//! Deleting tasks and execs.
//!
//! A deletion runs to its end whatever becomes of its caller, one at a time per task. It may be
//! repeated: what is gone already is no failure. The record goes last, in one transaction; the
//! bundle is out of the way by then, and its files are deleted behind the reply.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::containerd::task::v3 as wire;
use gantry_core::error::ResultExt;
use gantry_core::task::Exit;
use gantry_core::{ContainerId, Cx, Error, ExecId, Kind, Result, Timestamp};

use crate::client::Client;
use crate::create::blocking;
use crate::exits;
use crate::own;
use crate::task::{Ended, Task};
use crate::tasks::{Inner, Tasks};

/// How a deleted process had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// Its number.
    pub pid: u32,
    /// Its code, or 128 and the signal.
    pub status: u32,
    /// When it ended; [`Timestamp::UNSET`] when nobody knows.
    pub exited_at: Timestamp,
}

impl Tasks {
    /// Deletes the task of `id`, which must not run.
    ///
    /// # Errors
    /// `NotFound`; the shim's refusals, and then the task is as it was.
    pub async fn delete(&self, cx: &Cx, id: &ContainerId) -> Result<Deleted> {
        loop {
            let task = self.inner.task(cx, id).await?;
            let Some(deleting) = task.begin_delete() else {
                tokio::select! {
                    () = task.not_deleting() => continue,
                    () = cx.cancellation().cancelled() => return Err(Error::cancelled("")),
                }
            };
            let inner = self.inner.clone();
            let bound = cx.remaining(inner.config.timeouts.call);
            let job = self.inner.tracker.spawn(async move {
                let deleted = inner.delete(&task, bound).await;
                drop(deleting);
                deleted
            });
            let deleted = job.await;
            return deleted.map_err(|e| Error::caused(Kind::Internal, "delete task", e))?;
        }
    }

    /// Deletes an exec, which must not run.
    ///
    /// # Errors
    /// `NotFound`; the shim's refusals.
    pub async fn delete_exec(&self, cx: &Cx, id: &ContainerId, exec: &ExecId) -> Result<Deleted> {
        let task = self.inner.task(cx, id).await?;
        let bound = cx.remaining(self.inner.config.timeouts.call);
        let Some(client) = task.client(cx, bound).await? else {
            let process = self.inner.process(cx, &task, exec.as_str()).await?;
            let ended = process.ended.unwrap_or(Ended {
                status: gantry_core::task::STATUS_UNKNOWN,
                exited_at: Timestamp::UNSET,
            });
            return Ok(Deleted {
                pid: process.pid,
                status: ended.status,
                exited_at: ended.exited_at,
            });
        };
        let request =
            wire::DeleteRequest { id: task.id().to_owned(), exec_id: exec.as_str().to_owned() };
        tokio::select! {
            answer = client.call("Delete", &request, Some(bound)) => answer.map(|a| deleted(&a)),
            () = cx.cancellation().cancelled() => Err(Error::cancelled("")),
        }
    }
}

fn deleted(answer: &wire::DeleteResponse) -> Deleted {
    Deleted {
        pid: answer.pid,
        status: answer.exit_status,
        exited_at: exits::time(answer.exited_at.as_ref()).unwrap_or(Timestamp::UNSET),
    }
}

impl Inner {
    async fn delete(self: &Arc<Self>, task: &Arc<Task>, bound: Duration) -> Result<Deleted> {
        let timeouts = &self.config.timeouts;
        let background = gantry_core::CallCx::background(self.stop.clone());
        let client = task.client(&background, bound).await?;
        let by_shim = match &client {
            Some(client) => self.delete_by_shim(task, client, bound).await?,
            None => None,
        };
        let own = task.shim().gantry && by_shim.is_some();
        if let Some(client) = &client {
            let shutdown = client.shutdown(timeouts.shutdown).await;
            if let Err(error) = &shutdown {
                let text = error.message();
                tracing::warn!(id = task.id(), error = text, "the shim does not want to end");
            }
            if !(own && shutdown.is_ok()) {
                self.delete_command(task).await;
            }
        }
        self.finish_delete(task).await?;
        if let Some(deleted) = by_shim {
            return Ok(deleted);
        }
        let ended = task.ended();
        let deleted = Deleted {
            pid: task.state().pid,
            status: ended.map_or(gantry_core::task::STATUS_UNKNOWN, |ended| ended.status),
            exited_at: ended.map_or(Timestamp::UNSET, |ended| ended.exited_at),
        };
        // There was no shim to say so.
        self.metadata.journal().publish(exits::deletion(
            &task.name,
            deleted,
            self.metadata.clock().now(),
        ));
        Ok(deleted)
    }

    /// The shim's Delete; `None` when it knows no such task any more.
    async fn delete_by_shim(
        self: &Arc<Self>,
        task: &Arc<Task>,
        client: &Client,
        bound: Duration,
    ) -> Result<Option<Deleted>> {
        let stopped = task.ended().is_some();
        let request = wire::DeleteRequest { id: task.id().to_owned(), exec_id: String::new() };
        let answer: Result<wire::DeleteResponse> =
            client.call("Delete", &request, Some(bound)).await;
        let answer = match answer {
            Ok(answer) => deleted(&answer),
            Err(error) if error.is(Kind::NotFound) => return Ok(None),
            Err(error) => return Err(error).context("failed to delete task"),
        };
        if stopped {
            self.settle_exit(task, answer).await?;
        }
        Ok(Some(answer))
    }

    /// The exit of a task that had ended is recorded before the task is gone: its event is under
    /// way, and is waited for so that those of execs come first.
    async fn settle_exit(self: &Arc<Self>, task: &Arc<Task>, answer: Deleted) -> Result<()> {
        let bound = self.config.timeouts.cleanup;
        if tokio::time::timeout(bound, task.exit_recorded()).await.is_ok() {
            return Ok(());
        }
        let state = task.state();
        let exit = Exit {
            exec_id: String::new(),
            pid: state.pid,
            start_time: state.start_time,
            status: answer.status,
            exited_at: answer.exited_at,
            reason: String::new(),
        };
        self.tell_found(task, exit, false).await.map(|_| ())
    }

    /// The program's own way of taking away what its shim may have left.
    async fn delete_command(&self, task: &Task) {
        let shim = task.shim();
        let run = self.run_delete(&task.name, &task.bundle, Path::new(&shim.binary)).await;
        if let Err(error) = run {
            tracing::debug!(id = task.id(), error = error.message(), "delete command failed");
        }
    }

    /// Takes the bundle away, then the record, then the name.
    async fn finish_delete(self: &Arc<Self>, task: &Arc<Task>) -> Result<()> {
        let bundle = task.bundle.clone();
        let (sockets, address) = (self.config.sockets.clone(), task.shim().address);
        let removed = blocking(move || {
            own::remove_dead(&sockets, &address);
            bundle.remove()
        });
        match removed.await {
            Ok(gone) => self.delete_aside(gone),
            // As in containerd: the task is gone, what cannot be removed is for the administrator.
            Err(error) => {
                tracing::error!(id = task.id(), error = error.message(), "cannot remove a bundle");
            }
        }
        fail::fail_point!("runtime.delete/before-commit", |_| Err(Error::unknown("failpoint")));
        let name = task.name.clone();
        self.metadata.update(move |tx| tx.delete_task(&name)).await?;
        fail::fail_point!("runtime.delete/after-commit", |_| Err(Error::unknown("failpoint")));
        self.bury(task);
        self.remove(task);
        task.stop.cancel();
        Ok(())
    }
}
