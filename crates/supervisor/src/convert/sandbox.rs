//! Sandboxes.

use gantry_api::containerd::types;
use gantry_core::model::{RuntimeInfo, Sandbox};
use gantry_core::{Error, Result, SandboxId, Timestamp};

/// The id of a sandbox that should exist: one that no sandbox can have is as absent as any.
///
/// # Errors
/// `NotFound`.
pub fn existing(id: &str) -> Result<SandboxId> {
    SandboxId::new(id).map_err(|_| Error::not_found(format!("bucket {id:?} not found")))
}

/// As a client sends it; its times are not taken over.
///
/// # Errors
/// `InvalidArgument` for the id.
pub fn from_wire(sent: types::Sandbox) -> Result<Sandbox> {
    let runtime = sent.runtime.unwrap_or_default();
    Ok(Sandbox {
        id: SandboxId::new(sent.sandbox_id).map_err(|error| error.context("invalid sandbox ID"))?,
        runtime: RuntimeInfo { name: runtime.name, options: runtime.options.map(super::typed) },
        spec: sent.spec.map(super::typed),
        labels: super::labels_unchecked(sent.labels),
        extensions: super::typed_map(sent.extensions),
        sandboxer: sent.sandboxer,
        created_at: Timestamp::UNSET,
        updated_at: Timestamp::UNSET,
    })
}

/// As clients get it.
pub fn to_wire(sandbox: Sandbox) -> types::Sandbox {
    types::Sandbox {
        sandbox_id: sandbox.id.into_string(),
        runtime: Some(types::sandbox::Runtime {
            name: sandbox.runtime.name,
            options: sandbox.runtime.options.map(super::any),
        }),
        spec: sandbox.spec.map(super::any),
        labels: super::labels(sandbox.labels),
        created_at: super::time(sandbox.created_at),
        updated_at: super::time(sandbox.updated_at),
        extensions: super::any_map(sandbox.extensions),
        sandboxer: sandbox.sandboxer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_comes_back_as_it_was_sent() {
        let value = |byte| prost_types::Any { type_url: "x.Y".into(), value: vec![0xff, byte] };
        let sent = types::Sandbox {
            sandbox_id: "s".into(),
            runtime: Some(types::sandbox::Runtime { name: "r".into(), options: Some(value(1)) }),
            spec: Some(value(2)),
            labels: [("k".to_owned(), "v".to_owned())].into(),
            created_at: Some(gantry_api::timestamp::UNSET),
            updated_at: Some(gantry_api::timestamp::UNSET),
            extensions: [("e".to_owned(), value(3))].into(),
            sandboxer: "shim".into(),
        };
        assert_eq!(to_wire(from_wire(sent.clone()).unwrap()), sent);
    }

    #[test]
    fn nothing_at_all_is_an_error_and_no_panic() {
        let text = from_wire(types::Sandbox::default()).unwrap_err().message();
        assert!(text.starts_with("invalid sandbox ID: identifier must not be empty"), "{text}");
    }
}
