//! The start of the daemon: what earlier ones left.
//!
//! Before anybody is served, every recorded task is known again, from the record and from the
//! files that its shim left in the bundle; no shim is asked. The exits found there are recorded and
//! enter the journal in one transaction. Then, in the background, shims are spoken to.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_core::model::ContainerName;
use gantry_core::task::{Exit, STATUS_UNKNOWN, TaskState, order_exits};
use gantry_core::{ContainerId, Namespace, Result, Timestamp};
use gantry_metadata::stores::{self, Told};
use gantry_shim_state::{JOURNAL_FILE, PAGE_FILE};

use crate::bundle::Bundle;
use crate::create::blocking;
use crate::dead::{journalled, lost_exit};
use crate::state::{PageState, page};
use crate::task::{Link, Task};
use crate::tasks::{Inner, Tasks};
use crate::{contact, exits, own, shimlog, strays};

/// A recorded task with what its shim left.
struct Recorded {
    name: ContainerName,
    record: stores::Task,
    bundle: Bundle,
    page: Option<PageState>,
    exits: Vec<Exit>,
}

impl Tasks {
    /// Makes the tasks of earlier daemons known, and begins to speak to their shims. To be called
    /// once, before anybody is served.
    ///
    /// # Errors
    /// `DataLoss` when a record is damaged; what the store fails with.
    pub async fn load(&self) -> Result<()> {
        let inner = &self.inner;
        inner.replaying.send_replace(true);
        let records = inner.metadata.read(|view| view.tasks()).await?;
        let reader = inner.clone();
        let mut found = blocking(move || {
            let read = records.into_iter().map(|(name, record)| reader.read(name, record));
            Ok(read.collect::<Vec<_>>())
        })
        .await?;
        let states = inner.tell_all(&mut found).await?;
        fail::fail_point!("runtime.load/after-commit");
        for (recorded, state) in found.into_iter().zip(states) {
            inner.revive(recorded, state);
        }
        self.recover_interrupted().await?;
        let sweeper = inner.clone();
        inner.tracker.spawn(async move { sweeper.sweep().await });
        let inner = inner.clone();
        self.inner.tracker.spawn(async move {
            let window = inner.config.timeouts.replay;
            if inner.stop.run_until_cancelled(tokio::time::sleep(window)).await.is_some() {
                inner.close_replay().await;
            }
        });
        Ok(())
    }
}

impl Inner {
    /// Reads what the shim of a recorded task left. Blocks.
    fn read(&self, name: ContainerName, record: stores::Task) -> Recorded {
        let mut bundle = Bundle::of(&self.config, &name);
        bundle.path = PathBuf::from(&record.bundle);
        let now = self.metadata.clock().now();
        let id = name.id.as_str();
        let mut exits = journalled(&bundle.file(JOURNAL_FILE), id, record.boot_id);
        let page = page(&bundle.file(PAGE_FILE), id, record.boot_id);
        let init_told = exits.iter().any(|exit| exit.exec_id.is_empty());
        if record.state.exit.is_none() && !init_told {
            let ended = page.and_then(|page| page.exit);
            if let Some((status, exited_at)) = ended {
                let lost = lost_exit(String::new(), record.state.pid, now);
                exits.push(Exit { status, exited_at, reason: String::new(), ..lost });
            } else if record.boot_id != self.config.boot_id {
                exits.push(rebooted(&record, now));
            }
        }
        Recorded { name, record, bundle, page, exits }
    }

    /// Records all exits that were found, in their order, in one transaction; returns the state of
    /// each task since.
    async fn tell_all(&self, found: &mut [Recorded]) -> Result<Vec<TaskState>> {
        let mut all: Vec<(ContainerName, Exit)> = Vec::new();
        for recorded in found.iter_mut() {
            let exits = std::mem::take(&mut recorded.exits);
            all.extend(exits.into_iter().map(|exit| (recorded.name.clone(), exit)));
        }
        order_exits(&mut all, |item| &item.1, |item| item.0.clone());
        let names: Vec<ContainerName> = found.iter().map(|found| found.name.clone()).collect();
        if !all.is_empty() {
            tracing::info!(exits = all.len(), "processes ended while no daemon was there");
        }
        fail::fail_point!("runtime.load/before-commit");
        let recorded = self.metadata.update(move |tx| {
            for (name, exit) in all {
                let envelope = exits::envelope(&name, &exit);
                if let Told::Known(sequence) = tx.tell_exit(&name, exit, envelope, true)? {
                    // Recorded, but its shim was not told so: perhaps nobody was.
                    tx.replay_exit(sequence)?;
                }
            }
            let state = |name| Ok(tx.view().task(name)?.map(|task| task.state).unwrap_or_default());
            names.iter().map(state).collect::<Result<Vec<_>>>()
        });
        recorded.await
    }

    /// Makes a recorded task known, and begins to speak to its shim if it can have one.
    fn revive(self: &Arc<Self>, recorded: Recorded, mut state: TaskState) {
        let Recorded { name, mut record, bundle, page, .. } = recorded;
        if let Some(page) = page {
            state.see(page.status, page.pid);
            if state.start_time == 0 {
                state.start_time = page.start_time;
            }
            // A page is left by none but ours.
            record.shim.gantry = true;
            if record.shim.pid == 0 {
                record.shim.pid = page.shim_pid;
                record.shim.start_time = page.shim_start_time;
            }
        }
        record.state = state;
        let of_this_boot = record.boot_id == self.config.boot_id;
        let link = if of_this_boot { Link::Silent } else { Link::Gone };
        let stop = self.stop.child_token();
        let task = Arc::new(Task::new(name, bundle, record, link, stop));
        self.insert(task.clone());
        if of_this_boot {
            self.resume(task);
        }
    }

    fn resume(self: &Arc<Self>, task: Arc<Task>) {
        let stop = task.stop.clone();
        if let Ok(log) = shimlog::open(&task.bundle.file("log")) {
            let (stop, name) = (stop.clone(), task.name.clone());
            self.tracker.spawn(async move {
                stop.run_until_cancelled(shimlog::copy(log, name)).await;
            });
        }
        let inner = self.clone();
        self.tracker.spawn(async move {
            stop.run_until_cancelled(contact::keep_trying(&inner, &task, true)).await;
        });
    }

    async fn close_replay(&self) {
        self.replaying.send_replace(false);
        // The method itself is not general enough in its lifetimes.
        #[allow(clippy::redundant_closure_for_method_calls)]
        let closed = self.metadata.update(|tx| tx.close_replay()).await;
        if let Err(error) = closed {
            tracing::warn!(error = error.message(), "exits of the start go on being replayed");
        }
    }

    /// Removes bundles that nobody knows and that no shim serves.
    async fn sweep(self: Arc<Self>) {
        let (state, root) = (self.config.state.clone(), self.config.root.clone());
        let listed = blocking(move || Ok((list(&state), list(&root)))).await;
        let Ok((bundles, works)) = listed else { return };
        let aside = bundles.iter().chain(&works).filter(|path| is_hidden(path)).cloned();
        self.delete_aside(aside.collect());
        let known = self.all().iter().map(|task| task.shim().address).collect::<Vec<_>>();
        let sockets = self.config.sockets.clone();
        self.tracker.spawn_blocking(move || own::sweep(&sockets, &known));
        let names: HashSet<ContainerName> =
            [bundles, works].concat().iter().filter_map(|path| name_of(path)).collect();
        for name in names {
            if self.stop.is_cancelled() {
                return;
            }
            let Some(_reserved) = self.reserve_for_clearing(&name) else { continue };
            self.sweep_one(&name).await;
        }
    }

    async fn sweep_one(&self, name: &ContainerName) {
        let bundle = Bundle::of(&self.config, name);
        let (sought, path) = (name.clone(), bundle.path.clone());
        let living = blocking(move || Ok(strays::find(&sought, &path).len())).await.unwrap_or(1);
        if living > 0 {
            // Somebody's container, perhaps of a store that was put back: not ours to kill.
            tracing::warn!(bundle = %bundle.path.display(), "a shim runs that no record knows");
            return;
        }
        tracing::info!(bundle = %bundle.path.display(), "removing a bundle that no record knows");
        match blocking(move || bundle.remove()).await {
            Ok(gone) => self.delete_aside(gone),
            Err(error) => {
                tracing::warn!(id = %name.id, error = error.message(), "cannot remove a bundle");
            }
        }
    }
}

/// The end of a task of another boot.
fn rebooted(record: &stores::Task, now: Timestamp) -> Exit {
    Exit {
        exec_id: String::new(),
        pid: record.state.pid,
        start_time: record.state.start_time,
        status: STATUS_UNKNOWN,
        exited_at: now,
        reason: "reboot".into(),
    }
}

/// The folders two levels below `root`. Blocks.
fn list(root: &Path) -> Vec<PathBuf> {
    let below = |folder: PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path())).collect::<Vec<_>>()
    };
    below(root.to_owned()).into_iter().flat_map(below).collect()
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// Whose bundle or work directory lies at `path`; `None` for anything else.
fn name_of(path: &Path) -> Option<ContainerName> {
    let text = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
    Some(ContainerName {
        namespace: Namespace::new(text(path.parent()?)?).ok()?,
        id: ContainerId::new(text(path)?).ok()?,
    })
}
