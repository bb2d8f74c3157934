//! Reads an archive entry by entry from a stream, never seeking and never holding data.
//!
//! Call [`Reader::next`] for the next entry, then [`Reader::data`] and [`Reader::consume`] until
//! no data is left; what is not taken is skipped. The archive ends at two zero blocks, or at the
//! end of the stream between entries; what follows the two blocks is left to the caller.

use std::io::{self, BufRead};

use super::header::{GID, Header, MODE, MTIME, SIZE, UID};
use super::pax::Records;
use super::sparse::{self, Announced, DataMap, Fed};
use super::{ArchiveError, BLOCK, EXTENSION_BYTES_MAX, Entry, EntryKind, PAX_XATTR, Segment, Time};

/// Most extension headers in front of one entry; GNU and PAX writers need three.
const EXTENSIONS_MAX: usize = 16;

/// An archive being read.
pub(crate) struct Reader<R> {
    stream: R,
    /// Bytes taken from the stream so far.
    offset: u64,
    /// Data of the current entry not yet taken.
    data: u64,
    /// Padding after that data.
    padding: u64,
}

impl<R: BufRead> Reader<R> {
    pub(crate) fn new(stream: R) -> Self {
        Self { stream, offset: 0, data: 0, padding: 0 }
    }

    /// The next entry; `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut records = Records::default();
        let (mut long_name, mut long_link) = (None, None);
        let mut described = false;
        for _ in 0..EXTENSIONS_MAX {
            self.skip_data()?;
            let Some(header) = self.header()? else {
                let within = "the headers of an entry";
                return if described { Err(ArchiveError::Truncated { within }) } else { Ok(None) };
            };
            described |= matches!(header.type_flag(), b'x' | b'L' | b'K');
            match header.type_flag() {
                b'x' => {
                    let data = self.extension(&header)?;
                    records = Records::parse(&data).map_err(|what| self.invalid(what))?;
                }
                b'g' => drop(self.extension(&header)?),
                b'L' => long_name = Some(self.long_text(&header)?),
                b'K' => long_link = Some(self.long_text(&header)?),
                _ => {
                    return self.entry(&header, &records, long_name, long_link).map(Some);
                }
            }
        }
        Err(self.invalid("too many extension headers in a row"))
    }

    /// Data of the current entry that is at hand; empty when all was taken.
    pub(crate) fn data(&mut self) -> Result<&[u8], ArchiveError> {
        if self.data == 0 {
            return Ok(&[]);
        }
        let ready = self.stream.fill_buf().map_err(ArchiveError::Read)?;
        if ready.is_empty() {
            return Err(ArchiveError::Truncated { within: "the data of a file" });
        }
        let limit = usize::try_from(self.data).unwrap_or(usize::MAX);
        Ok(&ready[..ready.len().min(limit)])
    }

    /// Takes `count` bytes of what [`Reader::data`] showed.
    pub(crate) fn consume(&mut self, count: usize) {
        self.stream.consume(count);
        self.offset += count as u64;
        self.data -= count as u64;
    }

    fn entry(
        &mut self,
        header: &Header,
        records: &Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, ArchiveError> {
        let field = |range, what| header.number(range).ok_or_else(|| self.invalid(what));
        let pax = |value: Result<Option<i64>, &'static str>| value.map_err(|w| self.invalid(w));
        let text = |key| records.get(key).map(<[u8]>::to_vec);

        // GNU's long names win over PAX ones, as in Go.
        let name = long_name.or_else(|| text(b"path")).unwrap_or_else(|| header.name());
        let link = long_link.or_else(|| text(b"linkpath")).unwrap_or_else(|| header.link());
        let kind = header.kind(name.ends_with(b"/"));
        let written = pax(records.number(b"size"))?;
        let size = match written {
            Some(size) => size,
            None => field(SIZE, "size is no number")?,
        };
        let size = u64::try_from(size).map_err(|_| self.invalid("size is negative"))?;
        let size = if kind.has_data() { size } else { 0 };
        let mode = field(MODE, "mode is no number")?;
        let uid = match pax(records.number(b"uid"))? {
            Some(uid) => uid,
            None => field(UID, "uid is no number")?,
        };
        let gid = match pax(records.number(b"gid"))? {
            Some(gid) => gid,
            None => field(GID, "gid is no number")?,
        };
        let mtime = match records.time(b"mtime").map_err(|w| self.invalid(w))? {
            Some(time) => time,
            None => Time { secs: field(MTIME, "mtime is no number")?, nanos: 0 },
        };
        let atime = records.time(b"atime").map_err(|w| self.invalid(w))?;
        let (major, minor) =
            header.device().ok_or_else(|| self.invalid("device number is none"))?;
        let xattrs = records.below(PAX_XATTR).map(|(k, v)| (k.to_vec(), v.to_vec())).collect();

        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        let mut entry = Entry {
            kind,
            name,
            link,
            size,
            mode: (mode & 0o7777) as u32,
            uid,
            gid,
            mtime,
            atime,
            major,
            minor,
            xattrs,
            sparse: None,
        };
        if kind == EntryKind::Regular {
            self.read_sparse(header, records, &mut entry)?;
        }
        Ok(entry)
    }

    fn read_sparse(
        &mut self,
        header: &Header,
        records: &Records,
        entry: &mut Entry,
    ) -> Result<(), ArchiveError> {
        let segments = if header.type_flag() == b'S' {
            let real = header.number(483..495).and_then(|n| u64::try_from(n).ok());
            entry.size = real.ok_or_else(|| self.invalid("real size is no number"))?;
            self.gnu_segments(header)?
        } else {
            let segments = match sparse::announced(records).map_err(|w| self.invalid(w))? {
                Announced::No => return Ok(()),
                Announced::InRecords => {
                    sparse::from_records(records).map_err(|w| self.invalid(w))?
                }
                Announced::InData => self.data_segments()?,
            };
            if let Some(name) = records.get(b"GNU.sparse.name") {
                entry.name = name.to_vec();
            }
            let real = match records.number(b"GNU.sparse.size") {
                Ok(None) => records.number(b"GNU.sparse.realsize"),
                other => other,
            };
            if let Some(real) = real.map_err(|w| self.invalid(w))? {
                entry.size =
                    u64::try_from(real).map_err(|_| self.invalid("real size is negative"))?;
            }
            segments
        };
        sparse::check(&segments, entry.size, self.data).map_err(|w| self.invalid(w))?;
        entry.sparse = Some(segments);
        Ok(())
    }

    fn gnu_segments(&mut self, header: &Header) -> Result<Vec<Segment>, ArchiveError> {
        let mut segments = Vec::new();
        let mut more = sparse::from_block(&header.block, 386, 4, &mut segments)
            .map_err(|w| self.invalid(w))?;
        while more {
            let mut block = [0; BLOCK];
            if self.fill(&mut block)? != BLOCK {
                return Err(ArchiveError::Truncated { within: "a sparse map" });
            }
            more = sparse::from_block(&block, 0, 21, &mut segments).map_err(|w| self.invalid(w))?;
        }
        Ok(segments)
    }

    fn data_segments(&mut self) -> Result<Vec<Segment>, ArchiveError> {
        let mut map = DataMap::default();
        loop {
            if self.data < BLOCK as u64 {
                return Err(self.invalid("sparse map exceeds the data"));
            }
            let mut block = [0; BLOCK];
            if self.fill(&mut block)? != BLOCK {
                return Err(ArchiveError::Truncated { within: "a sparse map" });
            }
            self.data -= BLOCK as u64;
            if let Fed::Done(segments) = map.feed(&block).map_err(|w| self.invalid(w))? {
                return Ok(segments);
            }
        }
    }

    /// The next header; `None` at two zero blocks or at the end of the stream.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let mut block = [0; BLOCK];
        match self.fill(&mut block)? {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(ArchiveError::Truncated { within: "a header" }),
        }
        if block.iter().any(|b| *b != 0) {
            return Header::parse(block).map(Some).map_err(|what| self.invalid(what));
        }
        match self.fill(&mut block)? {
            0 => Ok(None),
            BLOCK if block.iter().all(|b| *b == 0) => Ok(None),
            BLOCK => Err(self.invalid("a single zero block")),
            _ => Err(ArchiveError::Truncated { within: "the end marker" }),
        }
    }

    /// The whole data of an extension header.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, ArchiveError> {
        let size = header.number(SIZE).and_then(|n| u64::try_from(n).ok());
        let size = size.ok_or_else(|| self.invalid("size of an extension is no number"))?;
        if size > EXTENSION_BYTES_MAX {
            return Err(self.invalid(&format!(
                "extension header of {size} bytes, at most {EXTENSION_BYTES_MAX} are taken"
            )));
        }
        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        let mut out = Vec::new();
        while self.data > 0 {
            let ready = self.data()?;
            out.extend_from_slice(ready);
            let count = ready.len();
            self.consume(count);
        }
        Ok(out)
    }

    fn long_text(&mut self, header: &Header) -> Result<Vec<u8>, ArchiveError> {
        let data = self.extension(header)?;
        Ok(super::header::text(&data).to_vec())
    }

    fn skip_data(&mut self) -> Result<(), ArchiveError> {
        while self.data > 0 {
            let count = self.data()?.len();
            self.consume(count);
        }
        // Padding that the end of the stream cuts off does no harm: nothing follows it.
        let mut padding = [0; BLOCK];
        let wanted = std::mem::take(&mut self.padding) as usize;
        self.fill(&mut padding[..wanted])?;
        Ok(())
    }

    /// Fills `buffer` as far as the stream goes and tells how far that was.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.stream.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::Read(error)),
            }
        }
        self.offset += filled as u64;
        Ok(filled)
    }

    fn invalid(&self, what: &str) -> ArchiveError {
        let offset = self.offset.saturating_sub(BLOCK as u64);
        ArchiveError::Invalid { what: what.to_owned(), offset }
    }
}
