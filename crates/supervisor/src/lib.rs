//! The daemon: configuration, plugins, and thin services in front of them.
//!
//! [`cli`] reads the command line and [`config`] the file; [`daemon`] brings everything up and
//! down again; [`builtins`] is the list of what runs. A service in [`services`] only converts,
//! calls and converts back, all by way of [`rpc`]; what it does stands in other crates.

pub mod builtins;
pub mod cli;
pub mod config;
pub mod convert;
pub mod daemon;
mod failpoints;
mod folders;
mod identity;
pub mod lock;
pub mod logs;
pub mod meta;
pub mod notify;
pub mod rpc;
pub mod services;
pub mod socket;
pub mod ttrpc;
pub mod version;

/// The failpoints of the daemon's own steps. Each can panic, pause, or fail the step with `return`.
pub const FAILPOINTS: &[&str] = &[
    "daemon.uuid/before-rename",
    "daemon.start/before-plugins",
    "daemon.start/before-sockets",
    "daemon.socket/before-rename",
    "daemon.stop/before-plugins",
];

/// Fails where a test asked for it.
pub(crate) fn failpoint(name: &'static str) -> std::io::Result<()> {
    fail::fail_point!(name, |_| Err(std::io::Error::other(format!("failpoint {name}"))));
    let _ = name;
    Ok(())
}

/// An error with its causes in one line, for people.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
