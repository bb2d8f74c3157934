//! Activations: records in the metadata store, mounts in the kernel, and bringing both together.
//!
//! ```text
//! activate    record (activating) -> folder, transforms, mounts -> record (active)
//! deactivate  no record -> no mounts, no folder
//! failure     the same as deactivate
//! collection  no record -> Reclaim: no mounts, no folder
//! start       half-made ones, those of another boot, those whose mounts are gone: no record;
//!             then as a collection
//! ```
//!
//! The work runs on a thread that may block and goes on when its caller is gone; it looks between
//! its steps whether anybody still waits, and takes everything down again if not.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gantry_core::snapshot::Mount;
use gantry_core::{Cx, Error, Labels, MountName, Namespace, Result};
use gantry_metadata::stores::{Activation, ActivationState, ActiveMount};
use gantry_metadata::{Metadata, Reclaim};
use gantry_sys::mount;

use crate::folders::Folders;
use crate::maker::Maker;
use crate::mkfs::Programs;
use crate::names::Names;
use crate::plan::Plan;

/// What a manager is given.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where mounts stand; of this manager alone.
    pub folder: PathBuf,
    /// Folders below which `mkdir/` and `mkfs/` may make something.
    pub roots: Vec<PathBuf>,
    /// The boot that mounts made now belong to.
    pub boot_id: [u8; 16],
    /// Where the programs called `mkfs.*` are looked for, as `PATH` says it.
    pub programs: String,
    /// Longest that one of these may run.
    pub program_bound: Duration,
}

/// What a client wants to be mounted.
#[derive(Clone, Debug)]
pub struct Request {
    /// The name of the activation.
    pub name: MountName,
    /// The mounts, each on top of those before it.
    pub mounts: Vec<Mount>,
    /// Labels to keep with it; those of the collector decide how long it lives.
    pub labels: Labels,
    /// Mount everything, and hand out a bind of the last one.
    pub temporary: bool,
    /// What the client can do by itself: types, and prefixes as `format/*`.
    pub allowed: Vec<String>,
}

/// The activations of all namespaces, each call within one.
#[derive(Debug)]
pub struct Manager {
    metadata: Arc<Metadata>,
    folders: Folders,
    boot_id: [u8; 16],
    maker: Maker,
    names: Names,
}

impl Manager {
    /// Opens the manager and brings records and mounts together. Blocks.
    ///
    /// # Errors
    /// When the store or the folder cannot be used. A mount that does not come off is logged and
    /// tried again by the next collection.
    pub fn open(metadata: Arc<Metadata>, options: Options) -> Result<Arc<Self>> {
        let manager = Self {
            metadata,
            folders: Folders::open(&options.folder)?,
            boot_id: options.boot_id,
            maker: Maker {
                roots: options.roots,
                programs: Programs { path: options.programs, bound: options.program_bound },
            },
            names: Names::default(),
        };
        manager.converge()?;
        Ok(Arc::new(manager))
    }

    /// Mounts what the client cannot. What is returned holds the mounts left to it.
    ///
    /// # Errors
    /// `NotImplemented` when nothing has to be done; `AlreadyExists`; `NotFound` for the lease;
    /// `InvalidArgument` and `FailedPrecondition` for a mount that cannot be made.
    pub async fn activate(self: &Arc<Self>, cx: &Cx, request: Request) -> Result<Activation> {
        let Request { name, mounts, labels, temporary, allowed } = request;
        for (label, value) in labels.iter() {
            gantry_core::labels::check_label(label, value).map_err(|e| e.context("info.Labels"))?;
        }
        let plan = Plan::of(mounts, &allowed, temporary)?;
        self.alone(cx, name, move |manager, cx, name| {
            manager.activate_blocking(cx, name, labels, plan)
        })
        .await
    }

    /// Takes an activation down.
    ///
    /// # Errors
    /// `NotFound`. When a mount does not come off the activation has ended all the same, and the
    /// next collection tries again.
    pub async fn deactivate(self: &Arc<Self>, cx: &Cx, name: MountName) -> Result<()> {
        self.alone(cx, name, |manager, cx, name| {
            try_fail_point!("mounts.deactivate/before-record");
            let (namespace, wanted) = (cx.namespace().clone(), name.clone());
            let ended = manager
                .metadata
                .update_blocking(move |tx| tx.end_activation(&namespace, &wanted, None))?;
            let ended = ended.ok_or_else(|| missing(name))?;
            try_fail_point!("mounts.deactivate/after-record");
            manager.folders.remove(ended.number)
        })
        .await
    }

    /// The activation called `name`, once all of its mounts stand.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn info(&self, cx: &Cx, name: MountName) -> Result<Activation> {
        let namespace = cx.namespace().clone();
        self.metadata
            .read(move |view| {
                let found = view.activation(&namespace, &name)?;
                found.filter(is_active).ok_or_else(|| missing(&name))
            })
            .await
    }

    /// All activations whose mounts stand, in byte order of their names.
    ///
    /// # Errors
    /// `DataLoss` when a record is damaged.
    pub async fn list(&self, cx: &Cx) -> Result<Vec<Activation>> {
        let namespace = cx.namespace().clone();
        let found = self.metadata.read(move |view| view.activations(Some(&namespace))).await?;
        Ok(found.into_iter().map(|(_, activation)| activation).filter(is_active).collect())
    }

    /// Runs `work` on a thread that may block, while nobody else changes `name`.
    async fn alone<T: Send + 'static>(
        self: &Arc<Self>,
        cx: &Cx,
        name: MountName,
        work: impl FnOnce(&Self, &Cx, &MountName) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let held = self.names.hold(cx, &name).await?;
        let (manager, cx) = (Arc::clone(self), cx.clone());
        let done = tokio::task::spawn_blocking(move || {
            let _held = held;
            work(&manager, &cx, &name)
        });
        // The panic itself was logged where it happened.
        done.await.unwrap_or_else(|_| Err(Error::internal("mounting ran into a defect")))
    }

    fn activate_blocking(
        &self,
        cx: &Cx,
        name: &MountName,
        labels: Labels,
        plan: Plan,
    ) -> Result<Activation> {
        try_fail_point!("mounts.activate/before-record");
        let (of, wanted, boot) = (cx.clone(), name.clone(), self.boot_id);
        let begun = self
            .metadata
            .update_blocking(move |tx| tx.begin_activation(&of, &wanted, labels, boot))?;
        if let Some(abandoned) = begun.abandoned {
            self.remove_or_log(abandoned);
        }
        let made = self.make_and_finish(cx, name, begun.number, plan);
        if made.is_err() {
            self.undo(cx.namespace(), name, begun.number);
        }
        made
    }

    fn make_and_finish(
        &self,
        cx: &Cx,
        name: &MountName,
        number: u64,
        plan: Plan,
    ) -> Result<Activation> {
        try_fail_point!("mounts.activate/after-record");
        let clock = self.metadata.clock().as_ref();
        let (active, system) = self.maker.make(cx, clock, &self.folders, number, plan)?;
        cx.check()?;
        try_fail_point!("mounts.activate/before-finish");
        let (namespace, name) = (cx.namespace().clone(), name.clone());
        let activation = self.metadata.update_blocking(move |tx| {
            tx.finish_activation(&namespace, &name, number, active, system)
        })?;
        try_fail_point!("mounts.activate/after-finish");
        Ok(activation)
    }

    /// Takes down what an activation that failed has made.
    fn undo(&self, namespace: &Namespace, name: &MountName, number: u64) {
        let (of, wanted) = (namespace.clone(), name.clone());
        let ended =
            self.metadata.update_blocking(move |tx| tx.end_activation(&of, &wanted, Some(number)));
        match ended {
            Ok(_) => self.remove_or_log(number),
            // With its record it is still an activation under way, which the next attempt of that
            // name, or the next start, takes down.
            Err(error) => {
                tracing::error!(%namespace, %name, error = error.message(), "activation not undone");
            }
        }
    }

    fn remove_or_log(&self, number: u64) {
        if let Err(error) = self.folders.remove(number) {
            // Without a record: the next collection tries again.
            tracing::warn!(number, error = error.message(), "mounts are not taken down");
        }
    }

    /// Ends what has not survived: see the module's header.
    fn converge(&self) -> Result<()> {
        let recorded = self.metadata.read_blocking(|view| view.activations(None))?;
        let standing: HashSet<PathBuf> = if recorded.is_empty() {
            HashSet::new()
        } else {
            let table = mount::table().map_err(|e| Error::io("read the mount table", e))?;
            table.into_iter().map(|entry| entry.target).collect()
        };
        let survives = |activation: &Activation| {
            let stands = |a: &ActiveMount| standing.contains(Path::new(&a.mount_point));
            is_active(activation)
                && activation.boot_id == self.boot_id
                && activation.active.iter().all(stands)
        };
        let ended: Vec<(Namespace, Activation)> =
            recorded.into_iter().filter(|(_, activation)| !survives(activation)).collect();
        for (namespace, activation) in &ended {
            tracing::info!(%namespace, name = %activation.name, "mount ended with its daemon or boot");
        }
        if !ended.is_empty() {
            self.metadata.update_blocking(move |tx| {
                for (namespace, activation) in &ended {
                    tx.end_activation(namespace, &activation.name, Some(activation.number))?;
                }
                Ok(())
            })?;
        }
        try_fail_point!("mounts.start/after-records");
        if let Err(error) = self.reclaim_blocking() {
            tracing::warn!(
                error = error.message(),
                "mounts of an earlier daemon are not taken down"
            );
        }
        Ok(())
    }

    /// The manager as the owner of data that a collection frees.
    pub fn reclaimer(self: &Arc<Self>) -> Arc<dyn Reclaim> {
        Arc::new(Reclaimer(Arc::clone(self)))
    }

    /// Takes down every folder without a record; the first failure, once all were tried.
    fn reclaim_blocking(&self) -> Result<()> {
        // The folders first: one that is listed had its record before, so one whose record is not
        // found after that has lost it.
        let numbers = self.folders.numbers()?;
        if numbers.is_empty() {
            return Ok(());
        }
        let recorded = self.metadata.read_blocking(|view| view.activations(None))?;
        let recorded: HashSet<u64> = recorded.into_iter().map(|(_, a)| a.number).collect();
        let mut result = Ok(());
        for number in numbers.into_iter().filter(|number| !recorded.contains(number)) {
            result = result.and(self.folders.remove(number));
        }
        result
    }
}

fn is_active(activation: &Activation) -> bool {
    activation.state == ActivationState::Active
}

fn missing(name: &MountName) -> Error {
    Error::not_found(format!("mount {name:?}"))
}

/// Takes down what a collection has left without a record.
struct Reclaimer(Arc<Manager>);

#[async_trait]
impl Reclaim for Reclaimer {
    fn name(&self) -> &str {
        "mounts"
    }
    async fn reclaim(&self) -> Result<()> {
        let manager = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || manager.reclaim_blocking());
        done.await.unwrap_or_else(|_| Err(Error::internal("reclaiming mounts ran into a defect")))
    }
}
