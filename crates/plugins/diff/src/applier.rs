//! The applier: from a blob in the store to files below mounts.
//!
//! Pipeline: a task reads the blob, a thread inflates it, a thread hashes the plain bytes and
//! unpacks them. Inflating costs four times what hashing does and about what unpacking does, so
//! two threads are what the work divides into.

use std::io::{self, BufRead, Read};
use std::path::Path;

use async_trait::async_trait;
use gantry_core::content::Reader;
use gantry_core::diff::{AppliedDescriptor, Applier, ApplyOpts};
use gantry_core::digest::{Algorithm, Digest, Hasher};
use gantry_core::error::ResultExt as _;
use gantry_core::model::Descriptor;
use gantry_core::snapshot::Mount;
use gantry_core::{Cx, Error, Result};
use rustix::fs::{Mode, OFlags};

use crate::Walking;
use crate::apply::{Layout, Options, Upper, apply};
use crate::inflate::Inflate;
use crate::media::{self, Encoding};
use crate::mounts;
use crate::pipe::{CHUNK_BYTES, PipeReader, PipeWriter, pipe, unwrap_error};

#[async_trait]
impl Applier for Walking {
    async fn apply(
        &self,
        cx: &Cx,
        descriptor: &Descriptor,
        mounts: &[Mount],
        opts: ApplyOpts,
    ) -> Result<AppliedDescriptor> {
        let encoding = media::encoding(&descriptor.media_type)
            .ok_or_else(|| media::no_processor(&descriptor.media_type))?;
        let blob = self.store.reader(cx, &descriptor.digest).await;
        let blob = blob.context("failed to get reader from content store")?;
        let (writer, reader) = pipe();
        let job = Job {
            cx: cx.clone(),
            walking: self.clone(),
            mounts: mounts.to_vec(),
            sync_fs: opts.sync_fs,
        };
        let unpack = tokio::task::spawn_blocking(move || job.run(reader, encoding));
        feed(cx, &*blob, writer).await;
        let result = unpack.await.map_err(|e| {
            Error::caused(gantry_core::Kind::Internal, "the thread that unpacks a layer died", e)
        })?;
        // When the call was stopped, what the stages say of each other does not matter.
        let (digest, size) = result.or_else(|error| cx.check().and(Err(error)))?;
        Ok(Descriptor {
            media_type: media::LAYER.to_owned(),
            digest,
            size: size.cast_signed(),
            annotations: Default::default(),
        })
    }
}

/// Sends a blob down the pipe, its failure included; ends early when the call or the pipe does.
async fn feed(cx: &Cx, blob: &dyn Reader, writer: PipeWriter) {
    let send = async {
        let mut offset = 0;
        loop {
            match blob.read_at(offset, CHUNK_BYTES).await {
                Ok(chunk) if chunk.is_empty() => break writer.end().await,
                Ok(chunk) => {
                    offset += chunk.len() as u64;
                    writer.send(chunk).await?;
                }
                Err(error) => break writer.fail(error.context("read blob")).await,
            }
        }
    };
    // A reader that is gone has its own error to tell, and so has a call that was stopped.
    let _ = crate::until_stopped(cx, send).await;
}

/// The blocking part of an apply.
struct Job {
    cx: Cx,
    walking: Walking,
    mounts: Vec<Mount>,
    sync_fs: bool,
}

impl Job {
    fn run(self, blob: PipeReader, encoding: Encoding) -> Result<(Digest, u64)> {
        let (root, layout) = target(&self.mounts, &self.walking.temp)?;
        let options =
            Options { layout, limits: &self.walking.limits, devices: !in_user_namespace() };
        let unpack = |stream: PipeReader| {
            let mut plain = Hashing::new(stream);
            apply(&self.cx, &root, &mut plain, options)?;
            plain.drain(&self.cx)
        };
        let result = match encoding {
            Encoding::Plain => unpack(blob),
            Encoding::Compressed => std::thread::scope(|scope| {
                let (writer, reader) = pipe();
                scope.spawn(move || inflate(blob, writer));
                unpack(reader)
            }),
        }?;
        if self.sync_fs {
            crate::failpoint("diff.apply/before-sync")?;
            sync(&root).map_err(|e| Error::io("failed to syncfs", e))?;
        }
        Ok(result)
    }
}

fn inflate(blob: PipeReader, mut writer: PipeWriter) {
    let result = Inflate::detect(blob)
        .and_then(|mut plain| copy(&mut plain, &mut writer))
        .map_err(unwrap_error);
    // A reader that is gone has its own error to tell.
    let _ = writer.finish(result);
}

/// As [`io::copy`], in whole chunks.
fn copy(from: &mut impl Read, to: &mut PipeWriter) -> io::Result<()> {
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut filled = 0;
        while filled < chunk.len() {
            match from.read(&mut chunk[filled..]) {
                Ok(0) => {
                    chunk.truncate(filled);
                    return to.write_chunk(chunk.into());
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        to.write_chunk(chunk.into())?;
    }
}

/// Where a layer goes, and how whiteouts are written there.
fn target(mounts: &[Mount], temp: &Path) -> Result<(std::os::fd::OwnedFd, Layout)> {
    let read_only = mounts.last().is_some_and(|m| m.options.iter().any(|o| o == "ro"));
    if mounts.is_empty() || read_only {
        let what = if mounts.is_empty() { "no mounts" } else { "read-only mounts" };
        return Err(Error::failed_precondition(format!("cannot apply a layer to {what}")));
    }
    if let [mount] = mounts {
        let upper = mounts::option(mount, "upperdir=").filter(|_| mount.kind == "overlay");
        // A user namespace may not make the overlay's marks; it gets a mount to write through.
        if let Some(upper) = upper.filter(|_| !in_user_namespace()) {
            let lowers = mounts::option(mount, "lowerdir=").unwrap_or_default();
            let lowers = mounts::lower_dirs(lowers);
            let lowers =
                lowers.iter().map(|dir| mounts::open_dir(dir)).collect::<Result<Vec<_>>>()?;
            let user_xattr = mount.options.iter().any(|o| o == "userxattr");
            return Ok((mounts::open_dir(upper)?, Layout::Upper(Upper { lowers, user_xattr })));
        }
    }
    Ok((mounts::open(mounts, temp)?, Layout::Merged))
}

/// Makes the file system of `root` durable.
fn sync(root: &std::os::fd::OwnedFd) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(root, ".", flags, Mode::empty())?;
    Ok(rustix::fs::syncfs(root)?)
}

/// Whether this process lives in a user namespace other than the first (user_namespaces(7)).
fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    !map.is_empty() && !whole
}

/// A reader that counts and hashes what is taken from it.
struct Hashing {
    stream: PipeReader,
    hasher: Hasher,
    size: u64,
}

impl Hashing {
    fn new(stream: PipeReader) -> Self {
        Self { stream, hasher: Hasher::new(Algorithm::Sha256), size: 0 }
    }

    /// Reads what follows the archive: it belongs to the layer's digest. Returns that and the size.
    fn drain(mut self, cx: &Cx) -> Result<(Digest, u64)> {
        loop {
            cx.check()?;
            let count = self.fill_buf().map_err(unwrap_error)?.len();
            if count == 0 {
                return Ok((self.hasher.finish(), self.size));
            }
            self.consume(count);
        }
    }
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let count = ready.len().min(buffer.len());
        buffer[..count].copy_from_slice(&ready[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Hashing {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.stream.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.hasher.update(&self.stream.ready()[..count]);
        self.size += count as u64;
        self.stream.consume(count);
    }
}
