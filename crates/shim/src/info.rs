//! `-info`: what the runtime behind the shim can do.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use gantry_api::containerd::types::{RuntimeInfo, RuntimeVersion};
use gantry_core::{Error, Result};
use gantry_sys::fd::{contents, memory_file};
use gantry_sys::process::Command;
use prost::Message;
use prost_types::Any;

use crate::engine::command::DEFAULT_PROGRAM;
use crate::options;

/// The name under which daemons know this shim.
pub const NAME: &str = "io.containerd.gantry.v2";
/// The type of the features: JSON of the OCI runtime spec's `features`.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
/// More than any runtime or daemon says.
const BYTES_MAX: u64 = 10 << 20;

/// Reads options from standard input and writes a `RuntimeInfo`.
///
/// # Errors
/// The options are of a type that is not known, or the answer cannot be written.
pub fn info() -> Result<()> {
    let mut input = Vec::new();
    io::stdin()
        .take(BYTES_MAX)
        .read_to_end(&mut input)
        .map_err(|e| Error::io("failed to read stdin", e))?;
    let given = Any::decode(input.as_slice()).ok().filter(|any| !any.type_url.is_empty());
    let options = options::decode(given.as_ref())?;
    let program = match options.binary_name.as_str() {
        "" => DEFAULT_PROGRAM,
        name => name,
    };
    let info = RuntimeInfo {
        name: NAME.to_owned(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: String::new(),
        }),
        options: given,
        // A runtime that cannot say has none to tell.
        features: features(program).map(|value| Any { type_url: FEATURES.to_owned(), value }),
        ..RuntimeInfo::default()
    };
    io::stdout().write_all(&info.encode_to_vec()).map_err(|e| Error::io("write answer", e))
}

fn features(program: &str) -> Option<Vec<u8>> {
    let output = memory_file("features").ok()?;
    let child =
        Command::new(program).arg("features").fd(output.as_fd(), 1).dies_with_parent().spawn();
    if !child.ok()?.wait_blocking().ok()?.success() {
        return None;
    }
    let json = contents(&output, usize::try_from(BYTES_MAX).ok()?).ok()?;
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&json).ok()?;
    Some(json)
}
