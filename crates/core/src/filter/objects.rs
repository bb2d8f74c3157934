//! The fields of each record that filters may name: containerd's, no more and no fewer.

use std::collections::BTreeMap;

use super::Fields;
use crate::content::{Info, Status};
use crate::labels::Labels;
use crate::model::{Container, Envelope, Image, Lease, Sandbox};
use crate::snapshot::{SnapshotInfo, SnapshotKind};

/// The path's elements as text, to match them as one pattern.
fn split(path: &[String]) -> Option<(&str, &[String])> {
    path.split_first().map(|(first, rest)| (first.as_str(), rest))
}

fn present(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

fn label(labels: &Labels, key: &[String]) -> Option<String> {
    labels.get(&key.join(".")).map(str::to_owned)
}

fn entry(map: &BTreeMap<String, String>, key: &[String]) -> Option<String> {
    map.get(&key.join(".")).cloned()
}

impl Fields for Container {
    fn field(&self, path: &[String]) -> Option<String> {
        match split(path)? {
            ("id", _) => present(self.id.as_str()),
            ("runtime", [name, ..]) if name == "name" => present(&self.runtime.name),
            ("image", _) => present(&self.image),
            ("labels", key) => label(&self.labels, key),
            _ => None,
        }
    }
}

impl Fields for Image {
    fn field(&self, path: &[String]) -> Option<String> {
        match split(path)? {
            ("name", _) => present(self.name.as_str()),
            ("target", [field, ..]) if field == "digest" => present(self.target.digest.as_str()),
            ("target", [field, ..]) if field == "mediatype" => present(&self.target.media_type),
            ("labels", key) => label(&self.labels, key),
            ("annotations", key) => entry(&self.target.annotations, key),
            _ => None,
        }
    }
}

impl Fields for Info {
    fn field(&self, path: &[String]) -> Option<String> {
        match split(path)? {
            ("digest", _) => present(self.digest.as_str()),
            ("labels", key) => label(&self.labels, key),
            _ => None,
        }
    }
}

impl Fields for Status {
    fn field(&self, path: &[String]) -> Option<String> {
        match split(path)? {
            ("ref", _) => present(self.reference.as_str()),
            _ => None,
        }
    }
}

impl Fields for SnapshotInfo {
    fn field(&self, path: &[String]) -> Option<String> {
        match split(path)? {
            ("kind", _) => present(match self.kind {
                SnapshotKind::Active => "active",
                SnapshotKind::View => "view",
                SnapshotKind::Committed => "committed",
            }),
            ("name", _) => present(self.name.as_str()),
            // Present even when there is none: `parent==""` finds the bottom layers.
            ("parent", _) => {
                Some(self.parent.as_ref().map(|p| p.as_str().to_owned()).unwrap_or_default())
            }
            ("labels", key) => label(&self.labels, key),
            _ => None,
        }
    }
}

impl Fields for Lease {
    fn field(&self, path: &[String]) -> Option<String> {
        match split(path)? {
            ("id", _) => present(self.id.as_str()),
            ("labels", key) => label(&self.labels, key),
            _ => None,
        }
    }
}

impl Fields for Sandbox {
    fn field(&self, path: &[String]) -> Option<String> {
        match split(path)? {
            ("id", _) => present(self.id.as_str()),
            ("labels", key) => label(&self.labels, key),
            _ => None,
        }
    }
}

/// Without `event.*`: the payload is protobuf, which this crate does not know.
impl Fields for Envelope {
    fn field(&self, path: &[String]) -> Option<String> {
        match split(path)? {
            ("namespace", _) => present(self.namespace.as_str()),
            ("topic", _) => present(&self.topic),
            _ => None,
        }
    }
}
