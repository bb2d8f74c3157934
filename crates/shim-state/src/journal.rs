//! The exit journal: exits that no daemon has acknowledged.
//!
//! Append-only records of 256 bytes after a header of 32. An exit is appended before anyone is told
//! of it; an acknowledgement is a record of its own. When a good part of the file is history, the
//! rest is written to a new file that replaces it (rename), so the file stays small for ever.
//!
//! ```text
//! header (32)            record (256)
//!  0  "GNTRYEXJ"          0  u32 crc32 of bytes 4..256
//!  8  u32 version = 1     4  u8  kind: 1 exit, 2 acknowledgement of `seq`
//! 12  u32 zero            5  u8  length of container id    6  u8 length of exec id    7  zero
//! 16  u64 sequence of     8  u64 sequence number, rising, never reused within a bundle
//!     the last record    16  u32 pid           20  u32 status (code, or 128 + signal)
//!     before this file   24  u64 start time of the process (field 22 of /proc/PID/stat)
//! 24  u32 crc32 of       32  [16] boot id
//!     bytes 0..24        48  i64 exited at, s  56  u32 exited at, ns      60  zero
//! 28  zero               64  [76] container id, then 4 zero
//!                       144  [76] exec id (none: the init process), then 4 zero   224  [32] zero
//! ```
//!
//! Order: sequence numbers follow the order in which processes were reaped. Told to clients, the
//! exit of the init process comes after those of the execs: a reader sorts so ([`read`] does).
//! A record whose checksum is wrong (torn by the writer's death, or damaged) is skipped and
//! counted; those behind it are read all the same.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::checksum::crc32;
use crate::field::{get, get_u32, get_u64, put};
use crate::{Error, Time};

const MAGIC: &[u8; 8] = b"GNTRYEXJ";
const VERSION: u32 = 1;
const HEADER: usize = 32;
const RECORD: usize = 256;
const KIND_EXIT: u8 = 1;
const KIND_ACK: u8 = 2;
/// Longest identifier; containerd's rule.
const ID_MAX: usize = 76;
/// History beyond which the file is written anew: 16 KiB.
const HISTORY_RECORDS_MAX: usize = 64;
const WHAT: &str = "exit journal";

/// An exit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Its number in the journal, from 1; ignored by [`Journal::append`].
    pub seq: u64,
    /// The container.
    pub container_id: String,
    /// The exec; empty for the init process.
    pub exec_id: String,
    /// The process.
    pub pid: u32,
    /// When the process was started, in clock ticks since boot.
    pub start_time: u64,
    /// The boot it belongs to.
    pub boot_id: [u8; 16],
    /// Its code, or 128 plus the signal.
    pub status: u32,
    /// When it was reaped.
    pub exited_at: Time,
}

/// What a journal holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Exits not acknowledged; of each container those of execs before that of init.
    pub pending: Vec<Exit>,
    /// Records that could not be read.
    pub damaged: usize,
}

/// The writer's side.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    end: u64,
    last: u64,
    pending: Vec<Exit>,
    history: usize,
}

impl Journal {
    /// Opens the journal at `path`, or makes an empty one.
    ///
    /// # Errors
    /// [`Error::Foreign`] or [`Error::Version`] for a file of somebody else, which is left alone.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (bytes, last, pending) = match fs::read(path) {
            Ok(bytes) => {
                let parsed = parse(&bytes)?;
                (bytes.len(), parsed.last, parsed.pending)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => (0, 0, Vec::new()),
            Err(source) => return Err(Error::io(format!("read {}", path.display()), source)),
        };
        if bytes == 0 {
            let file = replace(path, 0, &[])?;
            let path = path.to_owned();
            return Ok(Self { path, file, end: HEADER as u64, last, pending, history: 0 });
        }
        let file = OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(|source| Error::io(format!("open {}", path.display()), source))?;
        // A torn record at the end is overwritten by the next one.
        let whole = (bytes - HEADER) / RECORD;
        let end = (HEADER + whole * RECORD) as u64;
        let history = whole - pending.len().min(whole);
        Ok(Self { path: path.to_owned(), file, end, last, pending, history })
    }

    /// Writes down an exit and returns its number. When the write fails (a full disk) the exit is
    /// pending all the same, with the number [`Journal::last`], and reaches the file when that is
    /// next written anew.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::LongId`].
    pub fn append(&mut self, mut exit: Exit) -> Result<u64, Error> {
        self.last += 1;
        exit.seq = self.last;
        let record = encode(KIND_EXIT, &exit)?;
        self.pending.push(exit);
        self.write(&record)?;
        Ok(self.last)
    }

    /// Notes that the daemon has exit number `seq`; one that is not pending is nothing new.
    ///
    /// # Errors
    /// [`Error::Io`]; the exit then stays in the file and is told again later.
    pub fn acknowledge(&mut self, seq: u64) -> Result<(), Error> {
        let Some(place) = self.pending.iter().position(|exit| exit.seq == seq) else {
            return Ok(());
        };
        self.pending.remove(place);
        let record = encode(KIND_ACK, &Exit { seq, ..Exit::default() })?;
        self.write(&record)?;
        self.history += 2;
        if self.history >= HISTORY_RECORDS_MAX {
            self.compact()?;
        }
        Ok(())
    }

    /// The number given last; 0 before the first.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Exits not acknowledged, in the order in which they were reaped.
    pub fn pending(&self) -> &[Exit] {
        &self.pending
    }

    fn write(&mut self, record: &[u8; RECORD]) -> Result<(), Error> {
        self.file
            .write_all_at(record, self.end)
            .map_err(|source| Error::io(format!("write {}", self.path.display()), source))?;
        self.end += RECORD as u64;
        Ok(())
    }

    fn compact(&mut self) -> Result<(), Error> {
        self.file = replace(&self.path, self.last, &self.pending)?;
        self.end = (HEADER + RECORD * self.pending.len()) as u64;
        self.history = 0;
        Ok(())
    }
}

fn replace(path: &Path, last: u64, pending: &[Exit]) -> Result<File, Error> {
    let mut bytes = vec![0; HEADER];
    put(&mut bytes, 0, MAGIC);
    put(&mut bytes, 8, &VERSION.to_le_bytes());
    put(&mut bytes, 16, &last.to_le_bytes());
    let crc = crc32(&[&bytes[..24]]);
    put(&mut bytes, 24, &crc.to_le_bytes());
    for exit in pending {
        bytes.extend_from_slice(&encode(KIND_EXIT, exit)?);
    }
    let new = path.with_extension("journal.new");
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&bytes)?;
        fs::rename(&new, path)?;
        Ok(file)
    };
    write().map_err(|source| Error::io(format!("write {}", new.display()), source))
}

/// Reads the journal at `path`; a missing one is [`Error::Io`] (see [`Error::is_missing`]).
///
/// # Errors
/// [`Error::Foreign`], [`Error::Version`] or [`Error::Damaged`] for its header.
pub fn read(path: &Path) -> Result<Contents, Error> {
    let bytes = fs::read(path).map_err(|e| Error::io(format!("read {}", path.display()), e))?;
    let Parsed { mut pending, damaged, .. } = parse(&bytes)?;
    pending.sort_by(|a, b| {
        let key = |e: &Exit| (e.exec_id.is_empty(), e.seq);
        key(a).cmp(&key(b))
    });
    Ok(Contents { pending, damaged })
}

struct Parsed {
    pending: Vec<Exit>,
    damaged: usize,
    last: u64,
}

fn parse(bytes: &[u8]) -> Result<Parsed, Error> {
    if bytes.len() < HEADER || bytes[..8] != MAGIC[..] {
        return Err(Error::Foreign(WHAT));
    }
    let version = get_u32(bytes, 8);
    if version != VERSION {
        return Err(Error::Version { file: WHAT, found: version, known: VERSION });
    }
    if crc32(&[&bytes[..24]]) != get_u32(bytes, 24) {
        return Err(Error::Damaged(WHAT));
    }
    let mut parsed = Parsed { pending: Vec::new(), damaged: 0, last: get_u64(bytes, 16) };
    for record in bytes[HEADER..].chunks(RECORD) {
        match decode(record) {
            Some((KIND_EXIT, exit)) => {
                parsed.last = parsed.last.max(exit.seq);
                parsed.pending.push(exit);
            }
            Some((KIND_ACK, ack)) => parsed.pending.retain(|exit| exit.seq != ack.seq),
            // A kind of the future with a right checksum is not damage.
            Some(_) => {}
            None => parsed.damaged += 1,
        }
    }
    Ok(parsed)
}

fn encode(kind: u8, exit: &Exit) -> Result<[u8; RECORD], Error> {
    let length = |id: &str| {
        u8::try_from(id.len())
            .ok()
            .filter(|n| usize::from(*n) <= ID_MAX)
            .ok_or(Error::LongId(id.len()))
    };
    let mut record = [0; RECORD];
    record[4] = kind;
    record[5] = length(&exit.container_id)?;
    record[6] = length(&exit.exec_id)?;
    put(&mut record, 8, &exit.seq.to_le_bytes());
    put(&mut record, 16, &exit.pid.to_le_bytes());
    put(&mut record, 20, &exit.status.to_le_bytes());
    put(&mut record, 24, &exit.start_time.to_le_bytes());
    put(&mut record, 32, &exit.boot_id);
    put(&mut record, 48, &exit.exited_at.seconds.to_le_bytes());
    put(&mut record, 56, &exit.exited_at.nanos.to_le_bytes());
    put(&mut record, 64, exit.container_id.as_bytes());
    put(&mut record, 144, exit.exec_id.as_bytes());
    let crc = crc32(&[&record[4..]]);
    put(&mut record, 0, &crc.to_le_bytes());
    Ok(record)
}

fn decode(record: &[u8]) -> Option<(u8, Exit)> {
    if record.len() != RECORD || crc32(&[&record[4..]]) != get_u32(record, 0) {
        return None;
    }
    let text = |at: usize, length: u8| {
        let bytes = record.get(at..at + usize::from(length).min(ID_MAX))?;
        String::from_utf8(bytes.to_vec()).ok()
    };
    let exit = Exit {
        seq: get_u64(record, 8),
        container_id: text(64, record[5])?,
        exec_id: text(144, record[6])?,
        pid: get_u32(record, 16),
        start_time: get_u64(record, 24),
        boot_id: get(record, 32),
        status: get_u32(record, 20),
        exited_at: Time {
            seconds: i64::from_le_bytes(get(record, 48)),
            nanos: get_u32(record, 56),
        },
    };
    Some((record[4], exit))
}
