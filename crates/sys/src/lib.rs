//! Every raw system call and every `unsafe` block of Gantry, behind safe functions.
//!
//! | module | what it wraps |
//! |---|---|
//! | [`process`] | starting programs, pidfds, exits, start times, the boot id |
//! | [`mount`] | containerd's mount instructions: options, bind, overlay, loop, id mapping; unmounting |
//! | [`fd`] | inherited descriptors, memory files, descriptors received over a socket |
//! | [`socket`] | unix sockets with their checks: path length, peer credentials |
//!
//! Invariants: every descriptor made here is close-on-exec; every function reports the kernel's own
//! error; nothing here starts a thread.
//! Must not: know containers, tasks or wire formats.

#![allow(unsafe_code)] // here and nowhere else in the workspace

pub mod fd;
pub mod mount;
pub mod process;
pub mod socket;
