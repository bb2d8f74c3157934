//! The real clients: containerd's own `ctr`, current and Debian's, against a daemon of ours.
//!
//! They are installed by `cargo xtask clients`; an absent one makes its case skip.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::daemon::Daemon;
use crate::poll::soon;
use crate::skip::skip;

/// One `ctr` program.
#[derive(Clone, Debug)]
pub struct Ctr {
    /// Short name with the version, for messages.
    pub name: &'static str,
    program: PathBuf,
}

/// What a run of `ctr` gave.
#[derive(Debug)]
pub struct Output {
    /// Whether it ended with code 0.
    pub ok: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ctr {
    /// containerd 2.4's, from `GANTRY_CTR` or where `cargo xtask clients` puts it.
    pub fn current() -> Option<Self> {
        Self::find("ctr 2.4", "GANTRY_CTR", "bin/ctr")
    }

    /// containerd 1.6's as Debian builds it, from `GANTRY_CTR16` or `cargo xtask clients`.
    pub fn debian() -> Option<Self> {
        Self::find("ctr 1.6", "GANTRY_CTR16", "c16/usr/bin/ctr")
    }

    /// Both, reporting a skip of `case` for each that is absent.
    pub fn all(case: &str) -> Vec<Self> {
        let mut present = Vec::new();
        for (name, found) in [("ctr 2.4", Self::current()), ("ctr 1.6", Self::debian())] {
            match found {
                Some(ctr) => present.push(ctr),
                None => skip(case, &format!("{name} is absent; `cargo xtask clients` installs it")),
            }
        }
        present
    }

    /// Whether it is containerd 2.4's, whose commands prefer the Transfer service.
    pub fn is_current(&self) -> bool {
        self.name == "ctr 2.4"
    }

    fn find(name: &'static str, variable: &str, place: &str) -> Option<Self> {
        let chosen = std::env::var_os(variable).map(PathBuf::from);
        let program = chosen.unwrap_or_else(|| target().join("clients").join(place));
        program.is_file().then_some(Self { name, program })
    }

    /// Runs it against `daemon` in the test's namespace.
    pub async fn run<S: AsRef<OsStr>>(&self, daemon: &Daemon, args: &[S]) -> Output {
        self.run_in(daemon.socket(), daemon.namespace(), args).await
    }

    /// Runs it and wants success; gives standard output.
    pub async fn ok<S: AsRef<OsStr>>(&self, daemon: &Daemon, args: &[S]) -> String {
        let output = self.run(daemon, args).await;
        let shown: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
        assert!(output.ok, "{} {}: {}", self.name, shown.join(" "), output.stderr);
        output.stdout
    }

    /// Runs it and wants failure; gives standard error.
    pub async fn fails<S: AsRef<OsStr>>(&self, daemon: &Daemon, args: &[S]) -> String {
        let output = self.run(daemon, args).await;
        let shown: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
        assert!(!output.ok, "{} {}: succeeded: {}", self.name, shown.join(" "), output.stdout);
        output.stderr
    }

    /// Runs it against any socket, in any namespace, within [`crate::poll::SOON`].
    pub async fn run_in<S: AsRef<OsStr>>(
        &self,
        socket: &Path,
        namespace: &str,
        args: &[S],
    ) -> Output {
        let output = soon(self.name, self.command(socket, namespace).args(args).output()).await;
        let output = output.expect("ctr runs");
        Output {
            ok: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The command itself, for cases that feed or watch it.
    pub fn command(&self, socket: &Path, namespace: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.program);
        command.arg("--address").arg(socket).args(["--namespace", namespace]);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

/// The workspace's target directory, from where this test itself lies in it.
pub fn target() -> PathBuf {
    profile().parent().expect("a target directory").to_owned()
}

/// The directory of programs built with this test: `target/<profile>`.
pub fn profile() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    test.parent().and_then(Path::parent).expect("target/<profile>/deps").to_owned()
}
