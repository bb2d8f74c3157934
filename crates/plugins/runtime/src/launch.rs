//! Starting the program of a shim, whichever generation it belongs to.
//!
//! A foreign shim is started by its `start` command, which leaves a server behind and says where
//! that listens. What `start` reads is not the same for all: the program is asked once (`-info`)
//! and tried at most in turn, and what it took is remembered for that very file.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gantry_api::containerd::types::RuntimeInfo;
use gantry_core::model::ContainerName;
use gantry_core::{Error, Kind, Result, TypedAny};
use gantry_sys::process::Ending;
use prost::Message;
use tokio_util::sync::CancellationToken;

use crate::bootstrap::{Endpoint, Form, Told};
use crate::bundle::Bundle;
use crate::command::{self, Invocation, Output};
use crate::config::{Config, OWN_SHIM};
use crate::strays;

/// Bound on `-info`; it does nothing but print.
const INFO: Duration = Duration::from_secs(5);

/// The identity of a program's file: another file at the same path is another program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct File {
    path: PathBuf,
    device: u64,
    inode: u64,
    modified: (i64, i64),
}

/// Starts shims.
#[derive(Debug, Default)]
pub(crate) struct Launcher {
    taken: Mutex<HashMap<File, Form>>,
}

/// A shim to start.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) config: &'a Config,
    pub(crate) name: &'a ContainerName,
    pub(crate) bundle: &'a Bundle,
    pub(crate) program: &'a Path,
    pub(crate) options: Option<&'a TypedAny>,
}

/// Whether `program` is the project's own shim.
pub(crate) fn is_own(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == OWN_SHIM)
}

impl Launcher {
    /// Starts the shim; returns where it listens.
    ///
    /// # Errors
    /// What the program says; `DeadlineExceeded`; `Cancelled`.
    pub(crate) async fn start(
        &self,
        launch: &Launch<'_>,
        cancel: &CancellationToken,
    ) -> Result<Endpoint> {
        let file = identify(launch.program)?;
        let known = self.lock().get(&file).copied();
        let forms = match known {
            Some(form) => vec![form],
            None => probe(launch, cancel).await?,
        };
        let mut last = Error::unknown("no way to start it");
        for (attempt, form) in forms.iter().enumerate() {
            if attempt > 0 {
                undo(launch).await;
            }
            let output = run(launch, *form, cancel).await?;
            if output.ending != Ending::Code(0) {
                last = output.failure();
                continue;
            }
            let said = String::from_utf8_lossy(&output.stderr);
            if !said.trim().is_empty() {
                tracing::debug!(id = %launch.name.id, shim = said.trim(), "shim said at its start");
            }
            let endpoint = Endpoint::parse(&output.stdout)?;
            self.lock().insert(file, *form);
            return Ok(endpoint);
        }
        Err(last)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<File, Form>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn identify(program: &Path) -> Result<File> {
    let found = std::fs::metadata(program)
        .map_err(|e| Error::io(format!("find {}", program.display()), e))?;
    Ok(File {
        path: program.to_owned(),
        device: found.dev(),
        inode: found.ino(),
        modified: (found.mtime(), found.mtime_nsec()),
    })
}

/// Which forms to try, in order.
async fn probe(launch: &Launch<'_>, cancel: &CancellationToken) -> Result<Vec<Form>> {
    if is_own(launch.program) {
        return Ok(vec![Form::Parameters]);
    }
    let invocation = Invocation {
        program: launch.program.to_owned(),
        args: vec!["-info".into()],
        cwd: Some(launch.bundle.path.clone()),
        ..Invocation::default()
    };
    match command::run(invocation, INFO, cancel).await {
        Ok(output) => Ok(forms(&output)),
        // A shim that does not know the flag may do anything with it, even wait.
        Err(error) if error.is(Kind::DeadlineExceeded) => Ok(forms_unknown()),
        Err(error) => Err(error),
    }
}

fn forms_unknown() -> Vec<Form> {
    vec![Form::Parameters, Form::Options, Form::Nothing]
}

/// What the answer to `-info` tells about the form.
fn forms(info: &Output) -> Vec<Form> {
    if info.ending != Ending::Code(0) {
        let said = [info.stderr.as_slice(), info.stdout.as_slice()].concat();
        let old = String::from_utf8_lossy(&said).contains("flag provided but not defined");
        return if old { vec![Form::Options] } else { forms_unknown() };
    }
    let Ok(about) = RuntimeInfo::decode(info.stdout.as_slice()) else { return forms_unknown() };
    let version = about.version.unwrap_or_default().version;
    match minor_version(&version).filter(|_| about.name.contains("runc")) {
        Some(version) if version < (2, 3) => vec![Form::Options],
        Some(_) => vec![Form::Parameters],
        None => forms_unknown(),
    }
}

fn minor_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.strip_prefix('v').unwrap_or(text).split(['.', '-', '+', '~']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

async fn run(launch: &Launch<'_>, form: Form, cancel: &CancellationToken) -> Result<Output> {
    let config = launch.config;
    let told = Told {
        id: launch.name.id.as_str(),
        namespace: launch.name.namespace.as_str(),
        debug: config.debug,
        version: &config.version,
        ttrpc_address: &config.ttrpc_address,
        address: &config.address,
        daemon: &config.daemon,
        options: launch.options,
        sockets: is_own(launch.program).then_some(config.sockets.as_path()),
    };
    let mut args = arguments(launch);
    args.push("start".into());
    let invocation = Invocation {
        program: launch.program.to_owned(),
        args,
        env: environment(config, launch.name),
        cwd: Some(launch.bundle.path.clone()),
        stdin: form.encode(&told),
    };
    command::run(invocation, config.timeouts.start, cancel).await
}

/// The flags that both commands take.
pub(crate) fn arguments(launch: &Launch<'_>) -> Vec<String> {
    let config = launch.config;
    let mut args = vec![
        "-namespace".into(),
        launch.name.namespace.as_str().to_owned(),
        "-address".into(),
        config.address.to_string_lossy().into_owned(),
        "-publish-binary".into(),
        config.daemon.to_string_lossy().into_owned(),
        "-id".into(),
        launch.name.id.as_str().to_owned(),
    ];
    if config.debug {
        args.push("-debug".into());
    }
    args
}

/// What a shim finds in its environment besides the daemon's own.
pub(crate) fn environment(config: &Config, name: &ContainerName) -> Vec<(String, String)> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut env: Vec<(String, String)> = [
        ("GOMAXPROCS", "2".to_owned()),
        ("MAX_SHIM_VERSION", "2".to_owned()),
        ("TTRPC_ADDRESS", text(&config.ttrpc_address)),
        ("GRPC_ADDRESS", text(&config.address)),
        ("NAMESPACE", name.namespace.as_str().to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    env.extend(config.env.iter().cloned());
    env
}

/// Takes away what a failed `start` may have left, so that the next one finds nothing of it.
async fn undo(launch: &Launch<'_>) {
    let (name, bundle) = (launch.name.clone(), launch.bundle.clone());
    let killed = strays::kill(name, bundle.clone(), Vec::new()).await;
    if killed > 0 {
        tracing::debug!(id = %launch.name.id, killed, "killed what a failed start left");
    }
    for file in ["address", "shim.pid"] {
        // Ignored: usually there is none.
        let _ = std::fs::remove_file(bundle.file(file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_api::containerd::types::RuntimeVersion;

    fn said(code: u8, stdout: &[u8], stderr: &str) -> Output {
        Output { ending: Ending::Code(code), stdout: stdout.to_vec(), stderr: stderr.into() }
    }

    fn info(name: &str, version: &str) -> Vec<u8> {
        RuntimeInfo {
            name: name.into(),
            version: Some(RuntimeVersion { version: version.into(), ..RuntimeVersion::default() }),
            ..RuntimeInfo::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn the_generation_shows_in_the_answer_to_info() {
        use Form::*;
        let old = said(2, b"", "flag provided but not defined: -info\nUsage of ...");
        assert_eq!(forms(&old), [Options]);
        assert_eq!(forms(&said(0, &info("io.containerd.runc.v2", "v2.2.1"), "")), [Options]);
        assert_eq!(forms(&said(0, &info("io.containerd.runc.v2", "2.3.0-rc.1"), "")), [Parameters]);
        assert_eq!(forms(&said(0, &info("io.containerd.runc.v2", "v2.4.2"), "")), [Parameters]);
        let unknown = [Parameters, Options, Nothing];
        assert_eq!(forms(&said(0, &info("wasmtime", "1.0"), "")), unknown);
        assert_eq!(forms(&said(1, b"", "boom")), unknown);
        assert_eq!(forms(&said(0, b"\xff", "")), unknown);
    }
}
