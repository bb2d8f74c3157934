//! Hashes and compresses an archive on its way out.

use std::io::{self, Write};

use gantry_core::Digest;
use gantry_core::digest::{Algorithm, Hasher};

use crate::media::Compression;

/// zlib's own default, as Go's; the next level up costs twice the time for one percent.
const GZIP_LEVEL: u32 = 6;
/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// Takes the plain archive, passes on the compressed one.
pub(crate) struct Encoder<W: Write> {
    hasher: Hasher,
    out: Output<W>,
}

enum Output<W: Write> {
    Plain(W),
    Gzip(Box<flate2::write::GzEncoder<W>>),
    Zstd(Box<zstd::Encoder<'static, W>>),
}

impl<W: Write> Encoder<W> {
    pub(crate) fn new(out: W, compression: Compression) -> io::Result<Self> {
        let out = match compression {
            Compression::None => Output::Plain(out),
            Compression::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                Output::Gzip(Box::new(flate2::write::GzEncoder::new(out, level)))
            }
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(out, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Output::Zstd(Box::new(encoder))
            }
        };
        Ok(Self { hasher: Hasher::new(Algorithm::Sha256), out })
    }

    /// Ends the stream; returns the digest of the plain archive.
    pub(crate) fn finish(self) -> io::Result<(Digest, W)> {
        let out = match self.out {
            Output::Plain(out) => out,
            Output::Gzip(encoder) => encoder.finish()?,
            Output::Zstd(encoder) => encoder.finish()?,
        };
        Ok((self.hasher.finish(), out))
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = match &mut self.out {
            Output::Plain(out) => out.write(bytes),
            Output::Gzip(encoder) => encoder.write(bytes),
            Output::Zstd(encoder) => encoder.write(bytes),
        }?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
