//! The plugins of a process, in the order of their start.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use gantry_core::{Error, Result};
use tracing::{debug, info, warn};

use crate::kind::PluginType;
use crate::plugin::{Handle, Platform, Plugin, PluginId};

/// A plugin as the plugin list shows it.
#[derive(Debug)]
pub struct Record {
    /// Type and id.
    pub id: PluginId,
    /// The types it stands on.
    pub requires: Vec<PluginType>,
    /// Where it works; empty means everywhere.
    pub platforms: Vec<Platform>,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Facts about it.
    pub exports: BTreeMap<String, String>,
    /// Why it could not be started.
    pub failure: Option<Error>,
}

type Stopper = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// The plugins of a process.
#[derive(Default)]
pub struct Graph {
    records: Vec<Record>,
    stoppers: Vec<(PluginId, Stopper)>,
}

impl Graph {
    /// A process without plugins.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts `plugin` by `start`, unless something it stands on failed. A failure is recorded
    /// and logged, not returned: the rest of the daemon must come up without it.
    pub async fn start<T, F>(&mut self, plugin: Plugin, start: impl FnOnce() -> F) -> Handle<T>
    where
        T: ?Sized,
        F: Future<Output = Result<Arc<T>>>,
    {
        let Plugin { id, requires, missing, platforms, capabilities, exports } = plugin;
        let outcome = match missing {
            Some(error) => Err(error.context("skip plugin")),
            None => start().await,
        };
        let (instance, failure) = match outcome {
            Ok(instance) => {
                debug!(plugin = %id, "plugin started");
                (Some(instance), None)
            }
            Err(error) => {
                warn!(plugin = %id, error = error.message(), "plugin not started");
                (None, Some(error))
            }
        };
        self.records.push(Record {
            id: id.clone(),
            requires,
            platforms,
            capabilities,
            exports,
            failure,
        });
        Handle { id, instance }
    }

    /// Has `stop` run when the process stops, before whatever was registered earlier.
    pub fn on_stop<T, F>(
        &mut self,
        handle: &Handle<T>,
        stop: impl FnOnce(Arc<T>) -> F + Send + 'static,
    ) where
        T: ?Sized + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        if let Some(instance) = handle.instance.clone() {
            let stop: Stopper = Box::new(move || Box::pin(stop(instance)));
            self.stoppers.push((handle.id.clone(), stop));
        }
    }

    /// Adds capabilities that a plugin knows only once it was started.
    pub fn declare<T: ?Sized, S: Into<String>>(
        &mut self,
        handle: &Handle<T>,
        capabilities: impl IntoIterator<Item = S>,
    ) {
        if let Some(record) = self.records.iter_mut().find(|record| record.id == handle.id) {
            record.capabilities.extend(capabilities.into_iter().map(Into::into));
        }
    }

    /// All plugins in the order of their start; the graph keeps only what must be stopped.
    pub fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    /// Stops what asked for it, last started first.
    pub async fn stop(mut self) {
        while let Some((id, stop)) = self.stoppers.pop() {
            info!(plugin = %id, "stopping");
            stop().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use gantry_core::Kind;

    use super::*;

    #[tokio::test]
    async fn a_failure_skips_what_stands_on_it_and_both_stay_listed() {
        let mut graph = Graph::new();
        let store: Handle<str> = graph
            .start(Plugin::new(PluginType::Metadata, "bolt"), async || {
                Err(Error::data_loss("open store"))
            })
            .await;
        let service: Handle<str> = graph
            .start(Plugin::new(PluginType::Grpc, "images").needs(&store), async || {
                panic!("started although its store failed")
            })
            .await;
        let alone: Handle<str> =
            graph.start(Plugin::new(PluginType::Grpc, "version"), async || Ok("up".into())).await;

        graph.declare(&alone, ["rebase"]);
        assert!(store.get().unwrap_err().is(Kind::Unavailable));
        assert!(service.get().is_err());
        assert_eq!(&*alone.get().unwrap(), "up");
        let records = graph.take_records();
        let ids: Vec<_> = records.iter().map(|r| r.id.to_string()).collect();
        assert_eq!(
            ids,
            [
                "io.containerd.metadata.v1.bolt",
                "io.containerd.grpc.v1.images",
                "io.containerd.grpc.v1.version"
            ]
        );
        assert!(records[0].failure.as_ref().unwrap().is(Kind::DataLoss));
        let text = records[1].failure.as_ref().unwrap().message();
        assert!(text.starts_with("skip plugin: plugin io.containerd.metadata.v1.bolt"), "{text}");
        assert_eq!(records[1].requires, [PluginType::Metadata]);
        assert!(records[2].failure.is_none());
        assert_eq!(records[2].capabilities, ["rebase"]);
    }

    #[tokio::test]
    async fn stops_run_last_started_first_and_only_for_what_started() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut graph = Graph::new();
        for (id, works) in [("a", true), ("b", false), ("c", true)] {
            let handle: Handle<str> = graph
                .start(Plugin::new(PluginType::Internal, id), async || match works {
                    true => Ok(id.into()),
                    false => Err(Error::unknown("no")),
                })
                .await;
            let order = order.clone();
            graph.on_stop(&handle, async move |name| order.lock().unwrap().push(name.to_string()));
        }
        graph.stop().await;
        assert_eq!(*order.lock().unwrap(), ["c", "a"]);
    }
}
