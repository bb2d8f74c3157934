//! One container: its files, its processes, and the hands that do what the machine decides.
//!
//! Invariant: whatever [`Machine`] returns goes through [`Container::apply`] at once and in order,
//! without an await in between; the state page is written after each.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use gantry_api::containerd::events::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOom, TaskPaused,
    TaskResumed, TaskStart,
};
use gantry_core::{Clock, Error, Result, SystemClock, Timestamp};
use gantry_shim_state::{Journal, Page, State, Status as PageStatus};
use prost_types::Any;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::machine::{Effect, Exit, Fact, Machine, Status, Who};
use super::process::Process;
use crate::cgroup::{Cgroup, oom};
use crate::engine::Engine;
use crate::events::{Journaled, Publisher};
use crate::log;
use crate::reap::Reaper;
use crate::wire;

/// The status of a process that was killed, by the kernel for want of memory among others.
const KILLED: u32 = 128 + 9;
/// How long the exit of init waits for execs that were killed with it.
const GRACE: Duration = Duration::from_secs(10);
/// Bound on killing or thawing what is left of a container whose init has ended.
const CLEAN_UP: Duration = Duration::from_secs(60);

/// A container.
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its namespace.
    pub namespace: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// What runs it.
    pub engine: Box<dyn Engine>,
    /// Owner of its pipes: user and group.
    pub io_owner: (u32, u32),
    /// Whether its root file system was mounted here.
    pub mounted: bool,
    /// Held by verbs that change the whole container: one at a time.
    pub turn: Mutex<()>,
    pub(super) machine: RefCell<Machine>,
    pub(super) init: Rc<Process>,
    pub(super) execs: RefCell<BTreeMap<String, Rc<Process>>>,
    pub(super) cgroup: Option<Cgroup>,
    /// Figures at the end of a killed container: its cgroup may be gone before anyone asks why.
    pub(super) last_stats: RefCell<Option<Any>>,
    pub(super) reaper: Rc<Reaper>,
    oom: Option<Rc<oom::Watch>>,
    oom_killed: Cell<bool>,
    publisher: Publisher,
    journal: Rc<RefCell<Journal>>,
    page: RefCell<Page>,
    written: Cell<State>,
    boot_id: [u8; 16],
}

/// What a new container is put together from.
pub(super) struct Parts {
    pub(super) id: String,
    pub(super) namespace: String,
    pub(super) bundle: PathBuf,
    pub(super) engine: Box<dyn Engine>,
    pub(super) io_owner: (u32, u32),
    pub(super) mounted: bool,
    pub(super) shares_pids: bool,
    pub(super) init: Rc<Process>,
    pub(super) reaper: Rc<Reaper>,
    pub(super) publisher: Publisher,
    pub(super) journal: Journal,
    pub(super) page: Page,
    pub(super) boot_id: [u8; 16],
    pub(super) created: TaskCreate,
}

impl Container {
    pub(super) fn new(parts: Parts) -> Rc<Self> {
        let (machine, effects) = Machine::created(&parts.id, parts.shares_pids);
        let cgroup = Cgroup::of(i32::try_from(parts.init.pid()).unwrap_or(0))
            .inspect_err(|e| log::warn!(&parts.id, "no cgroup: {e}"))
            .ok();
        let oom = cgroup.as_ref().and_then(|cgroup| {
            let watch = oom::Watch::new(cgroup);
            watch
                .inspect_err(|e| log::warn!(&parts.id, "no watch for out-of-memory: {e}"))
                .ok()
                .flatten()
        });
        let container = Rc::new(Self {
            id: parts.id,
            namespace: parts.namespace,
            bundle: parts.bundle,
            engine: parts.engine,
            io_owner: parts.io_owner,
            mounted: parts.mounted,
            turn: Mutex::new(()),
            machine: RefCell::new(machine),
            init: parts.init,
            execs: RefCell::default(),
            cgroup,
            last_stats: RefCell::new(None),
            reaper: parts.reaper,
            oom: oom.map(Rc::new),
            oom_killed: Cell::new(false),
            publisher: parts.publisher,
            journal: Rc::new(RefCell::new(parts.journal)),
            page: RefCell::new(parts.page),
            written: Cell::new(State::default()),
            boot_id: parts.boot_id,
        });
        let created = parts.created;
        container.publisher.publish(&container.id, "/tasks/create", &created, None);
        container.apply(effects);
        container.watch(&container.init);
        container.watch_oom();
        container
    }

    /// The process `who`.
    ///
    /// # Errors
    /// `NotFound` for an exec that does not exist.
    pub fn process(&self, who: &Who) -> Result<Rc<Process>> {
        match who {
            Who::Init => Ok(self.init.clone()),
            Who::Exec(id) => self
                .execs
                .borrow()
                .get(id)
                .cloned()
                .ok_or_else(|| Error::not_found(format!("process does not exist {id}"))),
        }
    }

    /// What the process `who` is doing.
    ///
    /// # Errors
    /// `NotFound` for an exec that does not exist.
    pub fn status(&self, who: &Who) -> Result<Status> {
        self.machine.borrow().status(who)
    }

    /// How the process `who` ended, once told.
    pub fn exit(&self, who: &Who) -> Option<Exit> {
        self.machine.borrow().exit(who)
    }

    /// The exit journal.
    pub fn journal(&self) -> &RefCell<Journal> {
        &self.journal
    }

    /// Runs `step` on the machine and does what it says.
    pub(super) fn step(self: &Rc<Self>, step: impl FnOnce(&mut Machine) -> Vec<Effect>) {
        let effects = step(&mut self.machine.borrow_mut());
        self.apply(effects);
    }

    fn apply(self: &Rc<Self>, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Record(who, exit) => self.record(&who, exit),
                Effect::Publish(fact) => self.publish(&fact),
                Effect::Release(who) => {
                    if let Ok(process) = self.process(&who) {
                        process.release();
                    }
                }
                Effect::KillAll => self.kill_all(),
                Effect::Thaw => self.thaw(),
                Effect::ArmGrace => {
                    let container = self.clone();
                    tokio::task::spawn_local(async move {
                        tokio::time::sleep(GRACE).await;
                        container.step(Machine::waited_long_enough);
                    });
                }
            }
        }
        self.write_page();
    }

    fn record(&self, who: &Who, exit: Exit) {
        let Ok(process) = self.process(who) else { return };
        let record = gantry_shim_state::Exit {
            seq: 0,
            container_id: self.id.clone(),
            exec_id: who.exec_id().to_owned(),
            pid: process.pid(),
            start_time: process.start_time(),
            boot_id: self.boot_id,
            status: exit.status,
            exited_at: wire::file_time(exit.at),
        };
        let mut journal = self.journal.borrow_mut();
        if let Err(error) = journal.append(record) {
            log::error!(&self.id, "exit is in memory only: {error}");
        }
        process.seq.set(journal.last());
    }

    fn publish(&self, fact: &Fact) {
        let id = &self.id;
        let container_id = id.clone();
        let pid = |who: &Who| self.process(who).map_or(0, |process| process.pid());
        let send = &self.publisher;
        match fact {
            // Sent by `new`, which has its fields.
            Fact::Created => {}
            Fact::Started => {
                send.publish(
                    id,
                    "/tasks/start",
                    &TaskStart { container_id, pid: pid(&Who::Init) },
                    None,
                );
            }
            Fact::ExecAdded(exec_id) => {
                let event = TaskExecAdded { container_id, exec_id: exec_id.clone() };
                send.publish(id, "/tasks/exec-added", &event, None);
            }
            Fact::ExecStarted(exec_id) => {
                let pid = pid(&Who::Exec(exec_id.clone()));
                let event = TaskExecStarted { container_id, exec_id: exec_id.clone(), pid };
                send.publish(id, "/tasks/exec-started", &event, None);
            }
            Fact::Exited(who, exit) => {
                if *who == Who::Init {
                    if exit.status == KILLED {
                        let stats = self.cgroup.as_ref().and_then(|cgroup| cgroup.metrics().ok());
                        *self.last_stats.borrow_mut() = stats;
                    }
                    // What the kernel killed must be known before what came of it.
                    self.tell_oom();
                }
                let event = TaskExit {
                    container_id,
                    id: if *who == Who::Init { id.clone() } else { who.exec_id().to_owned() },
                    pid: pid(who),
                    exit_status: exit.status,
                    exited_at: Some(wire::timestamp(exit.at)),
                };
                let journaled = self.process(who).ok().map(|process| Journaled {
                    journal: self.journal.clone(),
                    seq: process.seq.get(),
                    start_time: process.start_time(),
                });
                fail::fail_point!("shim.exit/before-publish");
                send.publish(id, "/tasks/exit", &event, journaled);
            }
            Fact::Paused => send.publish(id, "/tasks/paused", &TaskPaused { container_id }, None),
            Fact::Resumed => {
                send.publish(id, "/tasks/resumed", &TaskResumed { container_id }, None);
            }
            Fact::Deleted => {
                let exit = self.exit(&Who::Init);
                let event = TaskDelete {
                    container_id,
                    pid: pid(&Who::Init),
                    exit_status: exit.map_or(0, |exit| exit.status),
                    exited_at: Some(wire::timestamp(exit.map_or(Timestamp::UNSET, |exit| exit.at))),
                    id: String::new(),
                };
                send.publish(id, "/tasks/delete", &event, None);
            }
        }
    }

    /// Reaps `process` when it ends.
    pub(super) fn watch(self: &Rc<Self>, process: &Rc<Process>) {
        let (container, process) = (self.clone(), process.clone());
        let Some(tracked) = process.tracked() else { return };
        tokio::task::spawn_local(async move {
            let status = match tracked.ended().await {
                Ok(ending) => ending.status(),
                Err(error) => {
                    // Somebody else's doing, and nothing better is known: containerd's 255.
                    log::error!(&container.id, "exit status lost: {error}");
                    255
                }
            };
            let exit = Exit { status, at: SystemClock.now() };
            container.step(|machine| machine.exited(&process.who, exit));
        });
    }

    fn watch_oom(self: &Rc<Self>) {
        let Some(oom) = self.oom.clone() else { return };
        let container = self.clone();
        tokio::task::spawn_local(async move {
            while oom.woken().await.is_ok() && oom.lives() {
                container.tell_oom();
                if container.exit(&Who::Init).is_some() {
                    return;
                }
            }
        });
    }

    fn tell_oom(&self) {
        // After the exit nothing more of the container is news.
        let gone = self.written.get().status == PageStatus::Stopped;
        if !gone && self.oom.as_ref().is_some_and(|oom| oom.take()) {
            self.oom_killed.set(true);
            let event = TaskOom { container_id: self.id.clone() };
            self.publisher.publish(&self.id, "/tasks/oom", &event, None);
        }
    }

    fn kill_all(self: &Rc<Self>) {
        let container = self.clone();
        tokio::task::spawn_local(async move {
            let until = Instant::now() + CLEAN_UP;
            if let Err(error) = container.engine.kill(9, true, until).await
                && !error.is(gantry_core::Kind::NotFound)
            {
                log::error!(&container.id, "cannot kill what init left: {}", error.message());
            }
            container.step(Machine::all_killed);
        });
    }

    fn thaw(self: &Rc<Self>) {
        let container = self.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = container.engine.resume(Instant::now() + CLEAN_UP).await {
                log::warn!(&container.id, "cannot thaw an ended container: {}", error.message());
            }
        });
    }

    /// The last word in the state page: nothing of this container matters any more.
    pub(super) fn write_deleted(&self) {
        let state = State { status: PageStatus::Deleted, ..self.written.get() };
        self.write_state(state);
    }

    fn write_page(&self) {
        if self.written.get().status == PageStatus::Deleted {
            return;
        }
        let machine = self.machine.borrow();
        let status = match machine.status(&Who::Init) {
            Ok(Status::Created) => PageStatus::Created,
            Ok(Status::Running) => PageStatus::Running,
            Ok(Status::Pausing) => PageStatus::Pausing,
            Ok(Status::Paused) => PageStatus::Paused,
            Ok(Status::Stopped) | Err(_) => PageStatus::Stopped,
        };
        self.write_state(State {
            status,
            pid: self.init.pid(),
            start_time: self.init.start_time(),
            exit: machine.exit(&Who::Init).map(|exit| (exit.status, wire::file_time(exit.at))),
            oom_killed: self.oom_killed.get(),
        });
    }

    fn write_state(&self, state: State) {
        if state == self.written.get() {
            return;
        }
        match self.page.borrow_mut().update(&state) {
            Ok(()) => self.written.set(state),
            Err(error) => log::error!(&self.id, "state page is stale: {error}"),
        }
    }
}
