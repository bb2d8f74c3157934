//! Containers.

use gantry_api::containerd::services::containers::v1 as wire;
use gantry_core::model::{Container, RuntimeInfo};
use gantry_core::{ContainerId, Cx, Error, Result, Timestamp};

/// The id of a container that should exist: one that no container can have is as absent as any.
///
/// # Errors
/// `NotFound`.
pub fn existing(cx: &Cx, id: &str) -> Result<ContainerId> {
    ContainerId::new(id).map_err(|_| {
        Error::not_found(format!("container {id:?} in namespace {:?}", cx.namespace()))
    })
}

/// As a client sends it; its times are not taken over.
///
/// # Errors
/// `InvalidArgument` for the id.
pub fn from_wire(sent: wire::Container) -> Result<Container> {
    let runtime = sent.runtime.unwrap_or_default();
    Ok(Container {
        id: ContainerId::new(sent.id).map_err(|error| error.context("container.ID"))?,
        labels: super::labels_unchecked(sent.labels),
        image: sent.image,
        runtime: RuntimeInfo { name: runtime.name, options: runtime.options.map(super::typed) },
        spec: sent.spec.map(super::typed),
        snapshotter: sent.snapshotter,
        snapshot_key: sent.snapshot_key,
        created_at: Timestamp::UNSET,
        updated_at: Timestamp::UNSET,
        extensions: super::typed_map(sent.extensions),
        sandbox: sent.sandbox,
    })
}

/// As clients get it.
pub fn to_wire(container: Container) -> wire::Container {
    wire::Container {
        id: container.id.into_string(),
        labels: super::labels(container.labels),
        image: container.image,
        runtime: Some(wire::container::Runtime {
            name: container.runtime.name,
            options: container.runtime.options.map(super::any),
        }),
        spec: container.spec.map(super::any),
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        created_at: super::time(container.created_at),
        updated_at: super::time(container.updated_at),
        extensions: super::any_map(container.extensions),
        sandbox: container.sandbox,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{hash_map, vec};
    use proptest::prelude::*;

    use super::*;

    fn any_value() -> impl Strategy<Value = prost_types::Any> {
        (".{0,20}", vec(any::<u8>(), 0..40))
            .prop_map(|(type_url, value)| prost_types::Any { type_url, value })
    }

    prop_compose! {
        fn container()(
            id in "[a-z0-9]{1,20}",
            labels in hash_map(".{1,10}", ".{1,10}", 0..4),
            texts in [".{0,10}", ".{0,10}", ".{0,10}", ".{0,10}", ".{0,10}"],
            options in proptest::option::of(any_value()),
            spec in proptest::option::of(any_value()),
            extensions in hash_map(".{0,10}", any_value(), 0..3),
        ) -> wire::Container {
            let [image, name, snapshotter, snapshot_key, sandbox] = texts;
            wire::Container {
                id, labels, image, spec, snapshotter, snapshot_key, sandbox, extensions,
                runtime: Some(wire::container::Runtime { name, options }),
                created_at: Some(gantry_api::timestamp::UNSET),
                updated_at: Some(gantry_api::timestamp::UNSET),
            }
        }
    }

    proptest! {
        #[test]
        fn a_container_comes_back_as_it_was_sent(sent in container()) {
            prop_assert_eq!(to_wire(from_wire(sent.clone()).unwrap()), sent);
        }
    }

    #[test]
    fn nothing_at_all_is_an_error_and_no_panic() {
        let text = from_wire(wire::Container::default()).unwrap_err().message();
        assert!(text.starts_with("container.ID: identifier must not be empty"), "{text}");
    }
}
