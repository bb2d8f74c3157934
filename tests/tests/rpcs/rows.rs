//! One valid request for every RPC. The order matters: what a row creates, later rows use.

use gantry_api::containerd::services as s;
use gantry_api::containerd::types::{Descriptor, Envelope, Mount};
use prost::Message;
use prost_types::{Any, FieldMask, Timestamp};
use tonic::Code;

/// `sha256` of the three bytes `abc`.
const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// How the valid request must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// With success.
    Ok,
    /// Not at all: a stream that stays open.
    Open,
    /// With this code: valid, but nothing here to do it on.
    Code(Code),
}

/// A method and its valid request.
pub(crate) struct Row {
    pub(crate) method: &'static str,
    pub(crate) messages: Vec<Vec<u8>>,
    pub(crate) want: Want,
    /// Needs no namespace.
    pub(crate) anywhere: bool,
    /// Its request has no fields, or only unknown bytes pass: garbage may be accepted.
    pub(crate) takes_anything: bool,
}

impl Row {
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.method)
    }
    fn anywhere(mut self) -> Self {
        self.anywhere = true;
        self
    }
    fn takes_anything(mut self) -> Self {
        self.takes_anything = true;
        self
    }
    fn then(mut self, message: &impl Message) -> Self {
        self.messages.push(message.encode_to_vec());
        self
    }
}

fn row(method: &'static str, want: Want, message: &impl Message) -> Row {
    let messages = vec![message.encode_to_vec()];
    Row { method, messages, want, anywhere: false, takes_anything: false }
}

fn text(text: &str) -> String {
    text.to_owned()
}

/// Labels of every object made here: one to ask for, and one that keeps a collection away.
fn labels() -> std::collections::HashMap<String, String> {
    [(text("k"), text("v")), (text("containerd.io/gc.root"), text("row"))].into()
}

fn mask(path: &str) -> Option<FieldMask> {
    Some(FieldMask { paths: vec![text(path)] })
}

fn any() -> Option<Any> {
    Some(Any { type_url: text("types.containerd.io/x"), value: b"{}".to_vec() })
}

fn target() -> Option<Descriptor> {
    let media_type = text("application/vnd.oci.image.index.v1+json");
    Some(Descriptor { media_type, digest: text(ABC), size: 3, ..Default::default() })
}

/// Every row; `namespace` is the one that the calls are made in, `dir` a directory to compare with
/// itself.
pub(crate) fn all(namespace: &str, dir: &str) -> Vec<Row> {
    let groups = [
        about_the_server(),
        namespaces(),
        containers(),
        sandboxes(),
        images(),
        leases(),
        events(namespace),
        content(),
        snapshots(),
        diff(dir),
        mounts(),
        tasks(),
    ];
    groups.into_iter().flatten().collect()
}

fn about_the_server() -> Vec<Row> {
    use s::introspection::v1 as i;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_reflection::pb::v1 as r;
    let list = r::server_reflection_request::MessageRequest::ListServices(String::new());
    let list = r::ServerReflectionRequest { host: text("x"), message_request: Some(list) };
    let info = i::PluginInfoRequest {
        r#type: text("io.containerd.grpc.v1"),
        id: text("version"),
        ..Default::default()
    };
    vec![
        row("containerd.services.version.v1.Version/Version", Want::Ok, &()).takes_anything(),
        row("grpc.health.v1.Health/Check", Want::Ok, &HealthCheckRequest::default()),
        row("grpc.health.v1.Health/Watch", Want::Open, &HealthCheckRequest::default()),
        row("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Want::Ok, &list),
        row("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Want::Ok, &list),
        row("containerd.services.introspection.v1.Introspection/Server", Want::Ok, &())
            .takes_anything(),
        row(
            "containerd.services.introspection.v1.Introspection/Plugins",
            Want::Ok,
            &i::PluginsRequest { filters: vec![text("id==version")] },
        ),
        row("containerd.services.introspection.v1.Introspection/PluginInfo", Want::Ok, &info),
    ]
    .into_iter()
    .map(Row::anywhere)
    .collect()
}

fn namespaces() -> Vec<Row> {
    use s::namespaces::v1 as n;
    let other = Some(n::Namespace { name: text("other"), labels: labels() });
    let update =
        n::UpdateNamespaceRequest { namespace: other.clone(), update_mask: mask("labels.k") };
    vec![
        row(
            "containerd.services.namespaces.v1.Namespaces/Create",
            Want::Ok,
            &n::CreateNamespaceRequest { namespace: other },
        ),
        row(
            "containerd.services.namespaces.v1.Namespaces/Get",
            Want::Ok,
            &n::GetNamespaceRequest { name: text("other") },
        ),
        row(
            "containerd.services.namespaces.v1.Namespaces/List",
            Want::Ok,
            &n::ListNamespacesRequest { filter: text("name==other") },
        ),
        row("containerd.services.namespaces.v1.Namespaces/Update", Want::Ok, &update),
        row(
            "containerd.services.namespaces.v1.Namespaces/Delete",
            Want::Ok,
            &n::DeleteNamespaceRequest { name: text("other") },
        ),
    ]
    .into_iter()
    .map(Row::anywhere)
    .collect()
}

fn containers() -> Vec<Row> {
    use s::containers::v1 as c;
    let runtime = c::container::Runtime { name: text("io.containerd.runc.v2"), options: any() };
    let container = Some(c::Container {
        id: text("c"),
        labels: labels(),
        image: text("docker.io/library/x:1"),
        runtime: Some(runtime),
        spec: any(),
        snapshotter: text("overlayfs"),
        snapshot_key: text("c"),
        extensions: [(text("e"), any().unwrap_or_default())].into(),
        ..Default::default()
    });
    let create = c::CreateContainerRequest { container: container.clone() };
    let update = c::UpdateContainerRequest { container, update_mask: mask("labels") };
    let list = c::ListContainersRequest { filters: vec![text("id==c")] };
    let get = c::GetContainerRequest { id: text("c") };
    let delete = c::DeleteContainerRequest { id: text("c") };
    vec![
        row("containerd.services.containers.v1.Containers/Create", Want::Ok, &create),
        row("containerd.services.containers.v1.Containers/Get", Want::Ok, &get),
        row("containerd.services.containers.v1.Containers/List", Want::Ok, &list),
        row("containerd.services.containers.v1.Containers/ListStream", Want::Ok, &list),
        row("containerd.services.containers.v1.Containers/Update", Want::Ok, &update),
        row("containerd.services.containers.v1.Containers/Delete", Want::Ok, &delete),
    ]
}

fn sandboxes() -> Vec<Row> {
    use gantry_api::containerd::types::{Sandbox, sandbox::Runtime};
    use s::sandbox::v1 as b;
    let runtime = Runtime { name: text("io.containerd.runc.v2"), options: any() };
    let sandbox = Some(Sandbox {
        sandbox_id: text("s"),
        runtime: Some(runtime),
        spec: any(),
        labels: labels(),
        extensions: [(text("e"), any().unwrap_or_default())].into(),
        sandboxer: text("shim"),
        ..Default::default()
    });
    let create = b::StoreCreateRequest { sandbox: sandbox.clone() };
    let update = b::StoreUpdateRequest { sandbox, fields: vec![text("extensions.e")] };
    let list = b::StoreListRequest { filters: vec![text("id==s")] };
    let get = b::StoreGetRequest { sandbox_id: text("s") };
    let delete = b::StoreDeleteRequest { sandbox_id: text("s") };
    vec![
        row("containerd.services.sandbox.v1.Store/Create", Want::Ok, &create),
        row("containerd.services.sandbox.v1.Store/Get", Want::Ok, &get),
        row("containerd.services.sandbox.v1.Store/List", Want::Ok, &list),
        row("containerd.services.sandbox.v1.Store/Update", Want::Ok, &update),
        row("containerd.services.sandbox.v1.Store/Delete", Want::Ok, &delete),
    ]
}

fn images() -> Vec<Row> {
    use s::images::v1 as i;
    let image = Some(i::Image {
        name: text("docker.io/library/x:1"),
        labels: labels(),
        target: target(),
        ..Default::default()
    });
    let now = Some(Timestamp { seconds: 1_700_000_000, nanos: 0 });
    let create = i::CreateImageRequest { image: image.clone(), source_date_epoch: now };
    let update =
        i::UpdateImageRequest { image, update_mask: mask("labels"), source_date_epoch: now };
    let list = i::ListImagesRequest { filters: vec![text("name~=x")] };
    let get = i::GetImageRequest { name: text("docker.io/library/x:1") };
    let delete = i::DeleteImageRequest { name: get.name.clone(), sync: true, target: target() };
    vec![
        row("containerd.services.images.v1.Images/Create", Want::Ok, &create),
        row("containerd.services.images.v1.Images/Get", Want::Ok, &get),
        row("containerd.services.images.v1.Images/List", Want::Ok, &list),
        row("containerd.services.images.v1.Images/Update", Want::Ok, &update),
        row("containerd.services.images.v1.Images/Delete", Want::Ok, &delete),
    ]
}

fn leases() -> Vec<Row> {
    use s::leases::v1 as l;
    let resource = Some(l::Resource { id: text(ABC), r#type: text("content") });
    let id = || text("l");
    let add = l::AddResourceRequest { id: id(), resource: resource.clone() };
    let remove = l::DeleteResourceRequest { id: id(), resource };
    let create = l::CreateRequest { id: id(), labels: labels() };
    let list = l::ListRequest { filters: vec![text("id==l")] };
    let resources = l::ListResourcesRequest { id: id() };
    let delete = l::DeleteRequest { id: id(), sync: true };
    vec![
        row("containerd.services.leases.v1.Leases/Create", Want::Ok, &create),
        row("containerd.services.leases.v1.Leases/List", Want::Ok, &list),
        row("containerd.services.leases.v1.Leases/AddResource", Want::Ok, &add),
        row("containerd.services.leases.v1.Leases/ListResources", Want::Ok, &resources),
        row("containerd.services.leases.v1.Leases/DeleteResource", Want::Ok, &remove),
        row("containerd.services.leases.v1.Leases/Delete", Want::Ok, &delete),
    ]
}

fn events(namespace: &str) -> Vec<Row> {
    use s::events::v1 as e;
    let envelope = Some(Envelope {
        timestamp: Some(Timestamp { seconds: 1_700_000_000, nanos: 1 }),
        namespace: text(namespace),
        topic: text("/test/happened"),
        event: any(),
    });
    let publish = e::PublishRequest { topic: text("/test/happened"), event: any() };
    let subscribe = e::SubscribeRequest { filters: vec![text("topic~=|^/test/|")] };
    vec![
        row("containerd.services.events.v1.Events/Publish", Want::Ok, &publish),
        row(
            "containerd.services.events.v1.Events/Forward",
            Want::Ok,
            &e::ForwardRequest { envelope },
        )
        .anywhere(),
        row("containerd.services.events.v1.Events/Subscribe", Want::Open, &subscribe).anywhere(),
    ]
}

fn content() -> Vec<Row> {
    use s::content::v1 as c;
    let digest = || text(ABC);
    let write = c::WriteContentRequest {
        action: c::WriteAction::Stat.into(),
        r#ref: text("in"),
        total: 3,
        expected: digest(),
        ..Default::default()
    };
    let commit = c::WriteContentRequest {
        action: c::WriteAction::Commit.into(),
        total: 3,
        expected: digest(),
        data: b"abc".to_vec().into(),
        labels: labels(),
        ..Default::default()
    };
    let list = c::ListContentRequest { filters: vec![text("labels.k==v")] };
    let statuses = c::ListStatusesRequest { filters: vec![text("ref==in")] };
    let info = Some(c::Info { digest: digest(), labels: labels(), ..Default::default() });
    let update = c::UpdateRequest { info, update_mask: mask("labels.k") };
    let read = c::ReadContentRequest { digest: digest(), offset: 1, size: 1 };
    let gone = Want::Code(Code::NotFound);
    let status = c::StatusRequest { r#ref: text("in") };
    let abort = c::AbortRequest { r#ref: text("in") };
    let delete = c::DeleteContentRequest { digest: digest() };
    vec![
        row("containerd.services.content.v1.Content/Write", Want::Ok, &write).then(&commit),
        row(
            "containerd.services.content.v1.Content/Info",
            Want::Ok,
            &c::InfoRequest { digest: digest() },
        ),
        row("containerd.services.content.v1.Content/List", Want::Ok, &list),
        row("containerd.services.content.v1.Content/Update", Want::Ok, &update),
        row("containerd.services.content.v1.Content/Read", Want::Ok, &read),
        row("containerd.services.content.v1.Content/Status", gone, &status),
        row("containerd.services.content.v1.Content/ListStatuses", Want::Ok, &statuses),
        row("containerd.services.content.v1.Content/Abort", gone, &abort),
        row("containerd.services.content.v1.Content/Delete", Want::Ok, &delete),
    ]
}

fn snapshots() -> Vec<Row> {
    use s::snapshots::v1 as n;
    let own = || text("native");
    let key = || text("k");
    let name = || text("n");
    let prepare = n::PrepareSnapshotRequest {
        snapshotter: own(),
        key: key(),
        labels: labels(),
        ..Default::default()
    };
    let commit = n::CommitSnapshotRequest {
        snapshotter: own(),
        name: name(),
        key: key(),
        labels: labels(),
        ..Default::default()
    };
    let view = n::ViewSnapshotRequest {
        snapshotter: own(),
        key: text("v"),
        parent: name(),
        labels: labels(),
    };
    let info = Some(n::Info { name: name(), labels: labels(), ..Default::default() });
    let update =
        n::UpdateSnapshotRequest { snapshotter: own(), info, update_mask: mask("labels.k") };
    let list = n::ListSnapshotsRequest { snapshotter: own(), filters: vec![text("name==n")] };
    let stat = n::StatSnapshotRequest { snapshotter: own(), key: name() };
    let usage = n::UsageRequest { snapshotter: own(), key: name() };
    let mounts = n::MountsRequest { snapshotter: own(), key: text("v") };
    let remove = n::RemoveSnapshotRequest { snapshotter: own(), key: text("v") };
    let cleanup = n::CleanupRequest { snapshotter: own() };
    vec![
        row("containerd.services.snapshots.v1.Snapshots/Prepare", Want::Ok, &prepare),
        row("containerd.services.snapshots.v1.Snapshots/Commit", Want::Ok, &commit),
        row("containerd.services.snapshots.v1.Snapshots/View", Want::Ok, &view),
        row("containerd.services.snapshots.v1.Snapshots/Mounts", Want::Ok, &mounts),
        row("containerd.services.snapshots.v1.Snapshots/Stat", Want::Ok, &stat),
        row("containerd.services.snapshots.v1.Snapshots/Update", Want::Ok, &update),
        row("containerd.services.snapshots.v1.Snapshots/List", Want::Ok, &list),
        row("containerd.services.snapshots.v1.Snapshots/Usage", Want::Ok, &usage),
        row("containerd.services.snapshots.v1.Snapshots/Remove", Want::Ok, &remove),
        row(
            "containerd.services.snapshots.v1.Snapshots/Cleanup",
            Want::Code(Code::Unimplemented),
            &cleanup,
        ),
    ]
}

fn diff(dir: &str) -> Vec<Row> {
    use s::diff::v1 as d;
    let mount = || Mount {
        r#type: text("bind"),
        source: text(dir),
        options: vec![text("rbind"), text("ro")],
        ..Default::default()
    };
    let apply = d::ApplyRequest { diff: target(), mounts: vec![mount()], ..Default::default() };
    let make = d::DiffRequest {
        left: vec![mount()],
        right: vec![mount()],
        media_type: text("application/vnd.oci.image.layer.v1.tar"),
        r#ref: text("d"),
        labels: labels(),
        ..Default::default()
    };
    vec![
        // An index is no layer: the right way to say no to a valid request.
        row("containerd.services.diff.v1.Diff/Apply", Want::Code(Code::Unimplemented), &apply),
        row("containerd.services.diff.v1.Diff/Diff", Want::Ok, &make),
    ]
}

fn mounts() -> Vec<Row> {
    use gantry_api::containerd::types::ActivationInfo;
    use s::mounts::v1 as m;
    let own = || text("m");
    let tmpfs = Mount {
        r#type: text("format/tmpfs"),
        source: text("tmpfs"),
        options: vec![text("size=64k")],
        ..Default::default()
    };
    let activate =
        m::ActivateRequest { name: own(), mounts: vec![tmpfs], labels: labels(), temporary: true };
    let info = Some(ActivationInfo { name: own(), labels: labels(), ..Default::default() });
    let update = m::UpdateRequest { info, update_mask: mask("labels") };
    let list = m::ListRequest { filters: vec![text("name==m")] };
    let ask = m::InfoRequest { name: own() };
    let end = m::DeactivateRequest { name: own() };
    let never = Want::Code(Code::Unimplemented);
    vec![
        row("containerd.services.mounts.v1.Mounts/Activate", Want::Ok, &activate),
        row("containerd.services.mounts.v1.Mounts/Info", Want::Ok, &ask),
        row("containerd.services.mounts.v1.Mounts/List", Want::Ok, &list),
        row("containerd.services.mounts.v1.Mounts/Update", never, &update),
        row("containerd.services.mounts.v1.Mounts/Deactivate", Want::Ok, &end),
    ]
}

/// On a container that does not exist: what tasks do has tests of its own.
fn tasks() -> Vec<Row> {
    use s::tasks::v1 as t;
    let id = || text("absent");
    let exec = || text("e");
    let gone = Want::Code(Code::NotFound);
    let create = t::CreateTaskRequest { container_id: id(), options: any(), ..Default::default() };
    let start = t::StartRequest { container_id: id(), exec_id: exec() };
    let kill = t::KillRequest { container_id: id(), exec_id: exec(), signal: 9, all: true };
    let add = t::ExecProcessRequest {
        container_id: id(),
        exec_id: exec(),
        spec: any(),
        ..Default::default()
    };
    let resize = t::ResizePtyRequest { container_id: id(), exec_id: exec(), width: 80, height: 24 };
    let close = t::CloseIoRequest { container_id: id(), exec_id: exec(), stdin: true };
    let update =
        t::UpdateTaskRequest { container_id: id(), resources: any(), annotations: labels() };
    let checkpoint = t::CheckpointTaskRequest { container_id: id(), ..Default::default() };
    let process = t::DeleteProcessRequest { container_id: id(), exec_id: exec() };
    let get = t::GetRequest { container_id: id(), exec_id: exec() };
    let wait = t::WaitRequest { container_id: id(), exec_id: exec() };
    let list = t::ListTasksRequest { filter: text("x") };
    let metrics = t::MetricsRequest { filters: vec![text("id==absent")] };
    let delete = t::DeleteTaskRequest { container_id: id() };
    let pause = t::PauseTaskRequest { container_id: id() };
    let resume = t::ResumeTaskRequest { container_id: id() };
    let pids = t::ListPidsRequest { container_id: id() };
    vec![
        row("containerd.services.tasks.v1.Tasks/Create", gone, &create),
        row("containerd.services.tasks.v1.Tasks/Start", gone, &start),
        row("containerd.services.tasks.v1.Tasks/Get", gone, &get),
        row("containerd.services.tasks.v1.Tasks/List", Want::Ok, &list),
        row("containerd.services.tasks.v1.Tasks/Kill", gone, &kill),
        row("containerd.services.tasks.v1.Tasks/Exec", gone, &add),
        row("containerd.services.tasks.v1.Tasks/ResizePty", gone, &resize),
        row("containerd.services.tasks.v1.Tasks/CloseIO", gone, &close),
        row("containerd.services.tasks.v1.Tasks/Pause", gone, &pause),
        row("containerd.services.tasks.v1.Tasks/Resume", gone, &resume),
        row("containerd.services.tasks.v1.Tasks/ListPids", gone, &pids),
        row("containerd.services.tasks.v1.Tasks/Checkpoint", gone, &checkpoint),
        row("containerd.services.tasks.v1.Tasks/Update", gone, &update),
        row("containerd.services.tasks.v1.Tasks/Metrics", Want::Ok, &metrics),
        row("containerd.services.tasks.v1.Tasks/Wait", gone, &wait),
        row("containerd.services.tasks.v1.Tasks/DeleteProcess", gone, &process),
        row("containerd.services.tasks.v1.Tasks/Delete", gone, &delete),
    ]
}
