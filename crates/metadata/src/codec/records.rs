//! The records of namespaces, containers, images, leases, sandboxes and snapshots.

use std::collections::{BTreeMap, HashMap};

use gantry_api::gantry::store::v1 as wire;
use gantry_core::model::{
    Container, Descriptor, Image, Lease, NamespaceInfo, RuntimeInfo, Sandbox, TypedAny,
};
use gantry_core::snapshot::{SnapshotId, SnapshotKind, Usage};
use gantry_core::{
    ContainerId, Digest, Error, ImageName, Labels, LeaseId, Namespace, Result, SandboxId,
    SnapshotKey, Timestamp,
};

use super::Stored;
use crate::stores::SnapshotEntry;

pub(crate) fn to_time(time: Timestamp) -> wire::Time {
    wire::Time { seconds: time.seconds, nanos: time.nanos }
}

pub(crate) fn from_time(time: Option<wire::Time>) -> Timestamp {
    time.map_or(Timestamp::UNSET, |t| Timestamp { seconds: t.seconds, nanos: t.nanos })
}

pub(super) fn to_map(labels: &Labels) -> HashMap<String, String> {
    labels.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn to_value(any: &TypedAny) -> wire::TypedValue {
    wire::TypedValue { type_url: any.type_url.clone(), value: any.value.clone() }
}

fn from_value(value: wire::TypedValue) -> TypedAny {
    TypedAny { type_url: value.type_url, value: value.value }
}

fn to_values(map: &BTreeMap<String, TypedAny>) -> HashMap<String, wire::TypedValue> {
    map.iter().map(|(k, v)| (k.clone(), to_value(v))).collect()
}

fn from_values(map: HashMap<String, wire::TypedValue>) -> BTreeMap<String, TypedAny> {
    map.into_iter().map(|(k, v)| (k, from_value(v))).collect()
}

pub(super) fn stored_digest(text: String) -> Result<Digest> {
    Digest::parse(text).map_err(|e| Error::data_loss(format!("stored digest: {}", e.message())))
}

impl Stored for NamespaceInfo {
    type Message = wire::NamespaceRecord;
    type Name = Namespace;
    fn to_message(&self) -> Self::Message {
        wire::NamespaceRecord { labels: to_map(&self.labels) }
    }
    fn from_message(name: Namespace, message: Self::Message) -> Result<Self> {
        Ok(Self { name, labels: Labels::unchecked(message.labels) })
    }
}

impl Stored for Container {
    type Message = wire::ContainerRecord;
    type Name = ContainerId;
    fn to_message(&self) -> Self::Message {
        wire::ContainerRecord {
            labels: to_map(&self.labels),
            image: self.image.clone(),
            runtime_name: self.runtime.name.clone(),
            runtime_options: self.runtime.options.as_ref().map(to_value),
            spec: self.spec.as_ref().map(to_value),
            snapshotter: self.snapshotter.clone(),
            snapshot_key: self.snapshot_key.clone(),
            created_at: Some(to_time(self.created_at)),
            updated_at: Some(to_time(self.updated_at)),
            extensions: to_values(&self.extensions),
            sandbox: self.sandbox.clone(),
        }
    }
    fn from_message(id: ContainerId, message: Self::Message) -> Result<Self> {
        Ok(Self {
            id,
            labels: Labels::unchecked(message.labels),
            image: message.image,
            runtime: RuntimeInfo {
                name: message.runtime_name,
                options: message.runtime_options.map(from_value),
            },
            spec: message.spec.map(from_value),
            snapshotter: message.snapshotter,
            snapshot_key: message.snapshot_key,
            created_at: from_time(message.created_at),
            updated_at: from_time(message.updated_at),
            extensions: from_values(message.extensions),
            sandbox: message.sandbox,
        })
    }
}

impl Stored for Image {
    type Message = wire::ImageRecord;
    type Name = ImageName;
    fn to_message(&self) -> Self::Message {
        wire::ImageRecord {
            labels: to_map(&self.labels),
            media_type: self.target.media_type.clone(),
            digest: self.target.digest.as_str().to_owned(),
            size: self.target.size,
            annotations: self.target.annotations.clone().into_iter().collect(),
            created_at: Some(to_time(self.created_at)),
            updated_at: Some(to_time(self.updated_at)),
        }
    }
    fn from_message(name: ImageName, message: Self::Message) -> Result<Self> {
        Ok(Self {
            name,
            labels: Labels::unchecked(message.labels),
            target: Descriptor {
                media_type: message.media_type,
                digest: stored_digest(message.digest)?,
                size: message.size,
                annotations: message.annotations.into_iter().collect(),
            },
            created_at: from_time(message.created_at),
            updated_at: from_time(message.updated_at),
        })
    }
}

impl Stored for Lease {
    type Message = wire::LeaseRecord;
    type Name = LeaseId;
    fn to_message(&self) -> Self::Message {
        wire::LeaseRecord {
            labels: to_map(&self.labels),
            created_at: Some(to_time(self.created_at)),
        }
    }
    fn from_message(id: LeaseId, message: Self::Message) -> Result<Self> {
        Ok(Self {
            id,
            created_at: from_time(message.created_at),
            labels: Labels::unchecked(message.labels),
        })
    }
}

impl Stored for Sandbox {
    type Message = wire::SandboxRecord;
    type Name = SandboxId;
    fn to_message(&self) -> Self::Message {
        wire::SandboxRecord {
            runtime_name: self.runtime.name.clone(),
            runtime_options: self.runtime.options.as_ref().map(to_value),
            spec: self.spec.as_ref().map(to_value),
            labels: to_map(&self.labels),
            extensions: to_values(&self.extensions),
            sandboxer: self.sandboxer.clone(),
            created_at: Some(to_time(self.created_at)),
            updated_at: Some(to_time(self.updated_at)),
        }
    }
    fn from_message(id: SandboxId, message: Self::Message) -> Result<Self> {
        Ok(Self {
            id,
            runtime: RuntimeInfo {
                name: message.runtime_name,
                options: message.runtime_options.map(from_value),
            },
            spec: message.spec.map(from_value),
            labels: Labels::unchecked(message.labels),
            extensions: from_values(message.extensions),
            sandboxer: message.sandboxer,
            created_at: from_time(message.created_at),
            updated_at: from_time(message.updated_at),
        })
    }
}

impl Stored for SnapshotEntry {
    type Message = wire::SnapshotRecord;
    type Name = SnapshotKey;
    fn to_message(&self) -> Self::Message {
        use wire::snapshot_record::Kind;
        let kind = match self.info.kind {
            SnapshotKind::View => Kind::View,
            SnapshotKind::Active => Kind::Active,
            SnapshotKind::Committed => Kind::Committed,
        };
        wire::SnapshotRecord {
            id: self.id.0,
            kind: kind.into(),
            parent: self.info.parent.as_ref().map_or_else(String::new, |p| p.as_str().to_owned()),
            labels: to_map(&self.info.labels),
            created_at: Some(to_time(self.info.created_at)),
            updated_at: Some(to_time(self.info.updated_at)),
            usage_inodes: self.usage.inodes,
            usage_bytes: self.usage.size,
            backend_key: self.backend_key.clone(),
        }
    }
    fn from_message(name: SnapshotKey, message: Self::Message) -> Result<Self> {
        use wire::snapshot_record::Kind;
        let kind = match message.kind() {
            Kind::View => SnapshotKind::View,
            Kind::Active => SnapshotKind::Active,
            Kind::Committed => SnapshotKind::Committed,
            Kind::Unspecified => {
                return Err(Error::data_loss(format!("snapshot {name}: stored kind is missing")));
            }
        };
        let parent = match message.parent.as_str() {
            "" => None,
            parent => Some(SnapshotKey::new(parent)?),
        };
        Ok(Self {
            id: SnapshotId(message.id),
            info: gantry_core::snapshot::SnapshotInfo {
                kind,
                name,
                parent,
                labels: Labels::unchecked(message.labels),
                created_at: from_time(message.created_at),
                updated_at: from_time(message.updated_at),
            },
            usage: Usage { inodes: message.usage_inodes, size: message.usage_bytes },
            backend_key: message.backend_key,
        })
    }
}
