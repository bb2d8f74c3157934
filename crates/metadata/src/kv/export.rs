//! The whole store as one text file: to move it, to keep it, to start again from it.
//!
//! ```text
//! {"gantry-metadata-export":1,"schema":7}            format and schema version
//! {"table":"image","key":"6b31","value":"0a03"}      one line per entry, hexadecimal
//! ...
//! {"entries":1,"sha256":"..."}                       over every byte above
//! ```
//!
//! Nothing here knows what the entries mean; the schema version is the caller's and is handed
//! back to it. Invariants: an export is of one state; a file under its final name is whole and
//! on disk; an import is one transaction into an empty store, so a kill leaves nothing or all.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::read::{Read, Table};
use super::{Db, StoreError, Verdict, dir, hex};

/// Version of the file's format.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    #[serde(rename = "gantry-metadata-export")]
    format: u32,
    schema: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    table: String,
    key: String,
    value: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Footer {
    entries: u64,
    sha256: String,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Entries in the file.
    pub entries: u64,
    /// Entries in tables that this build does not know, which are not in the file.
    pub left_out: u64,
}

/// Writes one state of `db` to `path`, replacing what is there; durable when it returns. On an
/// error what was at `path` is still there. Blocking.
pub fn write(db: &Db, schema: u32, path: &Path) -> Result<Summary, StoreError> {
    let temporary = beside(path);
    let written = write_to(db, schema, &temporary).and_then(|summary| {
        fail::fail_point!("kv.export/rename", |arg| Err(StoreError::injected(arg)));
        fs::rename(&temporary, path)
            .map_err(|error| StoreError::io(format!("name {}", path.display()), error))?;
        dir::sync(path.parent().unwrap_or(Path::new("/")))?;
        Ok(summary)
    });
    if written.is_err() {
        // It may not exist; on a full disk it must not stay.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

fn write_to(db: &Db, schema: u32, path: &Path) -> Result<Summary, StoreError> {
    let failed = |error| StoreError::io(format!("write {}", path.display()), error);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(path).map_err(failed)?;
    let mut out = Lines { out: BufWriter::new(file), sum: Sha256::new() };
    out.line(&Header { format: FORMAT, schema }).map_err(failed)?;
    let mut entries = 0;
    let mut outcome = Ok(());
    db.read_blocking(|state| {
        for table in db.tables() {
            state.for_each(table, &[], None, &mut |key, value| {
                let entry = Entry {
                    table: table.0.to_owned(),
                    key: hex::encode(&key),
                    value: hex::encode(&value),
                };
                outcome = out.line(&entry);
                entries += 1;
                outcome.is_ok()
            })?;
            if outcome.is_err() {
                break;
            }
        }
        Ok::<_, StoreError>(())
    })?;
    outcome.map_err(failed)?;
    let sha256 = hex::encode(&out.sum.clone().finalize());
    out.line(&Footer { entries, sha256 }).map_err(failed)?;
    fail::fail_point!("kv.export/sync", |arg| Err(StoreError::injected(arg)));
    let file = out.out.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    Ok(Summary { entries, left_out: db.left_out() })
}

/// Writes lines and sums them up.
struct Lines {
    out: BufWriter<File>,
    sum: Sha256,
}

impl Lines {
    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.sum.update(&text);
        self.out.write_all(&text)
    }
}

/// An export, read and found whole.
#[derive(Debug)]
pub struct Export {
    schema: u32,
    entries: Vec<(String, Vec<u8>, Vec<u8>)>,
}

impl Export {
    /// Reads `path` into memory and checks it. [`StoreError::Export`] says what is wrong with it,
    /// and where.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |error| StoreError::io(format!("read {}", path.display()), error);
        let mut lines = BufReader::new(File::open(path).map_err(failed)?);
        let mut reader = Reader { path, number: 0, sum: Sha256::new(), text: String::new() };
        if !reader.advance(&mut lines)? {
            return Err(reader.bad("is empty"));
        }
        let header: Header = reader.parse()?;
        if header.format != FORMAT {
            return Err(
                reader.bad(&format!("has format {}, this build reads {FORMAT}", header.format))
            );
        }
        let mut entries = Vec::new();
        while reader.advance(&mut lines)? {
            if reader.text.starts_with("{\"entries\"") {
                let footer: Footer = reader.parse()?;
                let sum = hex::encode(&reader.sum.clone().finalize());
                if footer.entries != entries.len() as u64 || footer.sha256 != sum {
                    return Err(reader.bad("does not have the content its last line states"));
                }
                if reader.advance(&mut lines)? {
                    return Err(reader.bad("goes on after its last line"));
                }
                return Ok(Self { schema: header.schema, entries });
            }
            let entry: Entry = reader.parse()?;
            let (key, value) = (hex::decode(&entry.key), hex::decode(&entry.value));
            let (Some(key), Some(value)) = (key, value) else {
                return Err(reader.bad("holds what is not hexadecimal"));
            };
            entries.push((entry.table, key, value));
        }
        Err(reader.bad("ends too early: it is not whole"))
    }

    /// The schema version it was written with.
    pub fn schema(&self) -> u32 {
        self.schema
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts everything into `db`, in one transaction; `db` must be empty and know every table.
    /// Blocking.
    pub fn import_into(self, db: &Db) -> Result<(), StoreError> {
        let known: BTreeMap<&str, Table> = db.tables().map(|table| (table.0, table)).collect();
        let mut writes = Vec::with_capacity(self.entries.len());
        for (name, key, value) in self.entries {
            let Some(table) = known.get(name.as_str()) else {
                return Err(StoreError::UnknownTable { table: name });
            };
            writes.push((*table, key, value));
        }
        let tables: Vec<Table> = known.into_values().collect();
        db.update_blocking(move |txn| {
            for table in tables {
                match txn.scan(table, &[], None, 1) {
                    Ok(found) if found.is_empty() => {}
                    Ok(_) => return Verdict::Abort(StoreError::NotEmpty { table: table.0 }),
                    Err(error) => return Verdict::Abort(error),
                }
            }
            for (table, key, value) in writes {
                if let Err(error) = txn.put(table, key, value) {
                    return Verdict::Abort(error);
                }
            }
            Verdict::Commit(Ok(()))
        })
    }
}

struct Reader<'a> {
    path: &'a Path,
    /// The last line read.
    text: String,
    /// Its number, from 1.
    number: u64,
    /// Over all lines before it.
    sum: Sha256,
}

impl Reader<'_> {
    /// Goes to the next line; an unfinished one counts as absent.
    fn advance(&mut self, lines: &mut BufReader<File>) -> Result<bool, StoreError> {
        self.sum.update(self.text.as_bytes());
        self.text.clear();
        let read = lines.read_line(&mut self.text);
        match read {
            Ok(_) if !self.text.ends_with('\n') => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.number += 1;
                return Err(self.bad("is not text"));
            }
            Err(error) => {
                return Err(StoreError::io(format!("read {}", self.path.display()), error));
            }
        }
        self.number += 1;
        Ok(true)
    }

    fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, StoreError> {
        serde_json::from_str(&self.text)
            .map_err(|error| self.bad(&format!("cannot be read: {error}")))
    }

    fn bad(&self, detail: &str) -> StoreError {
        StoreError::Export {
            path: self.path.to_owned(),
            line: self.number,
            detail: detail.to_owned(),
        }
    }
}
