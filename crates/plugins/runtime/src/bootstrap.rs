//! What the `start` command of a shim reads and answers, in the forms of three generations.
//!
//! Standard input: `BootstrapParams` (2.3 and later), the bare `Any` of the options (before), or
//! nothing. The first two share field numbers, so a shim given the wrong one may take it without
//! complaint: never the `Any` before the parameters to a shim that is not known.
//!
//! The answer: `BootstrapResult`, JSON with version, address and protocol, or the address alone.

use std::path::Path;

use gantry_api::containerd::runtime::bootstrap::v1 as wire;
use gantry_core::{Error, Result, TypedAny};
use prost::Message;
use serde::{Deserialize, Serialize};

/// Longest address that is believed.
const ADDRESS_BYTES_MAX: usize = 4096;
/// The latest version of the task API.
pub(crate) const LATEST: u32 = 3;

/// What goes to standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `BootstrapParams`.
    Parameters,
    /// The options as they are.
    Options,
    /// Nothing.
    Nothing,
}

/// What a shim is told at its start.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    pub(crate) id: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) debug: bool,
    pub(crate) version: &'a str,
    pub(crate) ttrpc_address: &'a Path,
    pub(crate) address: &'a Path,
    pub(crate) daemon: &'a Path,
    pub(crate) options: Option<&'a TypedAny>,
    pub(crate) sockets: Option<&'a Path>,
}

impl Form {
    /// The bytes for standard input.
    pub(crate) fn encode(self, told: &Told<'_>) -> Vec<u8> {
        let options = told.options.map(|options| prost_types::Any {
            type_url: options.type_url.clone(),
            value: options.value.clone(),
        });
        let text = |path: &Path| path.to_string_lossy().into_owned();
        match self {
            Self::Nothing => Vec::new(),
            Self::Options => options.map(|any| any.encode_to_vec()).unwrap_or_default(),
            Self::Parameters => wire::BootstrapParams {
                instance_id: told.id.to_owned(),
                namespace: told.namespace.to_owned(),
                log_level: match told.debug {
                    true => wire::LogLevel::Debug.into(),
                    false => wire::LogLevel::Info.into(),
                },
                containerd_version: told.version.to_owned(),
                containerd_ttrpc_address: text(told.ttrpc_address),
                containerd_grpc_address: text(told.address),
                containerd_binary: text(told.daemon),
                extensions: options
                    .map(|any| wire::Extension { value: Some(any) })
                    .into_iter()
                    .collect(),
                socket_dir: told.sockets.map(text),
            }
            .encode_to_vec(),
        }
    }
}

/// Where and how a shim is spoken to: the content of `bootstrap.json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Endpoint {
    pub(crate) version: u32,
    pub(crate) address: String,
    pub(crate) protocol: String,
}

impl Endpoint {
    /// The content of `bootstrap.json`.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        // A struct of a number and two texts always encodes.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the answer of `start`, or `bootstrap.json`.
    ///
    /// # Errors
    /// It is neither form, or of a version of the future.
    pub(crate) fn parse(answer: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(answer).map(str::trim).unwrap_or_default();
        let found = if text.starts_with('{') {
            json(text)?
        } else if let Some(result) = result(answer) {
            result
        } else {
            plain(text).ok_or_else(|| {
                let shown: String = String::from_utf8_lossy(answer).chars().take(200).collect();
                Error::unknown(format!("unexpected answer of the shim: {shown:?}"))
            })?
        };
        if found.version > LATEST {
            let version = found.version;
            return Err(Error::not_implemented(format!("unsupported shim version ({version})")));
        }
        if found.protocol != "ttrpc" {
            return Err(Error::not_implemented(format!(
                "shim at {:?} speaks {:?}: only ttrpc is supported",
                found.address, found.protocol
            )));
        }
        Ok(found)
    }
}

fn json(text: &str) -> Result<Endpoint> {
    let found: Endpoint = serde_json::from_str(text)
        .map_err(|e| Error::unknown(format!("unexpected answer of the shim: {e}")))?;
    match plain(&found.address) {
        Some(_) => Ok(found),
        None => Err(Error::unknown("unexpected answer of the shim: no address")),
    }
}

/// A message with a version and an address; other bytes may decode too, but not to that.
fn result(answer: &[u8]) -> Option<Endpoint> {
    let result = wire::BootstrapResult::decode(answer).ok()?;
    let version = u32::try_from(result.version).ok().filter(|version| *version > 0)?;
    plain(&result.address)?;
    let protocol = if result.protocol.is_empty() { "ttrpc".to_owned() } else { result.protocol };
    Some(Endpoint { version, address: result.address, protocol })
}

fn plain(text: &str) -> Option<Endpoint> {
    let clean = !text.is_empty()
        && text.len() <= ADDRESS_BYTES_MAX
        && !text.contains(|c: char| c.is_control() || c.is_whitespace());
    clean.then(|| Endpoint { version: 2, address: text.to_owned(), protocol: "ttrpc".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::Kind;
    use proptest::prelude::*;

    fn endpoint(version: u32) -> Endpoint {
        Endpoint { version, address: "unix:///run/s/1".into(), protocol: "ttrpc".into() }
    }

    #[test]
    fn each_generation_of_answers_is_understood() {
        assert_eq!(Endpoint::parse(b"unix:///run/s/1\n").unwrap(), endpoint(2));
        assert_eq!(Endpoint::parse(&endpoint(3).to_json()).unwrap(), endpoint(3));
        let result = wire::BootstrapResult {
            version: 3,
            address: "unix:///run/s/1".into(),
            protocol: "ttrpc".into(),
            ..wire::BootstrapResult::default()
        };
        assert_eq!(Endpoint::parse(&result.encode_to_vec()).unwrap(), endpoint(3));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for bad in [&b""[..], b"  ", b"two words", b"{}", b"{\"version\":2", b"\xff\xfe"] {
            assert!(Endpoint::parse(bad).unwrap_err().is(Kind::Unknown), "{bad:?}");
        }
        let error = Endpoint::parse(&endpoint(4).to_json()).unwrap_err();
        assert_eq!(error.message(), "unsupported shim version (4): not implemented");
        let grpc = Endpoint { protocol: "grpc".into(), ..endpoint(3) };
        assert!(Endpoint::parse(&grpc.to_json()).unwrap_err().is(Kind::NotImplemented));
    }

    #[test]
    fn parameters_name_the_task_and_carry_the_options() {
        let options = TypedAny { type_url: "t".into(), value: vec![1] };
        let told = Told {
            id: "c",
            namespace: "n",
            debug: true,
            version: "v",
            ttrpc_address: Path::new("/t"),
            address: Path::new("/g"),
            daemon: Path::new("/d"),
            options: Some(&options),
            sockets: None,
        };
        let bytes = Form::Parameters.encode(&told);
        let read = wire::BootstrapParams::decode(bytes.as_slice()).unwrap();
        assert_eq!((read.instance_id.as_str(), read.namespace.as_str()), ("c", "n"));
        assert_eq!(read.extensions[0].value.as_ref().unwrap().value, [1]);
        let bytes = Form::Options.encode(&told);
        assert_eq!(prost_types::Any::decode(bytes.as_slice()).unwrap().type_url, "t");
        assert!(Form::Options.encode(&Told { options: None, ..told }).is_empty());
    }

    proptest! {
        #[test]
        fn any_address_survives_each_form(name in "[a-z0-9/._-]{1,40}", version in 1u32..=3) {
            let address = format!("unix://{name}");
            let wanted = Endpoint { version, address: address.clone(), protocol: "ttrpc".into() };
            prop_assert_eq!(Endpoint::parse(&wanted.to_json()).unwrap(), wanted.clone());
            let result = wire::BootstrapResult {
                version: version as i32, address: address.clone(), protocol: "ttrpc".into(),
                ..wire::BootstrapResult::default()
            };
            prop_assert_eq!(Endpoint::parse(&result.encode_to_vec()).unwrap(), wanted);
            prop_assert_eq!(Endpoint::parse(address.as_bytes()).unwrap().address, address);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Endpoint::parse(&bytes);
        }
    }
}
