//! The files of a bundle that the shim reads and writes.
//!
//! `config.json` is the client's and only ever read. `options.json`, `runtime`, `init.pid` and
//! `address` have the formats of containerd's own shim, so that its `delete` can clean up after us.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use gantry_api::containerd::runc::v1::Options;
use serde::{Deserialize, Serialize};

/// Annotations whose value names the shim that a container belongs to; the first one counts.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
/// Larger specs than any client writes; reading one must not exhaust the memory of the machine.
const SPEC_BYTES_MAX: u64 = 64 << 20;

/// The parts of an OCI spec that matter to a shim.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Spec {
    annotations: HashMap<String, String>,
    linux: Option<Linux>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Linux {
    namespaces: Vec<Namespace>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Namespace {
    r#type: String,
    path: String,
}

impl Spec {
    /// Reads `config.json` of `bundle`.
    ///
    /// # Errors
    /// It cannot be read, or is not JSON.
    pub fn read(bundle: &Path) -> io::Result<Self> {
        let file = fs::File::open(bundle.join("config.json"))?;
        let reader = io::BufReader::new(io::Read::take(file, SPEC_BYTES_MAX));
        serde_json::from_reader(reader).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// Which shim the container belongs to, if it says.
    pub fn group(&self) -> Option<&str> {
        GROUPS.iter().find_map(|name| self.annotations.get(*name)).map(String::as_str)
    }

    /// Whether processes outlive init because it has no pid namespace of its own.
    pub fn shares_pids(&self) -> bool {
        let own = |ns: &Namespace| ns.r#type == "pid" && ns.path.is_empty();
        !self.linux.as_ref().is_some_and(|linux| linux.namespaces.iter().any(own))
    }
}

/// Options as Go's JSON has them: zero values left out.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct OptionsFile {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    no_pivot_root: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    no_new_keyring: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    shim_cgroup: String,
    #[serde(skip_serializing_if = "is_zero")]
    io_uid: u32,
    #[serde(skip_serializing_if = "is_zero")]
    io_gid: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    binary_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    root: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    systemd_cgroup: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    criu_image_path: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    criu_work_path: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Writes `options.json` and `runtime`.
///
/// # Errors
/// Those of writing.
pub fn write_options(bundle: &Path, options: &Options) -> io::Result<()> {
    let file = OptionsFile {
        no_pivot_root: options.no_pivot_root,
        no_new_keyring: options.no_new_keyring,
        shim_cgroup: options.shim_cgroup.clone(),
        io_uid: options.io_uid,
        io_gid: options.io_gid,
        binary_name: options.binary_name.clone(),
        root: options.root.clone(),
        systemd_cgroup: options.systemd_cgroup,
        criu_image_path: options.criu_image_path.clone(),
        criu_work_path: options.criu_work_path.clone(),
    };
    write_private(&bundle.join("options.json"), &serde_json::to_vec(&file)?)?;
    write_private(&bundle.join("runtime"), options.binary_name.as_bytes())
}

/// Reads `options.json`, or the binary's name from `runtime` alone; the defaults when there are
/// neither.
///
/// # Errors
/// Those of reading, and `InvalidData`.
pub fn read_options(bundle: &Path) -> io::Result<Options> {
    let missing = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    let mut file = match fs::read(bundle.join("options.json")) {
        Ok(bytes) => serde_json::from_slice::<OptionsFile>(&bytes)?,
        Err(error) if missing(&error) => OptionsFile::default(),
        Err(error) => return Err(error),
    };
    if file.binary_name.is_empty() {
        match fs::read_to_string(bundle.join("runtime")) {
            Ok(name) => file.binary_name = name,
            Err(error) if missing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Options {
        no_pivot_root: file.no_pivot_root,
        no_new_keyring: file.no_new_keyring,
        binary_name: file.binary_name,
        root: file.root,
        systemd_cgroup: file.systemd_cgroup,
        ..Options::default()
    })
}

/// Writes a file for the owner only, whole or not at all.
///
/// # Errors
/// Those of writing and renaming.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    fs::rename(new, path)
}

/// The number in a pid file.
///
/// # Errors
/// Those of reading; `InvalidData` when it is not a process's number.
pub fn read_pid(path: &Path) -> io::Result<i32> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().ok().filter(|pid| *pid > 0).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: not a pid", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Spec {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_spec_says_group_and_pid_namespace() {
        let both = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"s","io.containerd.runc.v2.group":"g"}}"#;
        assert_eq!(spec(both).group(), Some("g"));
        assert_eq!(spec("{}").group(), None);
        assert!(spec("{}").shares_pids());
        assert!(!spec(r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#).shares_pids());
        assert!(
            spec(r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#)
                .shares_pids()
        );
    }

    #[test]
    fn options_are_written_as_containerds_own_shim_does() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_options(dir.path()).unwrap(), Options::default());
        let options = Options {
            binary_name: "crun".into(),
            root: "/run/x".into(),
            systemd_cgroup: true,
            ..Options::default()
        };
        write_options(dir.path(), &options).unwrap();
        let text = fs::read_to_string(dir.path().join("options.json")).unwrap();
        assert_eq!(text, r#"{"binary_name":"crun","root":"/run/x","systemd_cgroup":true}"#);
        assert_eq!(fs::read_to_string(dir.path().join("runtime")).unwrap(), "crun");
        assert_eq!(read_options(dir.path()).unwrap(), options);
    }

    #[test]
    fn a_pid_file_holds_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        for (text, pid) in [("12", Some(12)), ("12\n", Some(12)), ("", None), ("-1", None)] {
            fs::write(&path, text).unwrap();
            assert_eq!(read_pid(&path).ok(), pid, "{text:?}");
        }
    }
}
