//! The shim's own log: lines into the FIFO `log` of its bundle, which the daemon copies to its own.
//!
//! The FIFO is opened at the first line and never blocks: without a reader, or with a slow one, a
//! line is dropped and counted, and the count is told with the next line that fits. One process and
//! one thread, hence thread-local state.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use gantry_core::{Clock, SystemClock};
use rustix::fs::{Mode, OFlags};

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For who debugs the shim.
    Debug,
    /// For who wonders.
    Info,
    /// Something went wrong and was dealt with.
    Warn,
    /// Something went wrong.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warning",
            Self::Error => "error",
        }
    }
}

/// Lines longer than this are cut: a FIFO takes no more at once without mixing writers.
const LINE_BYTES_MAX: usize = 4096;

struct Log {
    path: PathBuf,
    least: Level,
    fifo: Option<OwnedFd>,
    dropped: u64,
}

thread_local! {
    static LOG: RefCell<Option<Log>> = const { RefCell::new(None) };
}

/// Logs into the FIFO `log` in `bundle` from now on.
pub fn to_bundle(bundle: &Path, debug: bool) {
    let least = if debug { Level::Debug } else { Level::Info };
    let log = Log { path: bundle.join("log"), least, fifo: None, dropped: 0 };
    LOG.with(|place| *place.borrow_mut() = Some(log));
}

/// Logs one line; `about` names the task or process.
pub fn line(level: Level, about: &str, text: fmt::Arguments<'_>) {
    LOG.with(|place| {
        if let Ok(mut log) = place.try_borrow_mut()
            && let Some(log) = log.as_mut()
            && level >= log.least
        {
            log.write(level, about, text);
        }
    });
}

impl Log {
    fn write(&mut self, level: Level, about: &str, text: fmt::Arguments<'_>) {
        let mut line = String::new();
        let time = SystemClock.now().to_rfc3339();
        // Writing to a string cannot fail.
        let _ = write!(line, "time={time:?} level={} msg={:?}", level.name(), text.to_string());
        if !about.is_empty() {
            let _ = write!(line, " id={about}");
        }
        if self.dropped > 0 {
            let _ = write!(line, " dropped={}", self.dropped);
        }
        line.truncate(line.floor_char_boundary(LINE_BYTES_MAX - 1));
        line.push('\n');
        if self.fifo.is_none() {
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            self.fifo = rustix::fs::open(&self.path, flags, Mode::empty()).ok();
        }
        match self.fifo.as_ref().map(|fifo| rustix::io::write(fifo, line.as_bytes())) {
            Some(Ok(_)) => self.dropped = 0,
            Some(Err(rustix::io::Errno::AGAIN)) | None => self.dropped += 1,
            Some(Err(_)) => {
                // The reader is gone; another may open the FIFO before the next line.
                self.fifo = None;
                self.dropped += 1;
            }
        }
    }
}

/// Logs for who debugs the shim.
macro_rules! debug {
    ($about:expr, $($text:tt)*) => {
        $crate::log::line($crate::log::Level::Debug, $about, format_args!($($text)*))
    };
}
/// Logs for who wonders.
macro_rules! info {
    ($about:expr, $($text:tt)*) => {
        $crate::log::line($crate::log::Level::Info, $about, format_args!($($text)*))
    };
}
/// Logs what went wrong and was dealt with.
macro_rules! warn_ {
    ($about:expr, $($text:tt)*) => {
        $crate::log::line($crate::log::Level::Warn, $about, format_args!($($text)*))
    };
}
/// Logs what went wrong.
macro_rules! error {
    ($about:expr, $($text:tt)*) => {
        $crate::log::line($crate::log::Level::Error, $about, format_args!($($text)*))
    };
}
pub(crate) use {debug, error, info, warn_ as warn};

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn lines_reach_a_reader_and_nobody_waits_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::from_raw_mode(0o700)).unwrap();
        to_bundle(dir.path(), false);
        info!("c", "nobody listens");
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut reader =
            std::fs::File::from(rustix::fs::open(&path, flags, Mode::empty()).unwrap());
        debug!("c", "too fine");
        warn!("c", "said {:?}", "this");
        for _ in 0..2000 {
            info!("", "{}", "x".repeat(100));
        }
        let mut text = [0; 4096];
        let n = reader.read(&mut text).unwrap();
        let first = String::from_utf8_lossy(&text[..n]).lines().next().unwrap().to_owned();
        assert!(first.ends_with(r#"level=warning msg="said \"this\"" id=c dropped=1"#), "{first}");
        info!("", "{}", "y".repeat(10_000));
    }
}
