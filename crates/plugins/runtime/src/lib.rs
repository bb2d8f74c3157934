//! Tasks: the task manager of the daemon, and the shims behind it.
//!
//! | module | what it does |
//! |---|---|
//! | [`config`] | folders, addresses, bounds |
//! | [`tasks`] | which containers have a task |
//! | `create`, `calls`, `state`, `wait`, `delete` | what clients ask |
//! | [`exits`] | word of exits and other events |
//! | `load`, `contact`, `dead`, `recover` | restarts of the daemon, deaths of shims, remains |
//! | `name`, `own`, `launch`, `bootstrap`, `command` | from a runtime's name to a running shim |
//! | `bundle`, `client`, `shimlog`, `strays` | files, calls, logs and processes of a shim |
//!
//! Invariants: a side effect outside the store has an intent before it and a record after it; an
//! exit is recorded before anybody hears of it, and told once; a shim is dead by proof only; no
//! lock is held while a shim is waited for, and every such wait has a bound, a caller who may give
//! up, or a process whose end ends it.
//!
//! Must not: know gRPC; believe anything about processes that an earlier boot left.

mod bootstrap;
mod bundle;
mod calls;
mod client;
mod command;
pub mod config;
mod contact;
mod create;
mod dead;
mod delete;
pub mod exits;
mod launch;
mod load;
mod name;
mod own;
mod recover;
mod shimlog;
mod state;
mod strays;
mod task;
pub mod tasks;
mod wait;

pub use calls::{ExecProcess, Metric};
pub use config::{Config, Timeouts};
pub use create::CreateTask;
pub use delete::Deleted;
pub use task::{Ended, Process};
pub use tasks::Tasks;

/// Where tests can make this crate fail or stop; see the crate `fail`.
pub const FAILPOINTS: &[&str] = &[
    "runtime.bundle/before-rename",
    "runtime.bundle/before-replace",
    "runtime.bundle/half-made",
    "runtime.clear/before-remove",
    "runtime.create/after-commit",
    "runtime.create/after-intent",
    "runtime.create/before-commit",
    "runtime.delete/after-commit",
    "runtime.delete/before-commit",
    "runtime.exit/after-commit",
    "runtime.exit/before-commit",
    "runtime.load/after-commit",
    "runtime.load/before-commit",
    "runtime.own/after-spawn",
    "runtime.own/before-spawn",
    "runtime.spawn/after",
    "runtime.spawn/before",
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Settings with every folder below `dir`.
    pub(crate) fn config(dir: &Path) -> Config {
        Config {
            state: dir.join("state"),
            root: dir.join("root"),
            sockets: dir.join("s"),
            address: dir.join("g.sock"),
            ttrpc_address: dir.join("g.sock.ttrpc"),
            daemon: dir.join("gantryd"),
            version: "2.0.0".into(),
            usual_runtime: config::OWN_RUNTIME.into(),
            debug: false,
            env: Vec::new(),
            boot_id: [1; 16],
            timeouts: Timeouts::default(),
        }
    }
}
