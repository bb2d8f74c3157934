//! One process of a container, init or exec.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::{Mutex, watch};

use super::machine::Who;
use crate::io::{ProcessIo, Stdio};
use crate::reap::Tracked;

/// A process, from its registration to its deletion.
#[derive(Debug)]
pub struct Process {
    /// Which one.
    pub who: Who,
    /// Where its streams lead, as the client said.
    pub stdio: Stdio,
    /// The JSON of its OCI `Process`; empty for init, whose stands in the spec.
    pub spec: Vec<u8>,
    /// Held while it is being started or deleted: one at a time.
    pub turn: Mutex<()>,
    pid: Cell<i32>,
    start_time: Cell<u64>,
    tracked: RefCell<Option<Rc<Tracked>>>,
    io: RefCell<Option<Rc<ProcessIo>>>,
    /// Number of its exit in the journal.
    pub(super) seq: Cell<u64>,
    released: watch::Sender<bool>,
}

impl Process {
    /// A process that does not run yet.
    pub fn new(who: Who, stdio: Stdio, spec: Vec<u8>) -> Rc<Self> {
        Rc::new(Self {
            who,
            stdio,
            spec,
            turn: Mutex::new(()),
            pid: Cell::new(0),
            start_time: Cell::new(0),
            tracked: RefCell::new(None),
            io: RefCell::new(None),
            seq: Cell::new(0),
            released: watch::Sender::new(false),
        })
    }

    /// Notes that it runs now.
    pub fn running(&self, tracked: Rc<Tracked>, start_time: u64, io: ProcessIo) {
        self.pid.set(tracked.pid());
        self.start_time.set(start_time);
        *self.tracked.borrow_mut() = Some(tracked);
        *self.io.borrow_mut() = Some(Rc::new(io));
    }

    /// Its number; 0 before it runs. It stays after its end, when it may mean another process.
    pub fn pid(&self) -> u32 {
        u32::try_from(self.pid.get()).unwrap_or(0)
    }

    /// When it was started, in clock ticks since boot.
    pub fn start_time(&self) -> u64 {
        self.start_time.get()
    }

    /// Its handle, once it runs.
    pub fn tracked(&self) -> Option<Rc<Tracked>> {
        self.tracked.borrow().clone()
    }

    /// Its streams, once it runs.
    pub fn io(&self) -> Option<Rc<ProcessIo>> {
        self.io.borrow().clone()
    }

    /// Answers everyone who waits.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// Returns once [`Process::release`] was called. Cancel safe.
    pub async fn released(&self) {
        // The sender lives as long as we do.
        let _ = self.released.subscribe().wait_for(|released| *released).await;
    }
}
