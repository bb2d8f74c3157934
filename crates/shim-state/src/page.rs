//! The state page: a task as its shim knows it, readable without the shim.
//!
//! What never changes (who and where) is written once and protected by one checksum. What changes
//! stands in two slots that are overwritten in turn, each with a generation and a checksum: the
//! slot with the higher generation among the whole ones is the truth, so neither a writer killed in
//! the middle nor a reader that looks at the same moment ever sees half a state.
//!
//! ```text
//!   0  "GNTRYTSK"                      256  slot A (256)     512  slot B (256)
//!   8  u32 version = 1                   0  u32 crc32 of bytes 4..256 of the slot
//!  12  u32 bytes of texts                4  u8 status (see Status)
//!  16  u32 crc32 of bytes 0..16,         5  u8 flags: 1 exited, 2 a process was OOM-killed
//!      20..256 and the texts             8  u64 generation, rising
//!  20  u32 flags: 1 terminal            16  u32 pid of init      20  u32 exit status
//!  24  [16] boot id                     24  u64 start time of init
//!  40  u32 pid of the shim              32  i64 exited at, s     40  u32 exited at, ns
//!  48  u64 start time of the shim       44  zero
//!  56  zero
//! 768  texts, each u32 length and bytes: namespace, container id, bundle, stdin, stdout, stderr,
//!      address of the shim
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::checksum::crc32;
use crate::field::{get, get_u32, get_u64, put};
use crate::{Error, Time};

const MAGIC: &[u8; 8] = b"GNTRYTSK";
const VERSION: u32 = 1;
const SLOTS: [usize; 2] = [256, 512];
const SLOT: usize = 256;
const TEXTS: usize = 768;
/// No task has longer texts; a length beyond it is damage.
const TEXTS_BYTES_MAX: usize = 1 << 20;
const WHAT: &str = "state page";

/// What a task is doing; the numbers are those of the wire, with two that never travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// The runtime is making it, or the shim died while it was.
    #[default]
    Creating = 0,
    /// Made, its program not yet started.
    Created = 1,
    /// Its program runs.
    Running = 2,
    /// Its init process has ended.
    Stopped = 3,
    /// Frozen.
    Paused = 4,
    /// Being frozen.
    Pausing = 5,
    /// Deleted by the shim; what is left of the bundle is rubbish.
    Deleted = 100,
}

impl Status {
    fn from_number(number: u8) -> Option<Self> {
        [
            Self::Creating,
            Self::Created,
            Self::Running,
            Self::Stopped,
            Self::Paused,
            Self::Pausing,
            Self::Deleted,
        ]
        .into_iter()
        .find(|status| *status as u8 == number)
    }
}

/// What never changes about a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its namespace.
    pub namespace: String,
    /// Its container.
    pub container_id: String,
    /// Its bundle.
    pub bundle: String,
    /// Where its standard input comes from, as the client said; empty for none.
    pub stdin: String,
    /// Where its standard output goes.
    pub stdout: String,
    /// Where its standard error goes.
    pub stderr: String,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Where its shim listens, such as `unix:///run/...`.
    pub address: String,
    /// Its shim.
    pub shim_pid: u32,
    /// When the shim was started, in clock ticks since boot.
    pub shim_start_time: u64,
    /// The boot that all this belongs to.
    pub boot_id: [u8; 16],
}

/// What changes about a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// What it is doing.
    pub status: Status,
    /// Its init process; 0 before there is one.
    pub pid: u32,
    /// When the init process was started, in clock ticks since boot.
    pub start_time: u64,
    /// Its exit: status (code, or 128 + signal) and time.
    pub exit: Option<(u32, Time)>,
    /// Whether the kernel killed a process of it for want of memory.
    pub oom_killed: bool,
}

/// The writer's side.
#[derive(Debug)]
pub struct Page {
    file: File,
    generation: u64,
}

impl Page {
    /// Makes the page at `path`, in place of any other.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path, identity: &Identity, state: &State) -> Result<Self, Error> {
        let texts = encode_texts(identity);
        let mut bytes = vec![0; TEXTS];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, 12, &u32::try_from(texts.len()).unwrap_or(u32::MAX).to_le_bytes());
        put(&mut bytes, 20, &u32::from(identity.terminal).to_le_bytes());
        put(&mut bytes, 24, &identity.boot_id);
        put(&mut bytes, 40, &identity.shim_pid.to_le_bytes());
        put(&mut bytes, 48, &identity.shim_start_time.to_le_bytes());
        let crc = identity_crc(&bytes, &texts);
        put(&mut bytes, 16, &crc.to_le_bytes());
        put(&mut bytes, SLOTS[1], &encode_slot(state, 1));
        bytes.extend_from_slice(&texts);
        let new = path.with_extension("page.new");
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&bytes)?;
            fs::rename(&new, path)?;
            Ok(file)
        };
        let file = write().map_err(|e| Error::io(format!("write {}", new.display()), e))?;
        Ok(Self { file, generation: 1 })
    }

    /// Puts `state` in place of the last one.
    ///
    /// # Errors
    /// [`Error::Io`]; readers then still see the last one.
    pub fn update(&mut self, state: &State) -> Result<(), Error> {
        let generation = self.generation + 1;
        let place = SLOTS[usize::from(generation % 2 == 1)];
        self.file
            .write_all_at(&encode_slot(state, generation), place as u64)
            .map_err(|source| Error::io("write state page", source))?;
        self.generation = generation;
        Ok(())
    }
}

/// Reads the page at `path`; a missing one is [`Error::Io`] (see [`Error::is_missing`]).
///
/// # Errors
/// [`Error::Foreign`], [`Error::Version`]; [`Error::Damaged`] when the identity or both slots are.
pub fn read(path: &Path) -> Result<(Identity, State), Error> {
    let mut attempts = 3;
    loop {
        let bytes = fs::read(path).map_err(|e| Error::io(format!("read {}", path.display()), e))?;
        attempts -= 1;
        match parse(&bytes) {
            // A slow read may have met the writer in both slots; it will not again and again.
            Err(Error::Damaged(_)) if attempts > 0 => {}
            result => return result,
        }
    }
}

fn parse(bytes: &[u8]) -> Result<(Identity, State), Error> {
    if bytes.len() < 16 || bytes[..8] != MAGIC[..] {
        return Err(Error::Foreign(WHAT));
    }
    let version = get_u32(bytes, 8);
    if version != VERSION {
        return Err(Error::Version { file: WHAT, found: version, known: VERSION });
    }
    let length = get_u32(bytes, 12) as usize;
    let texts = bytes
        .get(TEXTS..)
        .filter(|texts| texts.len() == length && length <= TEXTS_BYTES_MAX)
        .ok_or(Error::Damaged(WHAT))?;
    if identity_crc(bytes, texts) != get_u32(bytes, 16) {
        return Err(Error::Damaged(WHAT));
    }
    let identity = decode_identity(bytes, texts).ok_or(Error::Damaged(WHAT))?;
    let state = SLOTS
        .iter()
        .filter_map(|at| decode_slot(&bytes[*at..at + SLOT]))
        .max_by_key(|(generation, _)| *generation)
        .ok_or(Error::Damaged(WHAT))?;
    Ok((identity, state.1))
}

fn identity_crc(head: &[u8], texts: &[u8]) -> u32 {
    crc32(&[&head[..16], &head[20..256], texts])
}

fn encode_texts(identity: &Identity) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in [
        &identity.namespace,
        &identity.container_id,
        &identity.bundle,
        &identity.stdin,
        &identity.stdout,
        &identity.stderr,
        &identity.address,
    ] {
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

fn decode_identity(head: &[u8], mut texts: &[u8]) -> Option<Identity> {
    let mut next = || {
        let length = get_u32(texts.get(..4)?, 0) as usize;
        let end = 4usize.checked_add(length)?;
        let text = String::from_utf8(texts.get(4..end)?.to_vec()).ok()?;
        texts = &texts[end..];
        Some(text)
    };
    Some(Identity {
        namespace: next()?,
        container_id: next()?,
        bundle: next()?,
        stdin: next()?,
        stdout: next()?,
        stderr: next()?,
        address: next()?,
        terminal: get_u32(head, 20) & 1 == 1,
        shim_pid: get_u32(head, 40),
        shim_start_time: get_u64(head, 48),
        boot_id: get(head, 24),
    })
}

fn encode_slot(state: &State, generation: u64) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[4] = state.status as u8;
    slot[5] = u8::from(state.exit.is_some()) | u8::from(state.oom_killed) << 1;
    put(&mut slot, 8, &generation.to_le_bytes());
    put(&mut slot, 16, &state.pid.to_le_bytes());
    put(&mut slot, 24, &state.start_time.to_le_bytes());
    if let Some((status, at)) = state.exit {
        put(&mut slot, 20, &status.to_le_bytes());
        put(&mut slot, 32, &at.seconds.to_le_bytes());
        put(&mut slot, 40, &at.nanos.to_le_bytes());
    }
    let crc = crc32(&[&slot[4..]]);
    put(&mut slot, 0, &crc.to_le_bytes());
    slot
}

fn decode_slot(slot: &[u8]) -> Option<(u64, State)> {
    // An empty slot has a right checksum of its own kind: generation 0 is none.
    if crc32(&[&slot[4..]]) != get_u32(slot, 0) || get_u64(slot, 8) == 0 {
        return None;
    }
    let at = Time { seconds: i64::from_le_bytes(get(slot, 32)), nanos: get_u32(slot, 40) };
    let state = State {
        status: Status::from_number(slot[4])?,
        pid: get_u32(slot, 16),
        start_time: get_u64(slot, 24),
        exit: (slot[5] & 1 == 1).then_some((get_u32(slot, 20), at)),
        oom_killed: slot[5] & 2 == 2,
    };
    Some((get_u64(slot, 8), state))
}
