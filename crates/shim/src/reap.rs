//! Children: whose exit belongs to whom.
//!
//! Every process that the shim cares about is waited for by its own pidfd. The shim is also a
//! subreaper, so processes that a container without a pid namespace leaves behind become its
//! children; their remains are removed by [`Reaper::sweep`], which looks (`WNOWAIT`) before it
//! reaps and never touches a process that somebody tracks, or may be about to.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io;
use std::rc::Rc;

use gantry_sys::process::{Ending, Pidfd, peek_ended_child};
use tokio::io::unix::AsyncFd;

use crate::reactor::watch as watch_fd;

/// Who is tracked.
#[derive(Debug, Default)]
pub struct Reaper {
    tracked: RefCell<HashSet<i32>>,
    /// Starts under way, whose processes are not known yet.
    starting: Cell<usize>,
}

/// While this lives, no unknown child is reaped: one of them may turn out to be ours.
#[derive(Debug)]
pub struct Starting(Rc<Reaper>);

/// A child that is waited for by its handle.
#[derive(Debug)]
pub struct Tracked {
    reaper: Rc<Reaper>,
    fd: AsyncFd<Pidfd>,
}

impl Reaper {
    /// Notes that a process may appear whose number is not known yet.
    pub fn starting(self: &Rc<Self>) -> Starting {
        self.starting.set(self.starting.get() + 1);
        Starting(self.clone())
    }

    /// Takes charge of the process behind `pidfd`.
    ///
    /// # Errors
    /// Those of registering it with the reactor.
    pub fn track(self: &Rc<Self>, pidfd: Pidfd) -> io::Result<Tracked> {
        let pid = pidfd.pid();
        let fd = watch_fd(pidfd, tokio::io::Interest::READABLE)?;
        self.tracked.borrow_mut().insert(pid);
        Ok(Tracked { reaper: self.clone(), fd })
    }

    /// Removes the remains of children that nobody tracks.
    pub fn sweep(&self) {
        while self.starting.get() == 0 {
            let Ok(Some(pid)) = peek_ended_child() else { return };
            // The kernel lists one at a time: the owner of this one sweeps again when it is done.
            if self.tracked.borrow().contains(&pid) {
                return;
            }
            // Between the two calls nobody else can reap: there is one thread.
            match Pidfd::open(pid).and_then(|child| child.try_wait()) {
                Ok(Some(_)) => crate::log::debug!("", "reaped stray process {pid}"),
                Ok(None) | Err(_) => return,
            }
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.0.starting.set(self.0.starting.get() - 1);
        self.0.sweep();
    }
}

impl Tracked {
    /// The number of the process.
    pub fn pid(&self) -> i32 {
        self.fd.get_ref().pid()
    }

    /// Its handle.
    pub fn pidfd(&self) -> &Pidfd {
        self.fd.get_ref()
    }

    /// Waits for the end of the process and reaps it. Cancel safe: what is not reaped can be waited
    /// for again.
    ///
    /// # Errors
    /// `ECHILD` when somebody else reaped it.
    pub async fn ended(&self) -> io::Result<Ending> {
        loop {
            let mut ready = self.fd.readable().await?;
            if let Some(ending) = self.pidfd().try_wait()? {
                return Ok(ending);
            }
            ready.clear_ready();
        }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.reaper.tracked.borrow_mut().remove(&self.pid());
        self.reaper.sweep();
    }
}
