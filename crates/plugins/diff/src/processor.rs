//! Stream processors: executables that turn a layer of one media type into another, for example
//! decrypt it (containerd's `stream_processors`).
//!
//! The contract is containerd's: bytes in on descriptor 0, bytes out on 1, the media type in
//! `STREAM_PROCESSOR_MEDIATYPE`, the caller's payload (an encoded `google.protobuf.Any`) on 3, a
//! reason on 2 and an exit status other than 0 for a failure.
//!
//! Invariants: an executable lives no longer than the apply it works for; one that stops moving
//! is killed when the call is; its output counts only once it has ended well and was fed to the
//! end.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use gantry_core::model::TypedAny;
use gantry_core::{Cx, Error, Result};
use gantry_sys::process::{Child, Command, Ending};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::pipe::PipeFlags;

use crate::pipe::{CHUNK_BYTES, PipeReader, PipeWriter, into_error, unwrap_error};

/// How often a stalled executable's call is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long an executable may go on after the end of its output.
const LINGER: Duration = Duration::from_secs(10);
/// Bytes of its reasons that are kept; more cannot be written.
const REASON_BYTES: u64 = 16 * 1024;

/// An executable and the media types it turns into another.
#[derive(Clone, Debug)]
pub struct StreamProcessor {
    /// Names it in the configuration; payloads of an apply are looked up by it.
    pub id: String,
    /// Media types it takes.
    pub accepts: Vec<String>,
    /// The media type it makes of them.
    pub returns: String,
    /// The executable, or its name on `PATH`.
    pub path: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// Environment besides our own.
    pub env: Vec<(String, String)>,
}

/// Runs `processor` between two pipes.
pub(crate) fn run(
    cx: &Cx,
    processor: &StreamProcessor,
    media_type: &str,
    payload: Option<&TypedAny>,
    input: PipeReader,
    mut out: PipeWriter,
) {
    let result = process(cx, processor, media_type, payload, input, &mut out)
        .map_err(|error| error.context(format!("stream processor {}", processor.id)));
    // A reader that is gone has its own error to tell.
    let _ = out.finish(result);
}

fn process(
    cx: &Cx,
    processor: &StreamProcessor,
    media_type: &str,
    payload: Option<&TypedAny>,
    input: PipeReader,
    out: &mut PipeWriter,
) -> Result<()> {
    let io = |doing: &'static str| move |e: std::io::Error| Error::io(doing, e);
    let pipe =
        || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| io("make a pipe")(e.into()));
    let (stdin, to_child) = pipe()?;
    let (from_child, stdout) = pipe()?;
    let mut reason = memory(&[]).map_err(io("make a file for reasons"))?;
    reason.set_len(REASON_BYTES).map_err(io("make a file for reasons"))?;
    rustix::fs::fcntl_add_seals(&reason, SealFlags::GROW | SealFlags::SHRINK)
        .map_err(|e| io("seal a file")(e.into()))?;
    let payload = match payload {
        Some(payload) => Some(memory(&encode(payload)).map_err(io("write the payload"))?),
        None => None,
    };
    let mut command = Command::new(&processor.path)
        .args(&processor.args)
        .env("STREAM_PROCESSOR_MEDIATYPE", media_type)
        .fd(stdin.as_fd(), 0)
        .fd(stdout.as_fd(), 1)
        .fd(reason.as_fd(), 2)
        .dies_with_parent();
    for (name, value) in &processor.env {
        command = command.env(name, value);
    }
    if let Some(payload) = &payload {
        command = command.fd(payload.as_fd(), 3);
    }
    crate::failpoint("diff.processor/before-spawn")?;
    let child = Running(command.spawn().map_err(io("cannot start"))?);
    drop((stdin, stdout));
    std::thread::scope(|scope| {
        let fed = scope.spawn(move || feed(input, to_child));
        let taken = take(cx, &from_child, out);
        if taken.is_err() {
            child.kill();
        }
        let ending = child.wait(cx);
        let fed = fed.join().unwrap_or_else(|_| Err(Error::internal("a thread died")));
        taken?;
        if !ending?.success() {
            return Err(Error::unknown(text(&mut reason)));
        }
        fed
    })
}

/// Gives the child its input. A child that wants no more of it has what it needs.
fn feed(mut input: PipeReader, to_child: OwnedFd) -> Result<()> {
    let mut to_child = File::from(to_child);
    while let Some(chunk) = input.next_chunk().map_err(unwrap_error)? {
        match to_child.write_all(&chunk) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            result => result.map_err(|e| Error::io("feed", e))?,
        }
    }
    Ok(())
}

/// Passes on the child's output to its end.
fn take(cx: &Cx, from_child: &OwnedFd, out: &mut PipeWriter) -> Result<()> {
    loop {
        while !readable(from_child.as_fd(), LOOK)? {
            cx.check()?;
        }
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let buffer = rustix::buffer::spare_capacity(&mut chunk);
        if rustix::io::read(from_child, buffer).map_err(|e| into_error(e.into()))? == 0 {
            return Ok(());
        }
        out.write_chunk(chunk.into()).map_err(into_error)?;
    }
}

fn readable(fd: std::os::fd::BorrowedFd<'_>, within: Duration) -> Result<bool> {
    let within = Timespec { tv_sec: 0, tv_nsec: i64::from(within.subsec_nanos()) };
    match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&within)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(Error::io("wait for a stream processor", error.into())),
    }
}

/// A child that does not outlive this.
struct Running(Child);

impl Running {
    fn kill(&self) {
        // Fails only for a process that is gone, which is what we want.
        let _ = self.0.pidfd().signal(rustix::process::Signal::KILL.as_raw());
    }

    /// Waits for the end, which the end of the output announced; kills what lingers.
    fn wait(&self, cx: &Cx) -> Result<Ending> {
        let begun = Instant::now();
        loop {
            let ended = self.0.pidfd().try_wait();
            if let Some(ending) = ended.map_err(|e| Error::io("wait for a stream processor", e))? {
                return Ok(ending);
            }
            if begun.elapsed() > LINGER || cx.check().is_err() {
                self.kill();
            }
            readable(self.0.pidfd().as_fd(), LOOK)?;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.pidfd().try_wait(), Ok(None)) {
            self.kill();
            // A killed process ends at once.
            let _ = self.0.wait_blocking();
        }
    }
}

/// A file in memory, at its beginning.
fn memory(data: &[u8]) -> std::io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("stream-processor", flags)?);
    file.write_all(data)?;
    file.rewind()?;
    Ok(file)
}

/// What the child had to say, or that it said nothing.
fn text(reason: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = reason.rewind().and_then(|()| reason.take(REASON_BYTES).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    match text.trim_end_matches('\0').trim() {
        "" => format!(
            "failed without a reason{}",
            if read.is_err() { " that can be read" } else { "" }
        ),
        reason => reason.to_owned(),
    }
}

/// The wire form of `google.protobuf.Any`: field 1 the type's URL, field 2 the value.
fn encode(payload: &TypedAny) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, bytes) in [(0x0a, payload.type_url.as_bytes()), (0x12, &payload.value[..])] {
        if bytes.is_empty() {
            continue;
        }
        out.push(tag);
        let mut length = bytes.len();
        while length >= 0x80 {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(bytes);
    }
    out
}
