//! The file of one write in progress with the hash of what is in it. Blocks.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gantry_core::digest::{Algorithm, Hasher};
use gantry_core::{CallCx, Digest, Error, Result, Timestamp};

/// Bytes hashed between two looks at whether the caller is still there.
const STEP: usize = 1 << 20;

/// Invariant: the file's length is `offset` and `hasher` has taken in exactly its bytes, unless
/// `torn` says that a failed write could not be undone.
#[derive(Debug)]
pub(crate) struct Body {
    file: File,
    path: PathBuf,
    hasher: Hasher,
    algorithm: Algorithm,
    offset: u64,
    torn: bool,
}

impl Body {
    /// Opens the file at `path`, making it when it is absent, and hashes what is in it.
    pub(crate) fn open(
        call: &CallCx,
        path: PathBuf,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<Self> {
        let failed = |e| Error::io(format!("open {}", path.display()), e);
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let (file, new) = match options.clone().create_new(true).open(&path) {
            Ok(file) => (file, true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                (options.open(&path).map_err(failed)?, false)
            }
            Err(e) => return Err(failed(e)),
        };
        let mut body =
            Self { file, path, hasher: Hasher::new(algorithm), algorithm, offset: 0, torn: false };
        if new {
            body.stamp(now);
        } else {
            body.take_in(call)?;
        }
        Ok(body)
    }

    /// Opens a new file at `path` with the bytes of `source`.
    pub(crate) fn copy_of(
        call: &CallCx,
        source: &File,
        path: PathBuf,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<Self> {
        let mut body = Self::open(call, path, algorithm, now)?;
        body.restart(now)?;
        // In the kernel where it can; a large blob is hashed below, step by step.
        io::copy(&mut (&*source), &mut body.file).map_err(|e| body.failed("copy into", e))?;
        body.take_in(call)?;
        body.stamp(now);
        Ok(body)
    }

    /// Hashes the file from its beginning to its end.
    fn take_in(&mut self, call: &CallCx) -> Result<()> {
        (self.hasher, self.offset) = self.hash(call, self.algorithm)?;
        Ok(())
    }

    fn hash(&self, call: &CallCx, algorithm: Algorithm) -> Result<(Hasher, u64)> {
        let mut hasher = Hasher::new(algorithm);
        let offset = hash_file(call, &self.file, &mut hasher, || self.path.display().to_string())?;
        Ok((hasher, offset))
    }

    /// The digest of the file under another algorithm.
    pub(crate) fn rehash(&self, call: &CallCx, algorithm: Algorithm) -> Result<Digest> {
        Ok(self.hash(call, algorithm)?.0.finish())
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }
    pub(crate) fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Appends `data`. On failure the file is as before, or the body is torn.
    pub(crate) fn append(&mut self, data: &[u8], now: Timestamp) -> Result<()> {
        self.check_whole()?;
        fail::fail_point!("content.write/before-data", |_| Err(Error::unknown("failpoint")));
        if let Err(e) = self.file.write_all_at(data, self.offset) {
            // A full disk may have taken a part; a resumed write would count it in.
            self.torn = self.file.set_len(self.offset).is_err();
            return Err(self.failed("write", e));
        }
        self.hasher.update(data);
        self.offset += data.len() as u64;
        self.stamp(now);
        Ok(())
    }

    /// Empties the file.
    pub(crate) fn restart(&mut self, now: Timestamp) -> Result<()> {
        self.file.set_len(0).map_err(|e| self.failed("truncate", e))?;
        self.hasher = Hasher::new(self.algorithm);
        self.offset = 0;
        self.torn = false;
        self.stamp(now);
        Ok(())
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.check_whole()?;
        self.file.sync_all().map_err(|e| self.failed("sync", e))
    }

    fn check_whole(&self) -> Result<()> {
        if self.torn {
            return Err(Error::unknown(format!(
                "{}: an earlier write failed half-way; open the ref again",
                self.path.display()
            )));
        }
        Ok(())
    }

    /// Keeps the time of the last change where a later opening finds it: the kernel's own stamp
    /// is coarser than the clock and lies up to a tick in the past.
    fn stamp(&self, now: Timestamp) {
        if let Err(e) = self.file.set_modified(to_system(now)) {
            tracing::debug!(path = %self.path.display(), error = %e, "cannot stamp ingest");
        }
    }

    fn failed(&self, what: &str, e: io::Error) -> Error {
        Error::io(format!("{what} {}", self.path.display()), e)
    }
}

/// Feeds the whole of `file` to `hasher`; returns its length.
pub(crate) fn hash_file(
    call: &CallCx,
    file: &File,
    hasher: &mut Hasher,
    name: impl Fn() -> String,
) -> Result<u64> {
    let mut buffer = vec![0; STEP];
    let mut offset = 0;
    loop {
        call.check()?;
        match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(offset),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io(format!("read {}", name()), e)),
        }
    }
}

fn to_system(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    match u64::try_from(time.seconds) {
        Ok(after) => UNIX_EPOCH + Duration::from_secs(after) + nanos,
        Err(_) => UNIX_EPOCH - Duration::from_secs(time.seconds.unsigned_abs()) + nanos,
    }
}
