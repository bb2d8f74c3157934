//! Reaching the shim of a task that is known from its record.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use gantry_core::task::{Exit, Status};
use gantry_core::{Error, Kind, Result};

use crate::client::{self, Client};
use crate::command;
use crate::exits;
use crate::task::{Link, Task};
use crate::tasks::Inner;

/// Pause before the second attempt; it doubles with each.
const PAUSE: Duration = Duration::from_millis(50);

/// What an attempt came to.
enum Attempt {
    Reached(Client),
    /// Nobody listens at the address.
    Refused,
    /// No answer, or one that says nothing.
    Silent(Error),
}

/// Tries to reach the shim until it answers or is dead by proof. `at_start` says that the daemon
/// has just been started: what is found then, nobody could be told before.
pub(crate) async fn keep_trying(inner: &Arc<Inner>, task: &Arc<Task>, at_start: bool) {
    let mut pause = PAUSE;
    loop {
        let attempt = attempt(inner, task).await;
        let shim = task.shim();
        let alive = command::process(shim.pid, shim.start_time);
        match attempt {
            Attempt::Reached(client) => {
                if let Err(error) = inner.adopt(task, &client, at_start).await {
                    tracing::warn!(id = task.id(), error = error.message(), "cannot adopt a task");
                } else {
                    task.set_link(Link::Up(client.clone()));
                    inner.watch(task, client);
                    return;
                }
            }
            Attempt::Refused if alive.is_none() => {
                return inner.bury_shim(task, at_start).await;
            }
            Attempt::Refused => tracing::debug!(id = task.id(), "a living shim does not listen"),
            Attempt::Silent(error) => {
                tracing::debug!(id = task.id(), error = error.message(), "a shim is silent");
            }
        }
        // A silent shim may die meanwhile, which ends the waiting.
        match alive {
            Some(process) => {
                let _ = tokio::time::timeout(pause, command::gone(process)).await;
            }
            None => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(inner.config.timeouts.retry);
    }
}

async fn attempt(inner: &Arc<Inner>, task: &Task) -> Attempt {
    let bound = inner.config.timeouts.load;
    let shim = task.shim();
    let stream = match tokio::time::timeout(bound, client::dial(&shim.address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return match error.kind() {
                ErrorKind::ConnectionRefused | ErrorKind::NotFound => Attempt::Refused,
                _ => Attempt::Silent(Error::io("dial", error)),
            };
        }
        Err(_) => return Attempt::Silent(Error::deadline_exceeded("dial")),
    };
    let name = &task.name;
    let client =
        Client::new(stream, shim.api_version, &name.namespace, name.id.as_str(), &inner.tracker);
    match client.connect(bound).await {
        Ok(answer) => {
            let mut shim = shim;
            if answer.shim_pid != 0 && answer.shim_pid != shim.pid {
                // The shim of a pod's later container, or one that an older record left open.
                shim.pid = answer.shim_pid;
                shim.start_time = command::start_time(answer.shim_pid);
            }
            shim.api_version = client.version();
            task.set_shim(shim);
            Attempt::Reached(client)
        }
        Err(error) => Attempt::Silent(error),
    }
}

impl Inner {
    /// Compares what is recorded with what the shim says.
    async fn adopt(
        self: &Arc<Self>,
        task: &Arc<Task>,
        client: &Client,
        at_start: bool,
    ) -> Result<()> {
        let state = task.state();
        let now = self.metadata.clock().now();
        let exit = |status, exited_at, reason: &str| Exit {
            exec_id: String::new(),
            pid: state.pid,
            start_time: state.start_time,
            status,
            exited_at,
            reason: reason.into(),
        };
        match client.state("", self.config.timeouts.load).await {
            Ok(answer) => {
                let status = Status::from_number(u32::try_from(answer.status).unwrap_or(0));
                if status != Status::Stopped {
                    task.see(status, answer.pid);
                } else if state.exit.is_none() && !task.shim().gantry {
                    // Ours sends the exit again; of another's nobody knows.
                    let at = exits::time(answer.exited_at.as_ref()).unwrap_or(now);
                    self.tell_found(task, exit(answer.exit_status, at, ""), at_start).await?;
                }
                Ok(())
            }
            // It lives, but has deleted the task: the daemon died before the record was gone.
            Err(error) if error.is(Kind::NotFound) => {
                if state.exit.is_none() {
                    let lost = exit(gantry_core::task::STATUS_UNKNOWN, now, "deleted by its shim");
                    self.tell_found(task, lost, at_start).await?;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
