//! `delete`: cleans up after a container whose shim does not answer, and says how it ended.
//!
//! What the shim wrote down is believed: an exit in the page or the journal is the answer, and 137
//! is said only of a process that was killed here. 255 stands for an exit that nobody saw.
//!
//! The shim itself is ended only when it serves this container alone: a pod's shim has others to
//! look after, and a shim whose page says `Deleted` is done with this one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use gantry_api::containerd::task::v2::DeleteResponse;
use gantry_core::{Clock, Error, Kind, Result, SystemClock, Timestamp};
use gantry_shim_state::{Identity, JOURNAL_FILE, PAGE_FILE, State, Status, journal, page};
use gantry_sys::mount;
use gantry_sys::process::{Pidfd, boot_id, is_alive, start_time};
use prost::Message;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::args::Args;
use crate::bundle;
use crate::engine::{Engine, command};
use crate::reap::Reaper;
use crate::wire;

/// Bound on the runtime's part: the daemon gives us 5 s in all.
const ENGINE: Duration = Duration::from_secs(4);
/// The status of an exit that nobody saw.
const UNKNOWN: u32 = 255;
const SIGKILL: i32 = 9;

/// Cleans up after the container `-id`, next to the working directory.
///
/// # Errors
/// The bundle cannot be found, or the answer not be written; everything else is a warning.
pub fn delete(args: &Args) -> Result<()> {
    let cwd = std::env::current_dir().map_err(|e| Error::io("working directory", e))?;
    gantry_core::id::check_identifier(&args.id)?;
    let bundle = cwd.parent().unwrap_or(Path::new("/")).join(&args.id);
    let known = page::read(&bundle.join(PAGE_FILE)).ok();
    let ended = match &known {
        Some((_, State { status: Status::Deleted, .. })) => false,
        _ => {
            let alone = known.as_ref().is_some_and(|(identity, _)| serves_alone(identity, &bundle));
            if let (Some((identity, _)), true) = (&known, alone) {
                kill(identity.shim_pid, identity.shim_start_time);
            }
            let lived = init_of(&bundle, known.as_ref()).is_some();
            remove(args, &bundle);
            lived
        }
    };
    if let Some((identity, _)) = &known {
        remove_socket(identity);
    }
    let answer = exit_of(&bundle, known.as_ref(), ended);
    io::stdout().write_all(&answer.encode_to_vec()).map_err(|e| Error::io("write answer", e))
}

fn warn(text: &str, error: &dyn std::fmt::Display) {
    // The daemon logs what it finds here; that nobody reads it is no reason to stop.
    let _ = writeln!(io::stderr(), "containerd-shim-gantry-v2: {text}: {error}");
}

/// Whether the shim lives, was started for this bundle, and no other container names it.
fn serves_alone(identity: &Identity, bundle: &Path) -> bool {
    if !alive(identity.shim_pid, identity.shim_start_time)
        || boot_id().ok() != Some(identity.boot_id)
    {
        return false;
    }
    let cwd = fs::read_link(format!("/proc/{}/cwd", identity.shim_pid));
    if cwd.ok().as_deref() != fs::canonicalize(bundle).ok().as_deref() {
        return false;
    }
    let siblings = bundle.parent().and_then(|dir| fs::read_dir(dir).ok());
    let mut others = siblings.into_iter().flatten().flatten().filter(|e| e.path() != bundle);
    !others.any(|entry| match page::read(&entry.path().join(PAGE_FILE)) {
        Ok((other, state)) => {
            state.status != Status::Deleted
                && (other.shim_pid, other.shim_start_time)
                    == (identity.shim_pid, identity.shim_start_time)
        }
        Err(_) => false,
    })
}

/// Removes the socket that a dead shim could not remove itself.
fn remove_socket(identity: &Identity) {
    let path = Path::new(identity.address.strip_prefix("unix://").unwrap_or_default());
    let dead = !alive(identity.shim_pid, identity.shim_start_time);
    // Another shim of the same group may have taken the name over.
    if dead
        && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
    {
        // Ignored: somebody else was quicker.
        let _ = fs::remove_file(path);
    }
}

fn alive(pid: u32, started: u64) -> bool {
    is_alive(i32::try_from(pid).unwrap_or(0), started)
}

fn kill(pid: u32, started: u64) {
    let Ok(pidfd) = Pidfd::open(i32::try_from(pid).unwrap_or(0)) else { return };
    // The handle first, then the check: the number may have been another's between the two.
    if alive(pid, started)
        && let Err(error) = pidfd.signal(SIGKILL)
    {
        warn("kill shim", &error);
    }
}

/// The init process, if it lives.
fn init_of(bundle: &Path, known: Option<&(Identity, State)>) -> Option<i32> {
    match known {
        Some((_, state)) if state.pid != 0 => {
            alive(state.pid, state.start_time).then(|| i32::try_from(state.pid).ok()).flatten()
        }
        // A bundle of another shim, or one that was never finished.
        _ => {
            let pid = bundle::read_pid(&bundle.join("init.pid")).ok()?;
            start_time(pid).ok().filter(|started| is_alive(pid, *started)).map(|_| pid)
        }
    }
}

fn remove(args: &Args, bundle: &Path) {
    let options = match bundle::read_options(bundle) {
        Ok(options) => options,
        Err(error) => {
            warn("read options", &error);
            return;
        }
    };
    let reaper = Rc::new(Reaper::default());
    let engine = command::Command::new(&options, &args.namespace, &args.id, bundle, reaper);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            let until = Instant::now() + ENGINE;
            let deleted = LocalSet::new().block_on(&runtime, engine_delete(&engine, until));
            if let Err(error) = deleted {
                warn("failed to remove runtime container", &error.message());
            }
        }
        Err(error) => warn("reactor", &error),
    }
    if let Err(error) = mount::unmount_all(&bundle.join("rootfs")) {
        warn("failed to cleanup rootfs mount", &error);
    }
}

async fn engine_delete(engine: &command::Command, until: Instant) -> Result<()> {
    Engine::delete(engine, true, until).await.or_else(|error| match error.kind() {
        Kind::NotFound => Ok(()),
        _ => Err(error),
    })
}

fn exit_of(bundle: &Path, known: Option<&(Identity, State)>, killed: bool) -> DeleteResponse {
    let journaled = journal::read(&bundle.join(JOURNAL_FILE))
        .ok()
        .and_then(|contents| contents.pending.into_iter().find(|exit| exit.exec_id.is_empty()));
    // Read again: the shim may have seen the end of what was killed here.
    let state = page::read(&bundle.join(PAGE_FILE)).ok().map(|(_, state)| state);
    let state = state.or_else(|| known.map(|(_, state)| *state));
    let exit = state.and_then(|state| state.exit);
    let (pid, status, at) = match (exit, journaled) {
        (Some((status, at)), _) => (state.map_or(0, |s| s.pid), status, wire::from_file_time(at)),
        (None, Some(exit)) => (exit.pid, exit.status, wire::from_file_time(exit.exited_at)),
        (None, None) => {
            let pid = state.map(|s| s.pid).filter(|pid| *pid != 0);
            let file = || {
                bundle::read_pid(&bundle.join("init.pid")).ok().and_then(|p| u32::try_from(p).ok())
            };
            let status = if killed { 128 + SIGKILL.unsigned_abs() } else { UNKNOWN };
            (pid.or_else(file).unwrap_or(0), status, now())
        }
    };
    DeleteResponse { pid, exit_status: status, exited_at: Some(wire::timestamp(at)) }
}

fn now() -> Timestamp {
    SystemClock.now()
}
