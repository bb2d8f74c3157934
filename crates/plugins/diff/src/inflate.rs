//! Turns compressed bytes into plain ones, whatever the media type said about them.
//!
//! gzip with any number of members, zstd with any number of frames, or plain bytes passed on.
//! Memory is bounded by the format's window: 32 KiB for gzip, [`ZSTD_WINDOW_LOG_MAX`] for zstd.
//! What is *not* bounded is the output, since a layer may be any size; the pipeline writes it as
//! it comes and the file system is the limit (see `Limits::bytes_max` for a tighter one).

use std::io::{self, BufRead, Chain, Cursor, Read};

/// Largest zstd window taken, as a power of two: 128 MiB, what the zstd command takes without
/// `--long`. A frame that asks for more is refused before the memory is.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 27;

const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 0x08];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Skippable frames (RFC 8878, 3.1.2); their lowest four bits are free.
const ZSTD_SKIPPABLE: u32 = 0x184d_2a50;

type Peeked<R> = Chain<Cursor<Vec<u8>>, R>;

/// A stream of plain bytes.
pub(crate) enum Inflate<R: BufRead> {
    Plain(Peeked<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Peeked<R>>>),
    Zstd(Box<zstd::Decoder<'static, Peeked<R>>>),
}

impl<R: BufRead> Inflate<R> {
    /// Looks at the first bytes of `stream` and picks the decoder.
    pub(crate) fn detect(mut stream: R) -> io::Result<Self> {
        let mut first = Vec::new();
        (&mut stream).take(8).read_to_end(&mut first)?;
        let gzip = first.starts_with(&GZIP_MAGIC);
        let zstd = first.starts_with(&ZSTD_MAGIC) || is_skippable(&first);
        let stream = Cursor::new(first).chain(stream);
        if gzip {
            return Ok(Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(stream))));
        }
        if zstd {
            let mut decoder = zstd::Decoder::with_buffer(stream)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            return Ok(Self::Zstd(Box::new(decoder)));
        }
        Ok(Self::Plain(stream))
    }
}

fn is_skippable(first: &[u8]) -> bool {
    let magic = first.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    first.len() == 8 && magic.is_some_and(|magic| magic & 0xffff_fff0 == ZSTD_SKIPPABLE)
}

impl<R: BufRead> Read for Inflate<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn inflate(data: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Inflate::detect(data)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn members_and_frames_are_joined() {
        assert_eq!(inflate(&[gzip(b"one "), gzip(b"two")].concat()).unwrap(), b"one two");
        let frame = |data: &[u8]| zstd::encode_all(data, 1).unwrap();
        assert_eq!(inflate(&[frame(b"one "), frame(b"two")].concat()).unwrap(), b"one two");
        let skipped = [&0x184d_2a53_u32.to_le_bytes()[..], &4_u32.to_le_bytes(), b"skip"].concat();
        assert_eq!(inflate(&[&skipped[..], &frame(b"data")].concat()).unwrap(), b"data");
    }

    #[test]
    fn plain_bytes_pass_however_few() {
        for plain in [&b""[..], b"x", b"plain bytes, more than eight"] {
            assert_eq!(inflate(plain).unwrap(), plain);
        }
    }

    #[test]
    fn cut_or_broken_streams_are_errors() {
        let whole = gzip(&[7; 100_000]);
        for cut in [3, 9, 11, whole.len() / 2, whole.len() - 8, whole.len() - 1] {
            assert!(inflate(&whole[..cut]).is_err(), "gzip cut at {cut}");
        }
        let mut broken = whole.clone();
        let crc = broken.len() - 8;
        broken[crc] ^= 1;
        assert!(inflate(&broken).is_err(), "checksum");
        let whole = zstd::encode_all(&[7; 100_000][..], 1).unwrap();
        for cut in [5, 8, whole.len() - 1] {
            assert!(inflate(&whole[..cut]).is_err(), "zstd cut at {cut}");
        }
    }

    #[test]
    fn a_zstd_window_beyond_the_limit_is_refused() {
        // A frame header without content size and with a window of 2^41 bytes.
        let bomb = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0x00, 0x00];
        let error = inflate(&bomb).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }
}
