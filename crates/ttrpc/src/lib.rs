//! ttrpc: the small RPC protocol between a containerd daemon and its shims.
//!
//! | module | what it does |
//! |---|---|
//! | [`frame`] | the 10-byte header, its limits, reading and writing frames |
//! | [`message`] | what the fields of a request mean, and the codes of a status |
//! | [`server`] | one connection seen from the server: requests out, replies in |
//! | [`client`] | one connection seen from the client: many calls at a time |
//!
//! Unary calls only: that is all that the task, sandbox and event services use.
//!
//! The protocol has no ping and no cancel. Hence: a client's time-out travels in the request and
//! the server keeps to it itself; a connection that breaks says nothing about the work it asked
//! for, so a server's handlers are not tied to it.
//!
//! Must not: start a thread; know any service.

pub mod client;
pub mod frame;
pub mod message;
pub mod server;

pub use client::{CallError, Client};
pub use message::{Code, Request, Response, Status};
pub use server::{Call, Connection, Reply};
