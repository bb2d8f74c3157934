//! A containerd of its own, in a directory of its own, with our shim first on its `PATH`.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-gantry-v2");
const RUNTIME: &str = "io.containerd.gantry.v2";
const APPLETS: &[&str] = &["sh", "echo", "sleep", "tty", "stty", "true", "cat"];
/// Bound on any call of `ctr`.
const CALL: &str = "60";

/// Whether `program` is there; says so if not.
pub fn able(program: &str) -> bool {
    let there =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if there.is_err() {
        eprintln!("skipped: needs {program}");
    }
    there.is_ok()
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < until, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a call gave.
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// What `ctr events` has said so far.
pub struct Events {
    child: Child,
    path: PathBuf,
}

impl Events {
    pub fn text(&self) -> String {
        fs::read_to_string(&self.path).unwrap_or_default()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running containerd.
pub struct Containerd {
    programs: PathBuf,
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Containerd {
    /// Starts one; `None`, after saying why, when it cannot be had here.
    pub fn start() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        if !able("runc") || !able("busybox") {
            return None;
        }
        let target = Path::new(SHIM).parent().and_then(Path::parent).unwrap();
        let ctr = std::env::var_os("GANTRY_CTR16").map(PathBuf::from);
        let ctr = ctr.unwrap_or_else(|| target.join("clients/c16/usr/bin/ctr"));
        let programs = ctr.parent().unwrap().to_owned();
        if !programs.join("containerd").is_file() {
            eprintln!("skipped: needs containerd 1.6; `cargo xtask clients` installs it");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("c16-").tempdir().unwrap();
        let rootfs = dir.path().join("rootfs");
        for name in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
            fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\n  address = \"{0}/c.sock\"\n",
            dir.path().display()
        );
        fs::write(dir.path().join("config.toml"), config).unwrap();
        let mut containerd = Self { programs, dir, child: None };
        containerd.restart();
        Some(containerd)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
    /// A namespace of its own: runc's state and cgroups are named by it.
    fn namespace(&self) -> String {
        self.dir.path().file_name().unwrap().to_string_lossy().into_owned()
    }
    pub fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.dir.path().join("state/io.containerd.runtime.v2.task").join(self.namespace()).join(id)
    }

    /// Starts the daemon, again, and waits until it answers.
    pub fn restart(&mut self) {
        let log =
            File::options().append(true).create(true).open(self.dir.path().join("log")).unwrap();
        let ours = Path::new(SHIM).parent().unwrap().display().to_string();
        let path = format!("{ours}:{}:{}", self.programs.display(), std::env::var("PATH").unwrap());
        let child = Command::new(self.programs.join("containerd"))
            .arg("-c")
            .arg(self.dir.path().join("config.toml"))
            .env("PATH", path)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        eventually("containerd answers", || self.ctr(&["version"]).code == 0);
    }

    /// Kills the daemon as a crash would.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn words(&self, args: &[&str]) -> Vec<String> {
        let word = |arg: &&str| match *arg {
            "RUNTIME" => vec!["--runtime".to_owned(), RUNTIME.to_owned()],
            "ROOTFS" => vec![self.rootfs().display().to_string()],
            other => vec![other.to_owned()],
        };
        args.iter().flat_map(word).collect()
    }

    fn call(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "-s", "KILL", CALL]).arg(self.programs.join("ctr"));
        command.arg("-a").arg(self.dir.path().join("c.sock"));
        command.args(["-n", &self.namespace()]).args(self.words(args));
        command.stdin(Stdio::null());
        command
    }

    /// The same as words for a shell.
    pub fn command_line(&self, args: &[&str]) -> String {
        let socket = self.dir.path().join("c.sock");
        let ctr = self.programs.join("ctr");
        let words = self.words(args).join(" ");
        format!("{} -a {} -n {} {words}", ctr.display(), socket.display(), self.namespace())
    }

    pub fn ctr(&self, args: &[&str]) -> Output {
        let out = self.call(args).output().unwrap();
        Output {
            code: out.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.ctr(args);
        assert_eq!(out.code, 0, "ctr {args:?}: {}\n{}", out.stderr, self.log());
        out.stdout
    }

    pub fn detached(&self, id: &str, script: &str) {
        self.ok(&["run", "-d", "RUNTIME", "--rootfs", "ROOTFS", id, "/bin/sh", "-c", script]);
    }

    pub fn detached_to(&self, log: &Path, id: &str, script: &str) {
        let uri = format!("file://{}", log.display());
        let args = [
            "run",
            "-d",
            "--log-uri",
            &uri,
            "RUNTIME",
            "--rootfs",
            "ROOTFS",
            id,
            "/bin/sh",
            "-c",
            script,
        ];
        self.ok(&args);
    }

    pub fn tasks(&self) -> String {
        self.ok(&["task", "ls"])
    }

    pub fn pid_of(&self, id: &str) -> u32 {
        let tasks = self.tasks();
        let line = tasks
            .lines()
            .find(|line| line.starts_with(id))
            .unwrap_or_else(|| panic!("no {id} in {tasks}"));
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub fn events(&self) -> Events {
        let path = self.dir.path().join("events");
        let child = self.call(&["events"]).stdout(File::create(&path).unwrap()).spawn().unwrap();
        let events = Events { child, path };
        // An event of our own shows that the subscription stands.
        eventually("events are heard", || {
            self.ctr(&["namespace", "create", "probe"]);
            self.ctr(&["namespace", "rm", "probe"]);
            events.text().contains("/namespaces/")
        });
        events
    }

    /// Our shims below this daemon.
    pub fn shims(&self) -> Vec<i32> {
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        let ours = |pid: &i32| {
            let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            cwd.starts_with(self.dir.path()) && name.starts_with("containerd-shim")
        };
        pids.filter(ours).collect()
    }

    pub fn no_shim_is_left(&self) {
        eventually("the shims end", || self.shims().is_empty());
        assert_eq!(self.mounts(), 0);
    }

    /// Mounts below its directory.
    pub fn mounts(&self) -> usize {
        let dir = fs::canonicalize(self.dir.path()).unwrap();
        gantry_sys::mount::at_or_below(&gantry_sys::mount::table().unwrap(), &dir).len()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if self.child.is_some() {
            for line in self.ctr(&["task", "ls", "-q"]).stdout.lines() {
                self.ctr(&["task", "rm", "-f", line]);
            }
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in self.shims() {
            let _ = gantry_sys::process::Pidfd::open(pid).and_then(|shim| shim.signal(9));
        }
        // The names of their sockets are known, their places are not ours.
        for bundle in fs::read_dir(self.bundle("")).into_iter().flatten().flatten() {
            let address = fs::read_to_string(bundle.path().join("address")).unwrap_or_default();
            let _ = fs::remove_file(address.trim_start_matches("unix://"));
        }
        let _ = gantry_sys::mount::unmount_all(self.dir.path());
        let namespace = self.namespace();
        let _ = fs::remove_dir_all(Path::new("/run/containerd/runc").join(&namespace));
        for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(controller.path().join(&namespace));
        }
    }
}
