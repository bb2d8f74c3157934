//! From the daemon's own events to envelopes: topics and payloads as containerd sends them.

use gantry_api::containerd::events as wire;
use gantry_api::containerd::services::images::v1 as image;
use gantry_core::model::{Envelope, Event, RuntimeInfo, TypedAny};
use gantry_core::{Labels, Namespace, Timestamp};
use std::collections::HashMap;

fn map(labels: Labels) -> HashMap<String, String> {
    labels.into_iter().collect()
}

fn any<M: prost::Message + prost::Name>(message: &M) -> TypedAny {
    // The bare name: Go clients compare type URLs by equality.
    TypedAny { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// The envelope that reports `event` in `namespace`.
pub(crate) fn envelope(event: Event, namespace: Namespace, timestamp: Timestamp) -> Envelope {
    let (topic, event) = match event {
        Event::NamespaceCreate { name, labels } => (
            "/namespaces/create",
            any(&wire::NamespaceCreate { name: name.into_string(), labels: map(labels) }),
        ),
        Event::NamespaceUpdate { name, labels } => (
            "/namespaces/update",
            any(&wire::NamespaceUpdate { name: name.into_string(), labels: map(labels) }),
        ),
        Event::NamespaceDelete { name } => {
            ("/namespaces/delete", any(&wire::NamespaceDelete { name: name.into_string() }))
        }
        Event::ContainerCreate { id, image, runtime } => {
            ("/containers/create", container_create(id, image, runtime))
        }
        Event::ContainerUpdate { id, image, labels, snapshot_key } => (
            "/containers/update",
            any(&wire::ContainerUpdate { id, image, labels: map(labels), snapshot_key }),
        ),
        Event::ContainerDelete { id } => ("/containers/delete", any(&wire::ContainerDelete { id })),
        Event::ImageCreate { name, labels } => {
            ("/images/create", any(&image::ImageCreate { name, labels: map(labels) }))
        }
        Event::ImageUpdate { name, labels } => {
            ("/images/update", any(&image::ImageUpdate { name, labels: map(labels) }))
        }
        Event::ImageDelete { name } => ("/images/delete", any(&image::ImageDelete { name })),
        Event::ContentCreate { digest, size } => (
            "/content/create",
            any(&wire::ContentCreate {
                digest: digest.as_str().to_owned(),
                size,
                ..Default::default()
            }),
        ),
        Event::ContentDelete { digest } => {
            ("/content/delete", any(&wire::ContentDelete { digest: digest.as_str().to_owned() }))
        }
        Event::SnapshotPrepare { key, parent, snapshotter } => {
            ("/snapshot/prepare", any(&wire::SnapshotPrepare { key, parent, snapshotter }))
        }
        Event::SnapshotCommit { key, name, snapshotter } => {
            ("/snapshot/commit", any(&wire::SnapshotCommit { key, name, snapshotter }))
        }
        Event::SnapshotRemove { key, snapshotter } => {
            ("/snapshot/remove", any(&wire::SnapshotRemove { key, snapshotter }))
        }
    };
    Envelope { timestamp, namespace, topic: topic.to_owned(), event }
}

fn container_create(id: String, image: String, runtime: RuntimeInfo) -> TypedAny {
    let options =
        runtime.options.map(|o| prost_types::Any { type_url: o.type_url, value: o.value });
    any(&wire::ContainerCreate {
        id,
        image,
        runtime: Some(wire::container_create::Runtime { name: runtime.name, options }),
    })
}
