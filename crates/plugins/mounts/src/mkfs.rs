//! `mkfs/`: a file with an empty file system in it, for a snapshot of a fixed size say.
//!
//! Options `X-containerd.mkfs.size=` (`64MiB`, `10g`; needed), `.fs=` (`ext4` unless given) and
//! `.uuid=` say what; they are taken off the mount. A file that is there is used as it is. A new
//! one has no name until the file system is whole and on disk, so nobody ever finds half of one,
//! and a crash leaves nothing.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use gantry_core::snapshot::Mount;
use gantry_core::{Cx, Error, Kind, Result};
use gantry_sys::process::{Child, Command, Ending};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec};
use rustix::io::Errno;

use crate::roots::{Place, Roots, refused};

const PREFIX: &str = "X-containerd.mkfs.";
/// How much of a program's output is quoted.
const OUTPUT_BYTES_MAX: usize = 2048;
/// How soon a cancelled call is noticed.
const TICK: Duration = Duration::from_millis(100);
/// How long a killed program may take to end; it writes to a file of ours and to nothing else.
const KILL_GRACE: Duration = Duration::from_secs(5);
/// The number under which the program gets its file.
const FILE: i32 = 3;

/// How programs are run.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// Where they are looked for, as `PATH` says it.
    pub(crate) path: String,
    /// Longest that one may run.
    pub(crate) bound: Duration,
}

#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    size: u64,
    fs: &'a str,
    uuid: Option<&'a str>,
}

/// Makes the source of `mount`; the mount without the options that say how.
///
/// # Errors
/// `InvalidArgument` that names the option; what [`Roots::place`] refuses; `FailedPrecondition`
/// when the program is absent or fails, with its output; `DeadlineExceeded` when it takes too long.
pub(crate) fn apply(
    cx: &Cx,
    mut mount: Mount,
    roots: Roots<'_>,
    programs: &Programs,
) -> Result<Mount> {
    let place = roots.place("mkfs", &mount.source)?;
    let wanted = parse(&mount.options)?;
    if !exists(&place, &mount.source)? {
        make(cx, &place, &mount.source, &wanted, programs)?;
    }
    mount.options.retain(|option| !option.starts_with(PREFIX));
    Ok(mount)
}

fn parse(options: &[String]) -> Result<Wanted<'_>> {
    let mut wanted = Wanted { size: 0, fs: "ext4", uuid: None };
    for option in options {
        let Some(word) = option.strip_prefix(PREFIX) else { continue };
        let bad = |what: &str| Error::invalid_argument(format!("mount option {option:?}: {what}"));
        match word.split_once('=') {
            Some(("size", value)) => {
                wanted.size = bytes(value).ok_or_else(|| bad("want a size such as 64MiB"))?;
            }
            Some(("fs", fs)) if matches!(fs, "ext2" | "ext3" | "ext4" | "xfs") => wanted.fs = fs,
            Some(("fs", _)) => {
                return Err(bad("unsupported filesystem, one of ext2, ext3, ext4, xfs works"));
            }
            Some(("uuid", uuid)) if is_uuid(uuid) => wanted.uuid = Some(uuid),
            Some(("uuid", _)) => return Err(bad("not a UUID")),
            _ => return Err(bad("unknown, one of mkfs.size=, mkfs.fs=, mkfs.uuid= works")),
        }
    }
    if wanted.size == 0 {
        return Err(Error::invalid_argument("mkfs requires mkfs.size option"));
    }
    Ok(wanted)
}

/// A number of bytes as people write it: `1024`, `64k`, `1.5 GiB`; units are powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let power = match unit.strip_suffix('i').unwrap_or(unit) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let scale = 1024u64.pow(power);
    let whole = match number.split_once('.') {
        None => number.parse::<u64>().ok()?.checked_mul(scale)?,
        Some((whole, part)) if !whole.is_empty() && part.parse::<u32>().is_ok() => {
            // Sizes with a fraction are small enough for 53 bits.
            (number.parse::<f64>().ok()? * scale as f64) as u64
        }
        Some(_) => return None,
    };
    // ftruncate(2) takes a signed number.
    i64::try_from(whole).ok().map(|_| whole)
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn exists(place: &Place, source: &str) -> Result<bool> {
    match rustix::fs::statat(&place.folder, &place.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => Ok(true),
        Ok(_) => Err(Error::invalid_argument(format!("mkfs {source:?}: not a regular file"))),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(refused(&format!("mkfs {source:?}: stat"), error)),
    }
}

fn make(
    cx: &Cx,
    place: &Place,
    source: &str,
    wanted: &Wanted<'_>,
    programs: &Programs,
) -> Result<()> {
    let fail = |what: &str, error: Errno| refused(&format!("mkfs {source:?}: {what}"), error);
    let mode = Mode::from_raw_mode(0o640);
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&place.folder, ".", flags, mode)
        .map_err(|error| fail("make a file", error))?;
    rustix::fs::ftruncate(&file, wanted.size).map_err(|error| fail("set its size", error))?;
    try_fail_point!("mounts.mkfs/before-program");
    run(cx, &file, wanted, programs).map_err(|error| error.context(format!("mkfs {source:?}")))?;
    rustix::fs::fsync(&file).map_err(|error| fail("write it out", error))?;
    try_fail_point!("mounts.mkfs/before-link");
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::linkat(
        rustix::fs::CWD,
        unnamed,
        &place.folder,
        &place.name,
        AtFlags::SYMLINK_FOLLOW,
    ) {
        // Made by somebody else meanwhile, under another name of an activation: theirs counts.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(fail("give it its name", error)),
    }
    try_fail_point!("mounts.mkfs/after-link");
    rustix::fs::fsync(&place.folder).map_err(|error| fail("write its name out", error))
}

fn run(cx: &Cx, file: &OwnedFd, wanted: &Wanted<'_>, programs: &Programs) -> Result<()> {
    let program = format!("mkfs.{}", wanted.fs);
    let output = gantry_sys::fd::memory_file("mkfs").map_err(|e| Error::io("memory file", e))?;
    let mut command = Command::new(&program)
        .env_clear()
        .env("PATH", &programs.path)
        .fd(file.as_fd(), FILE)
        .fd(output.as_fd(), 1)
        .fd(output.as_fd(), 2)
        .dies_with_parent()
        .arg("-q");
    command = match (wanted.fs, wanted.uuid) {
        ("xfs", Some(uuid)) => command.args(["-m", &format!("uuid={uuid}")]),
        (_, Some(uuid)) => command.args(["-U", uuid]),
        (_, None) => command,
    };
    let child = command.arg(format!("/proc/self/fd/{FILE}")).spawn().map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => Kind::FailedPrecondition,
            _ => Kind::Unknown,
        };
        Error::caused(kind, format!("start {program}"), error)
    })?;
    let bound = cx.remaining(programs.bound);
    let ending = ended(cx, &child, bound).map_err(|error| error.context(program.clone()))?;
    if ending.success() {
        return Ok(());
    }
    // The program does not say in a way that can be trusted why it could not write.
    if rustix::fs::fstatvfs(file).is_ok_and(|room| room.f_bavail == 0) {
        return Err(Error::resource_exhausted(format!("{program}: no space left on device")));
    }
    let said = gantry_sys::fd::contents(&output, OUTPUT_BYTES_MAX).unwrap_or_default();
    Err(Error::failed_precondition(format!(
        "{program} failed with {}: {}",
        ending.status(),
        String::from_utf8_lossy(&said).trim()
    )))
}

/// Waits until `child` ends, at most for `bound`; then, or when the call is cancelled, kills it.
fn ended(cx: &Cx, child: &Child, bound: Duration) -> Result<Ending> {
    let last = Instant::now() + bound;
    let failure = loop {
        if let Some(ending) = wait(child, TICK)? {
            return Ok(ending);
        }
        if cx.cancellation().is_cancelled() {
            break Error::cancelled("");
        }
        if Instant::now() >= last {
            break Error::deadline_exceeded(format!("not done after {bound:?}, killed"));
        }
    };
    // It may have ended by itself just now.
    let _ = child.pidfd().signal(rustix::process::Signal::KILL.as_raw());
    if !matches!(wait(child, KILL_GRACE), Ok(Some(_))) {
        tracing::warn!(pid = child.pid(), "a killed mkfs does not end");
    }
    Err(failure)
}

fn wait(child: &Child, bound: Duration) -> Result<Option<Ending>> {
    let fail = |error: io::Error| Error::io("wait for the program", error);
    let bound = Timespec::try_from(bound).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    let mut fds = [PollFd::new(child.pidfd(), PollFlags::IN)];
    match rustix::event::poll(&mut fds, Some(&bound)) {
        Ok(_) | Err(Errno::INTR) => child.pidfd().try_wait().map_err(fail),
        Err(error) => Err(fail(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| format!("{PREFIX}{word}")).collect()
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, wanted) in [
            ("1024", 1024),
            ("64k", 64 << 10),
            ("64MiB", 64 << 20),
            ("64 mb", 64 << 20),
            ("10G", 10 << 30),
            ("1.5g", 3 << 29),
            ("7B", 7),
            ("1p", 1 << 50),
        ] {
            assert_eq!(bytes(text), Some(wanted), "{text}");
        }
        for bad in ["", "k", "-1", "1e3", "1x", "1  k", ".5g", "1.g", "9999999999p", "1.2.3", "1kk"]
        {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn options_say_what_and_anything_else_is_refused() {
        let uuid = "01234567-89ab-cdef-0123-456789ABCDEF";
        let all = options(&["size=1m", "fs=xfs", &format!("uuid={uuid}")]);
        assert_eq!(parse(&all).unwrap(), Wanted { size: 1 << 20, fs: "xfs", uuid: Some(uuid) });
        for bad in [
            &["fs=ext4"][..],
            &["size=0"],
            &["size=x"],
            &["size=1m", "fs=../sh"],
            &["size=1m", "uuid=-F"],
            &["size=1m", "uuid=random"],
            &["size=1m", "extra=1"],
            &["size"],
        ] {
            let error = parse(&options(bad)).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_size_panics(text in "[0-9.]{0,25} ?[kKmMgGtTpPxb]{0,3}") {
            let _ = bytes(&text);
        }
    }
}
