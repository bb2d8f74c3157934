//! Clearing away what a task leaves when it was not made to its end, or when nobody knows it.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use gantry_api::gantry::store::v1::TaskIntent;
use gantry_core::model::ContainerName;
use gantry_core::{ContainerId, Error, Result};
use gantry_metadata::Recoverer;
use gantry_metadata::intent::{self, Intent};
use prost::Message;

use crate::bundle::{self, Bundle};
use crate::create::{INTENT, blocking};
use crate::strays;
use crate::tasks::{Inner, Tasks};

impl Inner {
    /// Clears away the bundle of `name`, which has no record: its shim is killed, the program's
    /// `delete` command takes away what the shim made, the root file system is unmounted.
    ///
    /// # Errors
    /// The bundle cannot be taken away.
    pub(crate) async fn clear(
        &self,
        name: &ContainerName,
        bundle: &Bundle,
        program: &Path,
    ) -> Result<()> {
        self.kill_strays(name, bundle).await;
        if bundle.path.join("config.json").exists() && program.is_file() {
            if let Err(error) = self.run_delete(name, bundle, program).await {
                tracing::debug!(id = %name.id, error = error.message(), "delete command failed");
            }
            self.kill_strays(name, bundle).await;
        }
        fail::fail_point!("runtime.clear/before-remove", |_| Err(Error::unknown("failpoint")));
        let bundle = bundle.clone();
        let gone = blocking(move || bundle.remove()).await?;
        self.delete_aside(gone);
        Ok(())
    }

    async fn kill_strays(&self, name: &ContainerName, bundle: &Bundle) {
        // The shim of a pod is named for its first container and serves the others too.
        let spared = self.all().iter().map(|task| task.shim().pid).collect();
        let killed = strays::kill(name.clone(), bundle.clone(), spared).await;
        if killed > 0 {
            tracing::info!(namespace = %name.namespace, id = %name.id, killed, "killed stray shims");
        }
    }

    /// Deletes folders that were put aside, behind the reply.
    pub(crate) fn delete_aside(&self, gone: Vec<PathBuf>) {
        self.tracker.spawn_blocking(move || bundle::delete(&gone));
    }
}

#[async_trait]
impl Recoverer for Tasks {
    fn kind(&self) -> &'static str {
        INTENT
    }

    async fn recover(&self, intent: &Intent) -> Result<()> {
        let about = TaskIntent::decode(intent.payload.as_slice())
            .map_err(|_| Error::data_loss("intent to create a task"))?;
        let name = ContainerName {
            namespace: intent.namespace.clone(),
            id: ContainerId::new(about.container_id)?,
        };
        let known = name.clone();
        if self.inner.metadata.read(move |view| view.task(&known)).await?.is_some() {
            return Ok(());
        }
        let bundle = Bundle::of(&self.inner.config, &name);
        if bundle.path != Path::new(&about.bundle) {
            // The folders were moved by configuration: nothing of it lies where we look.
            tracing::warn!(bundle = about.bundle, "an interrupted task lies outside of the state");
        }
        self.inner.clear(&name, &bundle, Path::new(&about.shim_binary)).await
    }
}

impl Tasks {
    /// Takes the names of tasks whose creation was interrupted, and clears them away in the
    /// background: until then nobody can make a task of that name.
    pub(crate) async fn recover_interrupted(&self) -> Result<()> {
        for intent in intent::pending(&self.inner.metadata).await? {
            if intent.kind != INTENT {
                continue;
            }
            let id = TaskIntent::decode(intent.payload.as_slice()).map(|about| about.container_id);
            let name = id
                .ok()
                .and_then(|id| ContainerId::new(id).ok())
                .map(|id| ContainerName { namespace: intent.namespace.clone(), id });
            let reserved = name.and_then(|name| self.inner.reserve_for_clearing(&name));
            let tasks = self.clone();
            self.inner.tracker.spawn(async move {
                let recovered = match tasks.recover(&intent).await {
                    Ok(()) => {
                        let id = intent.id;
                        tasks.inner.metadata.update(move |tx| tx.end_intent(id)).await
                    }
                    Err(error) => Err(error),
                };
                if let Err(error) = recovered {
                    let text = error.message();
                    tracing::warn!(error = text, "an interrupted task stays for the next start");
                }
                drop(reserved);
            });
        }
        Ok(())
    }
}
