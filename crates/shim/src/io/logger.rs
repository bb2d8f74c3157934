//! `binary://` loggers: a program that reads the output of a process itself.
//!
//! It gets the reading ends of stdout and stderr as descriptors 3 and 4, and as 5 a pipe on which
//! it says that it is ready. The shim keeps no end of its own, so the logger sees the end of the
//! output when the last process of the container is gone, whatever becomes of the shim.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use gantry_core::{Error, Result};
use gantry_sys::process::{Command, kill_group};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::Owner;
use super::uri::LoggerCommand;
use crate::reactor::watch as watch_fd;
use crate::reap::Reaper;

/// Bound on getting ready, when the caller has none that is shorter.
const READY: Duration = Duration::from_secs(30);
/// How long a logger may take to end by itself once the output has ended.
const END: Duration = Duration::from_secs(1);
/// How long a deletion waits for a logger that was told to end.
const REPLY: Duration = Duration::from_secs(5);
/// How long a logger that was told to end may take altogether: containerd's bound.
const TERMINATE: Duration = Duration::from_secs(12);

/// A running logger.
#[derive(Debug)]
pub(super) struct Logger {
    pidfd: Rc<crate::reap::Tracked>,
    ended: RefCell<watch::Receiver<bool>>,
}

impl Logger {
    pub(super) async fn start(
        command: &LoggerCommand,
        owner: Owner<'_>,
        streams: [OwnedFd; 2],
        reaper: &Rc<Reaper>,
        until: Instant,
    ) -> Result<Self> {
        let prepare = |e| Error::io("failed to prepare logging binary", e);
        let (ready_read, ready_write) =
            pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(|e| prepare(e.into()))?;
        let child = Command::new(&command.program)
            .args(&command.args)
            .env_clear()
            .env("CONTAINER_ID", owner.id)
            .env("CONTAINER_NAMESPACE", owner.namespace)
            .fd(streams[0].as_fd(), 3)
            .fd(streams[1].as_fd(), 4)
            .fd(ready_write.as_fd(), 5)
            .new_group()
            .spawn()
            .map_err(|e| Error::io("failed to start binary process", e))?;
        drop((streams, ready_write));
        let tracked = Rc::new(reaper.track(child.into_pidfd()).map_err(prepare)?);
        let (sender, ended) = watch::channel(false);
        let watched = tracked.clone();
        tokio::task::spawn_local(async move {
            // However it ended, it has.
            let _ = watched.ended().await;
            sender.send_replace(true);
        });
        let logger = Self { pidfd: tracked, ended: RefCell::new(ended) };
        let ready = ready(ready_read, command.says_ready);
        match timeout_at(until.min(Instant::now() + READY), ready).await {
            Ok(Ok(())) => Ok(logger),
            Ok(Err(error)) => {
                logger.kill();
                Err(error)
            }
            Err(_) => {
                logger.kill();
                Err(Error::deadline_exceeded("logging binary did not get ready"))
            }
        }
    }

    fn kill(&self) {
        // Once it is reaped its number may be another's.
        if !*self.ended.borrow().borrow() {
            let _ = kill_group(self.pidfd.pidfd());
        }
    }

    /// The output has ended: lets the logger end, tells it to, and in the end makes it.
    pub(super) async fn finish(&self) {
        let mut ended = self.ended.borrow().clone();
        if timeout(END, wait(&mut ended)).await.is_ok() {
            return;
        }
        // Ignored: it has just ended.
        let _ = self.pidfd.pidfd().signal(15);
        let tracked = self.pidfd.clone();
        let mut later = ended.clone();
        tokio::task::spawn_local(async move {
            if timeout(TERMINATE, wait(&mut later)).await.is_err() {
                crate::log::warn!("", "killed a logger that did not end");
                let _ = kill_group(tracked.pidfd());
            }
        });
        // Whoever deletes the process need not wait for a slow logger to the end.
        let _ = timeout(REPLY, wait(&mut ended)).await;
    }
}

async fn wait(ended: &mut watch::Receiver<bool>) {
    // An error means that the watching task is gone, and that ends only after the logger.
    let _ = ended.wait_for(|ended| *ended).await;
}

async fn ready(pipe: OwnedFd, says_so: bool) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("failed to read from logging binary", e);
    let pipe = watch_fd(pipe, Interest::READABLE).map_err(failed)?;
    loop {
        let mut guard = pipe.readable().await.map_err(failed)?;
        let mut byte = [0];
        match rustix::io::read(pipe.get_ref(), &mut byte) {
            Ok(0) if says_so => {
                return Err(Error::unknown(
                    "logging binary did not call ready (it may have crashed or exited prematurely)",
                ));
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::AGAIN) => guard.clear_ready(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
}
