//! `containerd.services.events.ttrpc.v1.Events`: where shims send their events.
//!
//! The events of one connection are taken in the order in which they come. Those of tasks go by the
//! task manager, which answers for exits only once they are on disk.

use std::sync::Arc;

use gantry_api::containerd::services::events::ttrpc::v1::ForwardRequest;
use gantry_core::{Error, Result};
use gantry_metadata::Journal;
use gantry_plugin_runtime::Tasks;
use prost::Message;
use tonic::async_trait;

use crate::convert::envelope;
use crate::ttrpc::Service;

/// The service.
#[derive(Clone, Debug)]
pub struct TtrpcEvents {
    journal: Arc<Journal>,
    tasks: Option<Arc<Tasks>>,
}

impl TtrpcEvents {
    /// The service over a journal and the task manager, if that could be started.
    pub fn new(journal: Arc<Journal>, tasks: Option<Arc<Tasks>>) -> Self {
        Self { journal, tasks }
    }
}

#[async_trait]
impl Service for TtrpcEvents {
    fn name(&self) -> &'static str {
        "containerd.services.events.ttrpc.v1.Events"
    }

    async fn call(&self, method: &str, payload: &[u8]) -> Option<Result<Vec<u8>>> {
        match method {
            "Forward" => Some(self.forward(payload).await),
            _ => None,
        }
    }
}

impl TtrpcEvents {
    async fn forward(&self, payload: &[u8]) -> Result<Vec<u8>> {
        let request = ForwardRequest::decode(payload)
            .map_err(|error| Error::invalid_argument(format!("unmarshal request: {error}")))?;
        let envelope = envelope::from_wire(request.envelope)?;
        match &self.tasks {
            Some(tasks) => tasks.forwarded(envelope).await?,
            None => self.journal.publish(envelope),
        }
        // google.protobuf.Empty
        Ok(Vec::new())
    }
}
