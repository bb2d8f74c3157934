//! `gantry.shim.v1.Shim`: what a gantry daemon asks beyond containerd's API.

use std::rc::Rc;

use gantry_api::gantry::shim::v1::{
    AckExitsRequest, ContainerStatus, PendingExit, StatusRequest, StatusResponse,
};
use gantry_ttrpc::message::{Request, Status};
use gantry_ttrpc::server;

use super::{Shim, decode, encode};
use crate::log;
use crate::wire;

pub(super) fn dispatch(shim: &Rc<Shim>, request: &Request) -> Result<Vec<u8>, Status> {
    match request.method.as_str() {
        "Status" => {
            decode::<StatusRequest>(request)?;
            encode(Ok(status(shim)))
        }
        "AckExits" => {
            ack(shim, &decode(request)?);
            encode(Ok(()))
        }
        other => Err(server::unknown_method(other)),
    }
}

fn status(shim: &Shim) -> StatusResponse {
    let containers = shim.containers.borrow();
    let pending = |exit: &gantry_shim_state::Exit| PendingExit {
        seq: exit.seq,
        exec_id: exit.exec_id.clone(),
        pid: exit.pid,
        start_time: exit.start_time,
        exit_status: exit.status,
        exited_at: Some(wire::timestamp(wire::from_file_time(exit.exited_at))),
    };
    let container = |container: &Rc<crate::task::container::Container>| ContainerStatus {
        id: container.id.clone(),
        bundle: container.bundle.display().to_string(),
        pending_exits: container.journal().borrow().pending().iter().map(pending).collect(),
    };
    StatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: shim.pid,
        containers: containers.values().map(container).collect(),
        queued_events: shim.publisher.queued() as u64,
    }
}

fn ack(shim: &Shim, request: &AckExitsRequest) {
    if let Some(container) = shim.containers.borrow().get(&request.container_id) {
        for seq in &request.seqs {
            if let Err(error) = container.journal().borrow_mut().acknowledge(*seq) {
                log::warn!(&request.container_id, "exit {seq} stays in the journal: {error}");
            }
        }
    }
    shim.publisher.settle(&request.container_id, &request.seqs);
}
