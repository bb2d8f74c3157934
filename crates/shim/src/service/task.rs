//! The task service, versions 2 and 3: decode, call, encode.

use std::rc::Rc;

use gantry_api::containerd::runc::v1::ProcessDetails;
use gantry_api::containerd::task::v2::{
    CheckpointTaskRequest, CloseIoRequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use gantry_api::containerd::v1::types::{ProcessInfo, Status as WireStatus};
use gantry_core::{Error, Kind, Result, Timestamp};
use gantry_ttrpc::message::{Request, Status, metadata};
use gantry_ttrpc::server;
use tokio::time::Instant;

use super::{LONG, SHORT, Shim, decode, encode, until};
use crate::io::Stdio;
use crate::task::create;
use crate::task::machine::{Exit, Status as TaskStatus, Who};
use crate::wire;

/// The metadata key under which daemons name the namespace.
const NAMESPACE: &str = "containerd-namespace-ttrpc";

pub(super) async fn dispatch(
    shim: &Rc<Shim>,
    request: &Request,
    deadline: Option<Instant>,
) -> Result<Vec<u8>, Status> {
    let long = || until(deadline, LONG);
    let short = || until(deadline, SHORT);
    match request.method.as_str() {
        "State" => encode(state(shim, &decode(request)?)),
        "Create" => {
            let namespace = metadata(request, NAMESPACE);
            encode(create(shim, namespace, decode(request)?, long()).await)
        }
        "Start" => encode(start(shim, decode(request)?, long()).await),
        "Delete" => encode(delete(shim, decode(request)?, short()).await),
        "Pids" => encode(pids(shim, &decode(request)?)),
        "Pause" => {
            let PauseRequest { id } = decode(request)?;
            encode(on(shim, &id, async |c| c.pause(short()).await).await)
        }
        "Resume" => {
            let ResumeRequest { id } = decode(request)?;
            encode(on(shim, &id, async |c| c.resume(short()).await).await)
        }
        "Checkpoint" => {
            let CheckpointTaskRequest { id, .. } = decode(request)?;
            encode(on(shim, &id, async |c| c.checkpoint()).await)
        }
        "Kill" => {
            let KillRequest { id, exec_id, signal, all } = decode(request)?;
            let who = Who::from_exec_id(&exec_id);
            encode(on(shim, &id, async |c| c.kill(&who, signal, all, short()).await).await)
        }
        "Exec" => encode(exec(shim, decode(request)?)),
        "ResizePty" => {
            let ResizePtyRequest { id, exec_id, width, height } = decode(request)?;
            let who = Who::from_exec_id(&exec_id);
            encode(on(shim, &id, async |c| c.resize(&who, width, height)).await)
        }
        "CloseIO" => {
            let CloseIoRequest { id, exec_id, .. } = decode(request)?;
            let who = Who::from_exec_id(&exec_id);
            encode(on(shim, &id, async |c| c.close_stdin(&who)).await)
        }
        "Update" => {
            let UpdateTaskRequest { id, resources, .. } = decode(request)?;
            encode(on(shim, &id, async |c| c.update(resources.as_ref(), short()).await).await)
        }
        "Wait" => encode(wait(shim, decode(request)?).await),
        "Stats" => {
            let StatsRequest { id } = decode(request)?;
            let stats = on(shim, &id, async |c| c.stats()).await;
            encode(stats.map(|stats| StatsResponse { stats: Some(stats) }))
        }
        "Connect" => encode(Ok(connect(shim, &decode(request)?))),
        "Shutdown" => {
            decode::<ShutdownRequest>(request)?;
            if shim.is_empty() {
                shim.stop();
            }
            encode(Ok(()))
        }
        other => Err(server::unknown_method(other)),
    }
}

async fn on<T>(
    shim: &Rc<Shim>,
    id: &str,
    verb: impl AsyncFnOnce(Rc<crate::task::container::Container>) -> Result<T>,
) -> Result<T> {
    verb(shim.container(id)?).await
}

async fn create(
    shim: &Rc<Shim>,
    namespace: Option<&str>,
    request: CreateTaskRequest,
    until: Instant,
) -> Result<CreateTaskResponse> {
    // Daemons up to 1.6 name none: the shim serves one only.
    if let Some(other) = namespace.filter(|namespace| *namespace != shim.namespace) {
        let text = format!("namespace {other:?} at the shim of namespace {:?}", shim.namespace);
        return Err(Error::invalid_argument(text));
    }
    if shim.is_stopping() {
        return Err(Error::new(Kind::Unavailable, "the shim is about to end: start another"));
    }
    let id = request.id.clone();
    if shim.containers.borrow().contains_key(&id) || !shim.creating.borrow_mut().insert(id.clone())
    {
        return Err(Error::already_exists(format!("container {id}")));
    }
    let made = create::create(shim, request, until).await;
    shim.creating.borrow_mut().remove(&id);
    let container = made?;
    let pid = container.process(&Who::Init)?.pid();
    shim.had_container.set(true);
    shim.containers.borrow_mut().insert(id, container);
    Ok(CreateTaskResponse { pid })
}

async fn start(shim: &Rc<Shim>, request: StartRequest, until: Instant) -> Result<StartResponse> {
    let who = Who::from_exec_id(&request.exec_id);
    let pid = shim.container(&request.id)?.start(&who, until).await?;
    Ok(StartResponse { pid })
}

async fn delete(shim: &Rc<Shim>, request: DeleteRequest, until: Instant) -> Result<DeleteResponse> {
    let container = shim.container(&request.id)?;
    let (pid, exit) = if request.exec_id.is_empty() {
        let deleted = container.delete(until).await?;
        // By identity: a container of the same name may have been made meanwhile, in theory.
        let mut containers = shim.containers.borrow_mut();
        if containers.get(&request.id).is_some_and(|known| Rc::ptr_eq(known, &container)) {
            containers.remove(&request.id);
        }
        deleted
    } else {
        container.delete_exec(&request.exec_id).await?
    };
    Ok(DeleteResponse { pid, exit_status: status_of(exit), exited_at: Some(time_of(exit)) })
}

fn status_of(exit: Option<Exit>) -> u32 {
    exit.map_or(0, |exit| exit.status)
}

/// Go's zero time for what has not ended: an absent field would read as 1970.
fn time_of(exit: Option<Exit>) -> prost_types::Timestamp {
    wire::timestamp(exit.map_or(Timestamp::UNSET, |exit| exit.at))
}

fn state(shim: &Rc<Shim>, request: &StateRequest) -> Result<StateResponse> {
    let container = shim.container(&request.id)?;
    let who = Who::from_exec_id(&request.exec_id);
    let process = container.process(&who)?;
    let status = match container.status(&who)? {
        TaskStatus::Created => WireStatus::Created,
        TaskStatus::Running => WireStatus::Running,
        TaskStatus::Stopped => WireStatus::Stopped,
        TaskStatus::Paused => WireStatus::Paused,
        TaskStatus::Pausing => WireStatus::Pausing,
    };
    let exit = container.exit(&who);
    Ok(StateResponse {
        id: if request.exec_id.is_empty() { container.id.clone() } else { request.exec_id.clone() },
        bundle: container.bundle.display().to_string(),
        pid: process.pid(),
        status: status as i32,
        stdin: process.stdio.stdin.clone(),
        stdout: process.stdio.stdout.clone(),
        stderr: process.stdio.stderr.clone(),
        terminal: process.stdio.terminal,
        exit_status: status_of(exit),
        exited_at: Some(time_of(exit)),
        exec_id: String::new(),
    })
}

fn exec(shim: &Rc<Shim>, request: ExecProcessRequest) -> Result<()> {
    let container = shim.container(&request.id)?;
    let stdio = Stdio {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        terminal: request.terminal,
    };
    container.add_exec(&request.exec_id, stdio, request.spec.as_ref())
}

fn pids(shim: &Rc<Shim>, request: &PidsRequest) -> Result<PidsResponse> {
    let container = shim.container(&request.id)?;
    let info = |(pid, exec_id): (u32, Option<String>)| ProcessInfo {
        pid,
        info: exec_id.map(|exec_id| wire::any(&ProcessDetails { exec_id })),
    };
    Ok(PidsResponse { processes: container.pids().into_iter().map(info).collect() })
}

async fn wait(shim: &Rc<Shim>, request: WaitRequest) -> Result<WaitResponse> {
    let container = shim.container(&request.id)?;
    let exit = container.wait(&Who::from_exec_id(&request.exec_id)).await?;
    Ok(WaitResponse { exit_status: status_of(exit), exited_at: Some(time_of(exit)) })
}

fn connect(shim: &Rc<Shim>, request: &ConnectRequest) -> ConnectResponse {
    let init = shim.container(&request.id).and_then(|container| container.process(&Who::Init));
    ConnectResponse {
        shim_pid: shim.pid,
        task_pid: init.map_or(0, |process| process.pid()),
        version: String::new(),
    }
}
