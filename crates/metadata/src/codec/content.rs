//! The records of blobs, of content as namespaces see it, and of ingests.

use gantry_api::gantry::store::v1 as wire;
use gantry_core::content::Info;
use gantry_core::{ContentRef, Digest, Labels, Result};

use super::Stored;
use super::records::{from_time, stored_digest, to_map, to_time};
use crate::stores::content::{Blob, Ingest, IngestNumber};

impl Stored for Blob {
    type Message = wire::BlobRecord;
    type Name = Digest;
    fn to_message(&self) -> Self::Message {
        wire::BlobRecord { size: self.size, created_at: Some(to_time(self.created_at)) }
    }
    fn from_message(digest: Digest, message: Self::Message) -> Result<Self> {
        Ok(Self { digest, size: message.size, created_at: from_time(message.created_at) })
    }
}

impl Stored for Info {
    type Message = wire::ContentRecord;
    type Name = Digest;
    fn to_message(&self) -> Self::Message {
        wire::ContentRecord {
            size: self.size,
            labels: to_map(&self.labels),
            created_at: Some(to_time(self.created_at)),
            updated_at: Some(to_time(self.updated_at)),
        }
    }
    fn from_message(digest: Digest, message: Self::Message) -> Result<Self> {
        Ok(Self {
            digest,
            size: message.size,
            created_at: from_time(message.created_at),
            updated_at: from_time(message.updated_at),
            labels: Labels::unchecked(message.labels),
        })
    }
}

impl Stored for Ingest {
    type Message = wire::IngestRecord;
    type Name = ContentRef;
    fn to_message(&self) -> Self::Message {
        wire::IngestRecord {
            number: self.number.0,
            total: self.total,
            shared: self.shared.as_ref().map_or_else(String::new, |d| d.as_str().to_owned()),
            started_at: Some(to_time(self.started_at)),
            expires_at: self.expires_at.map(to_time),
        }
    }
    fn from_message(reference: ContentRef, message: Self::Message) -> Result<Self> {
        let shared = match message.shared.as_str() {
            "" => None,
            _ => Some(stored_digest(message.shared)?),
        };
        Ok(Self {
            reference,
            number: IngestNumber(message.number),
            total: message.total,
            shared,
            started_at: from_time(message.started_at),
            expires_at: message.expires_at.map(|t| from_time(Some(t))),
        })
    }
}
