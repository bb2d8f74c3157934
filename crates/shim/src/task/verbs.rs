//! What clients do with a container once it is made.
//!
//! Each verb asks the machine, lets the engine act, and reports back. None holds a borrow of the
//! container's state across an await.

use std::fs;
use std::rc::Rc;
use std::time::Duration;

use gantry_core::{Error, Kind, Result};
use gantry_sys::mount;
use gantry_sys::process::{Pidfd, start_time};
use prost_types::Any;
use tokio::time::{Instant, timeout_at};

use super::container::Container;
use super::machine::{Exit, Machine, Status, Who};
use super::process::Process;
use crate::io::{self as streams, Owner, ProcessIo, Stdio};
use crate::log;
use crate::reap::Tracked;

/// Bound on what follows the making of a process: its terminal, its output.
const ATTACH: Duration = Duration::from_secs(30);
/// How long a killed process may take to end.
const END: Duration = Duration::from_secs(10);
const SIGKILL: i32 = 9;

impl Container {
    /// Starts the process `who`, and says which number it has.
    ///
    /// # Errors
    /// It is in no state for it; or what the engine says.
    pub async fn start(self: &Rc<Self>, who: &Who, until: Instant) -> Result<u32> {
        let process = self.process(who)?;
        let _turn = process.turn.lock().await;
        self.machine.borrow_mut().begin_start(who)?;
        let started = match who {
            Who::Init => self.engine.start(until).await,
            Who::Exec(_) => self.start_exec(&process, until).await,
        };
        match started {
            Ok(()) => {
                self.step(|machine| machine.started(who));
                if *who != Who::Init {
                    self.watch(&process);
                }
                Ok(process.pid())
            }
            Err(error) => {
                self.step(|machine| machine.start_failed(who));
                Err(error)
            }
        }
    }

    async fn start_exec(&self, process: &Process, until: Instant) -> Result<()> {
        let (uid, gid) = self.io_owner;
        let exec_id = process.who.exec_id();
        let owner = Owner { namespace: &self.namespace, id: exec_id, uid, gid };
        let prepared = streams::prepare(&process.stdio, owner, &self.reaper, until)
            .await
            .map_err(|e| e.context("failed to create exec process I/O"))?;
        let _starting = self.reaper.starting();
        let pid = self.engine.exec(exec_id, &process.spec, prepared.child(), until).await?;
        let failed = |e| Error::io(format!("watch process {pid}"), e);
        let tracked =
            Pidfd::open(pid).and_then(|pidfd| self.reaper.track(pidfd)).map_err(failed)?;
        let tracked = Rc::new(tracked);
        let attached: Result<(ProcessIo, u64)> = async {
            let started = start_time(pid).map_err(failed)?;
            Ok((prepared.attach(until.min(Instant::now() + ATTACH)).await?, started))
        }
        .await;
        match attached {
            Ok((io, started)) => {
                process.running(tracked, started, io);
                Ok(())
            }
            Err(error) => {
                // It runs, but nobody was ever told: it must not run on unseen.
                end(&tracked).await;
                Err(error)
            }
        }
    }

    /// Registers an exec; it does not run yet.
    ///
    /// # Errors
    /// `AlreadyExists`; the container is in no state for it; the spec is not JSON.
    pub fn add_exec(
        self: &Rc<Self>,
        exec_id: &str,
        stdio: Stdio,
        spec: Option<&Any>,
    ) -> Result<()> {
        gantry_core::id::check_identifier(exec_id)?;
        let spec = exec_spec(spec, stdio.terminal)?;
        let who = Who::Exec(exec_id.to_owned());
        let effects = self.machine.borrow_mut().add_exec(exec_id)?;
        self.execs.borrow_mut().insert(exec_id.to_owned(), Process::new(who, stdio, spec));
        self.step(|_| effects);
        Ok(())
    }

    /// Sends a signal to the process `who`, or with `all` to every process of the container.
    ///
    /// # Errors
    /// `NotFound` when it has ended; `FailedPrecondition` for an exec that never ran.
    pub async fn kill(&self, who: &Who, signal: u32, all: bool, until: Instant) -> Result<()> {
        let process = self.process(who)?;
        let finished = || Error::not_found("process already finished");
        let number = i32::try_from(signal).map_err(|_| bad_signal(signal))?;
        if !(1..=64).contains(&number) {
            return Err(bad_signal(signal));
        }
        // Without processes of others in its namespace, nothing is left once init is reaped.
        let over = self.machine.borrow().nothing_lives();
        // The engine knows how to reach every process, and to thaw a frozen one so that it can die.
        let frozen = matches!(self.status(&Who::Init), Ok(Status::Paused | Status::Pausing));
        if *who == Who::Init && (all || frozen) && !over {
            return self.engine.kill(signal, all, until).await;
        }
        let Some(tracked) = process.tracked() else {
            return Err(Error::failed_precondition("process not created"));
        };
        if self.exit(who).is_some() || (*who == Who::Init && self.machine.borrow().init_is_reaped())
        {
            return Err(finished());
        }
        match tracked.pidfd().signal(number) {
            Ok(()) => Ok(()),
            // ESRCH, by pidfd_send_signal(2): it has ended.
            Err(error) if error.raw_os_error() == Some(3) => Err(finished()),
            Err(error) => Err(Error::io(format!("send signal {signal}"), error)),
        }
    }

    /// Waits for the end of the process `who`; `None` when it could not be started at all.
    ///
    /// # Errors
    /// `NotFound` for an exec that does not exist.
    pub async fn wait(&self, who: &Who) -> Result<Option<Exit>> {
        let process = self.process(who)?;
        process.released().await;
        Ok(self.exit(who))
    }

    /// Freezes the container.
    ///
    /// # Errors
    /// It is not running; or what the engine says.
    pub async fn pause(self: &Rc<Self>, until: Instant) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.machine.borrow_mut().begin_pause()?;
        self.step(|_| Vec::new());
        let frozen = self.engine.pause(until).await;
        self.step(|machine| machine.pause_done(frozen.is_ok()));
        frozen
    }

    /// Thaws the container.
    ///
    /// # Errors
    /// It is not frozen; or what the engine says.
    pub async fn resume(self: &Rc<Self>, until: Instant) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.machine.borrow().check_resume()?;
        self.engine.resume(until).await?;
        self.step(Machine::resumed);
        Ok(())
    }

    /// Changes the limits of the container.
    ///
    /// # Errors
    /// It has ended; the resources are not JSON; or what the engine says.
    pub async fn update(&self, resources: Option<&Any>, until: Instant) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.machine.borrow().check_update()?;
        let bytes = resources.map_or(&b"{}"[..], |any| any.value.as_slice());
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes)
            .map_err(|e| Error::caused(Kind::InvalidArgument, "resources are not JSON", e))?;
        self.engine.update(bytes, until).await
    }

    /// Writes the container to disk: not with this engine.
    ///
    /// # Errors
    /// Always.
    pub fn checkpoint(&self) -> Result<()> {
        self.machine.borrow().check_checkpoint()?;
        let text = "checkpoint: this shim cannot checkpoint; use a runc shim";
        Err(Error::new(Kind::NotImplemented, text))
    }

    /// Sets the size of a terminal.
    ///
    /// # Errors
    /// The process has ended, or does not exist.
    pub fn resize(&self, who: &Who, columns: u32, rows: u32) -> Result<()> {
        let process = self.process(who)?;
        self.machine.borrow().check_resize(who)?;
        let clamp = |n| u16::try_from(n).unwrap_or(u16::MAX);
        match process.io() {
            Some(io) => {
                io.resize(clamp(columns), clamp(rows)).map_err(|e| Error::io("resize terminal", e))
            }
            None => Ok(()),
        }
    }

    /// Lets the input of a process end.
    ///
    /// # Errors
    /// `NotFound` for an exec that does not exist.
    pub fn close_stdin(&self, who: &Who) -> Result<()> {
        if let Some(io) = self.process(who)?.io() {
            io.close_stdin();
        }
        Ok(())
    }

    /// Processes in the container, each with the exec it is, if it is one. A container whose end
    /// no daemon has taken note of still has its init.
    pub fn pids(&self) -> Vec<(u32, Option<String>)> {
        let mut pids = self.cgroup.as_ref().map(crate::cgroup::Cgroup::pids).unwrap_or_default();
        // containerd since 1.7 takes a task without processes for a leak when it starts, and throws
        // its exit away. Until the exit has reached a daemon, init counts.
        let told = !self.journal().borrow().pending().iter().any(|exit| exit.exec_id.is_empty());
        if pids.is_empty() && !told {
            pids.push(self.init.pid());
        }
        let execs = self.execs.borrow();
        let exec_of = |pid| {
            let mut running = execs.iter().filter(|(_, exec)| exec.pid() == pid && pid != 0);
            running.next().map(|(id, _)| id.clone())
        };
        pids.into_iter().map(|pid| (pid, exec_of(pid))).collect()
    }

    /// Figures of the container.
    ///
    /// # Errors
    /// `NotFound` when its cgroup is gone.
    pub fn stats(&self) -> Result<Any> {
        let gone = || Error::not_found("cgroup does not exist");
        let now = self.cgroup.as_ref().ok_or_else(gone).and_then(crate::cgroup::Cgroup::metrics);
        now.or_else(|error| self.last_stats.borrow().clone().ok_or(error))
    }

    /// Deletes an exec; it has ended, or never ran.
    ///
    /// # Errors
    /// It runs, or does not exist.
    pub async fn delete_exec(self: &Rc<Self>, id: &str) -> Result<(u32, Option<Exit>)> {
        let who = Who::Exec(id.to_owned());
        let process = self.process(&who)?;
        let _turn = process.turn.lock().await;
        self.machine.borrow().check_delete(&who)?;
        let exit = self.exit(&who);
        finish_io(&process).await;
        // Ignored: it is not there for an exec that never ran.
        let _ = fs::remove_file(self.bundle.join(format!("{id}.pid")));
        self.step(|machine| machine.deleted(&who));
        self.execs.borrow_mut().remove(id);
        process.release();
        Ok((process.pid(), exit))
    }

    /// Deletes the container; it has ended, or never started. May be called again after a failure.
    ///
    /// # Errors
    /// It runs; or what the engine or the unmounting says.
    pub async fn delete(self: &Rc<Self>, until: Instant) -> Result<(u32, Option<Exit>)> {
        let _turn = self.init.turn.lock().await;
        self.machine.borrow().check_delete(&Who::Init)?;
        if self.exit(&Who::Init).is_none() {
            // Made and never started: the engine's delete is what ends it.
            self.engine.delete(true, until).await?;
            let ended = timeout_at(until.min(Instant::now() + END), self.init.released()).await;
            if ended.is_err() {
                return Err(Error::deadline_exceeded("wait for the end of init"));
            }
        } else {
            self.engine.delete(false, until).await?;
        }
        fail::fail_point!("shim.delete/engine-done");
        finish_io(&self.init).await;
        let execs: Vec<_> = self.execs.borrow().values().cloned().collect();
        for exec in execs {
            finish_io(&exec).await;
        }
        if self.mounted {
            mount::unmount_all(&self.bundle.join("rootfs"))
                .map_err(|e| Error::caused(Kind::Unknown, "failed rootfs umount", e))?;
        }
        let exit = self.exit(&Who::Init);
        self.step(|machine| machine.deleted(&Who::Init));
        self.write_deleted();
        for exec in self.execs.borrow().values() {
            exec.release();
        }
        Ok((self.init.pid(), exit))
    }
}

fn bad_signal(signal: u32) -> Error {
    Error::invalid_argument(format!("signal {signal}: use a number from 1 to 64"))
}

async fn finish_io(process: &Process) {
    if let Some(io) = process.io() {
        io.finish().await;
    }
}

async fn end(tracked: &Tracked) {
    // Ignored: it has ended by itself.
    let _ = tracked.pidfd().signal(SIGKILL);
    if timeout_at(Instant::now() + END, tracked.ended()).await.is_err() {
        log::error!("", "process {} does not die", tracked.pid());
    }
}

/// The JSON of an exec's process, with the terminal that the request asks for.
fn exec_spec(spec: Option<&Any>, terminal: bool) -> Result<Vec<u8>> {
    let bytes = spec.map(|any| any.value.as_slice()).unwrap_or_default();
    let malformed =
        |e| Error::caused(Kind::InvalidArgument, "process spec is not a JSON object", e);
    let mut object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(bytes).map_err(malformed)?;
    object.insert("terminal".into(), terminal.into());
    serde_json::to_vec(&object).map_err(malformed)
}
