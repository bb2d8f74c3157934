//! Between the wire's messages and the domain's types.
//!
//! From the wire: whatever is missing or malformed is `InvalidArgument` that names the field; a
//! missing message never panics. To the wire: cannot fail. Values that only pass through (specs,
//! options, extensions) keep their bytes.

pub mod container;
pub mod content;
pub mod envelope;
pub mod image;
pub mod lease;
pub mod mount;
pub mod namespace;
pub mod sandbox;
pub mod snapshot;
pub mod task;

use std::collections::{BTreeMap, HashMap};

use gantry_core::filter::Filters;
use gantry_core::{Error, FieldMask, Labels, Result, Timestamp, TypedAny};
use prost_types::Any;

/// The message in `field`.
///
/// # Errors
/// `InvalidArgument` when there is none.
pub fn required<T>(field: &str, message: Option<T>) -> Result<T> {
    message.ok_or_else(|| Error::invalid_argument(format!("{field} is required")))
}

/// What the client sent to be kept as it is.
pub fn typed(any: Any) -> TypedAny {
    TypedAny { type_url: any.type_url, value: any.value }
}

/// As the client sent it.
pub fn any(typed: TypedAny) -> Any {
    Any { type_url: typed.type_url, value: typed.value }
}

/// A time for the wire: always present, since Go reads an absent one as 1970.
pub fn time(time: Timestamp) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: time.seconds,
        nanos: i32::try_from(time.nanos).unwrap_or_default(),
    })
}

/// A time that a client sent in `field`.
///
/// # Errors
/// `InvalidArgument` when its nanoseconds are not within a second.
pub fn time_sent(field: &str, time: &prost_types::Timestamp) -> Result<Timestamp> {
    match u32::try_from(time.nanos) {
        Ok(nanos) if nanos < 1_000_000_000 => Ok(Timestamp { seconds: time.seconds, nanos }),
        _ => Err(Error::invalid_argument(format!(
            "{field}: nanoseconds must be from 0 to 999999999, not {}",
            time.nanos
        ))),
    }
}

/// The mask of an update; none and an empty one both mean everything.
pub fn mask(mask: Option<prost_types::FieldMask>) -> FieldMask {
    FieldMask::new(mask.unwrap_or_default().paths)
}

/// Labels for a store that checks them itself.
pub fn labels_unchecked(labels: HashMap<String, String>) -> Labels {
    Labels::unchecked(labels)
}

/// Labels, checked here; `field` leads the text of a failure.
///
/// # Errors
/// `InvalidArgument` for a label that is too long.
pub fn labels_checked(field: &str, labels: HashMap<String, String>) -> Result<Labels> {
    Labels::checked(labels).map_err(|error| error.context(field))
}

/// Labels for the wire.
pub fn labels(labels: Labels) -> HashMap<String, String> {
    labels.into_iter().collect()
}

/// Filters as sent.
///
/// # Errors
/// `InvalidArgument` that says where they cannot be read.
pub fn filters(filters: &[String]) -> Result<Filters> {
    Filters::parse(filters)
}

fn typed_map(map: HashMap<String, Any>) -> BTreeMap<String, TypedAny> {
    map.into_iter().map(|(key, value)| (key, typed(value))).collect()
}

fn any_map(map: BTreeMap<String, TypedAny>) -> HashMap<String, Any> {
    map.into_iter().map(|(key, value)| (key, any(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unset_time_is_sent_as_year_one_and_not_left_out() {
        assert_eq!(time(Timestamp::UNSET), Some(gantry_api::timestamp::UNSET));
    }

    #[test]
    fn a_time_out_of_range_names_its_field() {
        let bad = prost_types::Timestamp { seconds: 1, nanos: -1 };
        let text = time_sent("source_date_epoch", &bad).unwrap_err().message();
        assert!(text.starts_with("source_date_epoch: nanoseconds"), "{text}");
    }

    #[test]
    fn a_value_that_passes_through_keeps_its_type_and_bytes() {
        let sent = Any { type_url: "type.googleapis.com/x.Y".into(), value: vec![0xff, 0, 1] };
        assert_eq!(any(typed(sent.clone())), sent);
    }
}
