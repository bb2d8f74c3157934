//! `containerd.services.events.ttrpc.v1.Events`: where shims send their events.
//!
//! The events of one connection are taken in the order in which they come. Those of tasks go by the
//! task manager, which answers for exits only once they are on disk.

use std::sync::Arc;

use gantry_api::containerd::services::events::ttrpc::v1::ForwardRequest;
use gantry_core::{Error, Result};
use gantry_metadata::Journal;
use gantry_plugin_runtime::Tasks;
use gantry_ttrpc::{Request, message};
use prost::Message;
use tonic::async_trait;

use crate::convert::envelope;
use crate::ttrpc::Service;

/// What our own shim says of a process that ended (docs/shim.md).
const START_TIME: &str = "gantry-exit-start-time";

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

    async fn call(&self, request: &Request) -> Option<Result<Vec<u8>>> {
        match request.method.as_str() {
            "Forward" => Some(self.forward(request).await),
            _ => None,
        }
    }
}

impl TtrpcEvents {
    async fn forward(&self, call: &Request) -> Result<Vec<u8>> {
        let request = ForwardRequest::decode(call.payload.as_slice())
            .map_err(|error| Error::invalid_argument(format!("unmarshal request: {error}")))?;
        let envelope = envelope::from_wire(request.envelope)?;
        match &self.tasks {
            Some(tasks) => {
                let told = message::metadata(call, START_TIME).and_then(|text| text.parse().ok());
                tasks.forwarded(envelope, told.unwrap_or(0)).await?;
            }
            None => self.journal.publish(envelope),
        }
        // google.protobuf.Empty
        Ok(Vec::new())
    }
}
