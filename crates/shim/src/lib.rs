//! The shim: the process that owns a task so that the daemon may die.
//!
//! | module | what it does |
//! |---|---|
//! | [`args`], [`start`], [`serve`], [`delete`], [`info`] | the program's verbs |
//! | [`bootstrap`], [`address`] | what daemons of each generation expect of `start` |
//! | [`service`] | the ttrpc services; which call does what |
//! | [`task`] | containers and processes; the state machine |
//! | [`engine`] | what makes containers: runc or crun as a command |
//! | [`io`] | streams, terminals, loggers |
//! | [`events`] | telling the daemon, in order, until it has taken it |
//! | [`cgroup`] | figures, processes, out-of-memory |
//! | [`reap`] | children and their exits |
//! | [`bundle`], [`options`], [`wire`], [`log`] | files, options, conversions, the log |
//!
//! One thread: nothing here may start another, so there is no `spawn_blocking` and no `tokio::fs`.
//! Short system calls (small files, mounts) are made where they are needed; whatever waits for
//! another process is asynchronous and bounded.
//!
//! Must not: link a gRPC stack or a store; wait for "any child"; rewrite `config.json`.

pub mod address;
pub mod args;
pub mod bootstrap;
pub mod bundle;
pub mod cgroup;
pub mod delete;
pub mod engine;
pub mod events;
pub mod info;
pub mod io;
pub mod log;
pub mod options;
mod reactor;
pub mod reap;
pub mod serve;
pub mod service;
pub mod start;
pub mod task;
pub mod wire;

/// Where tests can make this crate fail or stop (feature `failpoints`).
pub const FAILPOINTS: &[&str] = &[
    "shim.create/mounted",
    "shim.create/spawn",
    "shim.create/before-register",
    "shim.exec/spawn",
    "shim.exit/before-publish",
    "shim.delete/engine-done",
];
