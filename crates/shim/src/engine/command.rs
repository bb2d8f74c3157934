//! An engine on the command line: runc, or anything with runc's verbs and flags.
//!
//! `create` and `exec` hand the container's own stdio to the child, so nothing is read from a pipe
//! of theirs: it would stay open as long as the container. What went wrong stands in the runtime's
//! JSON log. Other verbs write into a memory file, which can be read without waiting.
//!
//! Children die with the shim (`PDEATHSIG`) and with the caller's deadline.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use gantry_api::containerd::runc::v1::Options;
use gantry_core::{Error, Kind, Result};
use gantry_sys::fd::{contents, memory_file};
use gantry_sys::process::{Command as Program, Ending, kill_group};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::{ChildIo, Engine, Pending};
use crate::bundle;
use crate::reap::Reaper;

/// The program when options name none.
pub const DEFAULT_PROGRAM: &str = "runc";
/// Where it keeps its state when options do not say.
pub const DEFAULT_ROOT: &str = "/run/containerd/runc";
/// What is read of a runtime's output or log: its last words are short.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// A runtime's command line for one container.
#[derive(Debug)]
pub struct Command {
    program: String,
    root: PathBuf,
    systemd_cgroup: bool,
    no_pivot: bool,
    no_new_keyring: bool,
    bundle: PathBuf,
    id: String,
    reaper: Rc<Reaper>,
}

/// How a call went wrong.
struct Failure {
    /// What the runtime wrote on its output.
    output: String,
    /// What the runtime logged last as an error.
    logged: String,
    /// What else there is to say: how it ended, or why it never ran.
    ended: String,
}

impl Failure {
    fn text(&self) -> &str {
        [&self.logged, &self.output, &self.ended]
            .into_iter()
            .find(|t| !t.is_empty())
            .map_or("", |t| t)
    }
    fn error(&self, what: &str) -> Error {
        Error::unknown(format!("{what}: {}", self.text()))
    }
}

enum Outcome {
    Done,
    Failed(Failure),
}

#[derive(Deserialize)]
struct LogLine {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

impl Command {
    /// The runtime that `options` name, for the container `id` in `bundle`.
    pub fn new(
        options: &Options,
        namespace: &str,
        id: &str,
        bundle: &Path,
        reaper: Rc<Reaper>,
    ) -> Self {
        let or = |given: &str, default: &str| {
            if given.is_empty() { default.to_owned() } else { given.to_owned() }
        };
        Self {
            program: or(&options.binary_name, DEFAULT_PROGRAM),
            root: Path::new(&or(&options.root, DEFAULT_ROOT)).join(namespace),
            systemd_cgroup: options.systemd_cgroup,
            no_pivot: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            bundle: bundle.to_owned(),
            id: id.to_owned(),
            reaper,
        }
    }

    fn program<'fd>(&self, log: &Path) -> Program<'fd> {
        let program = Program::new(&self.program)
            // Ours are not the container's: systemd would take its messages for the daemon's.
            .env_remove("NOTIFY_SOCKET")
            .arg("--root")
            .arg(&self.root)
            .arg("--log")
            .arg(log)
            .args(["--log-format", "json"])
            .cwd(&self.bundle)
            // A group of its own, so that its hooks can be ended with it; the container's
            // processes leave it (setsid) before they run anything.
            .new_group()
            .dies_with_parent();
        if self.systemd_cgroup { program.arg("--systemd-cgroup") } else { program }
    }

    fn log_of(&self, verb: &str) -> PathBuf {
        // One log per call, or calls at the same time would read each other's last words. That of
        // create is where operators look for it.
        match verb {
            "create" => self.bundle.join("log.json"),
            _ => self.bundle.join(format!("log.{verb}.json")),
        }
    }

    /// Runs to the end, or kills at the deadline.
    async fn run(
        &self,
        program: Program<'_>,
        log: &Path,
        output: Option<OwnedFd>,
        until: Instant,
    ) -> Result<Outcome> {
        let child = match program.spawn() {
            Ok(child) => child,
            Err(error) => {
                let ended = format!("start {}: {error}", self.program);
                return Ok(Outcome::Failed(Failure {
                    output: String::new(),
                    logged: String::new(),
                    ended,
                }));
            }
        };
        let tracked =
            self.reaper.track(child.into_pidfd()).map_err(|e| Error::io("watch runtime", e))?;
        let waited = |e| Error::io(format!("wait for {}", self.program), e);
        let Ok(ending) = timeout_at(until, tracked.ended()).await else {
            // Ignored: it may have ended just now.
            let _ = kill_group(tracked.pidfd());
            tracked.ended().await.map_err(waited)?;
            return Err(Error::deadline_exceeded(""));
        };
        let ending = ending.map_err(waited)?;
        if ending.success() {
            return Ok(Outcome::Done);
        }
        let said = output.map(|file| contents(&file, OUTPUT_BYTES_MAX).unwrap_or_default());
        Ok(Outcome::Failed(Failure {
            output: said.map(|b| String::from_utf8_lossy(&b).trim().to_owned()).unwrap_or_default(),
            logged: last_error(log).unwrap_or_default(),
            ended: match ending {
                Ending::Code(code) => format!("exit status {code}"),
                Ending::Signal(signal) => format!("killed by signal {signal}"),
            },
        }))
    }

    /// Runs a verb that neither makes a process nor has a result.
    async fn simple(
        &self,
        verb: &str,
        flags: &[&str],
        rest: &[&str],
        input: Option<&[u8]>,
        until: Instant,
    ) -> Result<Outcome> {
        let io = |e| Error::io(format!("prepare runtime {verb}"), e);
        let log = self.log_of(verb);
        let output = memory_file("output").map_err(io)?;
        let input = input.map(filled).transpose().map_err(io)?;
        let program = self.program(&log).arg(verb).args(flags).arg(&self.id).args(rest);
        let program = program.fd(output.as_fd(), 1).fd(output.as_fd(), 2);
        let program = match &input {
            Some(input) => program.fd(input.as_fd(), 0),
            None => program,
        };
        let theirs = output.try_clone().map_err(io)?;
        let outcome = self.run(program, &log, Some(theirs), until).await;
        // Ignored: a file that is not there is as good as removed.
        let _ = fs::remove_file(&log);
        outcome
    }

    async fn create(&self, io: ChildIo<'_>, until: Instant) -> Result<i32> {
        let what = "OCI runtime create failed";
        let (log, pid_file) = (self.log_of("create"), self.bundle.join("init.pid"));
        let _ = fs::remove_file(&log);
        let mut program = self.program(&log).arg("create").arg("--bundle").arg(&self.bundle);
        program = program.arg("--pid-file").arg(&pid_file);
        if let Some(console) = io.console {
            program = program.arg("--console-socket").arg(console);
        }
        if self.no_pivot {
            program = program.arg("--no-pivot");
        }
        if self.no_new_keyring {
            program = program.arg("--no-new-keyring");
        }
        let program = with_io(program.arg(&self.id), io);
        fail::fail_point!("shim.create/spawn");
        match self.run(program, &log, None, until).await? {
            Outcome::Done => pid_from(&pid_file, "container"),
            Outcome::Failed(failure) if failure.text().contains("already exists") => {
                Err(Error::already_exists(format!("{what}: {}", failure.text())))
            }
            Outcome::Failed(failure) => Err(failure.error(what)),
        }
    }

    async fn exec(
        &self,
        exec_id: &str,
        process: &[u8],
        io: ChildIo<'_>,
        until: Instant,
    ) -> Result<i32> {
        let what = "OCI runtime exec failed";
        let log = self.bundle.join(format!("log.exec-{exec_id}.json"));
        let pid_file = self.bundle.join(format!("{exec_id}.pid"));
        // The process may hold secrets in its environment: it never touches a disk.
        let process = filled(process).map_err(|e| Error::io("prepare runtime exec", e))?;
        let number = process.as_raw_fd();
        let mut program = self.program(&log).arg("exec").arg("--process");
        program = program.arg(format!("/proc/self/fd/{number}")).fd(process.as_fd(), number);
        if let Some(console) = io.console {
            program = program.arg("--console-socket").arg(console);
        }
        program = program.arg("--detach").arg("--pid-file").arg(&pid_file).arg(&self.id);
        fail::fail_point!("shim.exec/spawn");
        let outcome = self.run(with_io(program, io), &log, None, until).await;
        let _ = fs::remove_file(&log);
        match outcome? {
            Outcome::Done => pid_from(&pid_file, "exec"),
            Outcome::Failed(failure) => Err(failure.error(what)),
        }
    }

    async fn kill(&self, signal: u32, all: bool, until: Instant) -> Result<()> {
        let flags: &[&str] = if all { &["--all"] } else { &[] };
        match self.simple("kill", flags, &[&signal.to_string()], None, until).await? {
            Outcome::Done => Ok(()),
            Outcome::Failed(failure) => Err(kill_error(failure.text())),
        }
    }

    async fn delete(&self, force: bool, until: Instant) -> Result<()> {
        let flags: &[&str] = if force { &["--force"] } else { &[] };
        match self.simple("delete", flags, &[], None, until).await? {
            Outcome::Done => Ok(()),
            Outcome::Failed(failure) if failure.text().contains("does not exist") => Ok(()),
            Outcome::Failed(failure) => Err(failure.error("failed to delete task")),
        }
    }

    async fn plain(&self, verb: &str, what: &str, until: Instant) -> Result<()> {
        match self.simple(verb, &[], &[], None, until).await? {
            Outcome::Done => Ok(()),
            Outcome::Failed(failure) => Err(failure.error(what)),
        }
    }

    async fn update(&self, resources: &[u8], until: Instant) -> Result<()> {
        match self.simple("update", &["--resources", "-"], &[], Some(resources), until).await? {
            Outcome::Done => Ok(()),
            Outcome::Failed(failure) => Err(failure.error("OCI runtime update failed")),
        }
    }
}

impl Engine for Command {
    fn create<'a>(&'a self, io: ChildIo<'a>, until: Instant) -> Pending<'a, i32> {
        Box::pin(self.create(io, until))
    }
    fn start(&self, until: Instant) -> Pending<'_, ()> {
        Box::pin(self.plain("start", "OCI runtime start failed", until))
    }
    fn exec<'a>(
        &'a self,
        exec_id: &'a str,
        process: &'a [u8],
        io: ChildIo<'a>,
        until: Instant,
    ) -> Pending<'a, i32> {
        Box::pin(self.exec(exec_id, process, io, until))
    }
    fn kill(&self, signal: u32, all: bool, until: Instant) -> Pending<'_, ()> {
        Box::pin(self.kill(signal, all, until))
    }
    fn pause(&self, until: Instant) -> Pending<'_, ()> {
        Box::pin(self.plain("pause", "OCI runtime pause failed", until))
    }
    fn resume(&self, until: Instant) -> Pending<'_, ()> {
        Box::pin(self.plain("resume", "OCI runtime resume failed", until))
    }
    fn update<'a>(&'a self, resources: &'a [u8], until: Instant) -> Pending<'a, ()> {
        Box::pin(self.update(resources, until))
    }
    fn delete(&self, force: bool, until: Instant) -> Pending<'_, ()> {
        Box::pin(self.delete(force, until))
    }
}

fn with_io<'fd>(program: Program<'fd>, io: ChildIo<'fd>) -> Program<'fd> {
    let fds = [(io.stdin, 0), (io.stdout, 1), (io.stderr, 2)];
    fds.into_iter().fold(program, |program, (fd, number)| match fd {
        Some(fd) => program.fd(fd, number),
        None => program,
    })
}

fn filled(bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = memory_file("input")?;
    let mut at = 0;
    while at < bytes.len() {
        // At a place of its own, so that whoever inherits the descriptor reads from the start.
        at += rustix::io::pwrite(&file, &bytes[at..], at as u64)?;
    }
    Ok(file)
}

fn pid_from(file: &Path, what: &str) -> Result<i32> {
    bundle::read_pid(file).map_err(|e| {
        Error::caused(Kind::Unknown, format!("failed to retrieve OCI runtime {what} pid"), e)
    })
}

fn last_error(log: &Path) -> Option<String> {
    let bytes = fs::read(log).ok()?;
    let tail = &bytes[bytes.len().saturating_sub(OUTPUT_BYTES_MAX)..];
    let lines = tail.split(|b| *b == b'\n').rev();
    lines
        .filter_map(|line| serde_json::from_slice::<LogLine>(line).ok())
        .find(|line| line.level == "error")
        .map(|line| line.msg.trim().to_owned())
}

/// The classes by which daemons decide whether to go on waiting for an exit.
fn kill_error(text: &str) -> Error {
    let finished = ["os: process already finished", "container not running", "no such process"];
    let lower = text.to_lowercase();
    if finished.iter().any(|known| lower.contains(known)) {
        Error::not_found("process already finished")
    } else if lower.contains("does not exist") {
        Error::not_found("no such container")
    } else {
        Error::unknown(format!("unknown error after kill: {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.json");
        assert_eq!(last_error(&path), None);
        fs::write(
            &path,
            "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\" second \"}\n\
             {\"level\":\"warning\",\"msg\":\"third\"}\nnot json\n",
        )
        .unwrap();
        assert_eq!(last_error(&path).as_deref(), Some("second"));
    }

    #[test]
    fn errors_of_kill_have_the_classes_that_daemons_act_on() {
        let text = |said| kill_error(said).message();
        assert_eq!(text("container not running"), "process already finished: not found");
        assert_eq!(text("No such process"), "process already finished: not found");
        assert_eq!(text("container \"x\" does not exist"), "no such container: not found");
        assert_eq!(text("boom"), "unknown error after kill: boom");
    }
}
