//! What `start` reads and answers: three generations of daemons, told apart by what they say.
//!
//! | daemon | standard input | answer |
//! |---|---|---|
//! | containerd 1.6 | an `Any` with options, or nothing | the address |
//! | 1.7 to 2.2 | the same, and sets `MAX_SHIM_VERSION` | JSON, version 2 |
//! | 2.3 and later | `BootstrapParams` | `BootstrapResult`, version 3 |
//!
//! An `Any` and `BootstrapParams` share field numbers, so either parses as the other: parameters
//! count as such only when they repeat the id and the namespace of the command line.

use gantry_api::containerd::runtime::bootstrap::v1::{BootstrapParams, BootstrapResult, LogLevel};
use prost::Message;
use prost_types::Any;

/// How the daemon wants its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The address alone.
    Plain,
    /// `{"version":2,"address":..,"protocol":"ttrpc"}`.
    Json,
    /// `BootstrapResult`.
    Protobuf,
}

/// What a daemon said on standard input.
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// How to answer.
    pub form: Form,
    /// Options of the runtime.
    pub options: Option<Any>,
    /// Whether to log more.
    pub debug: bool,
    /// Where sockets go; `None` for the place that the daemon expects without saying.
    pub socket_dir: Option<String>,
}

/// Reads what the daemon wrote. `max_version` is the variable `MAX_SHIM_VERSION`.
pub fn read(stdin: &[u8], id: &str, namespace: &str, max_version: Option<&str>) -> Bootstrap {
    if let Ok(params) = BootstrapParams::decode(stdin)
        && params.instance_id == id
        && params.namespace == namespace
    {
        return Bootstrap {
            form: Form::Protobuf,
            options: params.extensions.into_iter().find_map(|extension| extension.value),
            debug: params.log_level <= LogLevel::Debug as i32,
            socket_dir: params.socket_dir.filter(|dir| !dir.is_empty()),
        };
    }
    let options = Any::decode(stdin).ok().filter(|any| !any.type_url.is_empty());
    let form = if max_version.is_some() { Form::Json } else { Form::Plain };
    Bootstrap { form, options, debug: false, socket_dir: None }
}

impl Form {
    /// The answer of a shim that listens at `address`.
    pub fn answer(self, address: &str) -> Vec<u8> {
        match self {
            Self::Plain => address.as_bytes().to_vec(),
            Self::Json => {
                serde_json::json!({"version": 2, "address": address, "protocol": "ttrpc"})
                    .to_string()
                    .into_bytes()
            }
            Self::Protobuf => BootstrapResult {
                version: 3,
                address: address.to_owned(),
                protocol: "ttrpc".to_owned(),
                ..BootstrapResult::default()
            }
            .encode_to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_api::containerd::runtime::bootstrap::v1::Extension;

    fn any() -> Any {
        Any { type_url: "containerd.runc.v1.Options".into(), value: vec![0x32, 1, b'x'] }
    }

    #[test]
    fn each_generation_gets_its_form() {
        assert_eq!(read(b"", "x", "n", None).form, Form::Plain);
        assert_eq!(read(b"", "x", "n", Some("2")).form, Form::Json);
        let old = read(&any().encode_to_vec(), "x", "n", Some("2"));
        assert_eq!((old.form, old.options), (Form::Json, Some(any())));
        let params = BootstrapParams {
            instance_id: "x".into(),
            namespace: "n".into(),
            log_level: LogLevel::Trace as i32,
            extensions: vec![Extension { value: Some(any()) }],
            socket_dir: Some("/run/user/1/s".into()),
            ..BootstrapParams::default()
        };
        let new = read(&params.encode_to_vec(), "x", "n", Some("2"));
        assert_eq!((new.form, new.options, new.debug), (Form::Protobuf, Some(any()), true));
        assert_eq!(new.socket_dir.as_deref(), Some("/run/user/1/s"));
    }

    #[test]
    fn options_are_not_taken_for_parameters_nor_the_reverse() {
        let trap = Any { type_url: "x".into(), value: b"other".to_vec() };
        assert_eq!(read(&trap.encode_to_vec(), "x", "n", None).form, Form::Plain);
        let params = BootstrapParams { instance_id: "y".into(), ..BootstrapParams::default() };
        assert_eq!(read(&params.encode_to_vec(), "x", "n", Some("2")).form, Form::Json);
        assert_eq!(read(&[0xff; 40], "x", "n", None).options, None);
    }

    #[test]
    fn answers_are_what_daemons_parse() {
        let address = "unix:///run/containerd/s/1";
        assert_eq!(Form::Plain.answer(address), address.as_bytes());
        let json: serde_json::Value = serde_json::from_slice(&Form::Json.answer(address)).unwrap();
        assert_eq!(json["version"], 2);
        assert_eq!(json["protocol"], "ttrpc");
        let result = BootstrapResult::decode(Form::Protobuf.answer(address).as_slice()).unwrap();
        assert_eq!((result.version, result.address.as_str()), (3, address));
    }
}
