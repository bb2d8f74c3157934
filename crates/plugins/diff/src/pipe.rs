//! A bounded pipe of byte chunks between stages of a pipeline, async or on threads of their own.
//!
//! Invariants: a stage that stops says how. A reader sees the end only after
//! [`PipeWriter::finish`]; a writer dropped without it, cancelled or panicked, is an error to the
//! reader, so cut-off data never passes for whole data. A failure travels downstream as it is,
//! with its kind. A reader that is gone is an error to the writer.

use std::io::{self, BufRead, Read, Write};

use bytes::{Buf, Bytes};
use gantry_core::{Error, Kind};
use tokio::sync::mpsc;

/// Bytes of one chunk where the sender is free to choose.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks under way between two stages: enough to hide a stall, 2 MiB at most.
const CHUNKS: usize = 8;

enum Message {
    Data(Bytes),
    End,
    Failed(Error),
}

/// A pipe of at most [`CHUNKS`] chunks.
pub(crate) fn pipe() -> (PipeWriter, PipeReader) {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let writer = PipeWriter { sender, buffer: Vec::new() };
    (writer, PipeReader { receiver, chunk: Bytes::new(), ended: false })
}

/// The writing end. As [`Write`] it gathers small writes into chunks and blocks, so it is for
/// threads; [`PipeWriter::send`] is for tasks.
pub(crate) struct PipeWriter {
    sender: mpsc::Sender<Message>,
    buffer: Vec<u8>,
}

impl PipeWriter {
    /// Sends one chunk; waits while the pipe is full.
    ///
    /// Cancel safety: a dropped call has sent the chunk or not; the pipe must then be dropped.
    pub(crate) async fn send(&self, chunk: Bytes) -> gantry_core::Result<()> {
        self.sender.send(Message::Data(chunk)).await.map_err(|_| gone())
    }

    /// Says that all was sent, from a task.
    pub(crate) async fn end(self) -> gantry_core::Result<()> {
        self.sender.send(Message::End).await.map_err(|_| gone())
    }

    /// Says why the rest is missing, from a task.
    pub(crate) async fn fail(self, error: Error) -> gantry_core::Result<()> {
        self.sender.send(Message::Failed(error)).await.map_err(|_| gone())
    }

    /// Sends one chunk as it is, from a thread; an empty one is not worth sending.
    pub(crate) fn write_chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        self.flush_buffer()?;
        if chunk.is_empty() {
            return Ok(());
        }
        self.sender.blocking_send(Message::Data(chunk)).map_err(|_| wrap_error(gone()))
    }

    /// Says that all was written, or why not, from a thread.
    pub(crate) fn finish(mut self, result: gantry_core::Result<()>) -> io::Result<()> {
        let last = match result {
            Ok(()) => {
                self.flush_buffer()?;
                Message::End
            }
            Err(error) => Message::Failed(error),
        };
        self.sender.blocking_send(last).map_err(|_| wrap_error(gone()))
    }

    fn flush_buffer(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        self.sender.blocking_send(Message::Data(chunk)).map_err(|_| wrap_error(gone()))
    }
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(CHUNK_BYTES);
        }
        let count = bytes.len().min(CHUNK_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush_buffer()?;
        }
        Ok(count)
    }

    /// Does nothing: compressors flush often, and a chunk is worth filling.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reading end; blocks, so it is for threads, but for [`PipeReader::receive`].
pub(crate) struct PipeReader {
    receiver: mpsc::Receiver<Message>,
    chunk: Bytes,
    ended: bool,
}

impl PipeReader {
    /// The next chunk, from a task; `None` at the end.
    pub(crate) async fn receive(&mut self) -> gantry_core::Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let message = self.receiver.recv().await;
        self.take(message)
    }

    /// The next chunk, from a thread; `None` at the end.
    pub(crate) fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        self.fill_buf()?;
        let chunk = std::mem::take(&mut self.chunk);
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }

    fn take(&mut self, message: Option<Message>) -> gantry_core::Result<Option<Bytes>> {
        match message {
            Some(Message::Data(chunk)) => Ok(Some(chunk)),
            Some(Message::End) => {
                self.ended = true;
                Ok(None)
            }
            Some(Message::Failed(error)) => Err(error),
            None => Err(Error::cancelled("a stage of the layer's pipeline stopped early")),
        }
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let count = ready.len().min(buffer.len());
        buffer[..count].copy_from_slice(&ready[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for PipeReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.chunk.is_empty() && !self.ended {
            let message = self.receiver.blocking_recv();
            if let Some(chunk) = self.take(message).map_err(wrap_error)? {
                self.chunk = chunk;
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, count: usize) {
        self.chunk.advance(count);
    }
}

fn gone() -> Error {
    Error::cancelled("the reader of the layer's pipeline is gone")
}

/// Carries a domain error through code that speaks [`io::Error`].
pub(crate) fn wrap_error(error: Error) -> io::Error {
    io::Error::other(Carried(error))
}

/// Gives back what [`wrap_error`] took; any other error becomes one of reading.
pub(crate) fn unwrap_error(error: io::Error) -> Error {
    let plain = |error: io::Error| match error.kind() {
        // What decoders say of bytes that make no sense to them.
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            Error::caused(Kind::InvalidArgument, "read layer", error)
        }
        _ => Error::io("read layer", error),
    };
    match error.downcast::<Carried>() {
        Ok(Carried(error)) => error,
        Err(error) => plain(error),
    }
}

/// Gives back what [`wrap_error`] took; any other error is one of the operating system.
pub(crate) fn into_error(error: io::Error) -> Error {
    match error.downcast::<Carried>() {
        Ok(Carried(error)) => error,
        Err(error) => Error::io("", error),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Carried(Error);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_comes_out_as_it_went_in() {
        let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        let (mut writer, mut reader) = pipe();
        let sent = data.clone();
        let thread = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.finish(Ok(())).unwrap();
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).unwrap();
        thread.join().unwrap();
        assert!(received == data);
    }

    #[test]
    fn a_writer_that_vanishes_is_no_end() {
        let (mut writer, mut reader) = pipe();
        writer.write_all(b"half").unwrap();
        drop(writer);
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(unwrap_error(error).kind(), Kind::Cancelled);
    }

    #[test]
    fn a_failure_keeps_its_kind() {
        let (writer, mut reader) = pipe();
        writer.finish(Err(Error::not_found("blob"))).unwrap();
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(unwrap_error(error).message(), "blob: not found");
    }

    #[test]
    fn a_reader_that_is_gone_stops_the_writer() {
        let (mut writer, reader) = pipe();
        drop(reader);
        assert!(writer.write_all(&vec![0; CHUNK_BYTES]).is_err());
    }
}
