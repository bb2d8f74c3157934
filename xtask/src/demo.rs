//! `cargo xtask demo`: the main job on real input. A real registry, a daemon on its embedded
//! defaults, Debian's unmodified ctr: pull, run, kill the daemon, and the container goes on.
//!
//! Everything happens below a fresh directory that is removed at the end, unless `--root` names
//! one to keep. Packages it needs come from Debian by name.

mod daemon;
mod registry;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::run;
use crate::{Result, clients, root};
use daemon::{Daemon, program};
use registry::Registry;

const BUILD: Duration = Duration::from_secs(1200);
const ANSWER: Duration = Duration::from_secs(20);

/// What the container does: it counts, and ends with 7 when it is asked to.
const COUNT: &str = "trap 'exit 7' TERM; i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done";
/// How ctr tells the status it ends with.
const STATUS: &str = "exit code 7";

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
        clients::packages(clients::DEMO_PACKAGES)?;
        let ctr = clients::debian_ctr()?;
        let home = match &self.root {
            Some(home) => home.clone(),
            None => PathBuf::from(format!("/tmp/gantry-demo-{}", std::process::id())),
        };
        fs::create_dir_all(&home)?;
        let shown = show(&home, &ctr);
        if shown.is_err() {
            println!("# the daemon's log: {}", home.join("gantryd.log").display());
        } else if self.root.is_none() {
            fs::remove_dir_all(&home)?;
        }
        shown
    }
}

/// ctr at a daemon's socket, in the namespace `demo`.
struct Client<'a> {
    ctr: &'a Path,
    socket: PathBuf,
}

impl Client<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.ctr);
        command.arg("--address").arg(&self.socket).args(["--namespace", "demo"]).args(args);
        command
    }

    /// Says why, and runs ctr.
    fn drive(&self, why: &str, args: &[&str]) -> Result<()> {
        println!("\n# {why}\n$ ctr {}", args.join(" "));
        run(&format!("ctr {}", args.join(" ")), &mut self.command(args), ANSWER)
    }

    /// As [`Client::drive`] for a command whose words on standard error must contain `expected`.
    fn drive_to(&self, why: &str, args: &[&str], expected: &str) -> Result<()> {
        println!("\n# {why}\n$ ctr {}", args.join(" "));
        let mut command = self.command(args);
        let answer = command.stdin(Stdio::null()).output()?;
        let words = String::from_utf8_lossy(&answer.stderr);
        print!("{words}");
        if words.contains(expected) {
            return Ok(());
        }
        Err(format!("ctr {}: {}, without {expected:?}", args.join(" "), answer.status).into())
    }
}

fn show(home: &Path, ctr: &Path) -> Result<()> {
    println!("# A registry on loopback, with an image of Debian's busybox-static");
    let registry = Registry::start(home)?;
    let image = registry.reference.as_str();
    println!("pushed {image}");
    println!("\n# The daemon");
    let mut daemon = Daemon::start(home)?;
    let client = Client { ctr, socket: daemon.socket.clone() };
    let log = home.join("counter.log");
    let uri = format!("file://{}", log.display());
    client.drive("The client and the daemon agree on a protocol", &["version"])?;
    client.drive("The image, from the registry", &["images", "pull", "--plain-http", image])?;
    let counter = ["run", "-d", "--log-uri", &uri, image, "counter", "sh", "-c", COUNT];
    client.drive("A container that counts", &counter)?;
    client.drive("It runs", &["tasks", "ls"])?;
    let before = grown(&log, 0)?;
    println!("\n# kill -9 of the daemon; it has counted to {before}");
    daemon.kill()?;
    let alone = grown(&log, before + 5)?;
    println!("# and without any daemon to {alone}");
    daemon = Daemon::start(home)?;
    client.drive(
        "A new daemon on the same root: the same container, the same process",
        &["tasks", "ls"],
    )?;
    let after = grown(&log, alone + 5)?;
    println!("\n# It still counts: {after}. Its log, from one to the end without a gap:");
    println!("{}", ends(&log)?);
    client.drive("Asked to end", &["tasks", "kill", "counter"])?;
    stopped(&client)?;
    let delete = ["tasks", "delete", "counter"];
    client.drive_to("Its exit status, as it chose it", &delete, STATUS)?;
    client.drive("Removed", &["containers", "rm", "counter"])?;
    client.drive("and collected", &["images", "rm", "--sync", image])?;
    client.drive("which leaves no content", &["content", "ls"])?;
    println!("\n# Done. Any containerd client reaches a daemon of yours by its socket:");
    println!("#   {} --root DIR --state DIR --address SOCKET", program().display());
    println!("#   ctr --address SOCKET version");
    daemon.stop()
}

/// The last whole number in the log, once it is above `floor`.
fn grown(log: &Path, floor: u64) -> Result<u64> {
    let start = Instant::now();
    loop {
        let last = numbers(log).last().copied().unwrap_or(0);
        if last > floor {
            return Ok(last);
        }
        if start.elapsed() > ANSWER {
            return Err(format!("the container does not count beyond {last}").into());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn numbers(log: &Path) -> Vec<u64> {
    let text = fs::read_to_string(log).unwrap_or_default();
    // A line without its end may still grow.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().filter_map(|line| line.parse().ok()).collect()
}

/// First and last lines of the log; an error when a number is missing between them.
fn ends(log: &Path) -> Result<String> {
    let numbers = numbers(log);
    for (expected, found) in (1..).zip(&numbers) {
        if expected != *found {
            return Err(format!("the log has {found} where {expected} belongs").into());
        }
    }
    let count = numbers.len();
    Ok(format!("1 2 3 ... {} {} ({count} lines)", count - 1, count))
}

/// Returns once ctr shows the task as stopped.
fn stopped(client: &Client<'_>) -> Result<()> {
    let start = Instant::now();
    loop {
        let listed = client.command(&["tasks", "ls"]).output()?;
        if String::from_utf8_lossy(&listed.stdout).contains("STOPPED") {
            return Ok(());
        }
        if start.elapsed() > ANSWER {
            return Err("the task does not stop".into());
        }
        thread::sleep(Duration::from_millis(20));
    }
}
