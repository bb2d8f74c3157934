//! From a runtime's name to the program of its shim.
//!
//! `io.containerd.runc.v2` means `containerd-shim-runc-v2`: the last two words of the name. An
//! absolute path is taken as it is. The texts of refusals are those that clients know.

use std::env;
use std::path::{Path, PathBuf};

use gantry_core::{Error, Kind, Result};

use crate::config::{Config, OWN_RUNTIME, USUAL_RUNTIME};

/// The program that runs `runtime`.
///
/// # Errors
/// Unknown, as in containerd: a malformed name, or no such program.
pub(crate) fn program(config: &Config, runtime: &str) -> Result<PathBuf> {
    let wanted = match runtime {
        USUAL_RUNTIME => config.usual_runtime.as_str(),
        other => other,
    };
    if wanted.is_empty() {
        return Err(Error::unknown("no runtime name"));
    }
    if wanted.starts_with('/') {
        return match std::fs::metadata(wanted) {
            Ok(_) => Ok(wanted.into()),
            Err(error) => Err(Error::caused(Kind::Unknown, "invalid custom binary path", error)),
        };
    }
    let Some(file) = file_name(wanted) else {
        return Err(Error::unknown(format!(
            "invalid runtime name {wanted}, correct runtime name should be either format like \
             `io.containerd.runc.v2` or a full path to the binary"
        )));
    };
    let beside = config.daemon.parent().map(|folder| folder.join(&file));
    let beside = beside.filter(|path| path.is_file());
    // Ours belongs to this daemon, whatever else is installed; others are the administrator's.
    let found = if wanted == OWN_RUNTIME {
        beside.or_else(|| on_path(&file))
    } else {
        on_path(&file).or(beside)
    };
    found.ok_or_else(|| {
        Error::unknown(format!(
            "runtime {wanted:?} binary not installed {file:?}: file does not exist"
        ))
    })
}

/// The file name of a shim by the name of its runtime; `None` for a malformed one.
fn file_name(runtime: &str) -> Option<String> {
    if runtime.contains('/') {
        return None;
    }
    let words: Vec<&str> = runtime.split('.').collect();
    match words.as_slice() {
        ["", ..] => None,
        [.., name, version] => Some(format!("containerd-shim-{name}-{version}")),
        _ => None,
    }
}

fn on_path(file: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut folders = env::split_paths(&path).filter(|folder| folder.is_absolute());
    folders.find_map(|folder| executable(&folder.join(file)))
}

fn executable(path: &Path) -> Option<PathBuf> {
    let allowed = rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    (allowed && path.is_file()).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OWN_SHIM;

    fn config(daemon: &Path, usual: &str) -> Config {
        Config {
            daemon: daemon.join("gantryd"),
            usual_runtime: usual.into(),
            ..crate::tests::config(daemon)
        }
    }

    #[test]
    fn the_last_two_words_name_the_program() {
        for (runtime, file) in [
            ("io.containerd.runc.v2", Some("containerd-shim-runc-v2")),
            ("io.foo.bar.runc2.v2.baz", Some("containerd-shim-v2-baz")),
            ("a.b", Some("containerd-shim-a-b")),
            ("runc", None),
            (".a.b", None),
            ("a/b.c", None),
        ] {
            assert_eq!(file_name(runtime).as_deref(), file, "{runtime}");
        }
    }

    #[test]
    fn the_usual_name_means_our_shim_unless_told_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join(OWN_SHIM);
        let runc = dir.path().join("containerd-shim-nosuchrunc-v2");
        std::fs::write(&ours, "").unwrap();
        std::fs::write(&runc, "").unwrap();
        let usual = config(dir.path(), OWN_RUNTIME);
        assert_eq!(program(&usual, USUAL_RUNTIME).unwrap(), ours);
        assert_eq!(program(&usual, OWN_RUNTIME).unwrap(), ours);
        let other = config(dir.path(), "io.containerd.nosuchrunc.v2");
        assert_eq!(program(&other, USUAL_RUNTIME).unwrap(), runc);
        let path = config(dir.path(), runc.to_str().unwrap());
        assert_eq!(program(&path, USUAL_RUNTIME).unwrap(), runc);
    }

    #[test]
    fn refusals_have_the_texts_that_clients_know() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), OWN_RUNTIME);
        let text = |name: &str| program(&config, name).unwrap_err().message();
        assert_eq!(text(""), "no runtime name");
        assert_eq!(
            text("io.containerd.nope.v9"),
            "runtime \"io.containerd.nope.v9\" binary not installed \
             \"containerd-shim-nope-v9\": file does not exist"
        );
        assert!(text("a/b").starts_with("invalid runtime name a/b, correct runtime name"));
        assert!(text("/no/such/shim").starts_with("invalid custom binary path: No such file"));
    }
}
