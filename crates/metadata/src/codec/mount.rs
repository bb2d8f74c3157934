//! The records of activated mounts.

use gantry_api::gantry::store::v1 as wire;
use gantry_core::snapshot::Mount;
use gantry_core::{Error, Labels, LeaseId, MountName, Result};

use super::records::to_map;
use super::{Stored, from_time, to_time};
use crate::stores::{Activation, ActivationState, ActiveMount};

const ACTIVATING: u32 = 1;
const ACTIVE: u32 = 2;

impl Stored for Activation {
    type Message = wire::MountRecord;
    type Name = MountName;
    fn to_message(&self) -> Self::Message {
        wire::MountRecord {
            number: self.number,
            state: match self.state {
                ActivationState::Activating => ACTIVATING,
                ActivationState::Active => ACTIVE,
            },
            boot_id: self.boot_id.to_vec(),
            lease: self.lease.as_ref().map_or_else(String::new, |l| l.as_str().to_owned()),
            labels: to_map(&self.labels),
            created_at: Some(to_time(self.created_at)),
            updated_at: Some(to_time(self.updated_at)),
            active: self.active.iter().map(to_active).collect(),
            system: self.system.iter().map(to_instruction).collect(),
        }
    }
    fn from_message(name: MountName, message: Self::Message) -> Result<Self> {
        let damaged = |what: &str| Error::data_loss(format!("stored mount {name:?}: {what}"));
        Ok(Self {
            number: message.number,
            state: match message.state {
                ACTIVATING => ActivationState::Activating,
                ACTIVE => ActivationState::Active,
                _ => return Err(damaged("state")),
            },
            boot_id: message.boot_id.try_into().map_err(|_| damaged("boot id"))?,
            lease: match message.lease.as_str() {
                "" => None,
                lease => Some(LeaseId::new(lease)?),
            },
            labels: Labels::unchecked(message.labels),
            created_at: from_time(message.created_at),
            updated_at: from_time(message.updated_at),
            active: message.active.into_iter().map(from_active).collect(),
            system: message.system.into_iter().map(from_instruction).collect(),
            name,
        })
    }
}

fn to_active(active: &ActiveMount) -> wire::ActiveMountRecord {
    wire::ActiveMountRecord {
        mount: Some(to_instruction(&active.mount)),
        mounted_at: Some(to_time(active.mounted_at)),
        mount_point: active.mount_point.clone(),
    }
}

fn from_active(record: wire::ActiveMountRecord) -> ActiveMount {
    ActiveMount {
        mount: from_instruction(record.mount.unwrap_or_default()),
        mounted_at: from_time(record.mounted_at),
        mount_point: record.mount_point,
    }
}

fn to_instruction(mount: &Mount) -> wire::MountInstruction {
    wire::MountInstruction {
        r#type: mount.kind.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

fn from_instruction(record: wire::MountInstruction) -> Mount {
    Mount {
        kind: record.r#type,
        source: record.source,
        target: record.target,
        options: record.options,
    }
}
