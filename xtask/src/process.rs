//! Commands with a bound: what a step runs is killed with all its children when its time is up.

use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

/// Runs `command` to its end, at most for `limit`, in a process group of its own; past the limit
/// the group is killed. The error says what was run.
pub fn run(what: &str, command: &mut Command, limit: Duration) -> Result<()> {
    let status = status(what, command, limit)?;
    if status.success() { Ok(()) } else { Err(format!("{what}: {status}").into()) }
}

/// As [`run`], leaving the verdict on the exit status to the caller.
pub fn status(what: &str, command: &mut Command, limit: Duration) -> Result<ExitStatus> {
    use std::os::unix::process::CommandExt;
    let start = Instant::now();
    let mut child = command.process_group(0).spawn().map_err(|e| format!("{what}: {e}"))?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > limit {
            kill_group(child.id());
            child.wait()?;
            return Err(format!("{what}: not done after {} s, killed", limit.as_secs()).into());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Kills the process group `leader`. A failure means that it is gone already.
pub fn kill_group(leader: u32) {
    let _ = Command::new("kill").args(["-KILL", "--", &format!("-{leader}")]).status();
}

/// The first of `names` found in a directory of `PATH`, or `None`.
pub fn which(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
