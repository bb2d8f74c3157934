//! Standard input, output and error of a container's process.
//!
//! ```text
//! client's FIFO --splice--> pipe --> process --> pipe --splice--> client's FIFO
//!                                                     --copy----> file://
//!                                            --> pipe ----------> binary:// (a logger reads it)
//! client's FIFO --copy----> terminal master ---------------copy--> client's FIFO
//! ```
//!
//! Three steps: [`prepare`] opens everything before the engine is called, [`Prepared::attach`]
//! starts the copying once the process exists, [`ProcessIo::finish`] ends it after the process has.
//!
//! Invariants: the shim holds both ends of an output FIFO, so a client may come, go and come back
//! while the container never sees a broken pipe; an error of a destination is counted and never
//! stops the container; whatever a process wrote before its end is delivered before its streams
//! close, unless their reader stands still.

mod console;
mod copy;
mod logger;
mod uri;

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use gantry_core::{Error, Result};
use rustix::fs::{FileType, Mode, OFlags};
use tokio::time::Instant;

use crate::engine::ChildIo;
use crate::reap::Reaper;
use console::{Console, ConsoleSocket};
use copy::{Copies, Sink};
use logger::Logger;
use uri::Target;

/// Bound on delivering what an ended process left in its pipes to a reader that is slow.
const DELIVER: Duration = Duration::from_secs(5);

/// Where the streams of a process lead, as the client said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// A FIFO; empty for none.
    pub stdin: String,
    /// A FIFO, a file, or a URI; empty for none.
    pub stdout: String,
    /// The same; not used with a terminal.
    pub stderr: String,
    /// Whether the process has a terminal.
    pub terminal: bool,
}

/// Whose streams they are.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// The namespace, for loggers.
    pub namespace: &'a str,
    /// The container, or the exec: what loggers are told.
    pub id: &'a str,
    /// Owner of the pipes.
    pub uid: u32,
    /// Group of the pipes.
    pub gid: u32,
}

/// Streams that are open, their process not yet made.
#[derive(Debug)]
pub struct Prepared {
    child: [Option<OwnedFd>; 3],
    outputs: Vec<(OwnedFd, Sink)>,
    input: Option<Input>,
    console: Option<ConsoleSocket>,
    logger: Option<Logger>,
}

#[derive(Debug)]
struct Input {
    fifo: OwnedFd,
    keep: OwnedFd,
    to: Option<OwnedFd>,
}

/// Opens everything that `stdio` names.
///
/// # Errors
/// What it names is not there or not of the right kind; a logger that does not get ready by `until`.
pub async fn prepare(
    stdio: &Stdio,
    owner: Owner<'_>,
    reaper: &Rc<Reaper>,
    until: Instant,
) -> Result<Prepared> {
    let mut prepared = Prepared {
        child: [None, None, None],
        outputs: Vec::new(),
        input: None,
        console: None,
        logger: None,
    };
    if !stdio.stdin.is_empty() {
        prepared.open_input(stdio, owner)?;
    }
    let target = Target::parse(&stdio.stdout)?;
    if stdio.terminal {
        let socket =
            ConsoleSocket::new().map_err(|e| Error::io("failed to create console socket", e))?;
        prepared.console = Some(socket);
    }
    match target {
        Target::Logger(command) => {
            let pipe =
                || copy::pipe(owner).map_err(|e| Error::io("failed to create stdout pipes", e));
            let ((out_read, out_write), (err_read, err_write)) = (pipe()?, pipe()?);
            let logger =
                Logger::start(&command, owner, [out_read, err_read], reaper, until).await?;
            prepared.logger = Some(logger);
            if stdio.terminal {
                prepared.console_to(Sink::from_pipe(out_write)?);
            } else {
                prepared.child[1] = Some(out_write);
                prepared.child[2] = Some(err_write);
            }
        }
        Target::File(path) => {
            let file =
                log_file(&path).map_err(|e| Error::io(format!("open {}", path.display()), e))?;
            let file = Rc::new(file);
            if stdio.terminal {
                prepared.console_to(Sink::File(file));
            } else {
                prepared.output(1, Sink::File(file.clone()), owner)?;
                prepared.output(2, Sink::File(file), owner)?;
            }
        }
        Target::Path(_) | Target::None if stdio.terminal => {
            let sink =
                if stdio.stdout.is_empty() { Sink::Nothing } else { open_sink(&stdio.stdout)? };
            prepared.console_to(sink);
        }
        Target::Path(_) | Target::None => {
            let mut shared = None;
            if !stdio.stdout.is_empty() {
                let sink = open_sink(&stdio.stdout)?;
                if let Sink::File(file) = &sink {
                    shared = Some(Sink::File(file.clone()));
                }
                prepared.output(1, sink, owner)?;
            }
            if !stdio.stderr.is_empty() {
                let same = stdio.stderr == stdio.stdout;
                let sink = match shared.filter(|_| same) {
                    Some(shared) => shared,
                    None => open_sink(&stdio.stderr)?,
                };
                prepared.output(2, sink, owner)?;
            }
        }
    }
    Ok(prepared)
}

impl Prepared {
    fn open_input(&mut self, stdio: &Stdio, owner: Owner<'_>) -> Result<()> {
        let path = Path::new(&stdio.stdin);
        let open = |flags: OFlags| {
            rustix::fs::open(path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| {
                    Error::io(format!("failed to open stdin fifo {}", path.display()), e.into())
                })
        };
        // Reading end first: opening the other without a reader fails.
        let fifo = open(OFlags::RDONLY)?;
        if !is_fifo(&fifo) {
            return Err(Error::invalid_argument(format!("stdin {} is not a fifo", path.display())));
        }
        let keep = open(OFlags::WRONLY)?;
        let mut to = None;
        if !stdio.terminal {
            let (read, write) =
                copy::pipe(owner).map_err(|e| Error::io("failed to create stdin pipe", e))?;
            self.child[0] = Some(read);
            to = Some(write);
        }
        self.input = Some(Input { fifo, keep, to });
        Ok(())
    }

    fn output(&mut self, number: usize, sink: Sink, owner: Owner<'_>) -> Result<()> {
        let (read, write) =
            copy::pipe(owner).map_err(|e| Error::io("failed to create output pipe", e))?;
        self.child[number] = Some(write);
        self.outputs.push((read, sink));
        Ok(())
    }

    fn console_to(&mut self, sink: Sink) {
        if let Some(console) = &mut self.console {
            console.sink = sink;
        }
    }

    /// What the engine gives to the process.
    pub fn child(&self) -> ChildIo<'_> {
        let [stdin, stdout, stderr] =
            self.child.each_ref().map(|fd| fd.as_ref().map(|fd| fd.as_fd()));
        ChildIo { stdin, stdout, stderr, console: self.console.as_ref().map(ConsoleSocket::path) }
    }

    /// Starts copying, now that the engine has made the process.
    ///
    /// # Errors
    /// The terminal did not come by `until`.
    pub async fn attach(self, until: Instant) -> Result<ProcessIo> {
        // The process has these; ours would keep its pipes open after its end.
        drop(self.child);
        let copies = Copies::new();
        let mut stdin = None;
        let mut console = None;
        let failed = |e| Error::io("failed to start io copy", e);
        if let Some(socket) = self.console {
            let (master, sink) = socket.receive(until).await?;
            let master = Console::new(master).map_err(failed)?;
            copies.spawn_console(master.clone(), sink).map_err(failed)?;
            if let Some(input) = self.input {
                copies.spawn_typing(input.fifo, master.clone()).map_err(failed)?;
                stdin = Some(input.keep);
            }
            console = Some(master);
        } else {
            for (from, sink) in self.outputs {
                copies.spawn_output(from, sink).map_err(failed)?;
            }
            if let Some(Input { fifo, keep, to: Some(to) }) = self.input {
                copies.spawn_input(fifo, to).map_err(failed)?;
                stdin = Some(keep);
            }
        }
        Ok(ProcessIo { stdin: RefCell::new(stdin), copies, console, logger: self.logger })
    }
}

/// The streams of a process.
#[derive(Debug)]
pub struct ProcessIo {
    stdin: RefCell<Option<OwnedFd>>,
    copies: Copies,
    console: Option<Rc<Console>>,
    logger: Option<Logger>,
}

impl ProcessIo {
    /// Lets the input end once the client has closed it too; bytes on their way still arrive.
    pub fn close_stdin(&self) {
        self.stdin.borrow_mut().take();
    }

    /// Sets the size of the terminal; nothing happens without one.
    ///
    /// # Errors
    /// Those of the terminal.
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        self.console.as_ref().map_or(Ok(()), |console| console.resize(columns, rows))
    }

    /// Delivers what is left, then closes everything. The process has ended.
    pub async fn finish(&self) {
        self.close_stdin();
        self.copies.finish(DELIVER).await;
        if let Some(logger) = &self.logger {
            logger.finish().await;
        }
    }
}

fn is_fifo(fd: &OwnedFd) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

/// Opens a client's FIFO (both ends at once, so that it never breaks) or any other file.
fn open_sink(path: &str) -> Result<Sink> {
    let open = |flags: OFlags| {
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(|e| {
            Error::io(format!("containerd-shim: opening file {path:?} failed"), e.into())
        })
    };
    let kind = rustix::fs::stat(path).map(|stat| FileType::from_raw_mode(stat.st_mode));
    if kind == Ok(FileType::Fifo) {
        let fifo = open(OFlags::RDWR | OFlags::NONBLOCK)?;
        return Sink::from_pipe(fifo);
    }
    let file = open(OFlags::WRONLY | OFlags::APPEND | OFlags::NOCTTY)?;
    Ok(Sink::File(Rc::new(File::from(file))))
}

fn log_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o644).open(path)
}

/// A directory for one socket, gone when dropped.
#[derive(Debug)]
struct TempDir(PathBuf);

impl TempDir {
    fn new(prefix: &str) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let mut attempts = 0;
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("{prefix}{pid}-{count}"));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempts < 1000 => {
                    attempts += 1;
                }
                made => return made.map(|()| Self(path)),
            }
        }
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // Ignored: a directory in a temporary place that somebody else removed.
        let _ = fs::remove_dir_all(&self.0);
    }
}
