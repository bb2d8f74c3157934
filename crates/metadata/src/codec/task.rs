//! The record of a task.

use gantry_api::gantry::store::v1 as wire;
use gantry_core::task::{Exit, RecordedExit, Status, TaskState};
use gantry_core::{Error, Result};

use super::{Stored, from_time, to_time};
use crate::stores::{Shim, Stdio, Task};

impl Stored for Task {
    type Message = wire::TaskRecord;
    type Name = ();
    fn to_message(&self) -> Self::Message {
        let state = &self.state;
        wire::TaskRecord {
            bundle: self.bundle.clone(),
            shim: Some(wire::ShimRecord {
                binary: self.shim.binary.clone(),
                address: self.shim.address.clone(),
                protocol: self.shim.protocol.clone(),
                api_version: self.shim.api_version,
                pid: self.shim.pid,
                start_time: self.shim.start_time,
                gantry: self.shim.gantry,
            }),
            boot_id: self.boot_id.to_vec(),
            stdin: self.stdio.stdin.clone(),
            stdout: self.stdio.stdout.clone(),
            stderr: self.stdio.stderr.clone(),
            terminal: self.stdio.terminal,
            created_at: Some(to_time(self.created_at)),
            status: state.status as u32,
            pid: state.pid,
            start_time: state.start_time,
            exit: state.exit.as_ref().map(to_exit),
            exec_exits: state.exec_exits.iter().map(to_exit).collect(),
        }
    }
    fn from_message((): (), message: Self::Message) -> Result<Self> {
        let shim = message.shim.unwrap_or_default();
        let boot_id = message.boot_id.try_into();
        Ok(Self {
            bundle: message.bundle,
            shim: Shim {
                binary: shim.binary,
                address: shim.address,
                protocol: shim.protocol,
                api_version: shim.api_version,
                pid: shim.pid,
                start_time: shim.start_time,
                gantry: shim.gantry,
            },
            boot_id: boot_id.map_err(|_| Error::data_loss("stored task: boot id"))?,
            stdio: Stdio {
                stdin: message.stdin,
                stdout: message.stdout,
                stderr: message.stderr,
                terminal: message.terminal,
            },
            created_at: from_time(message.created_at),
            state: TaskState {
                status: Status::from_number(message.status),
                pid: message.pid,
                start_time: message.start_time,
                exit: message.exit.map(from_exit),
                exec_exits: message.exec_exits.into_iter().map(from_exit).collect(),
            },
        })
    }
}

fn to_exit(told: &RecordedExit) -> wire::ExitRecord {
    let exit = &told.exit;
    wire::ExitRecord {
        exec_id: exit.exec_id.clone(),
        pid: exit.pid,
        start_time: exit.start_time,
        status: exit.status,
        exited_at: Some(to_time(exit.exited_at)),
        reason: exit.reason.clone(),
        sequence: told.sequence,
    }
}

fn from_exit(record: wire::ExitRecord) -> RecordedExit {
    RecordedExit {
        exit: Exit {
            exec_id: record.exec_id,
            pid: record.pid,
            start_time: record.start_time,
            status: record.status,
            exited_at: from_time(record.exited_at),
            reason: record.reason,
        },
        sequence: record.sequence,
    }
}
