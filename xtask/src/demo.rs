//! `cargo xtask demo`: a daemon on its embedded defaults, driven by Debian's unmodified ctr.
//!
//! Everything happens below a fresh directory that is removed at the end, unless `--root` names
//! one to keep. Packages it needs come from Debian by name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::run;
use crate::{Result, clients, root, target};

const BUILD: Duration = Duration::from_secs(1200);
const ANSWER: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(10);

/// What is shown, in order: why, and ctr's arguments. `IMAGE` is the archive made by [`image`].
const STEPS: &[(&str, &[&str])] = &[
    ("The client and the daemon agree on a protocol", &["version"]),
    ("What the daemon is made of", &["plugins", "ls"]),
    ("A namespace with a label", &["namespaces", "create", "demo", "owner=you"]),
    (
        "An image: its blobs stored, its layers unpacked",
        &["-n", "demo", "images", "import", "--base-name", "example/busybox", "IMAGE"],
    ),
    (
        "A container that may run it",
        &["-n", "demo", "containers", "create", "example/busybox:demo", "sleeper", "sleep", "60"],
    ),
];
/// What is shown after `kill -9` and a new start.
const AFTER: &[(&str, &[&str])] = &[
    ("Nothing acknowledged is lost: the namespace", &["namespaces", "ls"]),
    ("the image, every blob of it", &["-n", "demo", "images", "check"]),
    ("the snapshots of its layers", &["-n", "demo", "snapshots", "ls"]),
    ("the container", &["-n", "demo", "containers", "ls"]),
    ("Removed again", &["-n", "demo", "containers", "rm", "sleeper"]),
    ("and collected", &["-n", "demo", "images", "rm", "--sync", "example/busybox:demo"]),
    ("which leaves no content", &["-n", "demo", "content", "ls"]),
];

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args, Debug)]
pub struct Demo {
    /// Keep everything below this directory instead of a temporary one
    #[arg(long)]
    root: Option<PathBuf>,
}

impl Demo {
    /// Builds, starts, shows and cleans up.
    pub fn execute(self) -> Result<()> {
        let build = ["build", "-q", "-p", "gantryd", "-p", "gantry-shim"];
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        run("cargo build", cargo.args(build).current_dir(root()), BUILD)?;
        clients::packages()?;
        let ctr = clients::debian_ctr()?;
        let home = match &self.root {
            Some(home) => home.clone(),
            None => PathBuf::from(format!("/tmp/gantry-demo-{}", std::process::id())),
        };
        fs::create_dir_all(&home)?;
        let shown = show(&home, &ctr);
        if self.root.is_none() {
            fs::remove_dir_all(&home)?;
        }
        shown
    }
}

fn show(home: &Path, ctr: &Path) -> Result<()> {
    let image = image(home)?;
    let mut daemon = Daemon::start(home)?;
    for step in STEPS {
        drive(&daemon, ctr, step, &image)?;
    }
    println!("\n# kill -9, and a new start on the same root");
    daemon.kill()?;
    daemon = Daemon::start(home)?;
    for step in AFTER {
        drive(&daemon, ctr, step, &image)?;
    }
    println!("\n# Done. Any containerd client reaches a daemon of yours by its socket:");
    println!("#   {} --root DIR --state DIR --address SOCKET", program().display());
    println!("#   ctr --address SOCKET version");
    daemon.stop()
}

/// An image of busybox in one archive, made here so that no registry is needed.
fn image(home: &Path) -> Result<String> {
    let [layout, bundle, archive] = ["oci", "bundle", "busybox.tar"].map(|name| home.join(name));
    let archive = archive.display().to_string();
    if Path::new(&archive).is_file() {
        return Ok(archive);
    }
    let image = format!("{}:demo", layout.display());
    let umoci = |args: &[&str]| {
        let mut command = Command::new("umoci");
        command.args(args).stdout(Stdio::null());
        run(&format!("umoci {}", args.join(" ")), &mut command, ANSWER)
    };
    let rootfs = bundle.join("rootfs/bin");
    let bundle = bundle.display().to_string();
    umoci(&["init", "--layout", &layout.display().to_string()])?;
    umoci(&["new", "--image", &image])?;
    umoci(&["unpack", "--image", &image, &bundle])?;
    fs::create_dir_all(&rootfs)?;
    fs::copy("/bin/busybox", rootfs.join("busybox"))?;
    for name in ["sh", "sleep", "true", "echo"] {
        std::os::unix::fs::symlink("busybox", rootfs.join(name))?;
    }
    umoci(&["repack", "--image", &image, &bundle])?;
    umoci(&["config", "--image", &image, "--config.cmd", "sh"])?;
    let mut tar = Command::new("tar");
    run("tar", tar.arg("-C").arg(&layout).args(["-cf", &archive, "."]), ANSWER)?;
    Ok(archive)
}

fn drive(daemon: &Daemon, ctr: &Path, (why, args): &(&str, &[&str]), image: &str) -> Result<()> {
    let args: Vec<&str> =
        args.iter().map(|arg| if *arg == "IMAGE" { image } else { arg }).collect();
    println!("\n# {why}\n$ ctr {}", args.join(" "));
    let mut command = Command::new(ctr);
    command.arg("--address").arg(&daemon.socket).args(&args);
    run(&format!("ctr {}", args.join(" ")), &mut command, ANSWER)
}

struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    fn start(home: &Path) -> Result<Self> {
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

    fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn stop(mut self) -> Result<()> {
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

fn program() -> PathBuf {
    target().join("debug/gantryd")
}
