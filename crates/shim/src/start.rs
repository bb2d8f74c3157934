//! `start`: binds the socket, leaves a server behind, says where it listens.
//!
//! Standard output and error are read together to their end by the daemon: nothing but the answer
//! may be written there, and the server must hold neither.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use gantry_core::{Error, Result};
use gantry_sys::process::{Child, Command};

use crate::address::{self, Bound};
use crate::args::Args;
use crate::bootstrap;
use crate::bundle::{self, Spec};
use crate::options;

/// More than any daemon says; beyond it something is wrong.
const INPUT_BYTES_MAX: u64 = 10 << 20;

/// Starts a server, or finds the one of the container's group.
///
/// # Errors
/// There is no spec, or the socket or the server cannot be had; nothing is left then.
pub fn start(args: &Args) -> Result<()> {
    let mut input = Vec::new();
    io::stdin()
        .take(INPUT_BYTES_MAX)
        .read_to_end(&mut input)
        .map_err(|e| Error::io("failed to read stdin", e))?;
    let version = std::env::var("MAX_SHIM_VERSION").ok();
    let asked = bootstrap::read(&input, &args.id, &args.namespace, version.as_deref());
    let options = options::decode(asked.options.as_ref())?;
    let bundle = std::env::current_dir().map_err(|e| Error::io("working directory", e))?;
    let spec = Spec::read(&bundle).map_err(|e| Error::io("read config.json", e))?;
    let group = spec.group().unwrap_or(&args.id);
    let dir = PathBuf::from(asked.socket_dir.as_deref().unwrap_or(address::SOCKET_DIR));
    let path = address::socket_path(&dir, &args.address, &args.namespace, group);
    let address = address::of_path(&path);
    let bound = address::bind(&path).map_err(|e| Error::io("create new shim socket", e))?;
    if let Bound::Listener(listener) = bound {
        let served = (|| {
            let child = spawn(args, asked.debug, &bundle, &listener)?;
            settle(&child, &options.shim_cgroup).inspect_err(|_| {
                // Ignored: it has ended by itself.
                let _ = child.pidfd().signal(9);
            })
        })();
        if let Err(error) = served {
            // Ignored: the error that matters is the one reported.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
    }
    bundle::write_private(&bundle.join("address"), address.as_bytes())
        .map_err(|e| Error::io("write address", e))?;
    let answer = asked.form.answer(&address);
    io::stdout().write_all(&answer).map_err(|e| Error::io("write answer", e))
}

fn spawn(
    args: &Args,
    debug: bool,
    bundle: &Path,
    listener: &std::os::unix::net::UnixListener,
) -> Result<Child> {
    let program = std::env::current_exe().map_err(|e| Error::io("own executable", e))?;
    if std::env::var_os("SCHED_CORE").is_some() {
        gantry_sys::process::create_core_scheduling_group()
            .map_err(|e| Error::io("enable sched core support", e))?;
    }
    // In this order because tools look for it in the list of processes.
    let mut command = Command::new(&program)
        .args(["-namespace", &args.namespace])
        .args(["-id", &args.id])
        .args(["-address", &args.address]);
    if args.debug || debug {
        command = command.arg("-debug");
    }
    if args.ack_by_rpc {
        command = command.args(["-ack", "rpc"]);
    }
    command
        .cwd(bundle)
        .fd(listener.as_fd(), 3)
        .new_session()
        .spawn()
        .map_err(|e| Error::io("start shim server", e))
}

/// Puts the server where it belongs: its cgroup, and its place among the victims of the OOM killer.
fn settle(child: &Child, cgroup: &str) -> Result<()> {
    if !cgroup.is_empty() {
        join_cgroup(cgroup, child.pid())
            .map_err(|e| Error::io(format!("failed to join cgroup {cgroup}"), e))?;
    }
    match adjust_oom_score(child.pid()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !privileged() => Ok(()),
        result => result.map_err(|e| Error::io("failed to adjust OOM score for shim", e)),
    }
}

fn privileged() -> bool {
    let whole = "4294967295";
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    rustix::process::geteuid().is_root() && map.split_whitespace().nth(2) == Some(whole)
}

/// One more than the daemon's: the shim goes first, and the container before it.
fn adjust_oom_score(pid: i32) -> io::Result<()> {
    let daemon = rustix::process::getppid().map_or(1, |pid| pid.as_raw_nonzero().get());
    let score = fs::read_to_string(format!("/proc/{daemon}/oom_score_adj"))?;
    let score: i32 = score.trim().parse().unwrap_or(0);
    fs::write(format!("/proc/{pid}/oom_score_adj"), (score + 1).min(1000).to_string())
}

fn join_cgroup(path: &str, pid: i32) -> io::Result<()> {
    let mount = Path::new("/sys/fs/cgroup");
    let path = path.trim_start_matches('/');
    let add = |dir: PathBuf| fs::write(dir.join(path).join("cgroup.procs"), pid.to_string());
    if mount.join("cgroup.controllers").exists() {
        return add(mount.to_owned());
    }
    let mut joined = false;
    for entry in fs::read_dir(mount)? {
        let dir = entry?.path();
        if dir.join(path).join("cgroup.procs").exists() {
            add(dir)?;
            joined = true;
        }
    }
    if joined { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}
