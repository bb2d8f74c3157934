//! `gantryd meta`: the metadata of a daemon that does not run: check, export, import.
//!
//! Each command takes the lock of the root first, so a running daemon is never disturbed: it is
//! named with its pid instead.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use gantry_core::{Error, SystemClock};
use gantry_metadata::kv::BackendKind;
use gantry_metadata::{Metadata, OpenOptions, check};

use crate::config::Config;
use crate::config::value::Backend;
use crate::folders;
use crate::lock::Lock;
use crate::{chain, cli::Flags};

/// What to do with the metadata.
#[derive(Debug, Subcommand)]
pub enum MetaCommand {
    /// Say what does not hold together; changes nothing
    Check,
    /// Write everything to FILE, as JSON lines with version and checksum
    Export {
        /// Where to; replaced if it exists
        file: PathBuf,
    },
    /// Fill the empty metadata of the root from FILE
    Import {
        /// What `gantryd meta export` or a clean stop wrote
        file: PathBuf,
    },
}

/// Where the daemon of `config` keeps its metadata.
pub fn options(config: &Config) -> OpenOptions {
    let backend = match config.metadata.backend {
        Backend::Sled => BackendKind::Sled,
        Backend::Redb => BackendKind::Redb,
    };
    OpenOptions { folder: config.root.join("meta"), backend }
}

fn told(error: &Error) -> String {
    error.message()
}

impl MetaCommand {
    /// Does it; the text is for standard output.
    ///
    /// # Errors
    /// A text that says what is wrong; for `check`, when something does not hold.
    pub fn run(self, flags: &Flags) -> Result<String, String> {
        let config = flags.resolve().map_err(|error| chain(&error))?;
        if !matches!(self, Self::Import { .. }) && !config.root.join("meta").exists() {
            return Err(format!("no metadata in {}", config.root.display()));
        }
        folders::prepare(&config.root, folders::ROOT_MODE).map_err(|error| chain(&error))?;
        let _root =
            Lock::take("root", &config.root.join("gantryd.lock")).map_err(|error| chain(&error))?;
        let options = options(&config);
        if let Self::Import { file } = self {
            let entries = Metadata::import(&options, &file).map_err(|e| told(&e))?;
            return Ok(format!("imported {entries} entries\n"));
        }
        let metadata = Metadata::open(&options, Arc::new(SystemClock)).map_err(|e| told(&e))?;
        let outcome = match self {
            Self::Check => findings(&metadata),
            Self::Export { file } => metadata
                .export(&file)
                .map(|summary| format!("exported {} entries\n", summary.entries))
                .map_err(|e| told(&e)),
            Self::Import { .. } => Ok(String::new()),
        };
        let closed = metadata.db().clone().close().map_err(|error| told(&error.into()));
        outcome.and_then(|text| closed.map(|()| text))
    }
}

fn findings(metadata: &Metadata) -> Result<String, String> {
    let findings = metadata.read_blocking(check::check).map_err(|e| told(&e))?;
    if findings.is_empty() {
        return Ok("metadata: ok\n".to_owned());
    }
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    Err(format!("{} findings\n{}", lines.len(), lines.join("\n")))
}
