//! `containerd.services.introspection.v1`: which plugins run, and who the server is.

use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, OnceLock};

use gantry_api::containerd::services::introspection::v1 as wire;
use gantry_api::containerd::services::introspection::v1::introspection_server::Introspection;
use gantry_api::containerd::types;
use gantry_api::google::rpc::Status as WireStatus;
use gantry_core::filter::{Fields, Filters};
use gantry_core::{Error, Result};
use gantry_plugin::{Platform, Record};
use tonic::{Request, Response, Status, async_trait};

use crate::rpc;

/// The plugins of the daemon, filled in once all have been started.
pub type PluginList = Arc<OnceLock<Vec<Record>>>;

/// The service.
#[derive(Clone, Debug)]
pub struct IntrospectionService {
    plugins: PluginList,
    uuid: String,
    pidns: u64,
}

impl IntrospectionService {
    /// The service of a server named `uuid`.
    ///
    /// # Errors
    /// When /proc does not tell the pid namespace.
    pub fn new(plugins: PluginList, uuid: String) -> Result<Self> {
        let pidns = std::fs::metadata("/proc/self/ns/pid")
            .map_err(|e| Error::io("read pid namespace", e))?
            .ino();
        Ok(Self { plugins, uuid, pidns })
    }

    fn records(&self) -> &[Record] {
        self.plugins.get().map_or(&[], Vec::as_slice)
    }
}

#[async_trait]
impl Introspection for IntrospectionService {
    async fn plugins(
        &self,
        request: Request<wire::PluginsRequest>,
    ) -> Result<Response<wire::PluginsResponse>, Status> {
        rpc::plain(request, async |_, message| {
            let filters = Filters::parse(&message.filters)?;
            let found = self.records().iter().filter(|record| filters.matches(&Shown(record)));
            Ok(wire::PluginsResponse { plugins: found.map(to_wire).collect() })
        })
        .await
    }

    async fn server(&self, request: Request<()>) -> Result<Response<wire::ServerResponse>, Status> {
        rpc::plain(request, async |_, ()| {
            Ok(wire::ServerResponse {
                uuid: self.uuid.clone(),
                pid: std::process::id().into(),
                pidns: self.pidns,
                deprecations: Vec::new(),
            })
        })
        .await
    }

    async fn plugin_info(
        &self,
        request: Request<wire::PluginInfoRequest>,
    ) -> Result<Response<wire::PluginInfoResponse>, Status> {
        rpc::plain(request, async |_, message| {
            let wire::PluginInfoRequest { r#type: kind, id, options } = message;
            let found = self
                .records()
                .iter()
                .find(|record| record.id.kind.as_str() == kind && record.id.id == id)
                .ok_or_else(|| Error::not_found(format!("plugin {kind}.{id} not found")))?;
            if options.is_some() {
                return Err(match &found.failure {
                    Some(_) => Error::failed_precondition(
                        "cannot get extra info, plugin not successfully loaded",
                    ),
                    None => Error::not_implemented("plugin does not provide extra information"),
                });
            }
            Ok(wire::PluginInfoResponse { plugin: Some(to_wire(found)), extra: None })
        })
        .await
    }
}

/// A plugin as filters see it: by type and id, as in containerd.
struct Shown<'a>(&'a Record);

impl Fields for Shown<'_> {
    fn field(&self, path: &[String]) -> Option<String> {
        match path {
            [field] if field == "type" => Some(self.0.id.kind.to_string()),
            [field] if field == "id" => Some(self.0.id.id.clone()),
            _ => None,
        }
    }
}

fn to_wire(record: &Record) -> wire::Plugin {
    wire::Plugin {
        r#type: record.id.kind.to_string(),
        id: record.id.id.clone(),
        requires: record.requires.iter().map(ToString::to_string).collect(),
        platforms: record.platforms.iter().map(platform).collect(),
        exports: record.exports.clone().into_iter().collect(),
        capabilities: record.capabilities.clone(),
        init_err: record.failure.as_ref().map(|error| WireStatus {
            code: rpc::code(error.kind()).into(),
            message: error.message(),
            details: Vec::new(),
        }),
    }
}

fn platform(platform: &Platform) -> types::Platform {
    types::Platform {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        ..types::Platform::default()
    }
}
