//! The types of plugins, as clients find them in the plugin list.

use std::fmt;

macro_rules! plugin_types {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What a plugin is for. The texts are containerd's: clients filter the list by them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum PluginType {
            $($(#[$doc])* $name,)*
        }

        impl PluginType {
            /// The text clients see.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

plugin_types! {
    /// Parts that have no type of their own.
    Internal = "io.containerd.internal.v1",
    /// Blobs.
    Content = "io.containerd.content.v1",
    /// File-system states.
    Snapshotter = "io.containerd.snapshotter.v1",
    /// Layers to file systems and back.
    Differ = "io.containerd.differ.v1",
    /// The metadata store.
    Metadata = "io.containerd.metadata.v1",
    /// Garbage collection.
    Gc = "io.containerd.gc.v1",
    /// Events.
    Event = "io.containerd.event.v1",
    /// Leases.
    Lease = "io.containerd.lease.v1",
    /// Byte streams between client and daemon.
    Streaming = "io.containerd.streaming.v1",
    /// Images between registries, archives and the store.
    Transfer = "io.containerd.transfer.v1",
    /// Image verification.
    ImageVerifier = "io.containerd.image-verifier.v1",
    /// Mounts made on behalf of clients.
    MountManager = "io.containerd.mount-manager.v1",
    /// Kinds of mounts.
    MountHandler = "io.containerd.mount-handler.v1",
    /// Runtimes.
    Runtime = "io.containerd.runtime.v2",
    /// Shims.
    Shim = "io.containerd.shim.v1",
    /// Sandbox records.
    SandboxStore = "io.containerd.sandbox.store.v1",
    /// What runs sandboxes.
    SandboxController = "io.containerd.sandbox.controller.v1",
    /// What runs the sandboxes of pods.
    PodSandboxController = "io.containerd.podsandbox.controller.v1",
    /// Figures of tasks.
    TaskMonitor = "io.containerd.monitor.task.v1",
    /// What acts on containers by their labels.
    ContainerMonitor = "io.containerd.monitor.container.v1",
    /// The Kubernetes container runtime interface.
    Cri = "io.containerd.cri.v1",
    /// Node resource interface.
    Nri = "io.containerd.nri.v1",
    /// Warnings about deprecated use.
    Warning = "io.containerd.warning.v1",
    /// What stands behind a gRPC service.
    Service = "io.containerd.service.v1",
    /// A gRPC service.
    Grpc = "io.containerd.grpc.v1",
    /// A ttrpc service.
    Ttrpc = "io.containerd.ttrpc.v1",
}

impl fmt::Display for PluginType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
