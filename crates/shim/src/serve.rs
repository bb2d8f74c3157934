//! Serving: one thread, one reactor, until there is nothing left to serve.
//!
//! The listener is descriptor 3, bound by whoever started us, or the path of `-socket`. Callers are
//! checked by the kernel's word: same user and group as ours. The shim ends when it is told to and
//! has no container, or by itself when it has none, nobody is connected and nothing happens for a
//! while: a daemon that died between starting us and creating a task leaves nothing behind.
//!
//! `SIGTERM` and `SIGINT` do the same, and nothing while a container is there: a service manager
//! that signals every process of a group must not take the containers' exits with it. `SIGUSR1`
//! writes what there is to know to the log.

use std::cell::Cell;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use gantry_ttrpc::server;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use crate::address;
use crate::args::Args;
use crate::events::Ack;
use crate::log;
use crate::service::Shim;

/// How long a shim without containers and callers stays: after its last container, and before its
/// first.
const IDLE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));
/// Bound on delivering the last events before the end.
const FLUSH: Duration = Duration::from_secs(4);

/// Serves until there is nothing left to serve.
///
/// # Errors
/// The socket or the reactor cannot be had.
pub fn serve(args: &Args) -> io::Result<()> {
    let listener = listener(args)?;
    let bundle = std::env::current_dir()?;
    log::to_bundle(&bundle, args.debug);
    gantry_sys::process::become_subreaper()?;
    let path = listener.local_addr()?.as_pathname().map(PathBuf::from);
    let address = path.as_deref().map(address::of_path).unwrap_or_default();
    let daemon = std::env::var_os("TTRPC_ADDRESS").filter(|a| !a.is_empty()).map(PathBuf::from);
    let ack = if args.ack_by_rpc { Ack::Rpc } else { Ack::Forward };
    let shim = Shim::new(&args.namespace, &args.id, &address, daemon.as_deref(), ack)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = LocalSet::new().block_on(&runtime, run(shim, listener, path.as_deref()));
    // Tasks that wait for a slow peer end with us.
    runtime.shutdown_background();
    result
}

fn listener(args: &Args) -> io::Result<StdListener> {
    let listener = match &args.socket {
        None => StdListener::from(gantry_sys::fd::inherited(3)?),
        Some(path) => match address::bind(path)? {
            address::Bound::Listener(listener) => listener,
            address::Bound::Served => return Err(io::ErrorKind::AddrInUse.into()),
        },
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn run(shim: Rc<Shim>, listener: StdListener, path: Option<&Path>) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let mut child = signal(SignalKind::child())?;
    let mut dump = signal(SignalKind::user_defined1())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let callers = Rc::new(Callers::default());
    log::info!(&shim.id, "serving {}", shim.address);
    loop {
        let idle = async {
            // Without an end while somebody is there: an idle shim makes no system call.
            loop {
                if shim.is_empty() && callers.count.get() == 0 {
                    let bound = if shim.had_container.get() { IDLE.0 } else { IDLE.1 };
                    if timeout(bound, callers.changed.notified()).await.is_err() {
                        return;
                    }
                } else {
                    callers.changed.notified().await;
                }
            }
        };
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => serve_caller(&shim, &callers, stream),
                Err(error) => {
                    log::error!(&shim.id, "accept: {error}");
                    // Out of descriptors, say: trying again at once would spin.
                    sleep(Duration::from_millis(100)).await;
                }
            },
            _ = child.recv() => shim.reaper.sweep(),
            _ = dump.recv() => describe(&shim, &callers),
            _ = terminate.recv() => asked_to_end(&shim),
            _ = interrupt.recv() => asked_to_end(&shim),
            () = shim.stopped() => break,
            () = idle => if shim.is_empty() && shim.publisher.queued() == 0 { break },
        }
    }
    // Before anything slow: whoever looks for a shim of this name must find none, and start one.
    // The name first, while it is surely ours.
    if let Some(path) = path {
        // Ignored: whoever made it may have removed it.
        let _ = std::fs::remove_file(path);
    }
    drop(listener);
    shim.stop();
    if timeout(FLUSH, shim.publisher.flushed()).await.is_err() {
        log::warn!(&shim.id, "{} events were not delivered", shim.publisher.queued());
    }
    callers.flush().await;
    log::info!(&shim.id, "done");
    Ok(())
}

/// Who is connected.
#[derive(Debug, Default)]
struct Callers {
    count: Cell<usize>,
    changed: Notify,
}

impl Callers {
    /// Lets answers on their way, that of `Shutdown` among them, reach their callers.
    async fn flush(&self) {
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
    }
}

fn serve_caller(shim: &Rc<Shim>, callers: &Rc<Callers>, stream: UnixStream) {
    match gantry_sys::socket::peer_is_us(&stream) {
        Ok(true) => {}
        Ok(false) => return log::warn!(&shim.id, "refused a caller of another user"),
        Err(error) => return log::warn!(&shim.id, "refused a caller: {error}"),
    }
    callers.count.set(callers.count.get() + 1);
    callers.changed.notify_one();
    // A daemon that comes back wants to know what it missed.
    shim.publisher.nudge();
    let (shim, callers) = (shim.clone(), callers.clone());
    spawn_local(async move {
        let (reader, writer) = stream.into_split();
        let (mut connection, answers) = server::connection(reader, writer);
        spawn_local(answers);
        loop {
            match connection.next().await {
                Ok(Some(call)) => {
                    spawn_local(shim.clone().answer(call));
                }
                Ok(None) => break,
                Err(error) => {
                    log::debug!(&shim.id, "caller lost: {error}");
                    break;
                }
            }
        }
        callers.count.set(callers.count.get() - 1);
        callers.changed.notify_one();
    });
}

fn asked_to_end(shim: &Rc<Shim>) {
    if shim.is_empty() {
        shim.stop();
    } else {
        let count = shim.containers.borrow().len();
        log::warn!(&shim.id, "asked to end by a signal: not with {count} containers to look after");
    }
}

fn describe(shim: &Rc<Shim>, callers: &Callers) {
    log::info!(
        &shim.id,
        "{} callers, {} events queued, {} containers",
        callers.count.get(),
        shim.publisher.queued(),
        shim.containers.borrow().len()
    );
    for container in shim.containers.borrow().values() {
        let status = container.status(&crate::task::machine::Who::Init);
        let pending = container.journal().borrow().pending().len();
        log::info!(&container.id, "{status:?}, {pending} exits not acknowledged");
    }
}
