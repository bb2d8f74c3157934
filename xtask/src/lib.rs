//! The developer's commands and the gates that keep the repository honest.
//!
//! One file per subcommand of `cargo xtask`; beside them the checks that `xtask/tests` runs as
//! ordinary tests: the dependency arrows ([`layers`]), the state of every source file ([`tidy`]),
//! the names of failpoints ([`failpoints`]) and the promises of `SPECIFICATION.md`
//! ([`promises`]). A check returns what is wrong as text, one finding a line; it never prints or
//! panics, so that its own test can feed it a bad sample.
//!
//! Must not: be linked by anything that ships.

use std::error::Error;
use std::path::{Path, PathBuf};

pub mod clients;
pub mod demo;
pub mod failpoints;
pub mod layers;
pub mod process;
pub mod promises;
pub mod source;
pub mod suite;
pub mod supply;
pub mod tidy;

/// Result of a developer command; the error is for reading only.
pub type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// The root of the workspace.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Where cargo puts what it builds for this workspace.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}
