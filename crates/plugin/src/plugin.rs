//! One plugin: what it declares, and the handle to it once it was started.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use gantry_core::{Error, Kind, Result};

use crate::kind::PluginType;

/// Type and id: what names a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PluginId {
    /// What it is for.
    pub kind: PluginType,
    /// Its name among those of its type.
    pub id: String,
}

impl fmt::Display for PluginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.kind, self.id)
    }
}

/// A platform in Go's words (`linux`, `amd64`, `v8`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `GOOS`.
    pub os: String,
    /// `GOARCH`.
    pub architecture: String,
    /// Variant of the architecture; empty for most.
    pub variant: String,
}

impl Platform {
    /// The platform this program was built for.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Self {
            os: std::env::consts::OS.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }
}

/// What a plugin declares before it is started.
#[derive(Debug)]
pub struct Plugin {
    pub(crate) id: PluginId,
    pub(crate) requires: Vec<PluginType>,
    pub(crate) missing: Option<Error>,
    pub(crate) platforms: Vec<Platform>,
    pub(crate) capabilities: Vec<String>,
    pub(crate) exports: BTreeMap<String, String>,
}

impl Plugin {
    /// A plugin that stands on nothing.
    pub fn new(kind: PluginType, id: impl Into<String>) -> Self {
        Self {
            id: PluginId { kind, id: id.into() },
            requires: Vec::new(),
            missing: None,
            platforms: Vec::new(),
            capabilities: Vec::new(),
            exports: BTreeMap::new(),
        }
    }

    /// Stands on `other`: not started when that one failed.
    #[must_use]
    pub fn needs<T: ?Sized>(mut self, other: &Handle<T>) -> Self {
        if !self.requires.contains(&other.id.kind) {
            self.requires.push(other.id.kind);
        }
        if let (None, Err(error)) = (&self.missing, other.get()) {
            self.missing = Some(error);
        }
        self
    }

    /// Works on the platform this program was built for.
    #[must_use]
    pub fn on_host_platform(mut self) -> Self {
        self.platforms.push(Platform::host());
        self
    }

    /// Declares capabilities.
    #[must_use]
    pub fn capabilities<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.capabilities.extend(names.into_iter().map(Into::into));
        self
    }

    /// Shows `value` under `key` in the plugin list.
    #[must_use]
    pub fn export(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.exports.insert(key.into(), value.into());
        self
    }
}

/// A started plugin, or the mark of one that failed.
#[derive(Debug)]
pub struct Handle<T: ?Sized> {
    pub(crate) id: PluginId,
    pub(crate) instance: Option<Arc<T>>,
}

impl<T: ?Sized> Handle<T> {
    /// The plugin.
    ///
    /// # Errors
    /// `Unavailable` when its start failed; the plugin list says why.
    pub fn get(&self) -> Result<Arc<T>> {
        self.instance.clone().ok_or_else(|| {
            Error::new(Kind::Unavailable, format!("plugin {} failed to start", self.id))
        })
    }

    /// Its type and id.
    pub fn id(&self) -> &PluginId {
        &self.id
    }
}

impl<T: ?Sized> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Self { id: self.id.clone(), instance: self.instance.clone() }
    }
}
