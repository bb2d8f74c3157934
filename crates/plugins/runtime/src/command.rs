//! Running a shim's program for one command: bounded in time, its output bounded in size.
//!
//! Output goes to files in memory, not to pipes: what a program leaves running in the background
//! may hold them open for as long as it likes.

use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use gantry_core::{Error, Kind, Result};
use gantry_sys::fd::{contents, memory_file};
use gantry_sys::process::{Child, Command, Ending, Pidfd};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

/// Most of a program's output that is read; an answer has some hundred bytes.
const OUTPUT_BYTES_MAX: usize = 256 << 10;
/// How long a killed program may take to be gone.
const REAP: Duration = Duration::from_secs(2);

/// A command to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Invocation {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) stdin: Vec<u8>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) ending: Ending,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Output {
    /// What the program said, for people, with how it ended.
    pub(crate) fn failure(&self) -> Error {
        let mut said = String::from_utf8_lossy(&self.stderr).trim().to_owned();
        if said.is_empty() {
            said = String::from_utf8_lossy(&self.stdout).trim().to_owned();
        }
        let ended = match self.ending {
            Ending::Code(code) => format!("exit status {code}"),
            Ending::Signal(signal) => format!("signal {signal}"),
        };
        let text = if said.is_empty() { ended } else { format!("{said}: {ended}") };
        Error::unknown(text)
    }
}

/// Runs `invocation` for at most `bound`; then, and when `cancel` fires, its process group is
/// killed.
///
/// # Errors
/// The program cannot be started; `DeadlineExceeded`; `Cancelled`. A failing program is no error
/// here.
pub(crate) async fn run(
    invocation: Invocation,
    bound: Duration,
    cancel: &CancellationToken,
) -> Result<Output> {
    let program = invocation.program.clone();
    let failed = |error| Error::io(format!("run {}", program.display()), error);
    // Starting waits for the kernel to have loaded the program.
    let started = tokio::task::spawn_blocking(move || spawn(&invocation)).await;
    let (child, stdout, stderr) = started
        .map_err(|e| Error::caused(Kind::Internal, "start a program", e))?
        .map_err(failed)?;
    let pid = child.pid();
    let ended = ended(child.into_pidfd());
    tokio::pin!(ended);
    let why = tokio::select! {
        ending = &mut ended => {
            let ending = ending.map_err(failed)?;
            let read = |file| contents(file, OUTPUT_BYTES_MAX).map_err(failed);
            return Ok(Output { ending, stdout: read(&stdout)?, stderr: read(&stderr)? });
        }
        () = tokio::time::sleep(bound) => Error::deadline_exceeded(format!(
            "{} killed after {bound:?}", program.display()
        )),
        () = cancel.cancelled() => Error::cancelled(format!("{} killed", program.display())),
    };
    // The number is the program's until it is reaped below.
    if let Some(group) = Pid::from_raw(pid) {
        // Ignored: it may have ended at this moment.
        let _ = kill_process_group(group, Signal::KILL);
    }
    // Past this bound it stays unreaped; there is nothing more to do about it.
    let _ = tokio::time::timeout(REAP, ended).await;
    Err(why)
}

fn spawn(invocation: &Invocation) -> io::Result<(Child, OwnedFd, OwnedFd)> {
    fail::fail_point!("runtime.spawn/before", |_| Err(io::Error::other("failpoint")));
    let mut stdin = std::fs::File::from(memory_file("stdin")?);
    stdin.write_all(&invocation.stdin)?;
    stdin.rewind()?;
    let (stdout, stderr) = (memory_file("stdout")?, memory_file("stderr")?);
    let mut command = Command::new(&invocation.program)
        .args(&invocation.args)
        .new_group()
        // A shim is no part of the service that the daemon reports for.
        .env_remove("NOTIFY_SOCKET")
        .fd(stdin.as_fd(), 0)
        .fd(stdout.as_fd(), 1)
        .fd(stderr.as_fd(), 2);
    for (name, value) in &invocation.env {
        command = command.env(name, value);
    }
    if let Some(cwd) = &invocation.cwd {
        command = command.cwd(cwd);
    }
    let child = command.spawn()?;
    fail::fail_point!("runtime.spawn/after");
    Ok((child, stdout, stderr))
}

// Its successor is `unsafe`, for types whose descriptor may change under the reactor; a `Pidfd` owns
// one descriptor from its making to its end.
#[allow(deprecated)]
fn watched(pidfd: Pidfd) -> io::Result<AsyncFd<Pidfd>> {
    AsyncFd::with_interest(pidfd, Interest::READABLE)
}

/// Waits for a child to end, and reaps it.
pub(crate) async fn ended(pidfd: Pidfd) -> io::Result<Ending> {
    let fd = watched(pidfd)?;
    loop {
        let mut ready = fd.readable().await?;
        if let Some(ending) = fd.get_ref().try_wait()? {
            return Ok(ending);
        }
        ready.clear_ready();
    }
}

/// Waits for a process that is no child of ours to end.
pub(crate) async fn gone(pidfd: Pidfd) -> io::Result<()> {
    let fd = watched(pidfd)?;
    fd.readable().await.map(|_| ())
}

/// A handle to the process `pid`, if it is the one that was started at `start_time` (0: any) and
/// has not ended; one that has, and that nobody has reaped, still has a number.
pub(crate) fn process(pid: u32, start_time: u64) -> Option<Pidfd> {
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0)?;
    let handle = Pidfd::open(pid).ok()?;
    // Looked at after the handle was taken: so it is the handle's process that is compared.
    let found = gantry_sys::process::start_time(pid).ok()?;
    (start_time == 0 || start_time == found).then_some(handle).filter(|handle| !has_ended(handle))
}

fn has_ended(process: &Pidfd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut watched = [PollFd::new(process, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut watched, Some(&now)), Ok(ready) if ready > 0)
}

/// When `pid` was started; 0 when there is none.
pub(crate) fn start_time(pid: u32) -> u64 {
    i32::try_from(pid)
        .ok()
        .filter(|pid| *pid > 0)
        .map_or(0, |pid| gantry_sys::process::start_time(pid).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Invocation {
        Invocation {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            ..Invocation::default()
        }
    }

    #[tokio::test]
    async fn a_program_that_leaves_one_behind_holding_its_output_is_not_waited_for() {
        let stop = CancellationToken::new();
        let output = run(
            Invocation { stdin: b"in".to_vec(), ..sh("cat; echo err >&2; sleep 1000 & exit 3") },
            Duration::from_secs(20),
            &stop,
        )
        .await
        .unwrap();
        assert_eq!(output.ending, Ending::Code(3));
        assert_eq!(
            (output.stdout.as_slice(), output.stderr.as_slice()),
            (&b"in"[..], &b"err\n"[..])
        );
        assert_eq!(output.failure().message(), "err: exit status 3");
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_killed_with_its_group() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let stop = CancellationToken::new();
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let error = run(sh(&script), Duration::from_millis(300), &stop).await.unwrap_err();
        assert!(error.is(Kind::DeadlineExceeded), "{}", error.message());
        let sleeper: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        if let Some(handle) = process(sleeper, 0) {
            tokio::time::timeout(Duration::from_secs(10), gone(handle)).await.unwrap().unwrap();
        }
        stop.cancel();
        let error = run(sh("sleep 1000"), Duration::from_secs(100), &stop).await.unwrap_err();
        assert!(error.is(Kind::Cancelled), "{}", error.message());
    }

    #[test]
    fn a_process_is_known_by_its_start_time() {
        let me = std::process::id();
        assert!(process(me, start_time(me)).is_some());
        assert!(process(me, start_time(me) + 1).is_none());
        assert!(process(0, 0).is_none());
        assert_eq!(start_time(u32::MAX), 0);
    }

    #[test]
    fn one_that_nobody_has_reaped_has_ended() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let (pid, started) = (child.id(), start_time(child.id()));
        let handle = process(pid, started).unwrap();
        child.kill().unwrap();
        while !has_ended(&handle) {
            std::thread::yield_now();
        }
        assert_eq!(start_time(pid), started, "it is still listed");
        assert!(process(pid, started).is_none());
        child.wait().unwrap();
    }
}
