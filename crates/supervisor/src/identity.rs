//! The name of this server, the same for the life of its root folder.
//!
//! Clients tell servers apart by it: BuildKit keeps its cache per uuid.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use tracing::warn;

/// Reads the uuid in `root`, making one if there is none or what is there is damaged.
///
/// # Errors
/// What the file system fails with.
pub(crate) fn uuid(root: &Path) -> io::Result<String> {
    let path = root.join("uuid");
    match fs::read_to_string(&path) {
        Ok(text) if is_uuid(text.trim()) => return Ok(text.trim().to_owned()),
        Ok(_) => warn!(path = %path.display(), "damaged server uuid, making a new one"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            warn!(path = %path.display(), "damaged server uuid, making a new one");
        }
        Err(error) => return Err(error),
    }
    // The kernel's generator of random (version 4) uuids; see random(4).
    let fresh = fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned();
    let temporary = root.join("uuid.new");
    let mut file = File::create(&temporary)?;
    file.write_all(fresh.as_bytes())?;
    file.sync_all()?;
    crate::failpoint("daemon.uuid/before-rename")?;
    fs::rename(&temporary, &path)?;
    File::open(root)?.sync_all()?;
    Ok(fresh)
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uuid_stays_until_it_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let first = uuid(dir.path()).unwrap();
        assert!(is_uuid(&first), "{first}");
        assert_eq!(uuid(dir.path()).unwrap(), first);
        for damaged in [&b""[..], b"\xff\xfe", b"not-a-uuid"] {
            fs::write(dir.path().join("uuid"), damaged).unwrap();
            let next = uuid(dir.path()).unwrap();
            assert!(is_uuid(&next) && next != first);
        }
    }
}
