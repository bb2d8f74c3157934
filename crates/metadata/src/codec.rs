//! Between the domain's types and the stored messages of `gantry.store.v1`: the only place that
//! knows both.
//!
//! Encoding cannot fail. Decoding fails with `DataLoss` that names the table: a stored value that
//! does not decode is damage, never a client's mistake. Unknown fields are skipped, so an older
//! build can read what a newer one with the same schema version wrote.

mod content;
mod event;
mod mount;
mod records;
mod task;

pub(crate) use event::envelope;
pub(crate) use records::{from_time, to_time};

use gantry_core::{Error, Result};
use prost::Message;

use crate::kv::Table;

/// A domain type with its stored form.
pub(crate) trait Stored: Sized {
    /// The message.
    type Message: Message + Default;
    /// What the key holds and the message leaves out.
    type Name;
    /// The message for this value.
    fn to_message(&self) -> Self::Message;
    /// The value of a message.
    fn from_message(name: Self::Name, message: Self::Message) -> Result<Self>;
}

/// Decodes `bytes` out of `table`.
pub(crate) fn decode<T: Stored>(table: Table, name: T::Name, bytes: &[u8]) -> Result<T> {
    let message = T::Message::decode(bytes).map_err(|e| {
        Error::caused(
            gantry_core::Kind::DataLoss,
            format!("decode a value of table {}", table.0),
            e,
        )
    })?;
    T::from_message(name, message)
}
