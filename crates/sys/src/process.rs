//! Processes: starting them, and knowing them by a handle that cannot be recycled.
//!
//! A [`Pidfd`] means one process for ever, unlike its number; [`Pidfd::try_wait`] reaps exactly
//! that process and never any other child. [`start_time`] and [`boot_id`] make a number found in a
//! file comparable with a living process.
//!
//! Must not: wait for "any child" (`-1`); that would take exits from whoever owns them.

mod spawn;

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

pub use spawn::{Child, Command};

/// Kills every process of the group whose leader is `leader`, an unreaped child of the caller (so
/// that the number cannot mean another group).
///
/// # Errors
/// `ESRCH` when the group is empty.
pub fn kill_group(leader: &Pidfd) -> io::Result<()> {
    let pid = Pid::from_raw(leader.pid()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::kill_process_group(pid, rustix::process::Signal::KILL)?)
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It returned this code, 0 to 255.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
}

impl Ending {
    /// The status as shells and container runtimes number it: the code, or 128 plus the signal.
    pub fn status(self) -> u32 {
        match self {
            Self::Code(code) => u32::from(code),
            Self::Signal(signal) => 128 + u32::from(signal),
        }
    }
    /// Whether it returned 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

/// A handle to one process; readable (poll(2)) once it has exited.
#[derive(Debug)]
pub struct Pidfd {
    pid: i32,
    fd: OwnedFd,
}

impl Pidfd {
    /// A handle to the process that has the number `pid` now.
    ///
    /// The caller makes sure that the number still means what it thinks: an unreaped child of its
    /// own cannot be recycled.
    ///
    /// # Errors
    /// `ESRCH` when there is none.
    pub fn open(pid: i32) -> io::Result<Self> {
        let raw = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { pid, fd: pidfd_open(raw, PidfdFlags::NONBLOCK)? })
    }

    pub(crate) fn from_parts(pid: i32, fd: OwnedFd) -> Self {
        Self { pid, fd }
    }

    /// The number of the process; it may be another's once this one is reaped.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Reaps the process if it has ended; `None` while it runs.
    ///
    /// # Errors
    /// `ECHILD` when it is not a child of the caller, or was reaped before.
    pub fn try_wait(&self) -> io::Result<Option<Ending>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.fd.as_fd()), options) {
            Ok(Some(status)) => Ok(Some(ending(&status))),
            Ok(None) => Ok(None),
            // A non-blocking pidfd reports a running process this way (pidfd_open(2)).
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a signal, real-time signals included; 0 only asks whether it could be sent.
    ///
    /// # Errors
    /// `ESRCH` once the process is gone, `EINVAL` for a number that is no signal.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: pidfd_send_signal(2) takes two integers, a null siginfo and no flags; the
        // descriptor is ours and open.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Pidfd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

fn ending(status: &rustix::process::WaitIdStatus) -> Ending {
    let code = status.exit_status().and_then(|c| u8::try_from(c & 0xff).ok());
    let signal = status.terminating_signal().and_then(|s| u8::try_from(s & 0x7f).ok());
    match (code, signal) {
        (Some(code), _) => Ending::Code(code),
        (None, Some(signal)) => Ending::Signal(signal),
        (None, None) => Ending::Code(255),
    }
}

/// The number of a child that has ended and is not yet reaped, whichever the kernel lists first.
///
/// # Errors
/// `ECHILD` without children.
pub fn peek_ended_child() -> io::Result<Option<i32>> {
    // SAFETY: an all-zero siginfo_t is a valid value of that plain C struct.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: waitid(2) writes one siginfo_t to the pointer, which is valid for that.
    let result = unsafe {
        libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: after waitid(2) the SIGCHLD fields of the union are the ones filled in, or zero.
    let pid = unsafe { info.si_pid() };
    Ok((pid != 0).then_some(pid))
}

/// Makes the calling process adopt orphaned descendants (`PR_SET_CHILD_SUBREAPER`, prctl(2)).
///
/// # Errors
/// None on kernels since 3.4.
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Gives the process group a core-scheduling cookie of its own (`PR_SCHED_CORE`, prctl(2)).
///
/// # Errors
/// `EINVAL` or `ENODEV` where the kernel or the processor has no core scheduling.
pub fn create_core_scheduling_group() -> io::Result<()> {
    // SAFETY: PR_SCHED_CORE_CREATE takes integers only (pid 0 = self, scope 2 = process group).
    let result = unsafe { libc::prctl(libc::PR_SCHED_CORE, libc::PR_SCHED_CORE_CREATE, 0, 2, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// When `pid` was started, in clock ticks since boot (field 22 of `/proc/PID/stat`, proc(5)).
///
/// Together with the number and the boot id it names a process for ever.
///
/// # Errors
/// `NotFound` when there is no such process.
pub fn start_time(pid: i32) -> io::Result<u64> {
    stat(pid).map(|(_, started)| started)
}

/// Whether `pid` is the process that was started at `started` and has not ended; one that has ended
/// and is not reaped yet still has its number and its start time.
pub fn is_alive(pid: i32, started: u64) -> bool {
    pid > 0 && stat(pid).is_ok_and(|(state, now)| now == started && !matches!(state, 'Z' | 'X'))
}

/// State and start time of a process (fields 3 and 22, proc(5)).
fn stat(pid: i32) -> io::Result<(char, u64)> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    let text = String::from_utf8_lossy(&stat);
    // The command name may hold spaces and parentheses; what follows the last `)` does not.
    let mut fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let state = fields.next().and_then(|state| state.chars().next());
    let started = fields.nth(18).and_then(|ticks| ticks.parse().ok());
    state
        .zip(started)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed /proc/PID/stat"))
}

/// The id of this boot (`/proc/sys/kernel/random/boot_id`, random(4)).
///
/// # Errors
/// Those of reading the file.
pub fn boot_id() -> io::Result<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let mut id = [0u8; 16];
    let mut digits = text.bytes().filter(u8::is_ascii_hexdigit);
    for byte in &mut id {
        let pair = [digits.next(), digits.next()].map(|d| d.map_or(0, hex_value));
        *byte = pair[0] << 4 | pair[1];
    }
    Ok(id)
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_start_time_and_the_machine_a_boot_id() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(start_time(pid).unwrap(), start_time(pid).unwrap());
        assert!(start_time(pid).unwrap() > 0);
        assert_ne!(boot_id().unwrap(), [0; 16]);
        assert_eq!(start_time(i32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_ended_process_is_not_alive_though_nobody_reaped_it() {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let started = start_time(child.pid()).unwrap();
        assert!(is_alive(child.pid(), started));
        assert!(!is_alive(child.pid(), started + 1));
        child.pidfd().signal(libc::SIGKILL).unwrap();
        let mut fds = [rustix::event::PollFd::new(child.pidfd(), rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap();
        assert_eq!(start_time(child.pid()).unwrap(), started, "its remains are there");
        assert!(!is_alive(child.pid(), started));
        child.wait_blocking().unwrap();
        assert!(!is_alive(child.pid(), started) && !is_alive(0, 0));
    }

    #[test]
    fn a_number_without_a_process_is_refused() {
        assert!(Pidfd::open(0).is_err());
        assert_eq!(Pidfd::open(i32::MAX).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
