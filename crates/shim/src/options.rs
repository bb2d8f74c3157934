//! Options of the runtime, in the two shapes in which clients send them.
//!
//! `containerd.runc.v1.Options` comes from clients that name runc's runtime; everyone else's daemon
//! wraps the TOML of its configuration in `runtimeoptions.v1.Options`.

use gantry_api::containerd::runc::v1::Options;
use gantry_api::runtimeoptions::v1::Options as Wrapped;
use gantry_core::{Error, Kind, Result};
use prost::{Message, Name};
use prost_types::Any;
use serde::Deserialize;

/// The options in `any`; the defaults when there are none.
///
/// # Errors
/// `InvalidArgument` for another type, or for what does not parse.
pub fn decode(any: Option<&Any>) -> Result<Options> {
    let Some(any) = any.filter(|any| !any.value.is_empty()) else {
        return Ok(Options::default());
    };
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    let malformed = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::caused(Kind::InvalidArgument, format!("runtime options {name}"), e)
    };
    if name == Options::full_name() {
        return Options::decode(any.value.as_slice()).map_err(|e| malformed(e.into()));
    }
    if name == Wrapped::full_name() {
        let wrapped = Wrapped::decode(any.value.as_slice()).map_err(|e| malformed(e.into()))?;
        let text = if wrapped.config_body.is_empty() && !wrapped.config_path.is_empty() {
            std::fs::read(&wrapped.config_path)
                .map_err(|e| Error::caused(Kind::InvalidArgument, wrapped.config_path.clone(), e))?
        } else {
            wrapped.config_body
        };
        let text = String::from_utf8(text).map_err(|e| malformed(e.into()))?;
        return toml::from_str::<Toml>(&text).map(Into::into).map_err(|e| malformed(e.into()));
    }
    Err(Error::invalid_argument(format!(
        "runtime options of type {name:?} are not known to this shim: send {} or {}",
        Options::full_name(),
        Wrapped::full_name()
    )))
}

/// The keys as they stand in the configuration of a daemon's runtime.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
struct Toml {
    no_pivot_root: bool,
    no_new_keyring: bool,
    shim_cgroup: String,
    io_uid: u32,
    io_gid: u32,
    binary_name: String,
    root: String,
    systemd_cgroup: bool,
    criu_image_path: String,
    criu_work_path: String,
    /// Gone since criu is found on PATH; old configurations still name it.
    #[serde(rename = "CriuPath")]
    _criu_path: String,
    /// Keys of the wrapping itself.
    #[serde(rename = "TypeUrl")]
    _type_url: String,
    #[serde(rename = "ConfigPath")]
    _config_path: String,
}

impl From<Toml> for Options {
    fn from(toml: Toml) -> Self {
        Self {
            no_pivot_root: toml.no_pivot_root,
            no_new_keyring: toml.no_new_keyring,
            shim_cgroup: toml.shim_cgroup,
            io_uid: toml.io_uid,
            io_gid: toml.io_gid,
            binary_name: toml.binary_name,
            root: toml.root,
            systemd_cgroup: toml.systemd_cgroup,
            criu_image_path: toml.criu_image_path,
            criu_work_path: toml.criu_work_path,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(body: &str) -> Any {
        let options = Wrapped { config_body: body.into(), ..Wrapped::default() };
        Any { type_url: Wrapped::full_name(), value: options.encode_to_vec() }
    }

    #[test]
    fn both_shapes_are_read() {
        let options =
            Options { binary_name: "crun".into(), systemd_cgroup: true, ..Options::default() };
        let any = Any { type_url: Options::full_name(), value: options.encode_to_vec() };
        assert_eq!(decode(Some(&any)).unwrap(), options);
        let prefixed = Any { type_url: format!("types.example/{}", Options::full_name()), ..any };
        assert_eq!(decode(Some(&prefixed)).unwrap(), options);
        let toml = wrapped("BinaryName = \"crun\"\nSystemdCgroup = true\n");
        assert_eq!(decode(Some(&toml)).unwrap(), options);
        assert_eq!(decode(None).unwrap(), Options::default());
    }

    #[test]
    fn what_cannot_be_obeyed_is_refused() {
        let other = Any { type_url: "io.kata.Options".into(), value: vec![1] };
        let error = decode(Some(&other)).unwrap_err();
        assert!(error.is(Kind::InvalidArgument) && error.message().contains("io.kata.Options"));
        let typo = decode(Some(&wrapped("SystemdCgroups = true"))).unwrap_err();
        assert!(typo.message().contains("SystemdCgroups"), "{}", typo.message());
        let broken = Any { type_url: Options::full_name(), value: vec![0xff] };
        assert!(decode(Some(&broken)).unwrap_err().is(Kind::InvalidArgument));
    }
}
