//! What is logged, where and in what form.
//!
//! Lines go to standard error, which the service manager keeps. The level can be changed while
//! the daemon runs. Losing standard error loses lines and nothing else.

use tracing_subscriber::Registry;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::Log;
use crate::config::value::{LogFormat, LogLevel};

/// Libraries below the services: their debugging is of the wire, not of containers, so it is
/// left out until everything is asked for.
const QUIET: [&str; 6] = ["h2", "hyper", "hyper_util", "tonic", "tower", "sled"];

/// Changes the level of the log.
#[derive(Clone)]
pub struct Logs {
    filter: reload::Handle<Targets, Registry>,
}

impl Logs {
    /// Starts logging for the whole process, panics included.
    ///
    /// # Errors
    /// When the process logs already.
    pub fn start(log: &Log) -> Result<Self, TryInitError> {
        let (filter, handle) = reload::Layer::new(targets(log.level));
        // A failed write must not be reported to standard error, where it failed: that panics.
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .log_internal_errors(false);
        let lines = match log.format {
            LogFormat::Text => lines.with_ansi(false).boxed(),
            LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        };
        tracing_subscriber::registry().with(filter).with(lines).try_init()?;
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let text = panic.payload_as_str().unwrap_or("a panic without text");
            tracing::error!(place, "panic: {text}");
        }));
        Ok(Self { filter: handle })
    }

    /// Logs at `level` from now on.
    pub fn set_level(&self, level: LogLevel) {
        // Fails only when the subscriber is gone, and then nothing is logged anyway.
        let _ = self.filter.reload(targets(level));
    }
}

fn targets(level: LogLevel) -> Targets {
    let filter = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => return Targets::new().with_default(LevelFilter::TRACE),
    };
    let quiet = filter.min(LevelFilter::INFO);
    Targets::new().with_default(filter).with_targets(QUIET.map(|name| (name, quiet)))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn debugging_leaves_the_wire_out_and_tracing_does_not() {
        let debug = targets(LogLevel::Debug);
        assert!(debug.would_enable("gantryd::rpc", &Level::DEBUG));
        assert!(!debug.would_enable("h2::codec", &Level::DEBUG));
        assert!(targets(LogLevel::Trace).would_enable("h2::codec", &Level::TRACE));
        assert!(!targets(LogLevel::Warn).would_enable("h2::codec", &Level::INFO));
    }
}
