//! Waiting for the end of a process.
//!
//! No total bound: a wait lives as long as its caller, the daemon, and the process. The shim is
//! asked once per process, however many clients wait and however often they give up, because its
//! protocol cannot take a question back.

use std::sync::{Arc, PoisonError};

use gantry_core::{ContainerId, Cx, Error, ExecId, Kind, Result};
use tokio::sync::watch;

use crate::calls::exec_text;
use crate::client::Client;
use crate::exits;
use crate::task::{Ended, ExecEnd, Link, Task};
use crate::tasks::{Inner, Tasks};

impl Tasks {
    /// Waits for the end of init or of an exec; at once when it has ended.
    ///
    /// # Errors
    /// `NotFound`; `Cancelled` when the caller gives up or the daemon stops.
    pub async fn wait(&self, cx: &Cx, id: &ContainerId, exec: Option<&ExecId>) -> Result<Ended> {
        let task = self.inner.task(cx, id).await?;
        let ended = async {
            match exec_text(exec) {
                "" => Ok(task.end().await),
                exec => self.inner.exec_end(&task, exec).await,
            }
        };
        tokio::select! {
            ended = ended => ended,
            () = cx.cancellation().cancelled() => Err(Error::cancelled("")),
            () = self.inner.stop.cancelled() => Err(Error::unavailable("the daemon is stopping")),
            // The daemon's stop is the task's too; else it was deleted while this was asked.
            () = task.stop.cancelled() => match task.ended() {
                _ if self.inner.stop.is_cancelled() => {
                    Err(Error::unavailable("the daemon is stopping"))
                }
                Some(ended) if exec.is_none() => Ok(ended),
                _ => Err(Error::not_found(format!("task {id} not found"))),
            },
        }
    }
}

impl Inner {
    /// Asks the shim for the end of an exec, or joins those who have asked.
    async fn exec_end(self: &Arc<Self>, task: &Arc<Task>, exec: &str) -> Result<Ended> {
        let mut end = {
            let mut waits = task.exec_waits.lock().unwrap_or_else(PoisonError::into_inner);
            match waits.get(exec) {
                Some(asked) => asked.clone(),
                None => {
                    let (sender, asked) = watch::channel(None);
                    waits.insert(exec.to_owned(), asked.clone());
                    self.spawn_exec_wait(task.clone(), exec.to_owned(), sender);
                    asked
                }
            }
        };
        let told = match end.wait_for(Option::is_some).await {
            Ok(told) => told.clone(),
            Err(_) => None,
        };
        match told {
            Some(Ok(ended)) => Ok(ended),
            Some(Err((kind, text))) => Err(Error::new(kind, text)),
            None => Err(Error::unavailable("the daemon is stopping")),
        }
    }

    fn spawn_exec_wait(
        self: &Arc<Self>,
        task: Arc<Task>,
        exec: String,
        sender: watch::Sender<ExecEnd>,
    ) {
        let stop = task.stop.clone();
        let work = async move {
            let end = ask_exec(&task, &exec).await;
            // Forgotten before it is told: who asks from now on asks anew, the id may be reused.
            task.exec_waits.lock().unwrap_or_else(PoisonError::into_inner).remove(&exec);
            sender.send_replace(Some(end));
        };
        self.tracker.spawn(async move { stop.run_until_cancelled(work).await });
    }

    /// Asks the shim at `client` for the end of init; when the exit does not arrive as an event
    /// soon after, it is recorded from the answer.
    pub(crate) async fn await_init(self: Arc<Self>, task: Arc<Task>, client: Client) {
        let Ok(answer) = client.wait("").await else { return };
        let now = self.metadata.clock().now();
        let exited_at = exits::time(answer.exited_at.as_ref()).unwrap_or(now);
        let ended = Ended { status: answer.exit_status, exited_at };
        task.set_waited(ended);
        let bound = self.config.timeouts.exit_event;
        if tokio::time::timeout(bound, task.exit_recorded()).await.is_ok() {
            return;
        }
        tracing::warn!(id = task.id(), "the shim told of an exit but sent no event");
        let exit = gantry_core::task::Exit {
            exec_id: String::new(),
            pid: task.state().pid,
            start_time: task.state().start_time,
            status: ended.status,
            exited_at: ended.exited_at,
            reason: String::new(),
        };
        if let Err(error) = self.tell_found(&task, exit, false).await {
            tracing::error!(id = task.id(), error = error.message(), "cannot record an exit");
        }
    }
}

async fn ask_exec(task: &Task, exec: &str) -> std::result::Result<Ended, (Kind, String)> {
    loop {
        let client = match task.link() {
            Link::Up(client) => client,
            Link::Gone => return recorded(task, exec),
            Link::Silent => {
                let cx = gantry_core::CallCx::background(task.stop.clone());
                match task.client(&cx, std::time::Duration::MAX).await {
                    Ok(Some(client)) => client,
                    Ok(None) => return recorded(task, exec),
                    Err(error) => return Err((error.kind(), error.message())),
                }
            }
        };
        match client.wait(exec).await {
            Ok(answer) => {
                let exited_at = exits::time(answer.exited_at.as_ref());
                return Ok(Ended {
                    status: answer.exit_status,
                    exited_at: exited_at.unwrap_or(gantry_core::Timestamp::UNSET),
                });
            }
            Err(error) if error.is(Kind::Unavailable) => task.relinked(&client).await,
            Err(error) => return Err((error.kind(), error.message())),
        }
    }
}

/// The recorded end of an exec whose shim is dead.
fn recorded(task: &Task, exec: &str) -> std::result::Result<Ended, (Kind, String)> {
    let state = task.state();
    let told = state.exec_exits.iter().rev().find(|told| told.exit.exec_id == exec);
    match told {
        Some(told) => Ok(Ended::from(&told.exit)),
        None => Err((Kind::NotFound, format!("process does not exist {exec}"))),
    }
}
