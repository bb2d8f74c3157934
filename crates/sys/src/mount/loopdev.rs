//! Loop devices (loop(4)): a file as a block device that goes away with its last user.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// Two programs may be given the same free device; the loser asks again.
const ATTEMPTS: u32 = 64;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// An attached device; detached when neither this nor a mount uses it any more.
pub(super) struct Device {
    pub(super) path: PathBuf,
    _open: File,
}

pub(super) fn attach(file: &Path, read_only: bool, direct_io: bool) -> io::Result<Device> {
    let open = |path: &Path| OpenOptions::new().read(true).write(!read_only).open(path);
    let backing = open(file)?;
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    for _ in 0..ATTEMPTS {
        // SAFETY: LOOP_CTL_GET_FREE takes no argument.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path)?;
        // SAFETY: all-zero is a valid value of this plain C struct.
        let mut config: Config = unsafe { std::mem::zeroed() };
        config.fd = u32::try_from(backing.as_raw_fd()).unwrap_or(u32::MAX);
        config.info.flags = LO_FLAGS_AUTOCLEAR
            | if read_only { LO_FLAGS_READ_ONLY } else { 0 }
            | if direct_io { LO_FLAGS_DIRECT_IO } else { 0 };
        // SAFETY: LOOP_CONFIGURE (Linux 5.8) reads one struct loop_config at the pointer.
        if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) } == 0 {
            return Ok(Device { path, _open: device });
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(error);
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}
