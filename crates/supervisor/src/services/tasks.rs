//! `containerd.services.tasks.v1`: the live side of containers.

use std::sync::Arc;

use gantry_api::containerd::services::tasks::v1 as wire;
use gantry_api::containerd::services::tasks::v1::tasks_server::Tasks;
use tonic::{Request, Response, Status, async_trait};

use crate::convert::{self, task};
use crate::rpc;

/// The service.
#[derive(Clone, Debug)]
pub struct TasksService {
    tasks: Arc<gantry_plugin_runtime::Tasks>,
}

impl TasksService {
    /// The service over the task manager.
    pub fn new(tasks: Arc<gantry_plugin_runtime::Tasks>) -> Self {
        Self { tasks }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[async_trait]
impl Tasks for TasksService {
    async fn create(
        &self,
        request: Request<wire::CreateTaskRequest>,
    ) -> Answer<wire::CreateTaskResponse> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.container_id);
            let container_id = message.container_id.clone();
            let id = task::existing(&cx, &container_id)?;
            let pid = self.tasks.create(&cx, &id, task::create_from_wire(message)).await?;
            Ok(wire::CreateTaskResponse { container_id, pid })
        })
        .await
    }

    async fn start(&self, request: Request<wire::StartRequest>) -> Answer<wire::StartResponse> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.container_id);
            let id = task::existing(&cx, &message.container_id)?;
            let exec = task::existing_exec(&message.exec_id)?;
            let pid = self.tasks.start(&cx, &id, exec.as_ref()).await?;
            Ok(wire::StartResponse { pid })
        })
        .await
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteTaskRequest>,
    ) -> Answer<wire::DeleteResponse> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.container_id);
            let id = task::existing(&cx, &message.container_id)?;
            let deleted = self.tasks.delete(&cx, &id).await?;
            Ok(task::deleted_to_wire(String::new(), deleted))
        })
        .await
    }

    async fn delete_process(
        &self,
        request: Request<wire::DeleteProcessRequest>,
    ) -> Answer<wire::DeleteResponse> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.container_id);
            let id = task::existing(&cx, &message.container_id)?;
            match task::existing_exec(&message.exec_id)? {
                Some(exec) => {
                    let deleted = self.tasks.delete_exec(&cx, &id, &exec).await?;
                    Ok(task::deleted_to_wire(message.exec_id, deleted))
                }
                None => Err(gantry_core::Error::invalid_argument("exec id cannot be empty")),
            }
        })
        .await
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Answer<wire::GetResponse> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.container_id);
            let id = task::existing(&cx, &message.container_id)?;
            let exec = task::existing_exec(&message.exec_id)?;
            let process = self.tasks.get(&cx, &id, exec.as_ref()).await?;
            Ok(wire::GetResponse { process: Some(task::process_to_wire(process)) })
        })
        .await
    }

    async fn list(
        &self,
        request: Request<wire::ListTasksRequest>,
    ) -> Answer<wire::ListTasksResponse> {
        // The filter of the request means nothing in containerd either.
        rpc::namespaced(request, async |cx, _| {
            let found = self.tasks.list(&cx).await?;
            let tasks = found.into_iter().map(task::process_to_wire).collect();
            Ok(wire::ListTasksResponse { tasks })
        })
        .await
    }

    async fn kill(&self, request: Request<wire::KillRequest>) -> Answer<()> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.container_id);
            let id = task::existing(&cx, &message.container_id)?;
            let exec = task::existing_exec(&message.exec_id)?;
            self.tasks.kill(&cx, &id, exec.as_ref(), message.signal, message.all).await
        })
        .await
    }

    async fn exec(&self, request: Request<wire::ExecProcessRequest>) -> Answer<()> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.container_id);
            let id = task::existing(&cx, &message.container_id)?;
            self.tasks.exec(&cx, &id, task::exec_from_wire(message)).await
        })
        .await
    }

    async fn resize_pty(&self, request: Request<wire::ResizePtyRequest>) -> Answer<()> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.container_id);
            let id = task::existing(&cx, &message.container_id)?;
            let exec = task::existing_exec(&message.exec_id)?;
            self.tasks.resize(&cx, &id, exec.as_ref(), message.width, message.height).await
        })
        .await
    }

    async fn close_io(&self, request: Request<wire::CloseIoRequest>) -> Answer<()> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.container_id);
            let id = task::existing(&cx, &message.container_id)?;
            let exec = task::existing_exec(&message.exec_id)?;
            if message.stdin {
                return self.tasks.close_stdin(&cx, &id, exec.as_ref()).await;
            }
            // Nothing to close, but it must exist.
            self.tasks.get(&cx, &id, exec.as_ref()).await.map(|_| ())
        })
        .await
    }

    async fn pause(&self, request: Request<wire::PauseTaskRequest>) -> Answer<()> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.container_id);
            self.tasks.pause(&cx, &task::existing(&cx, &message.container_id)?).await
        })
        .await
    }

    async fn resume(&self, request: Request<wire::ResumeTaskRequest>) -> Answer<()> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.container_id);
            self.tasks.resume(&cx, &task::existing(&cx, &message.container_id)?).await
        })
        .await
    }

    async fn list_pids(
        &self,
        request: Request<wire::ListPidsRequest>,
    ) -> Answer<wire::ListPidsResponse> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.container_id);
            let id = task::existing(&cx, &message.container_id)?;
            Ok(wire::ListPidsResponse { processes: self.tasks.pids(&cx, &id).await? })
        })
        .await
    }

    async fn checkpoint(
        &self,
        request: Request<wire::CheckpointTaskRequest>,
    ) -> Answer<wire::CheckpointTaskResponse> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.container_id);
            let id = task::existing(&cx, &message.container_id)?;
            self.tasks.checkpoint(&cx, &id).await?;
            Ok(wire::CheckpointTaskResponse::default())
        })
        .await
    }

    async fn update(&self, request: Request<wire::UpdateTaskRequest>) -> Answer<()> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.container_id);
            let id = task::existing(&cx, &message.container_id)?;
            let resources = message.resources.map(convert::typed);
            self.tasks.update(&cx, &id, resources, message.annotations).await
        })
        .await
    }

    async fn metrics(
        &self,
        request: Request<wire::MetricsRequest>,
    ) -> Answer<wire::MetricsResponse> {
        rpc::namespaced(request, async |cx, message| {
            let filters = convert::filters(&message.filters)?;
            let found = self.tasks.metrics(&cx, &filters).await?;
            let metrics = found.into_iter().map(task::metric_to_wire).collect();
            Ok(wire::MetricsResponse { metrics })
        })
        .await
    }

    async fn wait(&self, request: Request<wire::WaitRequest>) -> Answer<wire::WaitResponse> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.container_id);
            let id = task::existing(&cx, &message.container_id)?;
            let exec = task::existing_exec(&message.exec_id)?;
            let ended = self.tasks.wait(&cx, &id, exec.as_ref()).await?;
            let exited_at = convert::time(ended.exited_at);
            Ok(wire::WaitResponse { exit_status: ended.status, exited_at })
        })
        .await
    }
}
