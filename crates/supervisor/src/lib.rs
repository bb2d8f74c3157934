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
