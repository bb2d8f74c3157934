//! Making a task: bundle, shim, and the shim's Create.
//!
//! What is to be made is recorded first, and what was made replaces that record in one
//! transaction; a daemon that dies in between finds the intent and clears away (see
//! [`crate::recover`]). The work goes on to its end or to its undoing whatever becomes of the
//! caller; that the caller is gone is a reason to undo.

use std::path::PathBuf;
use std::sync::Arc;

use gantry_api::containerd::runc::v1::Options;
use gantry_api::containerd::task::v3 as wire;
use gantry_api::containerd::types;
use gantry_api::gantry::store::v1::TaskIntent;
use gantry_core::error::ResultExt;
use gantry_core::model::{Container, ContainerName};
use gantry_core::snapshot::Mount;
use gantry_core::task::{Status, TaskState};
use gantry_core::{ContainerId, Cx, Error, Kind, Result, TypedAny};
use gantry_metadata::IntentId;
use gantry_metadata::stores::{self, Shim, Stdio};
use prost::Message;
use tokio_util::sync::CancellationToken;

use crate::bootstrap::Endpoint;
use crate::bundle::Bundle;
use crate::client::Client;
use crate::launch::{self, Launch};
use crate::own::{self, OwnLaunch};
use crate::task::{Link, Task};
use crate::tasks::{Inner, Reserved, Tasks};
use crate::{command, name, shimlog};

/// The kind of intents that this module begins.
pub(crate) const INTENT: &str = "task-create";

/// What a client asks for.
#[derive(Clone, Debug, Default)]
pub struct CreateTask {
    /// What the shim mounts as root file system, in order.
    pub rootfs: Vec<Mount>,
    /// Standard streams of init.
    pub stdio: Stdio,
    /// Options for the shim; those of the container when absent or empty.
    pub options: Option<TypedAny>,
    /// A runtime's name or path instead of the container's; empty for none.
    pub runtime: String,
    /// Whether the client names a checkpoint to restore.
    pub checkpoint: bool,
    /// Where a shim that a sandbox controller started is to be found:
    /// `ttrpc+unix://...`; empty for none.
    pub task_api_address: String,
    /// The version of the task API there.
    pub task_api_version: u32,
}

/// Everything that making one task needs.
struct Creation {
    inner: Arc<Inner>,
    reserved: Reserved,
    bundle: Bundle,
    spec: Vec<u8>,
    program: PathBuf,
    options: Option<TypedAny>,
    request: CreateTask,
    checkpoint: String,
    cancel: CancellationToken,
}

impl Tasks {
    /// Makes the task of `id`; returns the number of its init process.
    ///
    /// # Errors
    /// `NotFound` without the container, `AlreadyExists` when it has a task; `Unknown` with the
    /// shim's text when it could not be made, and then nothing is left.
    pub async fn create(&self, cx: &Cx, id: &ContainerId, request: CreateTask) -> Result<u32> {
        let inner = &self.inner;
        let container = inner.containers.get(cx, id).await?;
        let checkpoint = checkpoint(&container, &request)?;
        let name = ContainerName { namespace: cx.namespace().clone(), id: id.clone() };
        let bound = cx.remaining(inner.config.timeouts.call);
        let reserved = inner.reserve(&name, bound).await?;
        let runtime = match request.runtime.as_str() {
            "" => &container.runtime.name,
            named => named,
        };
        let program = name::program(&inner.config, runtime)
            .context("failed to resolve runtime path")
            .context("failed to start shim")?;
        let options = request.options.clone().filter(|options| !options.value.is_empty());
        let creation = Creation {
            inner: inner.clone(),
            bundle: Bundle::of(&inner.config, &name),
            reserved,
            spec: container.spec.map(|spec| spec.value).unwrap_or_default(),
            program,
            options: options.or(container.runtime.options),
            request,
            checkpoint,
            cancel: cx.cancellation().clone(),
        };
        let made = inner.tracker.spawn(creation.run()).await;
        made.map_err(|e| Error::caused(Kind::Internal, "create task", e))?
    }
}

/// The checkpoint to restore from: a path within runc's options.
fn checkpoint(container: &Container, request: &CreateTask) -> Result<String> {
    if request.checkpoint {
        return Err(Error::not_implemented(
            "restoring a task from a checkpoint in the content store: \
             give criu_image_path in the options",
        ));
    }
    let Some(options) = &request.options else { return Ok(String::new()) };
    if gantry_api::any::type_name(&options.type_url) != "containerd.runc.v1.Options" {
        // As containerd says it.
        let runtime = &container.runtime.name;
        return Err(Error::unknown(format!("invalid task create option for {runtime}")));
    }
    let options = Options::decode(options.value.as_slice())
        .map_err(|e| Error::caused(Kind::InvalidArgument, "task options", e))?;
    Ok(options.criu_image_path)
}

impl Creation {
    async fn run(self) -> Result<u32> {
        let intent = self.begin().await?;
        let bundle = self.bundle.clone();
        let made = match self.make_bundle().await {
            Ok(()) => self.make(intent).await,
            Err(error) => Err(error),
        };
        match made {
            Ok((task, monitor, pid)) => {
                let inner = self.inner.clone();
                self.reserved.fill(task.clone());
                inner.watch(&task, monitor);
                Ok(pid)
            }
            Err(error) => {
                self.undo(intent, bundle).await;
                Err(error)
            }
        }
    }

    fn name(&self) -> &ContainerName {
        self.reserved.name()
    }

    async fn begin(&self) -> Result<IntentId> {
        let payload = TaskIntent {
            container_id: self.name().id.as_str().to_owned(),
            bundle: self.bundle.path.to_string_lossy().into_owned(),
            shim_binary: self.program.to_string_lossy().into_owned(),
            boot_id: self.inner.config.boot_id.to_vec(),
        };
        let namespace = self.name().namespace.clone();
        let begun = self
            .inner
            .metadata
            .update(move |tx| tx.begin_intent(INTENT, &namespace, payload.encode_to_vec()));
        let intent = begun.await?;
        fail::fail_point!("runtime.create/after-intent", |_| Err(Error::unknown("failpoint")));
        Ok(intent)
    }

    /// Makes the bundle; one that is in the way has no record, so it is a leftover.
    async fn make_bundle(&self) -> Result<()> {
        let (bundle, spec) = (self.bundle.clone(), self.spec.clone());
        let made = blocking(move || bundle.create(&spec)).await;
        match made {
            Err(error) if error.is(Kind::AlreadyExists) => {
                self.inner.clear(self.name(), &self.bundle, &self.program).await?;
                let (bundle, spec) = (self.bundle.clone(), self.spec.clone());
                blocking(move || bundle.create(&spec)).await
            }
            made => made,
        }
    }

    async fn make(&self, intent: IntentId) -> Result<(Arc<Task>, Client, u32)> {
        let (log, name) = (self.bundle.file("log"), self.name().clone());
        // Before the shim starts: it may wait for a reader.
        let log = shimlog::open(&log).map_err(|e| Error::io("open shim log pipe", e))?;
        let stop = self.inner.stop.child_token();
        let guard = stop.clone().drop_guard();
        let ended = stop.clone();
        self.inner.tracker.spawn(async move {
            ended.run_until_cancelled(shimlog::copy(log, name)).await;
        });
        let (endpoint, client, shim) = self.start_shim().await.context("failed to start shim")?;
        let shim = match shim {
            Some(pid) => pid,
            None => {
                let hello = client.connect(self.inner.config.timeouts.start);
                self.cancellable(hello).await?.shim_pid
            }
        };
        let created =
            self.cancellable(self.call_create(&client)).await.context("failed to create shim task");
        let pid = match created {
            Ok(created) => created.pid,
            Err(error) => {
                self.dismiss(&client).await;
                return Err(error);
            }
        };
        let record = self.record(&endpoint, &client, shim, pid);
        let committed = self.commit(intent, &record).await;
        if let Err(error) = committed {
            self.dismiss(&client).await;
            return Err(error);
        }
        guard.disarm();
        let link = Link::Up(client.clone());
        let task = Task::new(self.name().clone(), self.bundle.clone(), record, link, stop);
        Ok((Arc::new(task), client, pid))
    }

    /// Where the shim listens, a connection to it, and its number if it was started here.
    async fn start_shim(&self) -> Result<(Endpoint, Client, Option<u32>)> {
        let config = &self.inner.config;
        let own = launch::is_own(&self.program) && !own::needs_command(self.options.as_ref());
        let (endpoint, pid) = match self.request.task_api_address.as_str() {
            "" if own => self.start_own().await.context("start failed")?,
            "" => {
                let launch = Launch {
                    config,
                    name: self.name(),
                    bundle: &self.bundle,
                    program: &self.program,
                    options: self.options.as_ref(),
                };
                let started = self.inner.launcher.start(&launch, &self.cancel).await;
                (started.context("start failed")?, None)
            }
            given => (sandboxes_shim(given, self.request.task_api_version)?, None),
        };
        let (bundle, program, noted) =
            (self.bundle.clone(), self.program.clone(), endpoint.clone());
        blocking(move || bundle.note(&program, &noted)).await?;
        let name = self.name();
        let client = Client::open(
            &endpoint,
            &name.namespace,
            name.id.as_str(),
            &self.inner.tracker,
            config.timeouts.start,
        );
        let client = self.cancellable(client).await?;
        Ok((endpoint, client, pid))
    }

    async fn start_own(&self) -> Result<(Endpoint, Option<u32>)> {
        let launch = OwnLaunch {
            config: self.inner.config.clone(),
            name: self.name().clone(),
            bundle: self.bundle.clone(),
            program: self.program.clone(),
            spec: self.spec.clone(),
        };
        let started = blocking(move || launch.start()).await?;
        let pid = started.process.as_ref().and_then(|process| u32::try_from(process.pid()).ok());
        if let Some(process) = started.process {
            // It is our child: one that has ended stays listed until it is reaped.
            let stop = self.inner.stop.clone();
            self.inner.tracker.spawn(async move {
                stop.run_until_cancelled(command::ended(process)).await;
            });
        }
        Ok((started.endpoint, pid))
    }

    async fn call_create(&self, client: &Client) -> Result<wire::CreateTaskResponse> {
        let stdio = &self.request.stdio;
        let request = wire::CreateTaskRequest {
            id: client.id(),
            bundle: self.bundle.path.to_string_lossy().into_owned(),
            rootfs: self.request.rootfs.iter().map(to_mount).collect(),
            terminal: stdio.terminal,
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            checkpoint: self.checkpoint.clone(),
            parent_checkpoint: String::new(),
            options: self.options.as_ref().map(|options| prost_types::Any {
                type_url: options.type_url.clone(),
                value: options.value.clone(),
            }),
        };
        client.call("Create", &request, Some(self.inner.config.timeouts.create)).await
    }

    fn record(&self, endpoint: &Endpoint, client: &Client, shim: u32, pid: u32) -> stores::Task {
        stores::Task {
            bundle: self.bundle.path.to_string_lossy().into_owned(),
            shim: Shim {
                binary: self.program.to_string_lossy().into_owned(),
                address: endpoint.address.clone(),
                protocol: endpoint.protocol.clone(),
                api_version: client.version(),
                pid: shim,
                start_time: command::start_time(shim),
                gantry: launch::is_own(&self.program),
            },
            boot_id: self.inner.config.boot_id,
            stdio: self.request.stdio.clone(),
            created_at: self.inner.metadata.clock().now(),
            state: TaskState {
                status: Status::Created,
                pid,
                start_time: command::start_time(pid),
                ..TaskState::default()
            },
        }
    }

    async fn commit(&self, intent: IntentId, record: &stores::Task) -> Result<()> {
        let (name, record) = (self.name().clone(), record.clone());
        fail::fail_point!("runtime.create/before-commit", |_| Err(Error::unknown("failpoint")));
        let recorded = self.inner.metadata.update(move |tx| {
            tx.put_task(&name, &record)?;
            tx.end_intent(intent)
        });
        recorded.await?;
        fail::fail_point!("runtime.create/after-commit");
        Ok(())
    }

    /// Has the shim undo what it has made of the task, and end.
    async fn dismiss(&self, client: &Client) {
        let timeouts = &self.inner.config.timeouts;
        let request = wire::DeleteRequest { id: client.id(), exec_id: String::new() };
        let deleted: Result<wire::DeleteResponse> =
            client.call("Delete", &request, Some(timeouts.cleanup)).await;
        // It cannot delete what it never made; the command that follows has the last word.
        drop(deleted);
        let _ = client.shutdown(timeouts.shutdown).await;
    }

    async fn undo(&self, intent: IntentId, bundle: Bundle) {
        let cleared = self.inner.clear(self.name(), &bundle, &self.program).await;
        let ended = match cleared {
            Ok(()) => self.inner.metadata.update(move |tx| tx.end_intent(intent)).await,
            // The intent stays: the next start tries again.
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            let text = error.message();
            tracing::warn!(id = %self.name().id, error = text, "cannot undo a task's creation");
        }
    }

    /// `work`, unless the caller gives up first.
    async fn cancellable<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = self.cancel.cancelled() => Err(Error::cancelled("")),
        }
    }
}

/// An address as sandbox controllers give it: `<protocol>+<address>`.
fn sandboxes_shim(given: &str, version: u32) -> Result<Endpoint> {
    let Some((protocol, address)) = given.split_once('+') else {
        return Err(Error::unknown(
            "the scheme of sandbox address should be in  the form of \
             <protocol>+<unix|vsock|tcp>, i.e. ttrpc+unix or grpc+vsock",
        ));
    };
    let endpoint = Endpoint { version, address: address.into(), protocol: protocol.into() };
    Endpoint::parse(&endpoint.to_json())
}

fn to_mount(mount: &Mount) -> types::Mount {
    types::Mount {
        r#type: mount.kind.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

/// Runs `work` where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::caused(Kind::Internal, "file system work", e))?
}
