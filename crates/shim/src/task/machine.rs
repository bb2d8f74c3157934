//! The states of a task and its processes, and the order in which the world learns of them.
//!
//! Pure: verbs and facts go in, [`Effect`]s come out; nothing is done here. A verb that takes time
//! is two calls: one that asks (`begin_start`) and one that reports (`started`, `start_failed`).
//!
//! Order, by construction:
//! - a process's exit comes after its start: an exit seen while the start is under way is held;
//! - the exit of init comes after those of all execs: it is held until none runs or starts and
//!   what init left in a shared pid namespace is killed; once init is reaped no exec may start;
//! - each exit is recorded before it is published, and published once.
//!
//! The one exception is stated, not hidden: [`Machine::waited_long_enough`] lets the exit of init
//! go when an exec cannot be brought to end (a process in uninterruptible sleep), because a lost
//! exit is worse than an early one.

use std::collections::BTreeMap;

use gantry_core::{Error, Result, Timestamp};

/// Which process of the task: init, or an exec by its id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// The first process.
    Init,
    /// An added one.
    Exec(String),
}

impl Who {
    /// Init for an empty id, as requests have it.
    pub fn from_exec_id(id: &str) -> Self {
        if id.is_empty() { Self::Init } else { Self::Exec(id.to_owned()) }
    }
    /// The exec id; empty for init.
    pub fn exec_id(&self) -> &str {
        match self {
            Self::Init => "",
            Self::Exec(id) => id,
        }
    }
}

/// How and when a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The code, or 128 plus the signal.
    pub status: u32,
    /// When it was reaped.
    pub at: Timestamp,
}

/// What has to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write the exit down; nobody has been told yet.
    Record(Who, Exit),
    /// Kill every process left in the container, then call [`Machine::all_killed`].
    KillAll,
    /// Thaw the container, or nothing in it can end.
    Thaw,
    /// Call [`Machine::waited_long_enough`] after the grace period.
    ArmGrace,
    /// Tell the world.
    Publish(Fact),
    /// Answer those who wait for this process.
    Release(Who),
}

/// What the world is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are those of the events
pub enum Fact {
    Created,
    Started,
    ExecAdded(String),
    ExecStarted(String),
    Exited(Who, Exit),
    Paused,
    Resumed,
    Deleted,
}

/// What a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Being frozen.
    Pausing,
    /// Frozen.
    Paused,
    /// Ended.
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Created,
    Starting,
    Running,
    Pausing,
    Paused,
    Stopped,
    Deleted,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Created | Self::Starting => "created",
            Self::Running | Self::Pausing => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Deleted => "deleted",
        }
    }
}

#[derive(Clone, Debug)]
struct Process {
    phase: Phase,
    /// Reaped while its start was under way.
    held: Option<Exit>,
    exit: Option<Exit>,
}

impl Process {
    fn new() -> Self {
        Self { phase: Phase::Created, held: None, exit: None }
    }
    fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Running)
    }
}

/// A task.
#[derive(Clone, Debug)]
pub struct Machine {
    container: String,
    /// Whether init's end leaves others alive: it has no pid namespace of its own.
    shares_pids: bool,
    init: Process,
    execs: BTreeMap<String, Process>,
    /// Init is reaped: no exec may start any more. Published once no exec is live.
    init_reaped: Option<Exit>,
    /// What init left is being killed; its exit waits for that too.
    killing: bool,
}

fn refused(text: String) -> Error {
    Error::unknown(text)
}

impl Machine {
    /// The task of `container` whose init process has just been made, and what follows from that.
    pub fn created(container: &str, shares_pids: bool) -> (Self, Vec<Effect>) {
        let machine = Self {
            container: container.to_owned(),
            shares_pids,
            init: Process::new(),
            execs: BTreeMap::new(),
            init_reaped: None,
            killing: false,
        };
        (machine, vec![Effect::Publish(Fact::Created)])
    }

    fn process(&self, who: &Who) -> Result<&Process> {
        match who {
            Who::Init => Ok(&self.init),
            Who::Exec(id) => self.execs.get(id).ok_or_else(|| no_such_process(id)),
        }
    }

    fn process_mut(&mut self, who: &Who) -> Result<&mut Process> {
        match who {
            Who::Init => Ok(&mut self.init),
            Who::Exec(id) => self.execs.get_mut(id).ok_or_else(|| no_such_process(id)),
        }
    }

    /// What a process is doing. Execs are frozen with the task.
    ///
    /// # Errors
    /// `NotFound` for an exec that does not exist.
    pub fn status(&self, who: &Who) -> Result<Status> {
        let process = self.process(who)?;
        Ok(match (self.init.phase, process.phase) {
            (Phase::Pausing, _) => Status::Pausing,
            (Phase::Paused, _) => Status::Paused,
            (_, Phase::Created | Phase::Starting) => Status::Created,
            (_, Phase::Stopped | Phase::Deleted) => Status::Stopped,
            (_, Phase::Running | Phase::Pausing | Phase::Paused) => Status::Running,
        })
    }

    /// How a process ended, once published.
    pub fn exit(&self, who: &Who) -> Option<Exit> {
        self.process(who).ok().and_then(|process| process.exit)
    }

    /// Whether the init process has been reaped, published or not.
    pub fn init_is_reaped(&self) -> bool {
        self.init_reaped.is_some()
    }

    /// Whether no process of the container can be alive: init is reaped, and with it, by the
    /// kernel's hand, whatever was in its pid namespace.
    pub fn nothing_lives(&self) -> bool {
        self.init_is_reaped() && !self.shares_pids
    }

    /// Adds an exec.
    ///
    /// # Errors
    /// `AlreadyExists`; or the task is in no state for it.
    pub fn add_exec(&mut self, id: &str) -> Result<Vec<Effect>> {
        if self.execs.contains_key(id) {
            return Err(Error::already_exists(format!("id {id}")));
        }
        if !matches!(
            self.init.phase,
            Phase::Created | Phase::Starting | Phase::Running | Phase::Pausing
        ) {
            return Err(refused(format!("cannot exec in a {} state", self.init.phase.name())));
        }
        self.execs.insert(id.to_owned(), Process::new());
        Ok(vec![Effect::Publish(Fact::ExecAdded(id.to_owned()))])
    }

    /// Asks to start a process.
    ///
    /// # Errors
    /// The process or the task is in no state for it.
    pub fn begin_start(&mut self, who: &Who) -> Result<()> {
        let (init_reaped, container) = (self.init_reaped.is_some(), self.container.clone());
        let process = self.process_mut(who)?;
        if matches!(who, Who::Exec(_)) && init_reaped {
            let text = format!("container {container} init process is not running");
            return Err(Error::failed_precondition(text));
        }
        match process.phase {
            Phase::Created if init_reaped => {
                return Err(refused("cannot start a stopped process".into()));
            }
            Phase::Created => process.phase = Phase::Starting,
            Phase::Starting => {
                return Err(refused("cannot start a process that is starting".into()));
            }
            other => return Err(refused(format!("cannot start a {} process", other.name()))),
        }
        Ok(())
    }

    /// The process has started.
    pub fn started(&mut self, who: &Who) -> Vec<Effect> {
        let fact = match who {
            Who::Init => Fact::Started,
            Who::Exec(id) => Fact::ExecStarted(id.clone()),
        };
        let Ok(process) = self.process_mut(who) else { return Vec::new() };
        if process.phase != Phase::Starting {
            return Vec::new();
        }
        process.phase = Phase::Running;
        let mut effects = vec![Effect::Publish(fact)];
        if let Some(exit) = process.held.take() {
            effects.extend(self.exited(who, exit));
        }
        effects
    }

    /// The process could not be started. It may be tried again, or deleted.
    pub fn start_failed(&mut self, who: &Who) -> Vec<Effect> {
        let Ok(process) = self.process_mut(who) else { return Vec::new() };
        if process.phase != Phase::Starting {
            return Vec::new();
        }
        process.phase = Phase::Created;
        let mut effects = Vec::new();
        match process.held.take() {
            Some(exit) => effects.extend(self.exited(who, exit)),
            // Nobody must wait for a process that will not be.
            None if matches!(who, Who::Exec(_)) => effects.push(Effect::Release(who.clone())),
            None => {}
        }
        // An exec less may be what the exit of init was waiting for.
        effects.extend(self.finish_init());
        effects
    }

    /// The process has ended and been reaped.
    pub fn exited(&mut self, who: &Who, exit: Exit) -> Vec<Effect> {
        let shares_pids = self.shares_pids;
        let Ok(process) = self.process_mut(who) else { return Vec::new() };
        match process.phase {
            Phase::Stopped | Phase::Deleted => return Vec::new(),
            Phase::Starting => {
                process.held = Some(exit);
                return Vec::new();
            }
            Phase::Created | Phase::Running | Phase::Pausing | Phase::Paused => {}
        }
        if *who == Who::Init {
            if self.init_reaped.is_some() {
                return Vec::new();
            }
            let mut effects = vec![Effect::Record(Who::Init, exit)];
            if matches!(self.init.phase, Phase::Pausing | Phase::Paused) {
                effects.push(Effect::Thaw);
                self.init.phase = Phase::Running;
            }
            self.init_reaped = Some(exit);
            if shares_pids {
                self.killing = true;
                effects.push(Effect::KillAll);
            }
            let finish = self.finish_init();
            if finish.is_empty() {
                effects.push(Effect::ArmGrace);
            }
            effects.extend(finish);
            return effects;
        }
        process.phase = Phase::Stopped;
        process.exit = Some(exit);
        let mut effects = vec![
            Effect::Record(who.clone(), exit),
            Effect::Publish(Fact::Exited(who.clone(), exit)),
            Effect::Release(who.clone()),
        ];
        effects.extend(self.finish_init());
        effects
    }

    /// What init left in a shared pid namespace has been killed, as far as that goes.
    pub fn all_killed(&mut self) -> Vec<Effect> {
        self.killing = false;
        self.finish_init()
    }

    /// The grace period after the end of init is over: its exit goes out even if execs live on.
    pub fn waited_long_enough(&mut self) -> Vec<Effect> {
        self.publish_init()
    }

    fn finish_init(&mut self) -> Vec<Effect> {
        let waits = self.killing || self.execs.values().any(Process::is_live);
        if waits { Vec::new() } else { self.publish_init() }
    }

    fn publish_init(&mut self) -> Vec<Effect> {
        if self.init.exit.is_some() {
            return Vec::new();
        }
        let Some(exit) = self.init_reaped else { return Vec::new() };
        self.init.phase = Phase::Stopped;
        self.init.exit = Some(exit);
        vec![Effect::Publish(Fact::Exited(Who::Init, exit)), Effect::Release(Who::Init)]
    }

    /// Asks to freeze the task.
    ///
    /// # Errors
    /// It is not running.
    pub fn begin_pause(&mut self) -> Result<()> {
        match self.init.phase {
            Phase::Running if self.init_reaped.is_none() => self.init.phase = Phase::Pausing,
            Phase::Created | Phase::Starting => {
                return Err(refused("cannot pause task in created state".into()));
            }
            Phase::Running => return Err(refused("cannot pause a stopped container".into())),
            Phase::Deleted => return Err(refused("cannot pause a deleted process".into())),
            other => return Err(refused(format!("cannot pause a {} container", other.name()))),
        }
        Ok(())
    }

    /// The task is frozen, or could not be.
    pub fn pause_done(&mut self, frozen: bool) -> Vec<Effect> {
        // It may have ended meanwhile.
        if self.init.phase != Phase::Pausing {
            return Vec::new();
        }
        self.init.phase = if frozen { Phase::Paused } else { Phase::Running };
        if frozen { vec![Effect::Publish(Fact::Paused)] } else { Vec::new() }
    }

    /// Asks to thaw the task.
    ///
    /// # Errors
    /// It is not frozen.
    pub fn check_resume(&self) -> Result<()> {
        match self.init.phase {
            Phase::Paused => Ok(()),
            Phase::Created | Phase::Starting => {
                Err(refused("cannot resume task in created state".into()))
            }
            Phase::Stopped => Err(refused("cannot resume a stopped container".into())),
            other => Err(refused(format!("cannot resume a {} process", other.name()))),
        }
    }

    /// The task is thawed.
    pub fn resumed(&mut self) -> Vec<Effect> {
        if self.init.phase != Phase::Paused {
            return Vec::new();
        }
        self.init.phase = Phase::Running;
        vec![Effect::Publish(Fact::Resumed)]
    }

    /// Asks to change the limits of the task.
    ///
    /// # Errors
    /// It has ended.
    pub fn check_update(&self) -> Result<()> {
        match self.init.phase {
            Phase::Stopped => Err(refused("cannot update a stopped container".into())),
            Phase::Deleted => Err(refused("cannot update a deleted process".into())),
            _ => Ok(()),
        }
    }

    /// Asks to write the task to disk.
    ///
    /// # Errors
    /// It is neither running nor frozen.
    pub fn check_checkpoint(&self) -> Result<()> {
        match self.init.phase {
            Phase::Created | Phase::Starting => {
                Err(refused("cannot checkpoint a task in created state".into()))
            }
            Phase::Stopped => Err(refused("cannot checkpoint a stopped container".into())),
            Phase::Deleted => Err(refused("cannot checkpoint a deleted process".into())),
            _ => Ok(()),
        }
    }

    /// Asks to resize the terminal of a process.
    ///
    /// # Errors
    /// It has ended.
    pub fn check_resize(&self, who: &Who) -> Result<()> {
        match self.process(who)?.phase {
            Phase::Stopped => Err(refused("cannot resize a stopped container".into())),
            Phase::Deleted => Err(refused("cannot resize a deleted process".into())),
            _ => Ok(()),
        }
    }

    /// Asks to delete a process.
    ///
    /// # Errors
    /// It lives; or it is deleted (`NotFound`).
    pub fn check_delete(&self, who: &Who) -> Result<()> {
        match self.process(who)?.phase {
            Phase::Created | Phase::Stopped => Ok(()),
            Phase::Deleted => Err(Error::not_found("cannot delete a deleted process")),
            Phase::Starting => Err(refused("cannot delete a process that is starting".into())),
            other => Err(refused(format!("cannot delete a {} process", other.name()))),
        }
    }

    /// The process is deleted. For init this is the end of the task: whatever of it has not been
    /// published yet is, before the deletion itself.
    pub fn deleted(&mut self, who: &Who) -> Vec<Effect> {
        match who {
            Who::Exec(id) => {
                self.execs.remove(id);
                Vec::new()
            }
            Who::Init => {
                let mut effects = self.publish_init();
                if self.init.phase != Phase::Deleted {
                    self.init.phase = Phase::Deleted;
                    effects.push(Effect::Publish(Fact::Deleted));
                    effects.push(Effect::Release(Who::Init));
                }
                effects
            }
        }
    }
}

fn no_such_process(id: &str) -> Error {
    Error::not_found(format!("process does not exist {id}"))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
