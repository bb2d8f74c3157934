//! `containerd.services.events.ttrpc.v1.Events`: where shims send their events.
//!
//! The events of one connection are taken in the order in which they come.

use std::sync::Arc;

use gantry_api::containerd::services::events::ttrpc::v1::ForwardRequest;
use gantry_core::{Error, Result};
use gantry_metadata::Journal;
use prost::Message;

use crate::convert::envelope;
use crate::ttrpc::Service;

/// The service.
#[derive(Clone, Debug)]
pub struct TtrpcEvents {
    journal: Arc<Journal>,
}

impl TtrpcEvents {
    /// The service over a journal.
    pub fn new(journal: Arc<Journal>) -> Self {
        Self { journal }
    }
}

impl Service for TtrpcEvents {
    fn name(&self) -> &'static str {
        "containerd.services.events.ttrpc.v1.Events"
    }

    fn call(&self, method: &str, payload: &[u8]) -> Option<Result<Vec<u8>>> {
        match method {
            "Forward" => Some(self.forward(payload)),
            _ => None,
        }
    }
}

impl TtrpcEvents {
    fn forward(&self, payload: &[u8]) -> Result<Vec<u8>> {
        let request = ForwardRequest::decode(payload)
            .map_err(|error| Error::invalid_argument(format!("unmarshal request: {error}")))?;
        self.journal.publish(envelope::from_wire(request.envelope)?);
        // google.protobuf.Empty
        Ok(Vec::new())
    }
}
