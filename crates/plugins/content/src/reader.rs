//! Reading a blob. The open file stays readable when the blob is removed meanwhile.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use gantry_core::content::Reader;
use gantry_core::{Digest, Error, Result};

use crate::blocking;

/// An open blob.
#[derive(Debug)]
pub(crate) struct BlobReader {
    pub(crate) file: Arc<File>,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

#[async_trait]
impl Reader for BlobReader {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let left = self.size.saturating_sub(offset);
        let len = usize::try_from(left).map_or(len, |left| len.min(left));
        if len == 0 {
            return Ok(Bytes::new());
        }
        let (file, digest) = (Arc::clone(&self.file), self.digest.clone());
        blocking(move || {
            let mut buffer = vec![0; len];
            match file.read_exact_at(&mut buffer, offset) {
                Ok(()) => Ok(Bytes::from(buffer)),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    Err(Error::data_loss(format!("blob {digest} ends before its size")))
                }
                Err(e) => Err(Error::io(format!("read blob {digest}"), e)),
            }
        })
        .await
    }
}
