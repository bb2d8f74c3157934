//! A gantryd of one's own: started, killed, restarted and stopped like an operator's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::transport::Channel;

use crate::ctr::profile;
use crate::home::Home;
use crate::leak::Leaks;
use crate::log;
use crate::poll::{SOON, holds_within, poll_async, poll_until};
use crate::wire;

/// Bound on a clean stop: the daemon's own grace for calls in flight is 10 s.
const STOP: Duration = Duration::from_secs(15);
/// How long processes may take to leave the kernel after the daemon did.
const SETTLE: Duration = Duration::from_secs(5);

/// A daemon about to start.
#[derive(Debug)]
pub struct Setup {
    home: Home,
    config: Option<String>,
    failpoints: Vec<String>,
    allowed: Vec<String>,
    arguments: Vec<String>,
    address: Option<String>,
}

/// A running daemon, or one between two runs on the same root.
#[derive(Debug)]
pub struct Daemon {
    setup: Setup,
    child: Option<Child>,
    channel: Option<Channel>,
    allowed: Mutex<Vec<String>>,
}

impl Setup {
    /// A line of standard error that holds `part` is expected, whatever its level.
    #[must_use]
    pub fn allow_log(mut self, part: &str) -> Self {
        self.allowed.push(part.to_owned());
        self
    }

    /// The configuration file's text, instead of none; the folders are passed as flags.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// Arms a failpoint of the next start only: `("area.step/where", "1*panic")`.
    #[must_use]
    pub fn failpoint(mut self, name: &str, action: &str) -> Self {
        self.failpoints.push(format!("{name}={action}"));
        self
    }

    /// Where it listens, instead of in the test's directory.
    #[must_use]
    pub fn address(mut self, address: &str) -> Self {
        self.address = Some(address.to_owned());
        self
    }

    /// One more argument on the command line.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// The test's directory, to prepare before the start.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Starts it and waits until it serves.
    pub async fn start(self) -> Daemon {
        let allowed = Mutex::new(self.allowed.clone());
        let mut daemon = Daemon { setup: self, child: None, channel: None, allowed };
        daemon.start_again().await;
        daemon
    }

    /// Starts it where it must refuse, and gives what it said. Nothing may be left running.
    pub async fn refused(self) -> String {
        let allowed = Mutex::new(vec![String::new()]);
        let mut daemon = Daemon { setup: self, child: None, channel: None, allowed };
        daemon.spawn();
        let status = daemon.exited(SOON);
        assert!(!status.success(), "the daemon started:\n{}", daemon.log());
        daemon.log()
    }
}

impl Daemon {
    /// What to set before a start.
    pub fn setup() -> Setup {
        Setup {
            home: Home::new(),
            config: None,
            failpoints: Vec::new(),
            allowed: Vec::new(),
            arguments: Vec::new(),
            address: None,
        }
    }

    /// A daemon on its defaults, serving.
    pub async fn start() -> Self {
        Self::setup().start().await
    }

    /// Starts again on the same root, without the failpoints of the run before.
    pub async fn start_again(&mut self) {
        self.spawn();
        self.setup.failpoints.clear();
        let socket = self.socket().to_owned();
        let channel = poll_async("the daemon to serve", SOON, async || {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok()?) {
                panic!("gantryd ended with {status}:\n{}", self.log());
            }
            let channel = wire::connect(&socket).await.map_err(|e| format!("{e:?}"))?;
            wire::is_serving(&channel).await.map_err(|e| e.to_string())?;
            Ok::<_, String>(channel)
        });
        self.channel = Some(channel.await);
    }

    /// Arms a failpoint of the next start only.
    pub fn arm(&mut self, name: &str, action: &str) {
        self.setup.failpoints.push(format!("{name}={action}"));
    }

    /// `kill -9`, and reaped.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("a running daemon");
        child.kill().expect("kill");
        child.wait().expect("wait");
        self.channel = None;
    }

    /// `kill -9` and a new start.
    pub async fn crash(&mut self) {
        self.kill9();
        self.start_again().await;
    }

    /// SIGTERM, and the clean end that must follow.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.exited(STOP);
        assert!(status.success(), "a clean stop ended with {status}:\n{}", self.log());
        self.child = None;
        self.channel = None;
    }

    /// A clean stop and a new start.
    pub async fn restart(&mut self) {
        self.stop();
        self.start_again().await;
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("signal");
    }

    /// Waits until the daemon ends by itself, as after a failpoint that kills it.
    pub fn exited(&mut self, limit: Duration) -> ExitStatus {
        let child = self.child.as_mut().expect("a running daemon");
        let status = poll_until("the daemon to end", limit, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("still running".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        self.child = None;
        self.channel = None;
        status
    }

    /// A line of standard error that holds `part` is expected from now on.
    pub fn allow_log(&self, part: &str) {
        self.allowed.lock().expect("allowed").push(part.to_owned());
    }

    /// Everything written to standard error and output, over all runs.
    pub fn log(&self) -> String {
        fs::read_to_string(self.setup.home.join("log")).unwrap_or_default()
    }

    /// The connection that the start made.
    pub fn channel(&self) -> Channel {
        self.channel.clone().expect("a serving daemon")
    }

    /// The daemon's process id.
    pub fn pid(&self) -> i32 {
        self.child.as_ref().expect("a running daemon").id().cast_signed()
    }

    /// The gRPC socket.
    pub fn socket(&self) -> &Path {
        self.setup.home.socket()
    }

    /// The containerd namespace of this test, which nobody else uses; also a prefix for ids.
    pub fn namespace(&self) -> &str {
        self.setup.home.mark()
    }

    /// The daemon's root, for what outlives a boot.
    pub fn root(&self) -> PathBuf {
        self.setup.home.join("root")
    }

    /// The daemon's state, for what does not.
    pub fn state(&self) -> PathBuf {
        self.setup.home.join("state")
    }

    /// The test's directory.
    pub fn home(&self) -> &Home {
        &self.setup.home
    }

    /// The command that starts a daemon on this root, without running it.
    pub fn command(&self) -> Command {
        let home = &self.setup.home;
        let mut command = Command::new(program());
        if let Some(config) = &self.setup.config {
            let path = home.join("config.toml");
            fs::write(&path, config).expect("write the configuration");
            command.arg("--config").arg(path);
        }
        command.arg("--root").arg(home.join("root")).arg("--state").arg(home.join("state"));
        let own = home.socket().as_os_str();
        command.arg("--address").arg(self.setup.address.as_ref().map_or(own, AsRef::as_ref));
        command.args(&self.setup.arguments);
        command.env("FAILPOINTS", self.setup.failpoints.join(";")).env_remove("RUST_LOG");
        if self.setup.failpoints.is_empty() {
            command.env_remove("FAILPOINTS");
        }
        command.stdin(Stdio::null());
        command
    }

    fn spawn(&mut self) {
        assert!(self.child.is_none(), "the daemon runs already");
        let log = File::options().create(true).append(true).open(self.setup.home.join("log"));
        let log = log.expect("the log");
        let mut command = self.command();
        command.stdout(log.try_clone().expect("the log")).stderr(log);
        self.child = Some(command.spawn().expect("gantryd starts"));
    }

    /// What is wrong at the end: a daemon that does not stop, loud lines, leaks.
    fn faults(&mut self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(mut child) = self.child.take() {
            let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
            if !holds_within(STOP, || !matches!(child.try_wait(), Ok(None))) {
                faults.push(format!("gantryd did not stop within {STOP:?}"));
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        let allowed = self.allowed.lock().map(|allowed| allowed.clone()).unwrap_or_default();
        faults.extend(log::loud(&self.log(), &allowed).iter().map(|l| format!("unannounced: {l}")));
        let mut leaks = Leaks::of(&self.setup.home);
        holds_within(SETTLE, || {
            leaks = Leaks::of(&self.setup.home);
            leaks.is_empty()
        });
        if !leaks.is_empty() {
            faults.push(format!("left behind: {leaks:?}"));
        }
        if !leaks.remove() {
            faults.push("a mount would not go: the directory stays".to_owned());
        } else {
            self.setup.home.remove();
        }
        faults
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let log = self.log();
        let faults = self.faults();
        if std::thread::panicking() {
            eprintln!("the daemon's last words:\n{}", log::tail(&log, 40));
            faults.iter().for_each(|fault| eprintln!("{fault}"));
        } else {
            assert!(faults.is_empty(), "{}\n{}", faults.join("\n"), log::tail(&log, 40));
        }
    }
}

/// The daemon under test: `GANTRYD_BIN`, or the one built with this test.
fn program() -> PathBuf {
    let chosen = std::env::var_os("GANTRYD_BIN").map(PathBuf::from);
    let program = chosen.unwrap_or_else(|| profile().join("gantryd"));
    assert!(
        program.is_file(),
        "{} is absent: run `cargo build -p gantryd --features failpoints` first",
        program.display()
    );
    program
}
