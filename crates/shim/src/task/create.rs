//! Making a container, and leaving nothing of it when that fails.
//!
//! 1. the state page says `Creating` and names this shim (the intent);
//! 2. `options.json` and `runtime`, for whoever has to clean up;
//! 3. mounts on `rootfs`; 4. streams; 5. the engine makes the container; 6. its process is tracked.
//!
//! A failure, the caller's deadline included, undoes these from the last to the first. Nothing here
//! is tied to the caller's connection: a daemon that dies in the middle finds either a container or
//! a page that says `Deleted`.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use gantry_api::containerd::events::{TaskCreate, TaskIo};
use gantry_api::containerd::task::v2::CreateTaskRequest;
use gantry_core::{Error, Kind, Result};
use gantry_shim_state::{Identity, JOURNAL_FILE, Journal, PAGE_FILE, Page, State, Status};
use gantry_sys::mount::{self, Mount};
use gantry_sys::process::{Pidfd, start_time};
use tokio::time::Instant;

use super::container::{Container, Parts};
use super::machine::Who;
use super::process::Process;
use crate::bundle::{self, Spec};
use crate::engine::{Engine, command};
use crate::io::{self as streams, Owner, Stdio};
use crate::log;
use crate::options;
use crate::service::Shim;

/// Bound on undoing a failed creation.
const UNDO: Duration = Duration::from_secs(30);
/// Bound on what follows the making of the process: its terminal, its output.
const ATTACH: Duration = Duration::from_secs(30);

/// Makes the container that `request` describes.
///
/// # Errors
/// Whatever stands in the way; nothing is left then.
pub async fn create(
    shim: &Rc<Shim>,
    request: CreateTaskRequest,
    until: Instant,
) -> Result<Rc<Container>> {
    if !request.checkpoint.is_empty() {
        return Err(Error::new(
            Kind::NotImplemented,
            format!(
                "restore of checkpoint {:?}: this shim cannot restore; use a runc shim",
                request.checkpoint
            ),
        ));
    }
    gantry_core::id::check_identifier(&request.id)?;
    let path = PathBuf::from(&request.bundle);
    let options = options::decode(request.options.as_ref())?;
    // Unreadable counts as shared: rather one kill too many than a process left behind.
    let shares_pids = Spec::read(&path).map_or(true, |spec| spec.shares_pids());
    let stdio = Stdio {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    };
    let page = open_page(shim, &request.id, &path, &stdio)?;
    let engine =
        command::Command::new(&options, &shim.namespace, &request.id, &path, shim.reaper.clone());
    let mut undo = Undo { engine: Box::new(engine), rootfs: None, made: false, page: Some(page) };
    let io_owner = (options.io_uid, options.io_gid);
    let result = make(shim, &request, &path, &options, &stdio, io_owner, &mut undo, until).await;
    let init = match result {
        Ok(init) => init,
        Err(error) => {
            // Of the same id in the same root, and not ours to remove.
            undo.made &= !error.is(Kind::AlreadyExists);
            undo.run(&request.id).await;
            return Err(error);
        }
    };
    let journal = Journal::open(&path.join(JOURNAL_FILE));
    let (journal, page) = match (journal, undo.page.take()) {
        (Ok(journal), Some(page)) => (journal, page),
        (journal, page) => {
            undo.page = page;
            undo.run(&request.id).await;
            return Err(journal
                .err()
                .map_or_else(|| Error::new(Kind::Internal, "page lost"), state_error));
        }
    };
    fail::fail_point!("shim.create/before-register");
    let created = TaskCreate {
        container_id: request.id.clone(),
        bundle: request.bundle,
        rootfs: request.rootfs,
        io: Some(TaskIo {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        }),
        checkpoint: String::new(),
        pid: init.pid(),
    };
    Ok(Container::new(Parts {
        id: request.id,
        namespace: shim.namespace.clone(),
        bundle: path,
        engine: undo.engine,
        io_owner,
        mounted: undo.rootfs.is_some(),
        shares_pids,
        init,
        reaper: shim.reaper.clone(),
        publisher: shim.publisher.clone(),
        journal,
        page,
        boot_id: shim.boot_id,
        created,
    }))
}

fn state_error(error: gantry_shim_state::Error) -> Error {
    Error::caused(Kind::Unknown, "shim state", error)
}

fn open_page(shim: &Shim, id: &str, bundle: &Path, stdio: &Stdio) -> Result<Page> {
    let identity = Identity {
        namespace: shim.namespace.clone(),
        container_id: id.to_owned(),
        bundle: bundle.display().to_string(),
        stdin: stdio.stdin.clone(),
        stdout: stdio.stdout.clone(),
        stderr: stdio.stderr.clone(),
        terminal: stdio.terminal,
        address: shim.address.clone(),
        shim_pid: shim.pid,
        shim_start_time: shim.start_time,
        boot_id: shim.boot_id,
    };
    Page::create(&bundle.join(PAGE_FILE), &identity, &State::default()).map_err(state_error)
}

/// What has been done and would have to be undone.
struct Undo {
    engine: Box<dyn Engine>,
    rootfs: Option<PathBuf>,
    /// The engine was called: it may have made something.
    made: bool,
    page: Option<Page>,
}

impl Undo {
    async fn run(&mut self, id: &str) {
        if self.made
            && let Err(error) = self.engine.delete(true, Instant::now() + UNDO).await
        {
            log::warn!(id, "failed creation leaves a container: {}", error.message());
        }
        if let Some(rootfs) = &self.rootfs
            && let Err(error) = mount::unmount_all(rootfs)
        {
            log::warn!(id, "failed creation leaves a mount: {error}");
        }
        if let Some(page) = &mut self.page
            && let Err(error) = page.update(&State { status: Status::Deleted, ..State::default() })
        {
            log::warn!(id, "failed creation leaves its page: {error}");
        }
    }
}

#[allow(clippy::too_many_arguments)] // the steps of `create`, apart only for the undoing
async fn make(
    shim: &Rc<Shim>,
    request: &CreateTaskRequest,
    path: &Path,
    options: &gantry_api::containerd::runc::v1::Options,
    stdio: &Stdio,
    io_owner: (u32, u32),
    undo: &mut Undo,
    until: Instant,
) -> Result<Rc<Process>> {
    bundle::write_options(path, options).map_err(|e| Error::io("write options", e))?;
    if !request.rootfs.is_empty() {
        let rootfs = path.join("rootfs");
        match fs::DirBuilder::new().mode(0o711).create(&rootfs) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io("make rootfs", error));
            }
            _ => {}
        }
        let mounts: Vec<Mount> = request.rootfs.iter().map(to_mount).collect();
        mount::all(&mounts, &rootfs)
            .map_err(|e| Error::caused(Kind::Unknown, "failed to mount rootfs component", e))?;
        undo.rootfs = Some(rootfs);
    }
    fail::fail_point!("shim.create/mounted");
    let owner =
        Owner { namespace: &shim.namespace, id: &request.id, uid: io_owner.0, gid: io_owner.1 };
    let prepared = streams::prepare(stdio, owner, &shim.reaper, until)
        .await
        .map_err(|e| e.context("failed to create init process I/O"))?;
    let _starting = shim.reaper.starting();
    undo.made = true;
    let pid = undo.engine.create(prepared.child(), until).await?;
    let (tracked, started) = track(shim, pid)?;
    let io = prepared.attach(until.min(Instant::now() + ATTACH)).await?;
    let init = Process::new(Who::Init, stdio.clone(), Vec::new());
    init.running(tracked, started, io);
    Ok(init)
}

fn track(shim: &Shim, pid: i32) -> Result<(Rc<crate::reap::Tracked>, u64)> {
    // The engine has ended, so the process is our child; nobody but us can reap it.
    let failed = |e| Error::io(format!("watch process {pid}"), e);
    let tracked = Pidfd::open(pid).and_then(|pidfd| shim.reaper.track(pidfd)).map_err(failed)?;
    let started = start_time(pid).map_err(failed)?;
    Ok((Rc::new(tracked), started))
}

fn to_mount(mount: &gantry_api::containerd::types::Mount) -> Mount {
    Mount {
        kind: mount.r#type.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}
