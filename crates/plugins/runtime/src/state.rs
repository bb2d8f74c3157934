//! What a process is doing: asked of the shim, read from its state page, or remembered.

use std::path::Path;

use gantry_api::containerd::task::v3 as wire;
use gantry_core::task::Status;
use gantry_core::{Cx, Error, Kind, Result, Timestamp};
use gantry_metadata::stores::Stdio;
use gantry_shim_state::{self as left, PAGE_FILE};

use crate::client::Client;
use crate::exits;
use crate::task::{Ended, Link, Process, Task};
use crate::tasks::Inner;

impl Inner {
    /// What init (`exec` empty) or an exec is doing.
    pub(crate) async fn process(&self, cx: &Cx, task: &Task, exec: &str) -> Result<Process> {
        let bound = cx.remaining(self.config.timeouts.state);
        let deadline = tokio::time::Instant::now() + bound;
        let own_init = exec.is_empty() && task.shim().gantry;
        loop {
            let client = match task.link() {
                Link::Up(client) => client,
                Link::Gone => return dead(task, exec),
                // Its page says what its shim would.
                Link::Silent if own_init && let Some(process) = self.page_of(task).await => {
                    return Ok(process);
                }
                Link::Silent if task.ended().is_some() && exec.is_empty() => {
                    return Ok(task.recorded());
                }
                Link::Silent => {
                    let left = deadline.saturating_duration_since(tokio::time::Instant::now());
                    match task.client(cx, left).await? {
                        Some(client) => client,
                        None => return dead(task, exec),
                    }
                }
            };
            match self.ask(cx, task, &client, exec, deadline).await {
                Ok(process) => return Ok(process),
                Err(error) if error.is(Kind::Unavailable) => {
                    // The connection broke: what comes next says who is right.
                    let settled = tokio::time::timeout_at(deadline, task.relinked(&client));
                    if settled.await.is_err() {
                        return Err(error);
                    }
                }
                Err(error) if error.is(Kind::DeadlineExceeded) && own_init => {
                    return self.page_of(task).await.ok_or(error);
                }
                Err(error) if exec.is_empty() && !error.is(Kind::Cancelled) => {
                    // It does not know a task that is deleted but for its record.
                    let stopped = error.is(Kind::NotFound) || error.is(Kind::DeadlineExceeded);
                    return match task.ended().filter(|_| stopped) {
                        Some(_) => Ok(task.recorded()),
                        None => Err(error),
                    };
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn ask(
        &self,
        cx: &Cx,
        task: &Task,
        client: &Client,
        exec: &str,
        deadline: tokio::time::Instant,
    ) -> Result<Process> {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let answer = tokio::select! {
            answer = client.state(exec, left) => answer?,
            () = cx.cancellation().cancelled() => return Err(Error::cancelled("")),
        };
        let mut process = from_answer(answer);
        if exec.is_empty() {
            process.id = task.id().to_owned();
            if let Some(ended) = task.ended() {
                // What was told once stays told.
                process.status = Status::Stopped;
                process.ended = Some(ended);
            }
        } else {
            process.id = exec.to_owned();
        }
        Ok(process)
    }

    async fn page_of(&self, task: &Task) -> Option<Process> {
        let path = task.bundle.file(PAGE_FILE);
        let boot = self.config.boot_id;
        let id = task.id().to_owned();
        let read = tokio::task::spawn_blocking(move || page(&path, &id, boot)).await.ok()??;
        let ended = task.ended().or(read.exit.map(|(status, at)| Ended { status, exited_at: at }));
        Some(Process {
            id: task.id().to_owned(),
            pid: read.pid,
            status: if ended.is_some() { Status::Stopped } else { read.status },
            stdio: task.stdio.clone(),
            ended,
        })
    }
}

/// What a state page says of init.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageState {
    pub(crate) status: Status,
    pub(crate) pid: u32,
    pub(crate) start_time: u64,
    pub(crate) exit: Option<(u32, Timestamp)>,
    pub(crate) shim_pid: u32,
    pub(crate) shim_start_time: u64,
}

/// The page at `path` if it is whole and about the task `id` in this boot. Blocks.
pub(crate) fn page(path: &Path, id: &str, boot: [u8; 16]) -> Option<PageState> {
    let (identity, state) = left::page::read(path).ok()?;
    if identity.container_id != id || identity.boot_id != boot {
        return None;
    }
    let status = match state.status {
        left::Status::Creating => Status::Unknown,
        left::Status::Created => Status::Created,
        left::Status::Running => Status::Running,
        left::Status::Stopped | left::Status::Deleted => Status::Stopped,
        left::Status::Paused => Status::Paused,
        left::Status::Pausing => Status::Pausing,
    };
    Some(PageState {
        status,
        pid: state.pid,
        start_time: state.start_time,
        exit: state.exit.map(|(status, at)| (status, from_time(at))),
        shim_pid: identity.shim_pid,
        shim_start_time: identity.shim_start_time,
    })
}

pub(crate) fn from_time(time: left::Time) -> Timestamp {
    Timestamp { seconds: time.seconds, nanos: time.nanos }
}

fn from_answer(answer: wire::StateResponse) -> Process {
    let status = Status::from_number(u32::try_from(answer.status).unwrap_or(0));
    let exited_at = exits::time(answer.exited_at.as_ref());
    Process {
        id: answer.id,
        pid: answer.pid,
        status,
        stdio: Stdio {
            stdin: answer.stdin,
            stdout: answer.stdout,
            stderr: answer.stderr,
            terminal: answer.terminal,
        },
        ended: exited_at
            .filter(|_| status == Status::Stopped)
            .map(|exited_at| Ended { status: answer.exit_status, exited_at }),
    }
}

/// What is known of a process whose shim is dead.
fn dead(task: &Task, exec: &str) -> Result<Process> {
    if exec.is_empty() {
        return Ok(task.recorded());
    }
    let state = task.state();
    let told = state.exec_exits.iter().rev().find(|told| told.exit.exec_id == exec);
    let told = told.ok_or_else(|| Error::not_found(format!("process does not exist {exec}")))?;
    Ok(Process {
        id: exec.to_owned(),
        pid: told.exit.pid,
        status: Status::Stopped,
        stdio: Stdio::default(),
        ended: Some(Ended::from(&told.exit)),
    })
}
