//! Finding and killing processes of shims that nobody speaks for.
//!
//! A shim is known by its working directory, which is its bundle, and by its command line, which
//! names namespace and id. A process that shows both is what the daemon once started for that
//! bundle; no other is touched.

use std::fs;
use std::path::Path;
use std::time::Duration;

use gantry_core::model::ContainerName;
use gantry_sys::process::Pidfd;

use crate::bundle::Bundle;
use crate::command;

/// How long a killed process may take to be gone.
const GONE: Duration = Duration::from_secs(2);
/// SIGKILL.
const KILL: i32 = 9;

/// The shims that run in `bundle` for `name`. Blocks.
pub(crate) fn find(name: &ContainerName, bundle: &Path) -> Vec<Pidfd> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        if !matches(pid, name, bundle) {
            return None;
        }
        let handle = Pidfd::open(pid).ok()?;
        // Looked at again through a handle that cannot come to mean another process.
        matches(pid, name, bundle).then_some(handle)
    })
    .collect()
}

fn matches(pid: i32, name: &ContainerName, bundle: &Path) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    names(&words, name)
        && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| lies_in(&cwd, bundle))
}

/// A folder that was deleted under a process is shown with a mark behind its name.
fn lies_in(cwd: &Path, bundle: &Path) -> bool {
    let mut deleted = bundle.as_os_str().to_owned();
    deleted.push(" (deleted)");
    cwd == bundle || cwd.as_os_str() == deleted
}

/// Whether a command line has `-namespace` and `-id` with these values.
fn names(words: &[&[u8]], name: &ContainerName) -> bool {
    let has = |flag: &str, value: &str| {
        words.windows(2).any(|pair| {
            let bare = pair[0].strip_prefix(b"--").or(pair[0].strip_prefix(b"-"));
            bare == Some(flag.as_bytes()) && pair[1] == value.as_bytes()
        })
    };
    has("namespace", name.namespace.as_str()) && has("id", name.id.as_str())
}

/// Kills the shims that run in `bundle` for `name`, but those whose number is in `spared`; returns
/// how many there were.
pub(crate) async fn kill(name: ContainerName, bundle: Bundle, spared: Vec<u32>) -> usize {
    let found = tokio::task::spawn_blocking(move || find(&name, &bundle.path)).await;
    let mut killed = 0;
    for stray in found.unwrap_or_default() {
        if spared.iter().any(|pid| i32::try_from(*pid) == Ok(stray.pid())) {
            continue;
        }
        killed += 1;
        // Ignored: it may have ended by itself.
        let _ = stray.signal(KILL);
        let _ = tokio::time::timeout(GONE, command::gone(stray)).await;
    }
    killed
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::{ContainerId, Namespace};

    #[test]
    fn only_a_command_line_with_both_names_matches() {
        let name = ContainerName {
            namespace: Namespace::new("moby").unwrap(),
            id: ContainerId::new("a1").unwrap(),
        };
        let matches = |line: &str| {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            names(&words, &name)
        };
        assert!(matches("/usr/bin/shim -namespace moby -id a1 -address /s"));
        assert!(matches("shim --namespace moby --id a1"));
        assert!(!matches("shim -namespace moby -id a12"));
        assert!(!matches("shim -namespace k8s.io -id a1"));
        assert!(!matches("vi moby a1"));
    }
}
