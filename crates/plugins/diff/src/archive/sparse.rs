//! Maps of sparse files: the old GNU type `S` and the three PAX forms 0.0, 0.1 and 1.0.
//!
//! Source: GNU tar manual, "Storing Sparse Files". Invariant: a map that leaves this module is
//! ordered, without overlap, within the file's size, and names exactly the bytes that follow.

use super::pax::{Records, SPARSE_MAP, decimal};
use super::{BLOCK, Segment, header};

/// Most segments of one file. The PAX forms could not hold more in [`super::EXTENSION_BYTES_MAX`].
pub(super) const SEGMENTS_MAX: usize = 1 << 18;

/// How a file says that it has holes.
pub(super) enum Announced {
    No,
    /// The map stands in the records.
    InRecords,
    /// The map stands before the data.
    InData,
}

/// Tells what the records of a regular file announce; an unknown version is refused.
pub(super) fn announced(records: &Records) -> Result<Announced, &'static str> {
    let version = (records.get(b"GNU.sparse.major"), records.get(b"GNU.sparse.minor"));
    match version {
        (Some(b"1"), Some(b"0")) => Ok(Announced::InData),
        (Some(b"0"), Some(b"0" | b"1")) => Ok(Announced::InRecords),
        (None, None) if records.get(SPARSE_MAP).is_some() => Ok(Announced::InRecords),
        (None, None) => Ok(Announced::No),
        _ => Err("unknown version of the PAX sparse format"),
    }
}

/// The map in the records (forms 0.0 and 0.1).
pub(super) fn from_records(records: &Records) -> Result<Vec<Segment>, &'static str> {
    const BAD: &str = "malformed PAX sparse map";
    let map = records.get(SPARSE_MAP).unwrap_or_default();
    let mut numbers = Vec::new();
    for text in map.split(|b| *b == b',').filter(|_| !map.is_empty()) {
        numbers.push(number(text).ok_or(BAD)?);
    }
    let blocks = records.number(b"GNU.sparse.numblocks")?;
    if numbers.len() % 2 != 0 || blocks.is_some_and(|n| usize::try_from(n) != Ok(numbers.len() / 2))
    {
        return Err(BAD);
    }
    pairs(&numbers)
}

/// What [`DataMap::feed`] wants next.
pub(super) enum Fed {
    More,
    Done(Vec<Segment>),
}

/// The map in front of the data (form 1.0): decimal lines, padded to whole blocks.
#[derive(Default)]
pub(super) struct DataMap {
    numbers: Vec<u64>,
    expected: Option<usize>,
    line: Vec<u8>,
}

impl DataMap {
    /// Takes in the next block of data.
    pub(super) fn feed(&mut self, block: &[u8; BLOCK]) -> Result<Fed, &'static str> {
        const BAD: &str = "malformed sparse map";
        for byte in block {
            if *byte != b'\n' {
                if self.line.len() >= 20 {
                    return Err(BAD);
                }
                self.line.push(*byte);
                continue;
            }
            let value = number(&self.line).ok_or(BAD)?;
            self.line.clear();
            match self.expected {
                None => {
                    let count = usize::try_from(value).map_err(|_| BAD)?;
                    if count > SEGMENTS_MAX {
                        return Err("sparse file of too many segments");
                    }
                    self.expected = Some(count * 2);
                }
                Some(_) => self.numbers.push(value),
            }
            if self.expected == Some(self.numbers.len()) {
                return Ok(Fed::Done(pairs(&self.numbers)?));
            }
        }
        Ok(Fed::More)
    }
}

/// Reads the segments of an old GNU header (`at` 386, four of them) or of an extension block
/// (`at` 0, twenty-one); tells whether another block follows.
pub(super) fn from_block(
    block: &[u8; BLOCK],
    at: usize,
    count: usize,
    segments: &mut Vec<Segment>,
) -> Result<bool, &'static str> {
    for entry in block[at..at + count * 24].chunks_exact(24) {
        if entry[0] == 0 || entry[12] == 0 {
            break;
        }
        let part = |field| header::number(field).and_then(|n| u64::try_from(n).ok());
        let (Some(offset), Some(len)) = (part(&entry[..12]), part(&entry[12..])) else {
            return Err("malformed GNU sparse map");
        };
        if segments.len() >= SEGMENTS_MAX {
            return Err("sparse file of too many segments");
        }
        segments.push(Segment { offset, len });
    }
    Ok(block[at + count * 24] != 0)
}

/// Checks a map against the file's size and the bytes that follow.
pub(super) fn check(segments: &[Segment], size: u64, data: u64) -> Result<(), &'static str> {
    let mut end = 0_u64;
    let mut sum = 0_u64;
    for segment in segments {
        if segment.offset < end {
            return Err("sparse map out of order");
        }
        end = segment.offset.checked_add(segment.len).ok_or("sparse map overflows")?;
        sum += segment.len;
    }
    if end > size {
        return Err("sparse map exceeds the file");
    }
    if sum != data {
        return Err("sparse map and data differ in size");
    }
    Ok(())
}

fn number(text: &[u8]) -> Option<u64> {
    decimal(text).and_then(|n| u64::try_from(n).ok())
}

fn pairs(numbers: &[u64]) -> Result<Vec<Segment>, &'static str> {
    Ok(numbers.chunks_exact(2).map(|p| Segment { offset: p[0], len: p[1] }).collect())
}
