//! Descriptors that come from elsewhere: inherited, received over a socket, or of memory.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;
use std::sync::PoisonError;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Takes over descriptor `number`, left open by the program that started this one.
///
/// To be called at the start of `main`, before anything else opens descriptors; from then on it is
/// close-on-exec.
///
/// # Errors
/// `InvalidInput` for 0 to 2 or a number that was taken before; `EBADF` when it is not open.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if number < 3 || taken.contains(&number) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: fcntl(2) with F_SETFD takes integers only and reports a descriptor that is not open.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    taken.push(number);
    // SAFETY: the descriptor is open (fcntl above) and, by the contract of this function and the
    // list of taken numbers, nothing else in this program owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A file in memory that a child can be given for its output, or as input by its path under
/// `/proc/self/fd`. Unlike a pipe it never fills, and reading it never waits.
///
/// # Errors
/// Those of memfd_create(2).
pub fn memory_file(name: &str) -> io::Result<OwnedFd> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC)?)
}

/// What a [`memory_file`] holds, at most `bytes_max` from its start.
///
/// # Errors
/// Those of pread(2).
pub fn contents(file: &OwnedFd, bytes_max: usize) -> io::Result<Vec<u8>> {
    let size = usize::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0).min(bytes_max);
    let mut bytes = vec![0; size];
    let mut read = 0;
    while read < size {
        match rustix::io::pread(file, &mut bytes[read..], read as u64)? {
            0 => break,
            n => read += n,
        }
    }
    bytes.truncate(read);
    Ok(bytes)
}

/// Receives one descriptor that the peer sent with `SCM_RIGHTS` (unix(7)).
///
/// # Errors
/// `WouldBlock` when nothing has come; `InvalidData` when a message without a descriptor came.
pub fn receive(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut data = [0u8; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut data)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    let mut received = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    // Descriptors beyond the first are dropped, that is, closed.
    received.next().and_then(|mut fds| fds.next()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "message without a file descriptor")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn standard_descriptors_and_closed_ones_are_refused() {
        assert_eq!(inherited(2).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(inherited(9999).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn a_descriptor_travels_over_a_socket() {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(receive(&ours).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let file = memory_file("sent").unwrap();
        rustix::io::write(&file, b"content").unwrap();
        let fds = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let name = io::IoSlice::new(b"console");
        sendmsg(&theirs, &[name], &mut control, SendFlags::empty()).unwrap();
        let got = receive(&ours).unwrap();
        assert_ne!(got.as_raw_fd(), file.as_raw_fd());
        assert_eq!(contents(&got, 3).unwrap(), b"con");
        rustix::io::write(&theirs, b"x").unwrap();
        assert_eq!(receive(&ours).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
