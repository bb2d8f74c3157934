//! What shims log: the FIFO `log` in the bundle, read to the daemon's own log.
//!
//! The daemon holds the FIFO open for reading and writing, so a shim can open it at any time and
//! never meets its end. It is read all the time: a full pipe would stop the shim.

use std::path::Path;

use gantry_core::model::ContainerName;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::{OpenOptions, Receiver};
use tracing::{debug, info};

/// Longest line; the rest of a longer one is a line of its own.
const LINE_BYTES_MAX: usize = 4096;

/// Opens the FIFO at `path`.
///
/// # Errors
/// Those of open(2); `InvalidInput` when it is no FIFO.
pub(crate) fn open(path: &Path) -> std::io::Result<Receiver> {
    OpenOptions::new().read_write(true).open_receiver(path)
}

/// Reads it until the caller drops this.
pub(crate) async fn copy(mut pipe: Receiver, name: ContainerName) {
    let mut line = Vec::with_capacity(256);
    let mut buffer = [0; 1024];
    loop {
        let read = match pipe.read(&mut buffer).await {
            Ok(0) => return,
            Ok(read) => read,
            Err(error) => {
                debug!(%error, id = %name.id, "a shim's log cannot be read");
                return;
            }
        };
        for byte in &buffer[..read] {
            if *byte == b'\n' || line.len() == LINE_BYTES_MAX {
                show(&line, &name);
                line.clear();
            }
            if *byte != b'\n' {
                line.push(*byte);
            }
        }
    }
}

fn show(line: &[u8], name: &ContainerName) {
    let text = String::from_utf8_lossy(line);
    // What a shim calls debug is for debugging here too.
    if text.contains("level=debug") || text.contains("level=info") {
        debug!(namespace = %name.namespace, id = %name.id, shim = %text);
    } else if !text.is_empty() {
        info!(namespace = %name.namespace, id = %name.id, shim = %text);
    }
}
