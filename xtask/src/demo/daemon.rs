//! The daemon that the demonstration starts, kills and starts again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::run;
use crate::{Result, target};

const ANSWER: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(10);

/// A running daemon; killed when dropped.
pub(super) struct Daemon {
    child: Child,
    /// Where clients reach it.
    pub(super) socket: PathBuf,
}

impl Daemon {
    /// Starts it below `home` and waits until it listens.
    pub(super) fn start(home: &Path) -> Result<Self> {
        let socket = home.join("gantry.sock");
        let _ = fs::remove_file(&socket);
        let mut command = Command::new(program());
        command.arg("--root").arg(home.join("root")).arg("--state").arg(home.join("state"));
        command.arg("--address").arg(&socket).stdin(Stdio::null());
        let log = fs::File::options().create(true).append(true).open(home.join("gantryd.log"))?;
        println!("$ {command:?}");
        let mut daemon = Self { child: command.stderr(log).spawn()?, socket };
        let start = Instant::now();
        while std::os::unix::net::UnixStream::connect(&daemon.socket).is_err() {
            if let Some(status) = daemon.child.try_wait()? {
                let log = fs::read_to_string(home.join("gantryd.log"))?;
                return Err(format!("gantryd: {status}\n{log}").into());
            }
            if start.elapsed() > ANSWER {
                return Err("gantryd does not listen".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(daemon)
    }

    /// kill -9.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to stop and waits for a clean end.
    pub(super) fn stop(mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        run("kill gantryd", Command::new("kill").args(["-TERM", &pid]), GRACE)?;
        let start = Instant::now();
        while start.elapsed() < GRACE {
            if let Some(status) = self.child.try_wait()? {
                let clean = status.success();
                return if clean { Ok(()) } else { Err(format!("gantryd: {status}").into()) };
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err("gantryd does not stop".into())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already gone after a clean end: then both fail, and that is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The daemon's binary.
pub(super) fn program() -> PathBuf {
    target().join("debug/gantryd")
}
