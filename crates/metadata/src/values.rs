//! Values of any size in a store whose values are small.
//!
//! The store refuses values over 32 KiB (sled spills larger ones into files that it never gives
//! back). A record that is larger, such as a container with a big spec, is cut into chunks in the
//! table `chunk` and its own row says how many there are. Row and chunks change in one
//! transaction, so no second commit point appears.
//!
//! Row format: one tag byte, then for tag 0 the value, for tag 1 a `ChunkedValue`.

use gantry_api::gantry::store::v1::ChunkedValue;
use gantry_core::{Error, Result};
use prost::Message;

use crate::kv::{Read, Table, Txn};
use crate::schema::{CHUNK, Key};

/// Largest value that stands in its own row, in bytes.
const INLINE_BYTES_MAX: usize = 16 * 1024;
const INLINE: u8 = 0;
const CHUNKED: u8 = 1;

fn chunk_key(table: Table, key: &[u8], index: u32) -> Vec<u8> {
    Key::of(table.0).sized(key).last(index.to_be_bytes())
}

fn damaged(table: Table, what: &str) -> Error {
    Error::data_loss(format!("value in table {}: {what}", table.0))
}

/// The value behind `row`, which was read at `key`.
pub(crate) fn resolve(read: &dyn Read, table: Table, key: &[u8], row: &[u8]) -> Result<Vec<u8>> {
    let Some((tag, body)) = row.split_first() else {
        return Err(damaged(table, "row is empty"));
    };
    match *tag {
        INLINE => Ok(body.to_vec()),
        CHUNKED => {
            let head =
                ChunkedValue::decode(body).map_err(|_| damaged(table, "bad chunk header"))?;
            let mut value = Vec::new();
            for index in 0..head.chunks {
                let chunk = read.get(CHUNK, &chunk_key(table, key, index))?;
                value.extend(chunk.ok_or_else(|| damaged(table, "a chunk is missing"))?);
            }
            if value.len() as u64 != head.bytes {
                return Err(damaged(table, "chunks do not add up"));
            }
            Ok(value)
        }
        _ => Err(damaged(table, "unknown row format")),
    }
}

/// The value at `key`, whatever its size.
pub(crate) fn get(read: &dyn Read, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
    match read.get(table, key)? {
        Some(row) => resolve(read, table, key, &row).map(Some),
        None => Ok(None),
    }
}

/// Puts `value` of any size at `key`.
pub(crate) fn put(txn: &mut Txn<'_>, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
    drop_chunks(txn, table, key)?;
    if value.len() <= INLINE_BYTES_MAX {
        let mut row = Vec::with_capacity(value.len() + 1);
        row.push(INLINE);
        row.extend_from_slice(value);
        return Ok(txn.put(table, key, row)?);
    }
    let mut chunks: u32 = 0;
    for chunk in value.chunks(INLINE_BYTES_MAX) {
        txn.put(CHUNK, chunk_key(table, key, chunks), chunk)?;
        chunks += 1;
    }
    let mut row = vec![CHUNKED];
    row.extend(ChunkedValue { chunks, bytes: value.len() as u64 }.encode_to_vec());
    Ok(txn.put(table, key, row)?)
}

/// Deletes the value at `key`, chunks included.
pub(crate) fn delete(txn: &mut Txn<'_>, table: Table, key: &[u8]) -> Result<()> {
    drop_chunks(txn, table, key)?;
    txn.delete(table, key);
    Ok(())
}

fn drop_chunks(txn: &mut Txn<'_>, table: Table, key: &[u8]) -> Result<()> {
    let Some(row) = txn.get(table, key)? else { return Ok(()) };
    if row.first() == Some(&CHUNKED) {
        let head =
            ChunkedValue::decode(&row[1..]).map_err(|_| damaged(table, "bad chunk header"))?;
        for index in 0..head.chunks {
            txn.delete(CHUNK, &chunk_key(table, key, index));
        }
    }
    Ok(())
}
