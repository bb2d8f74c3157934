//! What of an event filters may name: its envelope, and the fields of its payload.
//!
//! containerd generates the look-up of payload fields; here it goes by the descriptors of the
//! messages. The rules are its: texts and truth values are found, a map by the rest of the path, a
//! message by going on within it; numbers, times and bytes are not addressable. A payload of a
//! type nobody knows has no fields.

use std::sync::LazyLock;

use gantry_api::any::type_name;
use gantry_core::filter::Fields;
use gantry_core::model::Envelope;
use prost_reflect::{DescriptorPool, DynamicMessage, MapKey, ReflectMessage, Value};
use tracing::error;

/// Read when the first filter asks for a payload's field: most never do.
static MESSAGES: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(gantry_api::DESCRIPTORS).unwrap_or_else(|error| {
        error!(%error, "the descriptors built into the daemon do not decode");
        DescriptorPool::new()
    })
});

/// An event as filters see it.
pub(super) struct Shown<'a>(pub(super) &'a Envelope);

impl Fields for Shown<'_> {
    fn field(&self, path: &[String]) -> Option<String> {
        match path.split_first() {
            Some((first, rest)) if first == "event" => {
                in_payload(&self.0.event.type_url, &self.0.event.value, rest)
            }
            _ => self.0.field(path),
        }
    }
}

fn in_payload(type_url: &str, value: &[u8], path: &[String]) -> Option<String> {
    let descriptor = MESSAGES.get_message_by_name(type_name(type_url))?;
    let message = DynamicMessage::decode(descriptor, value).ok()?;
    in_message(&message, path)
}

fn in_message(message: &DynamicMessage, path: &[String]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    let field = message.descriptor().get_field_by_name(first)?;
    match message.get_field(&field).as_ref() {
        Value::String(text) => (!text.is_empty()).then(|| text.clone()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Map(map) => match map.get(&MapKey::String(rest.join("."))) {
            Some(Value::String(text)) => Some(text.clone()),
            _ => None,
        },
        Value::List(items) => {
            let texts: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            (!texts.is_empty()).then(|| texts.join(" "))
        }
        Value::Message(inner) if message.has_field(&field) => {
            match inner.descriptor().full_name() {
                "google.protobuf.Any" => {
                    let type_url = inner.get_field_by_name("type_url")?;
                    let value = inner.get_field_by_name("value")?;
                    in_payload(type_url.as_str()?, value.as_bytes()?, rest)
                }
                _ => in_message(inner, rest),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use gantry_api::containerd::events::container_create::Runtime;
    use gantry_api::containerd::events::{
        ContainerCreate, ContainerUpdate, TaskCreate, TaskExit, TaskIo,
    };
    use gantry_core::filter::Filters;
    use gantry_core::{Namespace, Timestamp};
    use prost::{Message, Name};

    use super::*;

    fn matches<M: Message + Name>(filter: &str, payload: &M) -> bool {
        let event = gantry_api::any::pack(payload);
        let envelope = Envelope {
            timestamp: Timestamp::UNSET,
            namespace: Namespace::new("moby").unwrap(),
            topic: "/tasks/exit".into(),
            event: crate::convert::typed(event),
        };
        Filters::parse(&[filter.to_owned()]).unwrap().matches(&Shown(&envelope))
    }

    #[test]
    fn the_envelope_and_the_payloads_texts_are_found() {
        let exit =
            TaskExit { container_id: "c1".into(), pid: 7, exit_status: 3, ..TaskExit::default() };
        assert!(matches("namespace==moby,topic~=|^/tasks/|", &exit));
        assert!(matches("event.container_id==c1", &exit));
        assert!(!matches("event.container_id==c2", &exit));
        assert!(!matches("event.id", &exit), "an empty text is absent");
        for not_addressable in ["event.pid", "event.exit_status", "event.exited_at", "event.nope"] {
            assert!(!matches(not_addressable, &exit), "{not_addressable}");
        }
    }

    #[test]
    fn maps_messages_and_packed_messages_are_entered() {
        let labels = [("a.b/c".to_owned(), "v".to_owned())].into();
        let update = ContainerUpdate { labels, ..ContainerUpdate::default() };
        assert!(matches("event.labels.\"a.b/c\"==v", &update));
        assert!(!matches("event.labels.a", &update));

        let io = TaskIo { stdout: "/x".into(), terminal: true, ..TaskIo::default() };
        let create = TaskCreate { io: Some(io), ..TaskCreate::default() };
        assert!(matches("event.io.stdout==\"/x\"", &create));
        assert!(matches("event.io.terminal==true", &create));
        assert!(!matches("event.io.stdout", &TaskCreate::default()));

        let inner = TaskExit { container_id: "deep".into(), ..TaskExit::default() };
        let options = Some(gantry_api::any::pack(&inner));
        let runtime = Some(Runtime { name: "r".into(), options });
        let create = ContainerCreate { runtime, ..ContainerCreate::default() };
        assert!(matches("event.runtime.name==r", &create));
        assert!(matches("event.runtime.options.container_id==deep", &create));
    }

    #[test]
    fn an_unknown_or_broken_payload_has_no_fields() {
        let envelope = |type_url: &str, value: &[u8]| Envelope {
            timestamp: Timestamp::UNSET,
            namespace: Namespace::new("n").unwrap(),
            topic: "/t".into(),
            event: gantry_core::TypedAny { type_url: type_url.into(), value: value.into() },
        };
        let path = ["event".to_owned(), "container_id".to_owned()];
        for envelope in [
            envelope("no.Such", b""),
            envelope("containerd.events.TaskExit", b"\xff\xff"),
            envelope("", b""),
        ] {
            assert_eq!(Shown(&envelope).field(&path), None);
        }
        let prefixed = envelope(
            "type.googleapis.com/containerd.events.TaskExit",
            &TaskExit { container_id: "c".into(), ..TaskExit::default() }.encode_to_vec(),
        );
        assert_eq!(Shown(&prefixed).field(&path).as_deref(), Some("c"));
    }
}
