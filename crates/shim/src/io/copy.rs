//! Moving bytes between a process and its client.
//!
//! Between two pipes bytes move by splice(2) and never enter this process. A destination that is
//! full stops the reading, and so in the end the process: that is back pressure, not an error.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Owner;
use super::console::Console;
use crate::reactor::watch as watch_fd;

/// Most bytes moved by one splice(2): what a pipe holds.
const SPLICE_BYTES: usize = 64 << 10;
/// Bytes of a buffer: a FIFO that is writable takes so many at once (`PIPE_BUF`, pipe(7)).
const BUFFER_BYTES: usize = 4096;
/// Rounds before others get a turn.
const ROUNDS: u32 = 16;

/// Where output goes.
#[derive(Debug)]
pub(super) enum Sink {
    /// A pipe or FIFO, non-blocking.
    Pipe(AsyncFd<OwnedFd>),
    /// A file, which takes everything at once.
    File(Rc<File>),
    /// Nowhere.
    Nothing,
}

impl Sink {
    pub(super) fn from_pipe(fd: OwnedFd) -> gantry_core::Result<Self> {
        let fd = non_blocking(fd).and_then(|fd| watch_fd(fd, Interest::WRITABLE));
        fd.map(Self::Pipe).map_err(|e| gantry_core::Error::io("watch output", e))
    }
}

/// A pipe for a process: its reading and its writing end, owned as the container's root is.
pub(super) fn pipe(owner: Owner<'_>) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    if (owner.uid, owner.gid) != (0, 0) {
        for end in [&read, &write] {
            let (uid, gid) =
                (rustix::fs::Uid::from_raw(owner.uid), rustix::fs::Gid::from_raw(owner.gid));
            rustix::fs::fchown(end, Some(uid), Some(gid))?;
        }
    }
    Ok((read, write))
}

fn non_blocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
    Ok(fd)
}

/// The copies of one process.
#[derive(Debug)]
pub(super) struct Copies {
    /// True once the process has ended: what is empty now stays so.
    ended: watch::Sender<bool>,
    outputs: RefCell<Vec<JoinHandle<()>>>,
    inputs: RefCell<Vec<JoinHandle<()>>>,
}

impl Copies {
    pub(super) fn new() -> Self {
        let (ended, _) = watch::channel(false);
        Self { ended, outputs: RefCell::default(), inputs: RefCell::default() }
    }

    pub(super) fn spawn_output(&self, from: OwnedFd, sink: Sink) -> io::Result<()> {
        let from = watch_fd(non_blocking(from)?, Interest::READABLE)?;
        let ended = self.ended.subscribe();
        let task = tokio::task::spawn_local(async move {
            // An error of the source is its end; there is nobody to tell.
            let _ = match sink {
                Sink::Pipe(to) => pipe_to_pipe(&from, &to, ended).await,
                Sink::File(file) => to_writer(&from, &*file, ended).await,
                Sink::Nothing => to_writer(&from, io::sink(), ended).await,
            };
        });
        self.outputs.borrow_mut().push(task);
        Ok(())
    }

    pub(super) fn spawn_input(&self, from: OwnedFd, to: OwnedFd) -> io::Result<()> {
        let from = watch_fd(from, Interest::READABLE)?;
        let to = watch_fd(non_blocking(to)?, Interest::WRITABLE)?;
        let ended = self.ended.subscribe();
        let task = tokio::task::spawn_local(async move {
            let _ = pipe_to_pipe(&from, &to, ended).await;
        });
        self.inputs.borrow_mut().push(task);
        Ok(())
    }

    pub(super) fn spawn_console(&self, console: Rc<Console>, sink: Sink) -> io::Result<()> {
        let ended = self.ended.subscribe();
        let task =
            tokio::task::spawn_local(async move { console_to(&console, &sink, ended).await });
        self.outputs.borrow_mut().push(task);
        Ok(())
    }

    pub(super) fn spawn_typing(&self, from: OwnedFd, console: Rc<Console>) -> io::Result<()> {
        let from = watch_fd(from, Interest::READABLE)?;
        let task = tokio::task::spawn_local(async move {
            type_into(&from, &console).await;
            // The client is gone for good: a shell at this terminal must not wait for ever.
            console.hang_up();
        });
        self.inputs.borrow_mut().push(task);
        Ok(())
    }

    /// The process has ended: delivers what is left within `bound`, then stops.
    pub(super) async fn finish(&self, bound: Duration) {
        self.ended.send_replace(true);
        for task in self.inputs.take() {
            task.abort();
        }
        let deadline = tokio::time::Instant::now() + bound;
        for mut task in self.outputs.take() {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                crate::log::warn!("", "output left behind: its reader stands still");
                task.abort();
            }
        }
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        for task in self.inputs.take().into_iter().chain(self.outputs.take()) {
            task.abort();
        }
    }
}

/// Waits until there is something to read; `None` when the process has ended and there is not.
async fn readable<'a>(
    from: &'a AsyncFd<OwnedFd>,
    ended: &mut watch::Receiver<bool>,
) -> io::Result<Option<AsyncFdReadyGuard<'a, OwnedFd>>> {
    loop {
        if *ended.borrow_and_update() {
            // No waiting any more: the kernel knows whether there is more, our cache may not.
            if !can(from.get_ref(), PollFlags::IN) {
                return Ok(None);
            }
            return Ok(Some(from.readable().await?));
        }
        tokio::select! {
            guard = from.readable() => return guard.map(Some),
            changed = ended.changed() => if changed.is_err() { return Ok(None) },
        }
    }
}

fn can(fd: impl AsFd, what: PollFlags) -> bool {
    let fd = fd.as_fd();
    let mut fds = [PollFd::from_borrowed_fd(fd, what)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|_| !fds[0].revents().is_empty())
}

async fn pipe_to_pipe(
    from: &AsyncFd<OwnedFd>,
    to: &AsyncFd<OwnedFd>,
    mut ended: watch::Receiver<bool>,
) -> io::Result<()> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    let mut rounds = 0;
    while let Some(mut ready) = readable(from, &mut ended).await? {
        loop {
            rounds += 1;
            if rounds % ROUNDS == 0 {
                tokio::task::yield_now().await;
            }
            match splice(from.get_ref(), None, to.get_ref(), None, SPLICE_BYTES, flags) {
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                // Which of the two is not ready, splice(2) does not say.
                Err(Errno::AGAIN) if can(from.get_ref(), PollFlags::IN) => {
                    let mut full = to.writable().await?;
                    if !can(to.get_ref(), PollFlags::OUT) {
                        full.clear_ready();
                    }
                }
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

async fn to_writer(
    from: &AsyncFd<OwnedFd>,
    mut to: impl Write,
    mut ended: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = [0; BUFFER_BYTES];
    let (mut rounds, mut failed) = (0, 0u64);
    while let Some(mut ready) = readable(from, &mut ended).await? {
        match rustix::io::read(from.get_ref(), &mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                // A full disk must not stop the container; when there is space again, we go on.
                if to.write_all(&buffer[..n]).is_err() {
                    failed += 1;
                }
                rounds += 1;
                if rounds % ROUNDS == 0 {
                    tokio::task::yield_now().await;
                }
            }
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if failed > 0 {
        crate::log::warn!("", "{failed} pieces of output could not be written");
    }
    Ok(())
}

async fn console_to(console: &Console, sink: &Sink, mut ended: watch::Receiver<bool>) {
    let mut buffer = [0; BUFFER_BYTES];
    let mut rounds = 0;
    loop {
        if let Sink::Pipe(to) = sink {
            // Reads only what can be passed on at once, so that nothing is ever held here.
            let Ok(mut guard) = to.writable().await else { return };
            if !can(to.get_ref(), PollFlags::OUT) {
                guard.clear_ready();
                continue;
            }
        }
        let Some(master) = console.master() else { return };
        let ready = tokio::select! {
            ready = readable(&master, &mut ended) => ready,
            () = console.hung_up() => return,
        };
        let Ok(Some(mut ready)) = ready else { return };
        match rustix::io::read(master.get_ref(), &mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                rounds += 1;
                if rounds % ROUNDS == 0 {
                    tokio::task::yield_now().await;
                }
                pass_on(&buffer[..n], sink).await;
            }
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            // EIO: nobody has the terminal open any more.
            Err(_) => return,
        }
    }
}

async fn pass_on(mut bytes: &[u8], sink: &Sink) {
    match sink {
        Sink::Nothing => {}
        Sink::File(file) => {
            // As in `to_writer`: an error of the file is not the container's.
            let _ = (&**file).write_all(bytes);
        }
        Sink::Pipe(to) => {
            while !bytes.is_empty() {
                match rustix::io::write(to.get_ref(), bytes) {
                    Ok(n) => bytes = &bytes[n..],
                    Err(Errno::AGAIN) => match to.writable().await {
                        Ok(mut guard) if !can(to.get_ref(), PollFlags::OUT) => guard.clear_ready(),
                        Ok(_) => {}
                        Err(_) => return,
                    },
                    Err(Errno::INTR) => {}
                    Err(_) => return,
                }
            }
        }
    }
}

async fn type_into(from: &AsyncFd<OwnedFd>, console: &Console) {
    let mut buffer = [0; BUFFER_BYTES];
    loop {
        let Ok(mut ready) = from.readable().await else { return };
        match rustix::io::read(from.get_ref(), &mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                if console.type_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
