//! Mount options as in fstab(5): words that are flags, words that belong to us, and the rest, which
//! is the file system's.

use rustix::mount::{MountFlags, MountPropagationFlags};

use super::{Error, idmap::IdMap};

/// Options of one mount, sorted by whom they are for.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Flags of mount(2).
    pub flags: MountFlags,
    /// Propagation, which mount(2) wants in a call of its own.
    pub propagation: MountPropagationFlags,
    /// For the file system.
    pub data: Vec<String>,
    /// Whether the source is a file to be attached to a loop device.
    pub loop_device: bool,
    /// Whether that device reads past the page cache.
    pub direct_io: bool,
    uid_map: Option<String>,
    gid_map: Option<String>,
}

enum Word {
    Set(MountFlags),
    Clear(MountFlags),
    Propagation(MountPropagationFlags),
}

fn word(option: &str) -> Option<Word> {
    use MountFlags as F;
    use MountPropagationFlags as P;
    use Word::{Clear, Propagation, Set};
    let remount = F::from_bits_retain(libc::MS_REMOUNT as _);
    let mand = F::from_bits_retain(libc::MS_MANDLOCK as _);
    Some(match option {
        "async" => Clear(F::SYNCHRONOUS),
        "atime" => Clear(F::NOATIME),
        "bind" => Set(F::BIND),
        "dev" => Clear(F::NODEV),
        "diratime" => Clear(F::NODIRATIME),
        "dirsync" => Set(F::DIRSYNC),
        "exec" => Clear(F::NOEXEC),
        "mand" => Set(mand),
        "noatime" => Set(F::NOATIME),
        "nodev" => Set(F::NODEV),
        "nodiratime" => Set(F::NODIRATIME),
        "noexec" => Set(F::NOEXEC),
        "nomand" => Clear(mand),
        "norelatime" => Clear(F::RELATIME),
        "nostrictatime" => Clear(F::STRICTATIME),
        "nosuid" => Set(F::NOSUID),
        "rbind" => Set(F::BIND | F::REC),
        "relatime" => Set(F::RELATIME),
        "remount" => Set(remount),
        "ro" => Set(F::RDONLY),
        "rw" => Clear(F::RDONLY),
        "strictatime" => Set(F::STRICTATIME),
        "suid" => Clear(F::NOSUID),
        "sync" => Set(F::SYNCHRONOUS),
        "private" => Propagation(P::PRIVATE),
        "rprivate" => Propagation(P::PRIVATE | P::REC),
        "shared" => Propagation(P::SHARED),
        "rshared" => Propagation(P::SHARED | P::REC),
        "slave" => Propagation(P::DOWNSTREAM),
        "rslave" => Propagation(P::DOWNSTREAM | P::REC),
        "unbindable" => Propagation(P::UNBINDABLE),
        "runbindable" => Propagation(P::UNBINDABLE | P::REC),
        _ => return None,
    })
}

impl Options {
    /// Sorts `options`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an `X-containerd.` option: it was meant for a layer above.
    pub fn parse(options: &[String]) -> Result<Self, Error> {
        let mut parsed = Self {
            flags: MountFlags::empty(),
            propagation: MountPropagationFlags::empty(),
            data: Vec::new(),
            loop_device: false,
            direct_io: false,
            uid_map: None,
            gid_map: None,
        };
        for option in options {
            if option.starts_with("X-containerd.") {
                return Err(Error::Invalid(format!(
                    "internal mount option {option:?} was not consumed by the mount manager"
                )));
            }
            match word(option) {
                Some(Word::Set(flag)) => parsed.flags |= flag,
                Some(Word::Clear(flag)) => parsed.flags -= flag,
                Some(Word::Propagation(flag)) => parsed.propagation = flag,
                None => parsed.take(option),
            }
        }
        if parsed.loop_device {
            parsed.direct_io = parsed.data.iter().any(|option| option == "direct-io");
            parsed.data.retain(|option| option != "direct-io");
        }
        Ok(parsed)
    }

    fn take(&mut self, option: &str) {
        if option == "loop" {
            self.loop_device = true;
        } else if let Some(map) = option.strip_prefix("uidmap=") {
            self.uid_map = Some(map.to_owned());
        } else if let Some(map) = option.strip_prefix("gidmap=") {
            self.gid_map = Some(map.to_owned());
        } else if option != "defaults" {
            self.data.push(option.to_owned());
        }
    }

    /// The id mapping asked for; `None` unless both maps are given, as containerd has it.
    pub(super) fn id_map(&self) -> Result<Option<IdMap>, Error> {
        match (&self.uid_map, &self.gid_map) {
            (Some(uid), Some(gid)) => IdMap::parse(uid, gid).map(Some),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Options {
        let words: Vec<String> = text.split(',').map(str::to_owned).collect();
        Options::parse(&words).unwrap()
    }

    #[test]
    fn later_words_undo_earlier_ones() {
        assert_eq!(parse("ro,rw").flags, MountFlags::empty());
        assert_eq!(parse("suid,nosuid").flags, MountFlags::NOSUID);
        let rbind = parse("rbind,ro");
        assert_eq!(rbind.flags, MountFlags::BIND | MountFlags::REC | MountFlags::RDONLY);
        assert_eq!(
            parse("rprivate,rslave").propagation.bits() as u64,
            libc::MS_SLAVE | libc::MS_REC
        );
    }

    #[test]
    fn what_is_nobodys_is_the_file_systems() {
        let options = parse("lowerdir=/a:/b,ro,defaults,volatile,uidmap=0:1:2,loop,direct-io");
        assert_eq!(options.data, ["lowerdir=/a:/b", "volatile"]);
        assert!(options.loop_device && options.direct_io);
        assert!(options.id_map().unwrap().is_none(), "one map alone does nothing");
        assert_eq!(parse("direct-io").data, ["direct-io"], "only with a loop device is it ours");
    }

    #[test]
    fn an_option_for_the_mount_manager_is_an_error() {
        let error = Options::parse(&["X-containerd.mkfs.fs=ext4".into()]).unwrap_err();
        assert!(error.to_string().contains("was not consumed"));
    }
}
