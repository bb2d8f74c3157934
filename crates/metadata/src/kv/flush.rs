//! sled's flush with a bound.
//!
//! sled's writers report a failed write in a flag and wake the flusher; one path sets the flag
//! and forgets the wake-up, so that a flush which is already waiting waits for ever. Any further
//! flush sees the flag and wakes everybody. So the flush runs on sled's own pool, and when it
//! takes long another one is sent after it.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

/// Between two looks: far above any flush that is well, far below what a caller gives up after.
const PATIENCE: Duration = Duration::from_secs(2);
/// Looks before the disk counts as dead: two minutes, as the kernel's hung-task limit.
const LOOKS: u32 = 60;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Returns when everything applied has been handed to the kernel.
pub(crate) fn flush(db: &sled::Db) -> sled::Result<()> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut flushing = pin!(db.flush_async());
    for _ in 0..LOOKS {
        if let Poll::Ready(outcome) = flushing.as_mut().poll(&mut context) {
            return outcome.map(drop);
        }
        thread::park_timeout(PATIENCE);
        if let Poll::Ready(outcome) = flushing.as_mut().poll(&mut context) {
            return outcome.map(drop);
        }
        // Its own answer does not matter: the first poll sends it off, to wake the one above.
        let _ = pin!(db.flush_async()).poll(&mut context);
    }
    Err(sled::Error::Io(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        "the disk did not take the metadata for two minutes",
    )))
}
