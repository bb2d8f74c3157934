//! Watching over shims, and what follows when one dies.
//!
//! A shim is dead by proof only: its process, known by number and start time, is gone. A connection
//! that breaks is no proof, silence is none either: such a shim is tried again for ever, and its
//! task is left alone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::containerd::task::v3::DeleteResponse;
use gantry_core::model::ContainerName;
use gantry_core::task::{Exit, STATUS_UNKNOWN};
use gantry_core::{Error, Result, Timestamp};
use gantry_shim_state::{JOURNAL_FILE, journal};
use gantry_sys::process::Ending;
use prost::Message;

use crate::bundle::Bundle;
use crate::client::Client;
use crate::command::{self, Invocation};
use crate::launch::{Launch, arguments, environment};
use crate::state::from_time;
use crate::task::{Link, Task};
use crate::tasks::Inner;
use crate::{contact, create, exits};

/// Pause before an attempt to record an exit that the store refused.
const AGAIN: Duration = Duration::from_secs(1);

impl Inner {
    /// Watches over the shim at `client` from now on, in the background.
    pub(crate) fn watch(self: &Arc<Self>, task: &Arc<Task>, client: Client) {
        let stop = task.stop.clone();
        let (inner, task) = (self.clone(), task.clone());
        let work = async move {
            if task.state().exit.is_none() {
                let asking = inner.clone().await_init(task.clone(), client.clone());
                let stop = task.stop.clone();
                inner.tracker.spawn(async move { stop.run_until_cancelled(asking).await });
            }
            inner.lost(&task, &client).await;
            task.not_deleting().await;
            if task.stop.is_cancelled() {
                return;
            }
            tracing::info!(id = task.id(), "shim disconnected");
            task.set_link(Link::Silent);
            // From here it is as after a start of the daemon, but that clients have been listening.
            contact::keep_trying(&inner, &task, false).await;
        };
        self.tracker.spawn(async move { stop.run_until_cancelled(work).await });
    }

    /// Returns when the connection has broken or the process has ended.
    async fn lost(&self, task: &Task, client: &Client) {
        let shim = task.shim();
        let Some(process) = command::process(shim.pid, shim.start_time) else {
            return client.closed().await;
        };
        tokio::select! {
            () = client.closed() => {}
            _ = command::gone(process) => {}
        }
    }

    /// Buries a shim that is dead by proof: records the exits that nobody told, and has the
    /// program take away what is left. Afterwards the task is stopped until it is deleted.
    pub(crate) async fn bury_shim(self: &Arc<Self>, task: &Arc<Task>, at_start: bool) {
        let shim = task.shim();
        tracing::info!(id = task.id(), pid = shim.pid, "cleaning up after a dead shim");
        let deleted = {
            // A closed semaphore does not exist: nobody closes it.
            let _turn = self.cleanups.acquire().await;
            self.run_delete(&task.name, &task.bundle, Path::new(&shim.binary)).await
        };
        if let Err(error) = &deleted {
            tracing::debug!(id = task.id(), error = error.message(), "delete command failed");
        }
        for exit in self.untold(task, deleted.ok()).await {
            // What cannot be recorded now is tried again: an exit is not given up.
            while let Err(error) = self.tell_found(task, exit.clone(), at_start).await {
                tracing::error!(id = task.id(), error = error.message(), "cannot record an exit");
                tokio::time::sleep(AGAIN).await;
            }
        }
        task.set_link(Link::Gone);
    }

    /// The exits that a dead shim owes: those in its journal, then of execs that ran, then init's.
    async fn untold(&self, task: &Arc<Task>, deleted: Option<DeleteResponse>) -> Vec<Exit> {
        let path = task.bundle.file(JOURNAL_FILE);
        let (id, boot) = (task.id().to_owned(), self.config.boot_id);
        let read = create::blocking(move || Ok(journalled(&path, &id, boot))).await;
        let mut untold = read.unwrap_or_default();
        let init =
            untold.iter().position(|exit| exit.exec_id.is_empty()).map(|at| untold.remove(at));
        let now = self.metadata.clock().now();
        for (exec_id, pid) in task.running_execs() {
            if !untold.iter().any(|exit| exit.exec_id == exec_id && exit.pid == pid) {
                untold.push(lost_exit(exec_id, pid, now));
            }
        }
        let state = task.state();
        if state.exit.is_some() {
            return untold;
        }
        untold.push(init.unwrap_or_else(|| match task.ended() {
            Some(ended) => Exit {
                status: ended.status,
                exited_at: ended.exited_at,
                reason: String::new(),
                ..lost_exit(String::new(), state.pid, now)
            },
            None => by_command(deleted, state.pid, now),
        }));
        untold
    }

    /// Runs the `delete` command of a shim's program.
    pub(crate) async fn run_delete(
        &self,
        name: &ContainerName,
        bundle: &Bundle,
        program: &Path,
    ) -> Result<DeleteResponse> {
        let launch = Launch { config: &self.config, name, bundle, program, options: None };
        let mut args = arguments(&launch);
        args.push("-bundle".into());
        args.push(bundle.path.to_string_lossy().into_owned());
        args.push("delete".into());
        let invocation = Invocation {
            program: program.to_owned(),
            args,
            env: environment(&self.config, name),
            cwd: Some(bundle.path.clone()),
            stdin: Vec::new(),
        };
        let output = command::run(invocation, self.config.timeouts.cleanup, &self.stop).await?;
        if output.ending != Ending::Code(0) {
            return Err(output.failure());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if !said.trim().is_empty() {
            tracing::debug!(id = %name.id, shim = said.trim(), "delete command warned");
        }
        DeleteResponse::decode(output.stdout.as_slice())
            .map_err(|e| Error::caused(gantry_core::Kind::Unknown, "answer of delete", e))
    }
}

/// The exits of the task `id` in a journal, of execs first. Blocks.
pub(crate) fn journalled(path: &Path, id: &str, boot: [u8; 16]) -> Vec<Exit> {
    let contents = match journal::read(path) {
        Ok(contents) => contents,
        Err(error) => {
            if !error.is_missing() {
                tracing::warn!(%error, path = %path.display(), "a journal of exits is unreadable");
            }
            return Vec::new();
        }
    };
    if contents.damaged > 0 {
        tracing::warn!(damaged = contents.damaged, path = %path.display(), "damaged exits");
    }
    let of_task = contents.pending.into_iter();
    of_task
        .filter(|exit| exit.container_id == id && exit.boot_id == boot)
        .map(|exit| Exit {
            exec_id: exit.exec_id,
            pid: exit.pid,
            start_time: exit.start_time,
            status: exit.status,
            exited_at: from_time(exit.exited_at),
            reason: String::new(),
        })
        .collect()
}

/// An exit of which nothing is known but that it happened.
pub(crate) fn lost_exit(exec_id: String, pid: u32, now: Timestamp) -> Exit {
    Exit {
        exec_id,
        pid,
        start_time: 0,
        status: STATUS_UNKNOWN,
        exited_at: now,
        reason: "shim died".into(),
    }
}

fn by_command(deleted: Option<DeleteResponse>, pid: u32, now: Timestamp) -> Exit {
    let Some(deleted) = deleted else { return lost_exit(String::new(), pid, now) };
    Exit {
        status: deleted.exit_status,
        exited_at: exits::time(deleted.exited_at.as_ref()).unwrap_or(now),
        ..lost_exit(String::new(), pid, now)
    }
}
