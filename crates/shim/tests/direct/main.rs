//! The shim spoken to directly over ttrpc, as a daemon would, with a daemon's event service of our
//! own at the other end. Needs root and runc; each test says so in one line and passes without.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not in a #[test]
#![allow(missing_docs, unreachable_pub)] // a program of tests, not a library

mod bundle;
mod daemon;
mod harness;

mod delivery;
mod execs;
mod lifecycle;
mod measure;
mod protocol;
mod states;
mod streams;
mod verbs;
