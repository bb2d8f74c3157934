//! Events on their way, and their topics.

use gantry_api::containerd::types;
use gantry_core::id::check_identifier;
use gantry_core::model::Envelope;
use gantry_core::{Error, Namespace, Result};

/// Checks a topic: `/` and identifiers.
///
/// # Errors
/// `InvalidArgument` naming the topic and what is wrong with it.
pub fn check_topic(topic: &str) -> Result<()> {
    let context = || format!("envelope topic {topic:?}");
    let bad = |why: &str| Err(Error::invalid_argument(why).context(context()));
    match topic.strip_prefix('/') {
        None if topic.is_empty() => bad("must not be empty"),
        None => bad("must start with '/'"),
        Some("") => bad("must have at least one component"),
        Some(rest) => rest.split('/').try_for_each(|component| {
            check_identifier(component).map_err(|error| {
                error
                    .context(format!("failed validation on component {component:?}"))
                    .context(context())
            })
        }),
    }
}

/// As another publisher sends it on: everything must be set.
///
/// # Errors
/// `InvalidArgument` naming the field.
pub fn from_wire(sent: Option<types::Envelope>) -> Result<Envelope> {
    let sent = super::required("envelope", sent)?;
    check_identifier(&sent.namespace)
        .map_err(|error| error.context("event envelope has invalid namespace"))?;
    check_topic(&sent.topic)?;
    let unset = || Error::invalid_argument("timestamp must be set on forwarded event");
    let timestamp = gantry_api::timestamp::known(sent.timestamp.as_ref()).ok_or_else(unset)?;
    Ok(Envelope {
        timestamp: super::time_sent("timestamp", timestamp)?,
        namespace: Namespace::new(sent.namespace)?,
        topic: sent.topic,
        event: super::typed(sent.event.unwrap_or_default()),
    })
}

/// As subscribers get it.
pub fn to_wire(envelope: Envelope) -> types::Envelope {
    types::Envelope {
        timestamp: super::time(envelope.timestamp),
        namespace: envelope.namespace.into_string(),
        topic: envelope.topic,
        event: Some(super::any(envelope.event)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_paths_of_identifiers() {
        for good in ["/a", "/tasks/exit", "/a.b/c-d"] {
            check_topic(good).unwrap();
        }
        for (bad, why) in [
            ("", "envelope topic \"\": must not be empty: invalid argument"),
            ("a", "envelope topic \"a\": must start with '/': invalid argument"),
            ("/", "envelope topic \"/\": must have at least one component: invalid argument"),
        ] {
            assert_eq!(check_topic(bad).unwrap_err().message(), why);
        }
        for bad in ["/a/", "//a", "/a b"] {
            let text = check_topic(bad).unwrap_err().message();
            assert!(text.contains("failed validation on component"), "{text}");
        }
    }

    #[test]
    fn what_is_sent_on_must_be_complete() {
        let whole = types::Envelope {
            timestamp: Some(prost_types::Timestamp { seconds: 1, nanos: 2 }),
            namespace: "n".into(),
            topic: "/t".into(),
            event: Some(prost_types::Any { type_url: "x.Y".into(), value: vec![1] }),
        };
        let sent = from_wire(Some(whole.clone())).unwrap();
        assert_eq!(to_wire(sent), whole);
        let refused =
            |envelope: Option<types::Envelope>| from_wire(envelope).unwrap_err().message();
        assert_eq!(refused(None), "envelope is required: invalid argument");
        for timestamp in [None, Some(gantry_api::timestamp::UNSET)] {
            let text = refused(Some(types::Envelope { timestamp, ..whole.clone() }));
            assert_eq!(text, "timestamp must be set on forwarded event: invalid argument");
        }
        let text = refused(Some(types::Envelope { namespace: String::new(), ..whole }));
        assert!(text.starts_with("event envelope has invalid namespace: "), "{text}");
    }
}
