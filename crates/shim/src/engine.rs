//! The part that knows how to make containers, behind one trait.
//!
//! [`command::Command`] calls a runtime on the command line (runc, crun). What an engine makes is a
//! child or an adopted descendant of the shim, so the shim reaps it by pidfd.
//!
//! Every method takes the moment at which it gives up; what it started by then it has stopped.

pub mod command;

use std::future::Future;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::pin::Pin;

use gantry_core::Result;
use tokio::time::Instant;

/// What an engine's methods return.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + 'a>>;

/// Descriptors a process of the container starts with; none means `/dev/null`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChildIo<'a> {
    /// Standard input.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Standard output.
    pub stdout: Option<BorrowedFd<'a>>,
    /// Standard error.
    pub stderr: Option<BorrowedFd<'a>>,
    /// The socket to which the engine sends the terminal's master, for a process that has one.
    pub console: Option<&'a Path>,
}

/// Makes and runs one container.
pub trait Engine {
    /// Makes the container of the bundle; its init process waits for [`Engine::start`]. Returns
    /// that process's number. When it fails nothing is left that [`Engine::delete`] with force does
    /// not remove; `AlreadyExists` means that a container of this id is there and somebody else's.
    fn create<'a>(&'a self, io: ChildIo<'a>, until: Instant) -> Pending<'a, i32>;
    /// Lets the init process run its program.
    fn start(&self, until: Instant) -> Pending<'_, ()>;
    /// Runs another process: `process` is the JSON of an OCI `Process`. Returns its number.
    fn exec<'a>(
        &'a self,
        exec_id: &'a str,
        process: &'a [u8],
        io: ChildIo<'a>,
        until: Instant,
    ) -> Pending<'a, i32>;
    /// Signals the init process, or every process of the container.
    ///
    /// Ends in `NotFound` when there is none left.
    fn kill(&self, signal: u32, all: bool, until: Instant) -> Pending<'_, ()>;
    /// Freezes the container.
    fn pause(&self, until: Instant) -> Pending<'_, ()>;
    /// Thaws the container.
    fn resume(&self, until: Instant) -> Pending<'_, ()>;
    /// Changes limits: `resources` is the JSON of an OCI `LinuxResources`.
    fn update<'a>(&'a self, resources: &'a [u8], until: Instant) -> Pending<'a, ()>;
    /// Removes what the container leaves. One that is gone already is removed.
    fn delete(&self, force: bool, until: Instant) -> Pending<'_, ()>;
}
