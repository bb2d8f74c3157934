//! Terminals: the engine makes one and sends us its master over a socket.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use gantry_core::{Error, Result};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::TempDir;
use super::copy::Sink;
use crate::reactor::watch as watch_fd;

/// The socket that the engine sends the master to.
#[derive(Debug)]
pub(super) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    _dir: TempDir,
    pub(super) sink: Sink,
}

impl ConsoleSocket {
    pub(super) fn new() -> io::Result<Self> {
        // Not in the bundle: its path may be longer than a socket's may be.
        let dir = TempDir::new("pty")?;
        let path = dir.0.join("pty.sock");
        let listener = UnixListener::bind(&path)?;
        Ok(Self { listener, path, _dir: dir, sink: Sink::Nothing })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The master, and where its output goes.
    pub(super) async fn receive(self, until: Instant) -> Result<(OwnedFd, Sink)> {
        let master = async {
            let (stream, _) = self.listener.accept().await?;
            loop {
                stream.readable().await?;
                match stream.try_io(Interest::READABLE, || gantry_sys::fd::receive(&stream)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    received => return received,
                }
            }
        };
        match timeout_at(until, master).await {
            Ok(Ok(master)) => Ok((master, self.sink)),
            Ok(Err(error)) => Err(Error::io("failed to retrieve console master", error)),
            Err(_) => Err(Error::deadline_exceeded("failed to retrieve console master")),
        }
    }
}

/// The master of a terminal.
#[derive(Debug)]
pub(super) struct Console {
    master: RefCell<Option<Rc<AsyncFd<OwnedFd>>>>,
    gone: Notify,
}

impl Console {
    pub(super) fn new(master: OwnedFd) -> io::Result<Rc<Self>> {
        let flags = rustix::fs::fcntl_getfl(&master)?;
        rustix::fs::fcntl_setfl(&master, flags | rustix::fs::OFlags::NONBLOCK)?;
        let master =
            RefCell::new(Some(Rc::new(watch_fd(master, Interest::READABLE | Interest::WRITABLE)?)));
        Ok(Rc::new(Self { master, gone: Notify::new() }))
    }

    /// The master; `None` once it was hung up.
    pub(super) fn master(&self) -> Option<Rc<AsyncFd<OwnedFd>>> {
        self.master.borrow().clone()
    }

    /// Closes the master: processes at the terminal get `SIGHUP`.
    pub(super) fn hang_up(&self) {
        self.master.borrow_mut().take();
        self.gone.notify_waiters();
    }

    /// Returns once the master is hung up.
    pub(super) async fn hung_up(&self) {
        while self.master.borrow().is_some() {
            self.gone.notified().await;
        }
    }

    pub(super) fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let Some(master) = self.master() else { return Ok(()) };
        let size =
            rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(master.get_ref(), size)?)
    }

    /// Types `bytes`; waits while the terminal takes no more.
    pub(super) async fn type_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let Some(master) = self.master() else { return Err(io::ErrorKind::BrokenPipe.into()) };
            let mut ready = master.writable().await?;
            match rustix::io::write(master.get_ref(), bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
