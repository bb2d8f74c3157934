//! Tasks: what the shim keeps for each container, and what can be done with it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`machine`] | states and their order, pure |
//! | [`process`] | one process: its streams, its handle, who waits for it |
//! | [`container`] | one container: its files, and carrying out what the machine decides |
//! | [`create`] | making one, and undoing a failure |
//! | [`verbs`] | start, exec, kill, pause, delete and the rest |

pub mod container;
pub mod create;
pub mod machine;
pub mod process;
pub mod verbs;
