//! Descriptors that the reactor watches.
//!
//! tokio's constructor is sound only for a type whose descriptor stays the same and open while it
//! lives; [`watch`] takes just the types that keep to it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use gantry_sys::process::Pidfd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Types that own one descriptor for their whole life and never change it.
pub(crate) trait Steady: AsRawFd {}
impl Steady for OwnedFd {}
impl Steady for Pidfd {}

/// Has the reactor of this thread watch `fd`.
pub(crate) fn watch<T: Steady>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    #[allow(deprecated)] // its successor is unsafe, for types less steady than these
    AsyncFd::with_interest(fd, interest)
}
