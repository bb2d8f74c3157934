//! A blob as a stream of pieces.

use futures_util::{Stream, stream};
use gantry_api::containerd::services::content::v1::ReadContentResponse;
use gantry_core::content::Reader;
use gantry_core::{Error, Result};

use crate::convert::content::bytes;

/// How many bytes one reply carries, as containerd's do.
const PIECE_BYTES: u64 = 1 << 20;

/// The blob from `offset`, `size` bytes of it or, when that is 0 or too much, to its end. The
/// offsets in the replies count from the start of this read, not of the blob.
///
/// # Errors
/// `OutOfRange` when `offset` is beyond the end.
pub(super) fn pieces(
    reader: Box<dyn Reader>,
    offset: i64,
    size: i64,
) -> Result<impl Stream<Item = Result<ReadContentResponse>> + Send> {
    let length = reader.size();
    let start = u64::try_from(offset).unwrap_or(0);
    if start > length {
        return Err(Error::out_of_range(format!("read past object length {length} bytes")));
    }
    let end = match u64::try_from(size) {
        Ok(wanted) if wanted > 0 => start.saturating_add(wanted).min(length),
        _ => length,
    };
    Ok(stream::try_unfold((reader, start), move |(reader, at)| async move {
        if at >= end {
            return Ok(None);
        }
        let wanted = usize::try_from((end - at).min(PIECE_BYTES)).unwrap_or(usize::MAX);
        let data = reader.read_at(at, wanted).await?;
        if data.is_empty() {
            return Err(Error::data_loss(format!("the blob ends at {at} of {length} bytes")));
        }
        let next = at + data.len() as u64;
        let reply = ReadContentResponse { offset: bytes(at - start), data };
        Ok(Some((reply, (reader, next))))
    }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::TryStreamExt;
    use gantry_core::Kind;

    use super::*;

    struct Blob(Bytes);

    #[async_trait::async_trait]
    impl Reader for Blob {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }
        async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
            let start = usize::try_from(offset).unwrap().min(self.0.len());
            Ok(self.0.slice(start..(start + len).min(self.0.len())))
        }
    }

    /// Offsets and lengths of the replies.
    async fn read(length: usize, offset: i64, size: i64) -> Result<Vec<(i64, usize)>> {
        let blob = Box::new(Blob(vec![7; length].into()));
        let replies: Vec<_> = pieces(blob, offset, size)?.try_collect().await?;
        Ok(replies.iter().map(|reply| (reply.offset, reply.data.len())).collect())
    }

    #[tokio::test]
    async fn a_read_is_cut_into_pieces_counted_from_its_start() {
        let piece = usize::try_from(PIECE_BYTES).unwrap();
        let all = read(2 * piece + 5, 3, 0).await.unwrap();
        assert_eq!(all, [(0, piece), (1 << 20, piece), (2 << 20, 2)]);
        assert_eq!(read(10, 4, 3).await.unwrap(), [(0, 3)]);
        assert_eq!(read(10, 4, 30).await.unwrap(), [(0, 6)]);
        assert_eq!(read(10, -4, -1).await.unwrap(), [(0, 10)]);
        assert_eq!(read(10, 10, 5).await.unwrap(), []);
        assert_eq!(read(10, 4, i64::MAX).await.unwrap(), [(0, 6)]);
    }

    #[tokio::test]
    async fn beyond_the_end_is_out_of_range() {
        let error = read(10, 11, 0).await.unwrap_err();
        assert!(error.is(Kind::OutOfRange));
        assert_eq!(error.message(), "read past object length 10 bytes: out of range");
    }
}
