//! Extended attributes of an open file, all at once.

use std::io;
use std::os::fd::AsFd;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

/// Tries of a read whose answer grew meanwhile.
const TRIES_MAX: usize = 8;

/// Names and values in byte order of the names; none where the file system has no attributes.
pub(crate) fn list(file: impl AsFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let names = sized(|buffer| match buffer {
        None => rustix::fs::flistxattr_query(&file),
        Some(buffer) => rustix::fs::flistxattr(&file, spare_capacity(buffer)),
    })?;
    let mut found = Vec::new();
    for name in names.unwrap_or_default().split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if let Some(value) = get(&file, name)? {
            found.push((name.to_vec(), value));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The value of one attribute; `None` when there is none.
pub(crate) fn get(file: impl AsFd, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    sized(|buffer| match buffer {
        None => rustix::fs::fgetxattr_query(&file, name),
        Some(buffer) => rustix::fs::fgetxattr(&file, name, spare_capacity(buffer)),
    })
}

/// Asks for the size, then for the data, until the two agree.
fn sized(
    ask: impl Fn(Option<&mut Vec<u8>>) -> rustix::io::Result<usize>,
) -> io::Result<Option<Vec<u8>>> {
    for _ in 0..TRIES_MAX {
        let size = match ask(None) {
            Ok(0) => return Ok(Some(Vec::new())),
            Ok(size) => size,
            Err(Errno::OPNOTSUPP | Errno::NODATA) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut buffer = Vec::with_capacity(size);
        match ask(Some(&mut buffer)) {
            Ok(_) => return Ok(Some(buffer)),
            Err(Errno::RANGE) => {}
            Err(Errno::OPNOTSUPP | Errno::NODATA) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("an extended attribute kept growing while it was read"))
}
