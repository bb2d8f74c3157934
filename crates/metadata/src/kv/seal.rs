//! Proof that what is read is what was committed.
//!
//! sled takes a hole in its log for the end of it, and a cut log for an older store: both open
//! without a word and with less in them, and a daemon that trusts them collects the rest as
//! garbage. So every commit stores, in the same batch, a [`Seal`]: the number of commits, the
//! number of entries, and a sum of the entries' hashes, kept up from the old values and the new.
//! Opening adds everything up again. A hole shows in the sum; a whole older state shows in the
//! [`Mark`], a small file beside the store that says how far it had come.
//!
//! Invariant: the mark never lies ahead of the disk: it is written after the flush, itself
//! unflushed, so that a power cut can only leave an older one.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::overlay::Batch;
use super::read::{Read, Table};
use super::{StoreError, dir};

/// The store's own table; those of users must not begin with `kv.`.
pub(crate) const TABLE: Table = Table("kv.seal");
const KEY: &[u8] = b"seal";
const VERSION: u8 = 1;

/// What one state amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) commits: u64,
    pub(crate) entries: u64,
    /// Sum of the entries' hashes modulo 2^128: the order does not matter, and taking one out is
    /// a subtraction.
    pub(crate) sum: u128,
}

impl Seal {
    /// Counts an entry in.
    pub(crate) fn add(&mut self, table: &str, key: &[u8], value: &[u8]) {
        self.entries = self.entries.wrapping_add(1);
        self.sum = self.sum.wrapping_add(hash(table, key, value));
    }

    fn remove(&mut self, table: &str, key: &[u8], value: &[u8]) {
        self.entries = self.entries.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(hash(table, key, value));
    }

    /// The seal after a commit of `batch` over `old`.
    fn after(&self, batch: &Batch, old: &Batch) -> Self {
        let mut next = *self;
        next.commits += 1;
        for (table, key, value) in old.iter() {
            if let Some(value) = value {
                next.remove(table.0, key, value);
            }
        }
        for (table, key, value) in batch.iter() {
            if let Some(value) = value {
                next.add(table.0, key, value);
            }
        }
        next
    }

    /// Puts the next seal into `batch` and this one into `old`; the next one is the answer.
    pub(crate) fn stamp(&self, batch: &mut Batch, old: &mut Batch) -> Self {
        let next = self.after(batch, old);
        batch.set(TABLE, KEY.to_vec(), Some(next.encode()));
        // Before the first commit there was none; only then are there no commits.
        let before = (self.commits > 0).then(|| self.encode());
        old.set(TABLE, KEY.to_vec(), before);
        next
    }

    /// The seal in `state`.
    pub(crate) fn read(state: &dyn Read) -> Result<Self, StoreError> {
        let bytes = state.get(TABLE, KEY)?;
        Ok(bytes.and_then(|bytes| Self::decode(&bytes)).unwrap_or_default())
    }

    fn encode(self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.commits.to_be_bytes());
        bytes.extend_from_slice(&self.entries.to_be_bytes());
        bytes.extend_from_slice(&self.sum.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (commits, rest) = rest.split_first_chunk()?;
        let (entries, rest) = rest.split_first_chunk()?;
        (*version == VERSION).then_some(Self {
            commits: u64::from_be_bytes(*commits),
            entries: u64::from_be_bytes(*entries),
            sum: u128::from_be_bytes(rest.try_into().ok()?),
        })
    }
}

fn hash(table: &str, key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = Sha256::new();
    hasher.update(table.as_bytes());
    // No table name holds a NUL, and the length parts key from value.
    hasher.update([0]);
    hasher.update((key.len() as u64).to_be_bytes());
    hasher.update(key);
    hasher.update(value);
    let digest = hasher.finalize();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(half)
}

/// Adds up a store while it is read, entry by entry.
pub(crate) struct Audit<'a> {
    known: &'a BTreeSet<Table>,
    found: Seal,
    hidden: Seal,
    stored: Option<Seal>,
    bytes: u64,
}

/// What an audit found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Audited {
    /// The seal to go on from.
    pub(crate) seal: Seal,
    /// What of it lies in tables this process was not told of, and so cannot read again.
    pub(crate) hidden: Seal,
    /// Bytes of all keys and values.
    pub(crate) bytes: u64,
}

impl<'a> Audit<'a> {
    pub(crate) fn new(known: &'a BTreeSet<Table>) -> Self {
        Self { known, found: Seal::default(), hidden: Seal::default(), stored: None, bytes: 0 }
    }

    pub(crate) fn entry(&mut self, table: &str, key: &[u8], value: &[u8]) {
        self.bytes += (key.len() + value.len()) as u64;
        if table == TABLE.0 {
            self.stored = Seal::decode(value);
            return;
        }
        self.found.add(table, key, value);
        if !self.known.iter().any(|known| known.0 == table) {
            self.hidden.add(table, key, value);
        }
    }

    /// Compares with the seal and the mark; an error tells what is wrong.
    pub(crate) fn finish(self, mark: Option<u64>) -> Result<Audited, String> {
        let stored = self.stored.unwrap_or_default();
        let reached = mark.unwrap_or(0);
        if stored.commits < reached {
            return Err(format!(
                "{reached} commits were acknowledged, the last one found is {}",
                stored.commits
            ));
        }
        if (self.found.entries, self.found.sum) != (stored.entries, stored.sum) {
            return Err(format!(
                "{} entries were committed, {} are there, or some have changed",
                stored.entries, self.found.entries
            ));
        }
        Ok(Audited { seal: stored, hidden: self.hidden, bytes: self.bytes })
    }

    /// As found, whatever was committed: numbered after everything that may have been.
    pub(crate) fn accept(self, mark: Option<u64>) -> Audited {
        let stored = self.stored.unwrap_or_default().commits;
        let commits = stored.max(mark.unwrap_or(0));
        Audited { seal: Seal { commits, ..self.found }, hidden: self.hidden, bytes: self.bytes }
    }
}

/// How often and how far apart an open asks for the lock that a dying process still holds: 5 s.
const LOCK_ATTEMPTS: u32 = 250;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The file that says how many commits the store has seen. It is locked as long as it is open:
/// the backends' own locks have gaps, where a store is opened anew or written anew.
#[derive(Debug)]
pub(crate) struct Mark {
    file: File,
}

impl Mark {
    pub(crate) const FILE: &'static str = "mark";

    /// The mark of the store in `dir`, and what it says; a new or torn one says nothing.
    pub(crate) fn open(store: &Path) -> Result<(Self, Option<u64>), StoreError> {
        let path: PathBuf = store.join(Self::FILE);
        let failed = |error| StoreError::io(format!("open {}", path.display()), error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(failed)?;
        let mut attempt = 0;
        while let Err(error) = file.try_lock() {
            match error {
                TryLockError::WouldBlock if attempt < LOCK_ATTEMPTS => attempt += 1,
                TryLockError::WouldBlock => {
                    return Err(StoreError::Locked { path: store.to_owned() });
                }
                TryLockError::Error(error) => return Err(failed(error)),
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        let said = || -> io::Result<(Option<u64>, bool)> {
            let mut bytes = [0; 24];
            let new = file.metadata()?.len() < 24;
            if new {
                // The blocks are taken now: later writes must not need space.
                file.write_all_at(&record(0), 0)?;
                file.sync_all()?;
            }
            file.read_exact_at(&mut bytes, 0)?;
            let (number, _) = bytes.split_first_chunk().unwrap_or((&[0; 8], &[]));
            let number = u64::from_be_bytes(*number);
            let valid = !new && bytes == record(number);
            Ok((valid.then_some(number), new))
        };
        let (number, new) = said().map_err(failed)?;
        if new {
            dir::sync(store)?;
        }
        Ok((Self { file }, number))
    }

    /// Notes that `commits` are on disk.
    pub(crate) fn write(&self, commits: u64) {
        if let Err(error) = self.file.write_all_at(&record(commits), 0) {
            // A mark left behind proves less and denies nothing.
            tracing::warn!(%error, "the metadata store's mark was not written");
        }
    }
}

/// A number and its checksum.
fn record(commits: u64) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&commits.to_be_bytes());
    let digest = Sha256::digest(&bytes[..8]);
    bytes[8..].copy_from_slice(&digest[..16]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Table = Table("t");

    #[test]
    fn the_sum_follows_the_changes_and_is_that_of_the_entries() {
        let (mut old, mut batch) = (Batch::default(), Batch::default());
        old.set(T, b"a".to_vec(), Some(b"1".to_vec()));
        old.set(T, b"b".to_vec(), None);
        old.set(T, b"c".to_vec(), Some(b"3".to_vec()));
        batch.set(T, b"a".to_vec(), Some(b"2".to_vec()));
        batch.set(T, b"b".to_vec(), Some(b"2".to_vec()));
        batch.set(T, b"c".to_vec(), None);
        let (mut before, mut after) = (Seal::default(), Seal::default());
        before.add("t", b"a", b"1");
        before.add("t", b"c", b"3");
        before.add("u", b"a", b"1");
        after.add("t", b"a", b"2");
        after.add("t", b"b", b"2");
        after.add("u", b"a", b"1");
        let next = before.after(&batch, &old);
        assert_eq!((next.entries, next.sum), (after.entries, after.sum));
        assert_eq!(next.commits, 1);
        assert_eq!(Seal::decode(&next.encode()), Some(next));
    }

    #[test]
    fn key_and_value_do_not_run_into_each_other() {
        assert_ne!(hash("t", b"ab", b"c"), hash("t", b"a", b"bc"));
        assert_ne!(hash("t", b"a", b""), hash("ta", b"", b""));
    }

    #[test]
    fn a_torn_mark_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (mark, said) = Mark::open(dir.path()).unwrap();
        assert_eq!(said, None);
        mark.write(7);
        drop(mark);
        let (mark, said) = Mark::open(dir.path()).unwrap();
        assert_eq!(said, Some(7));
        mark.file.write_all_at(&[9], 3).unwrap();
        drop(mark);
        assert_eq!(Mark::open(dir.path()).unwrap().1, None);
    }
}
