//! What clients ask of a task: most is the shim's to answer, and its refusals pass through.
//!
//! When the shim is dead the daemon answers for it: the task is stopped until it is deleted.

use std::time::Duration;

use futures_util::future::join_all;
use gantry_api::containerd::task::v3 as wire;
use gantry_api::containerd::v1::types::ProcessInfo;
use gantry_core::filter::{Fields, Filters};
use gantry_core::task::Status;
use gantry_core::{ContainerId, Cx, Error, ExecId, Kind, Result, Timestamp, TypedAny};
use gantry_metadata::stores::Stdio;
use prost::Message;

use crate::client::Client;
use crate::task::{Process, Task};
use crate::tasks::Tasks;

/// An exec to register.
#[derive(Clone, Debug, Default)]
pub struct ExecProcess {
    /// Its id; must not be empty.
    pub exec_id: String,
    /// Its standard streams.
    pub stdio: Stdio,
    /// The OCI process, as sent.
    pub spec: Option<TypedAny>,
}

/// The figures of one task.
#[derive(Clone, Debug)]
pub struct Metric {
    /// The container.
    pub id: String,
    /// When they were collected.
    pub collected_at: Timestamp,
    /// The figures, in the shim's format.
    pub data: Option<TypedAny>,
}

/// The id of an exec for the wire; empty for init.
pub(crate) fn exec_text(exec: Option<&ExecId>) -> &str {
    exec.map_or("", ExecId::as_str)
}

impl Tasks {
    fn call_bound(&self, cx: &Cx) -> Duration {
        cx.remaining(self.inner.config.timeouts.call)
    }

    /// Calls `method` of the task's shim; `dead` is the answer of a dead one.
    async fn ask<A: Message, B: Message + Default>(
        &self,
        cx: &Cx,
        task: &Task,
        method: &str,
        argument: &A,
        dead: impl FnOnce() -> Error,
    ) -> Result<B> {
        let bound = self.call_bound(cx);
        let Some(client) = task.client(cx, bound).await? else { return Err(dead()) };
        self.ask_client(cx, &client, method, argument).await
    }

    async fn ask_client<A: Message, B: Message + Default>(
        &self,
        cx: &Cx,
        client: &Client,
        method: &str,
        argument: &A,
    ) -> Result<B> {
        tokio::select! {
            answer = client.call(method, argument, Some(self.call_bound(cx))) => answer,
            () = cx.cancellation().cancelled() => Err(Error::cancelled("")),
        }
    }

    /// Starts init, or an exec; returns its number.
    ///
    /// # Errors
    /// `NotFound`; the shim's refusals.
    pub async fn start(&self, cx: &Cx, id: &ContainerId, exec: Option<&ExecId>) -> Result<u32> {
        let task = self.inner.task(cx, id).await?;
        let exec_id = exec_text(exec).to_owned();
        let request = wire::StartRequest { id: task.id().to_owned(), exec_id: exec_id.clone() };
        let dead = || match exec {
            None => Error::unknown("cannot start a stopped process"),
            Some(_) => {
                Error::failed_precondition(format!("container {id} init process is not running"))
            }
        };
        let started: wire::StartResponse = self.ask(cx, &task, "Start", &request, dead).await?;
        if exec.is_none() {
            self.inner.record_status(&task, Status::Running, started.pid).await;
        }
        if started.pid != 0 {
            return Ok(started.pid);
        }
        // Restored ones and some shims tell the number only here.
        Ok(self.get(cx, id, exec).await?.pid)
    }

    /// What init or an exec is doing.
    ///
    /// # Errors
    /// `NotFound`; `DeadlineExceeded` when the shim is silent and leaves no page to read.
    pub async fn get(&self, cx: &Cx, id: &ContainerId, exec: Option<&ExecId>) -> Result<Process> {
        let task = self.inner.task(cx, id).await?;
        self.inner.process(cx, &task, exec_text(exec)).await
    }

    /// What every task of the namespace is doing; of one that cannot be asked what is known.
    ///
    /// # Errors
    /// None at present.
    pub async fn list(&self, cx: &Cx) -> Result<Vec<Process>> {
        let tasks = self.inner.all();
        let ours = tasks.iter().filter(|task| task.name.namespace == *cx.namespace());
        let asked = ours.map(async |task| match self.inner.process(cx, task, "").await {
            Ok(process) => Some(process),
            Err(error) if error.is(Kind::NotFound) => None,
            Err(error) => {
                tracing::debug!(id = task.id(), error = error.message(), "listed as last known");
                Some(task.recorded())
            }
        });
        Ok(join_all(asked).await.into_iter().flatten().collect())
    }

    /// Sends a signal to init or an exec, or to everything in the container.
    ///
    /// # Errors
    /// `NotFound`, also when the process has ended; the shim's refusals.
    pub async fn kill(
        &self,
        cx: &Cx,
        id: &ContainerId,
        exec: Option<&ExecId>,
        signal: u32,
        all: bool,
    ) -> Result<()> {
        let task = self.inner.task(cx, id).await?;
        let exec_id = exec_text(exec).to_owned();
        let request = wire::KillRequest { id: task.id().to_owned(), exec_id, signal, all };
        let dead = || Error::not_found("process already finished");
        self.ask(cx, &task, "Kill", &request, dead).await
    }

    /// Registers an exec; [`Tasks::start`] starts it.
    ///
    /// # Errors
    /// `InvalidArgument` for its id; the shim's refusals.
    pub async fn exec(&self, cx: &Cx, id: &ContainerId, exec: ExecProcess) -> Result<()> {
        if exec.exec_id.is_empty() {
            return Err(Error::invalid_argument("exec id cannot be empty"));
        }
        let task = self.inner.task(cx, id).await?;
        let checked = ExecId::new(exec.exec_id.clone());
        checked.map_err(|error| error.context(format!("invalid exec id {}", exec.exec_id)))?;
        let request = wire::ExecProcessRequest {
            id: task.id().to_owned(),
            exec_id: exec.exec_id,
            terminal: exec.stdio.terminal,
            stdin: exec.stdio.stdin,
            stdout: exec.stdio.stdout,
            stderr: exec.stdio.stderr,
            spec: exec.spec.map(to_any),
        };
        let dead = || Error::unknown("cannot exec in a stopped state");
        self.ask(cx, &task, "Exec", &request, dead).await
    }

    /// Sets the size of a process's terminal, in characters.
    ///
    /// # Errors
    /// `NotFound`; the shim's refusals.
    pub async fn resize(
        &self,
        cx: &Cx,
        id: &ContainerId,
        exec: Option<&ExecId>,
        width: u32,
        height: u32,
    ) -> Result<()> {
        let task = self.inner.task(cx, id).await?;
        let exec_id = exec_text(exec).to_owned();
        let request = wire::ResizePtyRequest { id: task.id().to_owned(), exec_id, width, height };
        let dead = || Error::unknown("cannot resize a stopped container");
        self.ask(cx, &task, "ResizePty", &request, dead).await
    }

    /// Closes the shim's own end of a process's standard input.
    ///
    /// # Errors
    /// `NotFound`; the shim's refusals.
    pub async fn close_stdin(
        &self,
        cx: &Cx,
        id: &ContainerId,
        exec: Option<&ExecId>,
    ) -> Result<()> {
        let task = self.inner.task(cx, id).await?;
        if task.is_gone() {
            return Ok(());
        }
        let exec_id = exec_text(exec).to_owned();
        let request = wire::CloseIoRequest { id: task.id().to_owned(), exec_id, stdin: true };
        let dead = || Error::not_found("process already finished");
        self.ask(cx, &task, "CloseIO", &request, dead).await
    }

    /// Freezes the task.
    ///
    /// # Errors
    /// `NotFound`; the shim's refusals.
    pub async fn pause(&self, cx: &Cx, id: &ContainerId) -> Result<()> {
        let task = self.inner.task(cx, id).await?;
        let request = wire::PauseRequest { id: task.id().to_owned() };
        let dead = || Error::unknown("cannot pause a stopped container");
        self.ask::<_, ()>(cx, &task, "Pause", &request, dead).await?;
        self.inner.record_status(&task, Status::Paused, 0).await;
        Ok(())
    }

    /// Lets a frozen task go on.
    ///
    /// # Errors
    /// `NotFound`; the shim's refusals.
    pub async fn resume(&self, cx: &Cx, id: &ContainerId) -> Result<()> {
        let task = self.inner.task(cx, id).await?;
        let request = wire::ResumeRequest { id: task.id().to_owned() };
        let dead = || Error::unknown("cannot resume a stopped container");
        self.ask::<_, ()>(cx, &task, "Resume", &request, dead).await?;
        self.inner.record_status(&task, Status::Running, 0).await;
        Ok(())
    }

    /// The processes of the task, by their numbers on the host.
    ///
    /// # Errors
    /// `NotFound`; the shim's refusals.
    pub async fn pids(&self, cx: &Cx, id: &ContainerId) -> Result<Vec<ProcessInfo>> {
        let task = self.inner.task(cx, id).await?;
        if task.is_gone() {
            return Ok(Vec::new());
        }
        let request = wire::PidsRequest { id: task.id().to_owned() };
        let dead = || Error::not_found("process already finished");
        let answer: wire::PidsResponse = self.ask(cx, &task, "Pids", &request, dead).await?;
        Ok(answer.processes)
    }

    /// Changes the resources of the task.
    ///
    /// # Errors
    /// `NotFound`; the shim's refusals.
    pub async fn update(
        &self,
        cx: &Cx,
        id: &ContainerId,
        resources: Option<TypedAny>,
        annotations: std::collections::HashMap<String, String>,
    ) -> Result<()> {
        let task = self.inner.task(cx, id).await?;
        let resources = resources.map(to_any);
        let request = wire::UpdateTaskRequest { id: task.id().to_owned(), resources, annotations };
        let dead = || Error::unknown("cannot update a stopped container");
        self.ask(cx, &task, "Update", &request, dead).await
    }

    /// Saves the state of a task.
    ///
    /// # Errors
    /// Always: `NotFound`, or `NotImplemented`.
    pub async fn checkpoint(&self, cx: &Cx, id: &ContainerId) -> Result<()> {
        self.inner.task(cx, id).await?;
        Err(Error::not_implemented("checkpointing a task"))
    }

    /// The figures of the namespace's tasks that match; one that cannot be asked is left out.
    ///
    /// # Errors
    /// None at present.
    pub async fn metrics(&self, cx: &Cx, filters: &Filters) -> Result<Vec<Metric>> {
        let tasks = self.inner.all();
        let wanted = tasks
            .iter()
            .filter(|task| task.name.namespace == *cx.namespace() && filters.matches(&Shown(task)));
        let asked = wanted.map(async |task| {
            let collected_at = self.inner.metadata.clock().now();
            let bound = self.inner.config.timeouts.state;
            let client = task.client(cx, bound).await.ok()??;
            let request = wire::StatsRequest { id: task.id().to_owned() };
            match client.call::<_, wire::StatsResponse>("Stats", &request, Some(bound)).await {
                Ok(answer) => Some(Metric {
                    id: task.id().to_owned(),
                    collected_at,
                    data: answer
                        .stats
                        .map(|any| TypedAny { type_url: any.type_url, value: any.value }),
                }),
                Err(error) => {
                    tracing::debug!(id = task.id(), error = error.message(), "no figures");
                    None
                }
            }
        });
        Ok(join_all(asked).await.into_iter().flatten().collect())
    }
}

/// A task as filters see it.
struct Shown<'a>(&'a Task);

impl Fields for Shown<'_> {
    fn field(&self, path: &[String]) -> Option<String> {
        match path.first().map(String::as_str) {
            Some("id") => Some(self.0.id().to_owned()),
            Some("namespace") => Some(self.0.name.namespace.as_str().to_owned()),
            _ => None,
        }
    }
}

fn to_any(typed: TypedAny) -> prost_types::Any {
    prost_types::Any { type_url: typed.type_url, value: typed.value }
}
