//! Tasks and their processes.

use gantry_api::containerd::services::tasks::v1 as wire;
use gantry_api::containerd::types::Metric as WireMetric;
use gantry_api::containerd::v1::types::Process as WireProcess;
use gantry_api::timestamp;
use gantry_core::{Cx, Error, ExecId, Result};
use gantry_metadata::stores::Stdio;
use gantry_plugin_runtime::{CreateTask, Deleted, ExecProcess, Metric, Process};

use super::mount;

/// The id of an exec that should exist, `None` for init: one that no exec can have is as absent as
/// any.
///
/// # Errors
/// `NotFound`.
pub fn existing_exec(id: &str) -> Result<Option<ExecId>> {
    if id.is_empty() {
        return Ok(None);
    }
    let id =
        ExecId::new(id).map_err(|_| Error::not_found(format!("process does not exist {id}")))?;
    Ok(Some(id))
}

/// The container's id that a call on a task must have.
///
/// # Errors
/// `NotFound`.
pub fn existing(cx: &Cx, id: &str) -> Result<gantry_core::ContainerId> {
    super::container::existing(cx, id)
}

/// What a client asks to be made.
pub fn create_from_wire(sent: wire::CreateTaskRequest) -> CreateTask {
    CreateTask {
        rootfs: mount::from_wire(sent.rootfs),
        stdio: Stdio {
            stdin: sent.stdin,
            stdout: sent.stdout,
            stderr: sent.stderr,
            terminal: sent.terminal,
        },
        options: sent.options.map(super::typed),
        runtime: sent.runtime_path,
        checkpoint: sent.checkpoint.is_some(),
        task_api_address: sent.task_api_address,
        task_api_version: sent.task_api_version,
    }
}

/// The exec that a client asks to be registered.
pub fn exec_from_wire(sent: wire::ExecProcessRequest) -> ExecProcess {
    ExecProcess {
        exec_id: sent.exec_id,
        stdio: Stdio {
            stdin: sent.stdin,
            stdout: sent.stdout,
            stderr: sent.stderr,
            terminal: sent.terminal,
        },
        spec: sent.spec.map(super::typed),
    }
}

/// A process as clients get it. The container's id stays empty, as in containerd.
pub fn process_to_wire(process: Process) -> WireProcess {
    let (exit_status, exited_at) = match process.ended {
        Some(ended) => (ended.status, Some(ended.exited_at)),
        None => (0, None),
    };
    WireProcess {
        container_id: String::new(),
        id: process.id,
        pid: process.pid,
        status: i32::try_from(process.status as u32).unwrap_or_default(),
        stdin: process.stdio.stdin,
        stdout: process.stdio.stdout,
        stderr: process.stdio.stderr,
        terminal: process.stdio.terminal,
        exit_status,
        exited_at: Some(exited_at.and_then(super::time).unwrap_or(timestamp::UNSET)),
    }
}

/// The figures of a task as clients get them.
pub fn metric_to_wire(metric: Metric) -> WireMetric {
    WireMetric {
        timestamp: super::time(metric.collected_at),
        id: metric.id,
        data: metric.data.map(super::any),
    }
}

/// How a deleted process had ended; `id` is empty for init.
pub fn deleted_to_wire(id: String, deleted: Deleted) -> wire::DeleteResponse {
    wire::DeleteResponse {
        id,
        pid: deleted.pid,
        exit_status: deleted.status,
        exited_at: super::time(deleted.exited_at),
    }
}
