//! Writes a PAX archive: plain ustar headers, an extended header only where one is needed.
//!
//! The same entries give the same bytes: no user names, no clock, records in a fixed order.

use std::io::{self, Write};

use super::header::{
    CHECKSUM, GID, LINK, MAGIC, MAJOR, MINOR, MODE, MTIME, NAME, SIZE, TYPE, UID, unsigned_sum,
};
use super::{BLOCK, Entry, EntryKind, PAX_XATTR, pax};

/// An archive being written.
pub(crate) struct Writer<W> {
    out: W,
    /// Data of the current entry still to come.
    data: u64,
    padding: usize,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, data: 0, padding: 0 }
    }

    /// Writes the headers of `entry`; exactly `entry.size` bytes of data must follow.
    pub(crate) fn begin(&mut self, entry: &Entry) -> io::Result<()> {
        let mut records = Vec::new();
        let mut block = header(entry, &mut records)?;
        if !records.is_empty() {
            let mut extension = extension_header(entry, records.len());
            seal(&mut extension);
            self.out.write_all(&extension)?;
            self.out.write_all(&records)?;
            self.pad(padding(records.len() as u64))?;
        }
        seal(&mut block);
        self.out.write_all(&block)?;
        self.data = entry.size;
        self.padding = padding(entry.size);
        self.end_data()
    }

    /// Writes data of the current entry; more than it announced is an error.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.data = self.data.checked_sub(bytes.len() as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "more data than the entry announced")
        })?;
        self.out.write_all(bytes)?;
        self.end_data()
    }

    /// Ends the archive and returns what it was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        if self.data != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an entry lacks data"));
        }
        self.out.write_all(&[0; BLOCK * 2])?;
        Ok(self.out)
    }

    fn end_data(&mut self) -> io::Result<()> {
        if self.data == 0 {
            let padding = std::mem::take(&mut self.padding);
            self.pad(padding)?;
        }
        Ok(())
    }

    fn pad(&mut self, count: usize) -> io::Result<()> {
        self.out.write_all(&[0; BLOCK][..count])
    }
}

fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK as u64) as usize
}

/// The ustar block of `entry`; what it cannot hold goes to `records`.
fn header(entry: &Entry, records: &mut Vec<u8>) -> io::Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    block[MAGIC].copy_from_slice(b"ustar\x0000");
    block[TYPE] = match entry.kind {
        EntryKind::Regular => b'0',
        EntryKind::HardLink => b'1',
        EntryKind::Symlink => b'2',
        EntryKind::CharDevice => b'3',
        EntryKind::BlockDevice => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
        EntryKind::Other(flag) => flag,
    };
    put_text(&mut block[NAME], b"path", &entry.name, records);
    put_text(&mut block[LINK], b"linkpath", &entry.link, records);
    put_octal(&mut block[MODE], u64::from(entry.mode));
    put_number(&mut block[UID], b"uid", entry.uid, records);
    put_number(&mut block[GID], b"gid", entry.gid, records);
    put_number(&mut block[SIZE], b"size", entry.size.cast_signed(), records);
    if entry.mtime.nanos == 0 {
        put_number(&mut block[MTIME], b"mtime", entry.mtime.secs, records);
    } else {
        put_octal(&mut block[MTIME], 0);
        pax::write_record(records, b"mtime", pax::format_time(entry.mtime).as_bytes());
    }
    for (range, value) in [(MAJOR, entry.major), (MINOR, entry.minor)] {
        // No PAX record holds device numbers; 21 bits are more than Linux has for either.
        let fits = u64::try_from(value).ok().filter(|n| *n < 1 << 21);
        let value = fits.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "device number beyond ustar's 21 bits")
        })?;
        put_octal(&mut block[range], value);
    }
    for (name, value) in &entry.xattrs {
        pax::write_record(records, &[PAX_XATTR, name].concat(), value);
    }
    Ok(block)
}

fn extension_header(entry: &Entry, size: usize) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[MAGIC].copy_from_slice(b"ustar\x0000");
    block[TYPE] = b'x';
    // The name is for programs that do not know PAX; they would make a file of it.
    let base = entry.name.trim_ascii_end().rsplit(|b| *b == b'/').find(|part| !part.is_empty());
    let base =
        base.unwrap_or_default().iter().map(|b| if b.is_ascii_graphic() { *b } else { b'_' });
    let name: Vec<u8> = b"PaxHeaders.0/".iter().copied().chain(base).take(NAME.len()).collect();
    block[..name.len()].copy_from_slice(&name);
    put_octal(&mut block[MODE], 0o644);
    put_octal(&mut block[UID], 0);
    put_octal(&mut block[GID], 0);
    put_octal(&mut block[SIZE], size as u64);
    put_octal(&mut block[MTIME], 0);
    block
}

fn put_text(field: &mut [u8], key: &[u8], text: &[u8], records: &mut Vec<u8>) {
    if text.len() > field.len() || !text.is_ascii() {
        pax::write_record(records, key, text);
    }
    let short: Vec<u8> =
        text.iter().take(field.len()).map(|b| if b.is_ascii() { *b } else { b'_' }).collect();
    field[..short.len()].copy_from_slice(&short);
}

fn put_number(field: &mut [u8], key: &[u8], value: i64, records: &mut Vec<u8>) {
    let bits = 3 * (field.len() as u32 - 1);
    match u64::try_from(value).ok().filter(|n| *n < 1 << bits) {
        Some(value) => put_octal(field, value),
        None => {
            put_octal(field, 0);
            pax::write_record(records, key, value.to_string().as_bytes());
        }
    }
}

/// Octal digits that fill the field but for one NUL; the value is known to fit.
fn put_octal(field: &mut [u8], mut value: u64) {
    let digits = field.len() - 1;
    for place in field[..digits].iter_mut().rev() {
        *place = b'0' + (value & 7) as u8;
        value >>= 3;
    }
    field[digits] = 0;
}

fn seal(block: &mut [u8; BLOCK]) {
    let sum = unsigned_sum(block);
    put_octal(&mut block[CHECKSUM.start..CHECKSUM.end - 1], sum);
    block[CHECKSUM.end - 1] = b' ';
}
