//! Knowing that the kernel killed a process of a container for want of memory.
//!
//! v1 tells an eventfd registered in `cgroup.event_control` (cgroup-v1/memory, "OOM control"); v2
//! changes `memory.events`, which inotify sees. Either only wakes us: what counts is the kernel's
//! own counter of kills, so one rise is told once, and [`Watch::take`] before an exit is told finds
//! what the wake-up had no time to say.

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Cgroup, v1, v2};
use crate::reactor::watch;

/// Watches one container.
#[derive(Debug)]
pub struct Watch {
    fd: AsyncFd<OwnedFd>,
    kind: Kind,
    seen: Cell<u64>,
    // Closing it ends the registration.
    _control: Option<File>,
}

#[derive(Debug)]
enum Kind {
    V1(PathBuf),
    V2(PathBuf),
}

impl Watch {
    /// Watches `cgroup`; `None` when it has no memory controller.
    ///
    /// # Errors
    /// Those of registering.
    pub fn new(cgroup: &Cgroup) -> io::Result<Option<Self>> {
        match cgroup {
            Cgroup::V1(paths) => match paths.get("memory") {
                Some(dir) if dir.exists() => Self::v1(dir).map(Some),
                _ => Ok(None),
            },
            Cgroup::V2(dir) if dir.join("memory.events").exists() => Self::v2(dir).map(Some),
            Cgroup::V2(_) => Ok(None),
        }
    }

    fn v1(dir: &Path) -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let control = File::open(dir.join("memory.oom_control"))?;
        let line = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
        fs::write(dir.join("cgroup.event_control"), line)?;
        let seen = Cell::new(v1::oom_kills(dir));
        let fd = watch(fd, Interest::READABLE)?;
        Ok(Self { fd, kind: Kind::V1(dir.to_owned()), seen, _control: Some(control) })
    }

    fn v2(dir: &Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, dir.join("memory.events"), inotify::WatchFlags::MODIFY)?;
        let seen = Cell::new(v2::oom_kills(dir));
        let fd = watch(fd, Interest::READABLE)?;
        Ok(Self { fd, kind: Kind::V2(dir.to_owned()), seen, _control: None })
    }

    /// Returns when something may have happened. Cancel safe.
    ///
    /// # Errors
    /// Those of the descriptor; nothing more is to be expected then.
    pub async fn woken(&self) -> io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); 1024];
            match rustix::io::read(self.fd.get_ref(), &mut buffer[..]) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether the kernel has killed since the last call.
    pub fn take(&self) -> bool {
        let kills = match &self.kind {
            Kind::V1(dir) => v1::oom_kills(dir),
            Kind::V2(dir) => v2::oom_kills(dir),
        };
        // A cgroup that is gone counts 0 kills: no rise.
        kills > self.seen.replace(kills.max(self.seen.get()))
    }

    /// Whether the cgroup is still there; a v1 eventfd also fires when it is removed.
    pub fn lives(&self) -> bool {
        match &self.kind {
            Kind::V1(dir) | Kind::V2(dir) => dir.exists(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_rise_of_the_counter_wakes_and_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let events = dir.path().join("memory.events");
        fs::write(&events, "oom 0\noom_kill 1\n").unwrap();
        let watch = Watch::new(&Cgroup::V2(dir.path().to_owned())).unwrap().unwrap();
        assert!(!watch.take(), "what happened before is not news");
        fs::write(&events, "oom 1\noom_kill 2\n").unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.woken()).await.unwrap().unwrap();
        assert!(watch.take());
        assert!(!watch.take());
        fs::write(&events, "oom 9\noom_kill 2\n").unwrap();
        assert!(!watch.take(), "pressure alone is no kill");
        fs::remove_file(&events).unwrap();
        assert!(!watch.take());
        assert!(watch.lives());
    }

    #[tokio::test]
    async fn without_a_memory_controller_there_is_nothing_to_watch() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Watch::new(&Cgroup::V2(dir.path().to_owned())).unwrap().is_none());
    }
}
