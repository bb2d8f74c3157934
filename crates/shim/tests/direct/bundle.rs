//! Bundles: a busybox root file system and an OCI spec for it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "sleep", "true", "false", "kill", "id", "head", "yes", "stty", "tty",
    "seq", "dd",
];

/// Makes `rootfs` in `dir`.
pub fn rootfs(dir: &Path) {
    let rootfs = dir.join("rootfs");
    for name in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
        fs::create_dir_all(rootfs.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
}

/// The process of a spec that runs `script` in a shell.
pub fn process(script: &str, terminal: bool) -> Value {
    json!({
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": ["/bin/sh", "-c", script],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "noNewPrivileges": true
    })
}

/// A spec that runs `script`; `own_pids` gives it a pid namespace.
pub fn spec(id: &str, script: &str, terminal: bool, own_pids: bool) -> Value {
    let mut namespaces =
        vec![json!({"type": "mount"}), json!({"type": "ipc"}), json!({"type": "uts"})];
    if own_pids {
        namespaces.push(json!({"type": "pid"}));
    }
    json!({
        "ociVersion": "1.0.2",
        "process": process(script, terminal),
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "shim-test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {
            "cgroupsPath": format!("/gantry-shim-test/{id}"),
            "resources": {"devices": [{"allow": true, "access": "rwm"}]},
            "namespaces": namespaces
        }
    })
}
