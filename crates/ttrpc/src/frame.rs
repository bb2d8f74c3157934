//! Frames: a header of 10 bytes, then up to 4 MiB of data.
//!
//! ```text
//! 0        4            8      9       10
//! | length | stream id  | type | flags | data ...
//!   u32 BE   u32 BE       u8     u8
//! ```
//!
//! A longer frame is read and thrown away, so that the connection lives on and only its own stream
//! learns of it ([`Incoming::Oversized`]). Data arrives in pieces of at most 64 KiB allocated as
//! they come: a peer cannot make us reserve 4 MiB by announcing them.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 10;
/// Most bytes of data in a frame.
pub const DATA_BYTES_MAX: usize = 4 << 20;
/// Type of a request.
pub const REQUEST: u8 = 1;
/// Type of a response.
pub const RESPONSE: u8 = 2;
/// Type of a piece of a stream.
pub const DATA: u8 = 3;

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of data that follow.
    pub length: u32,
    /// Which call the frame belongs to; odd when a client began it.
    pub stream: u32,
    /// One of [`REQUEST`], [`RESPONSE`], [`DATA`], or something of the future.
    pub kind: u8,
    /// 1: the sender is done with the stream; 2: it will send more; 4: no data.
    pub flags: u8,
}

impl Header {
    /// The header as it travels.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, l3, s0, s1, s2, s3, self.kind, self.flags]
    }
    /// The header that travelled as `bytes`.
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Self {
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, flags] = bytes;
        Self {
            length: u32::from_be_bytes([l0, l1, l2, l3]),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            kind,
            flags,
        }
    }
}

/// A frame that came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A whole frame.
    Frame(Header, Vec<u8>),
    /// A frame beyond [`DATA_BYTES_MAX`], its data thrown away.
    Oversized(Header),
}

/// A frame ready to be written.
///
/// # Errors
/// `InvalidInput` beyond [`DATA_BYTES_MAX`].
pub fn encode(
    stream: u32,
    kind: u8,
    flags: u8,
    message: &impl prost::Message,
) -> io::Result<Vec<u8>> {
    let length = message.encoded_len();
    if length > DATA_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, oversized(length)));
    }
    let header = Header { length: u32::try_from(length).unwrap_or(0), stream, kind, flags };
    let mut frame = Vec::with_capacity(HEADER_BYTES + length);
    frame.extend_from_slice(&header.encode());
    message.encode_raw(&mut frame);
    Ok(frame)
}

/// What is said about a message of `length` bytes.
pub fn oversized(length: usize) -> String {
    format!("message length {length} exceed maximum message size of {DATA_BYTES_MAX}")
}

/// Reads one frame; `None` when the peer closed the connection between two frames.
///
/// # Errors
/// `UnexpectedEof` within a frame; else those of the connection.
pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Incoming>> {
    let mut header = [0; HEADER_BYTES];
    let mut filled = 0;
    while filled < HEADER_BYTES {
        match from.read(&mut header[filled..]).await? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => filled += n,
        }
    }
    let header = Header::decode(header);
    let length = u64::from(header.length);
    let mut body = from.take(length);
    if header.length as usize > DATA_BYTES_MAX {
        let discarded = tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
        return if discarded == length {
            Ok(Some(Incoming::Oversized(header)))
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        };
    }
    let mut data = Vec::with_capacity((header.length as usize).min(64 << 10));
    while (data.len() as u64) < length {
        if body.read_buf(&mut data).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some(Incoming::Frame(header, data)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    fn read_all(bytes: &[u8]) -> Vec<io::Result<Option<Incoming>>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut near, mut far) = tokio::io::duplex(100);
            let bytes = bytes.to_vec();
            let writer = tokio::spawn(async move { near.write_all(&bytes).await.ok() });
            let mut got = Vec::new();
            loop {
                let next = read(&mut far).await;
                let last = !matches!(next, Ok(Some(_)));
                got.push(next);
                if last {
                    break;
                }
            }
            writer.await.ok();
            got
        })
    }

    proptest! {
        #[test]
        fn a_header_survives_the_way(length: u32, stream: u32, kind: u8, flags: u8) {
            let header = Header { length, stream, kind, flags };
            prop_assert_eq!(Header::decode(header.encode()), header);
        }

        #[test]
        fn frames_arrive_whole_and_in_order(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..5)
        ) {
            let mut wire = Vec::new();
            for (i, body) in bodies.iter().enumerate() {
                let stream = i as u32 * 2 + 1;
                let length = body.len() as u32;
                wire.extend(Header { length, stream, kind: REQUEST, flags: 0 }.encode());
                wire.extend(body);
            }
            let got = read_all(&wire);
            prop_assert_eq!(got.len(), bodies.len() + 1);
            for (i, (body, got)) in bodies.iter().zip(&got).enumerate() {
                let Ok(Some(Incoming::Frame(header, data))) = got else { panic!("{got:?}") };
                prop_assert_eq!(header.stream, i as u32 * 2 + 1);
                prop_assert_eq!(data, body);
            }
            prop_assert!(matches!(got.last(), Some(Ok(None))));
        }

        #[test]
        fn any_bytes_end_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            read_all(&bytes);
        }
    }

    #[test]
    fn an_oversized_frame_is_skipped_and_the_next_one_read() {
        let length = DATA_BYTES_MAX as u32 + 1;
        let header = Header { length, stream: 7, kind: REQUEST, flags: 0 };
        let mut wire = header.encode().to_vec();
        wire.resize(HEADER_BYTES + length as usize, 0);
        wire.extend(Header { length: 1, stream: 9, kind: REQUEST, flags: 0 }.encode());
        wire.push(42);
        let got = read_all(&wire);
        assert!(matches!(&got[0], Ok(Some(Incoming::Oversized(h))) if h.stream == 7));
        assert!(matches!(&got[1], Ok(Some(Incoming::Frame(h, d))) if h.stream == 9 && d == &[42]));
    }

    #[test]
    fn a_connection_cut_within_a_frame_is_an_error() {
        let wire = Header { length: 5, stream: 1, kind: REQUEST, flags: 0 }.encode();
        let got = read_all(&wire);
        assert_eq!(got[0].as_ref().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let got = read_all(&wire[..3]);
        assert_eq!(got[0].as_ref().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
