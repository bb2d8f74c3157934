//! How the daemon starts, answers and stops.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use gantry_api::containerd::services::introspection::v1 as introspection;
use gantry_api::containerd::services::version::v1::version_client::VersionClient;
use introspection::introspection_client::IntrospectionClient;
use nix::sys::signal::Signal;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};

use crate::process::{self, Daemon};

#[tokio::test]
async fn it_tells_version_health_and_plugins() {
    let daemon = Daemon::start().await;
    let channel = daemon.channel();
    let version = VersionClient::new(channel.clone()).version(()).await.unwrap().into_inner();
    assert_eq!(version.version, gantryd::version::VERSION);
    assert_eq!(version.revision, gantryd::version::REVISION);

    let mut health = HealthClient::new(channel.clone());
    let served = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(served.status, 1);
    let unknown = HealthCheckRequest { service: "no.such.Service".to_owned() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);

    let mut client = IntrospectionClient::new(channel);
    let server = client.server(()).await.unwrap().into_inner();
    assert_eq!(server.pid, u64::from(daemon.pid()));
    assert_eq!(server.uuid.len(), 36);
    let plugins = async |filters: &[&str]| {
        let filters = filters.iter().map(ToString::to_string).collect();
        let request = introspection::PluginsRequest { filters };
        let reply = client.clone().plugins(request).await?.into_inner();
        Ok::<_, tonic::Status>(reply.plugins.into_iter().map(|p| p.id).collect::<Vec<_>>())
    };
    let all = plugins(&[]).await.unwrap();
    for id in ["version", "healthcheck", "introspection"] {
        assert!(all.iter().any(|plugin| plugin == id), "{id} is not in {all:?}");
    }
    let some = plugins(&["type==io.containerd.grpc.v1, id==version", "id==introspection"]).await;
    assert_eq!(some.unwrap(), ["version", "introspection"]);
    let status = plugins(&["id="]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);

    let absent = introspection::PluginInfoRequest { id: "nope".into(), ..Default::default() };
    let status = client.plugin_info(absent).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    daemon.stop().await;
}

#[tokio::test]
async fn reflection_names_what_is_served_and_nothing_else() {
    let daemon = Daemon::start().await;
    let ask = |what| ServerReflectionRequest { host: String::new(), message_request: Some(what) };
    let requests = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("containerd.services.version.v1.Version".into())),
    ];
    let mut client = ServerReflectionClient::new(daemon.channel());
    let replies = client.server_reflection_info(tokio_stream::iter(requests)).await.unwrap();
    let mut replies = replies.into_inner();
    let list = replies.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = list else { panic!("{list:?}") };
    let named = |name: &str| list.service.contains(&ServiceResponse { name: name.to_owned() });
    assert!(named("containerd.services.version.v1.Version"));
    assert!(named("grpc.health.v1.Health"));
    assert!(!named("containerd.task.v3.Task"), "a service of the shim, not of the daemon");
    let file = replies.message().await.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(file, MessageResponse::FileDescriptorResponse(_)), "{file:?}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_second_daemon_is_told_who_holds_what() {
    let daemon = Daemon::start().await;
    let other = tempfile::tempdir().unwrap();
    let other = |name: &str| other.path().join(name).display().to_string();
    let (root, state) = (daemon.path("root"), daemon.path("state"));
    for (what, args) in [
        ("root", ["--root", &root, "--state", &other("s"), "-a", &other("a")]),
        ("state", ["--root", &other("r"), "--state", &state, "-a", &other("a")]),
        ("address", ["--root", &other("r"), "--state", &other("s"), "-a", &daemon.socket()]),
    ] {
        let second = Command::new(process::BINARY).args(args).output().unwrap();
        assert_eq!(second.status.code(), Some(1));
        let text = String::from_utf8(second.stderr).unwrap();
        let told = format!("gantryd: {what} is in use by process {} ", daemon.pid());
        assert!(text.contains(&told), "{text}");
    }
    VersionClient::new(daemon.channel()).version(()).await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn it_starts_over_what_a_killed_one_left_and_keeps_its_name() {
    let mut daemon = Daemon::start().await;
    let uuid = async |daemon: &Daemon| {
        let mut client = IntrospectionClient::new(daemon.channel());
        client.server(()).await.unwrap().into_inner().uuid
    };
    let before = uuid(&daemon).await;
    daemon.kill();
    assert!(std::path::Path::new(&daemon.socket()).exists(), "nothing stale to start over");
    daemon.restart().await;
    assert_eq!(uuid(&daemon).await, before);
    daemon.stop().await;
}

#[tokio::test]
async fn a_stop_takes_the_socket_away_and_a_held_connection_does_not_delay_it() {
    let daemon = Daemon::start().await;
    let channel = daemon.channel();
    VersionClient::new(channel.clone()).version(()).await.unwrap();
    let socket = daemon.socket();
    daemon.stop().await;
    assert!(!std::path::Path::new(&socket).exists());
    drop(channel);
}

#[tokio::test]
async fn the_service_manager_hears_when_it_is_ready_and_when_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let heard = || {
        let mut buffer = [0; 64];
        let n = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    let daemon = Daemon::start_with(|command| {
        command.env("NOTIFY_SOCKET", &path);
    })
    .await;
    assert_eq!(heard(), "READY=1");
    daemon.signal(Signal::SIGINT);
    assert_eq!(heard(), "STOPPING=1");
    daemon.stopped().await;
}

#[tokio::test]
async fn sighup_reads_the_log_level_again() {
    let daemon = Daemon::start().await;
    daemon.configure("[log]\nlevel = 'debug'");
    daemon.signal(Signal::SIGHUP);
    daemon.logged("log level read again level=debug").await;
    daemon.configure("[log]\nlevle = 'info'");
    daemon.signal(Signal::SIGHUP);
    daemon.logged("did you mean `log.level`?").await;
    VersionClient::new(daemon.channel()).version(()).await.unwrap();
    daemon.stop().await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn told_twice_it_ends_at_once() {
    let mut daemon = Daemon::start_with(|command| {
        command.env("FAILPOINTS", "daemon.stop/before-plugins=pause");
    })
    .await;
    daemon.signal(Signal::SIGTERM);
    daemon.logged("stopping; tasks live on").await;
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.exit_code().await, Some(128 + 15));
    daemon.logged("told twice, ending at once").await;
    daemon.restart().await;
    daemon.stop().await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_death_at_any_step_of_the_start_leaves_nothing_in_the_way() {
    for step in gantryd::FAILPOINTS.iter().filter(|step| !step.starts_with("daemon.stop/")) {
        let mut daemon = Daemon::started_to_die(|command| {
            command.env("FAILPOINTS", format!("{step}=kill"));
        });
        assert_eq!(daemon.exit_code().await, None, "{step}: was not killed");
        daemon.restart().await;
        VersionClient::new(daemon.channel()).version(()).await.unwrap();
        let left = std::fs::read_dir(daemon.path("state")).unwrap();
        let names: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        daemon.stop().await;
        let hidden = |name: &std::ffi::OsString| name.to_string_lossy().starts_with('.');
        assert!(!names.iter().any(hidden), "{step} left something behind: {names:?}");
    }
}
