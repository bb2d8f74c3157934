//! The daemon's side of events: a ttrpc server that collects what shims forward, and that can be
//! told to fail, to be away, or to come back.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_api::containerd::events::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOom, TaskStart,
};
use gantry_api::containerd::services::events::ttrpc::v1::ForwardRequest;
use gantry_api::containerd::types::Envelope;
use gantry_ttrpc::message::{self, Code, status};
use gantry_ttrpc::server;
use prost::Message;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// An event with what its call said beside it.
#[derive(Clone, Debug)]
pub struct Received {
    pub envelope: Envelope,
    pub seq: Option<u64>,
    pub start_time: Option<u64>,
}

impl Received {
    /// A short text: `create`, `start`, `exit init 0`, `exit e1 3`, `exec-started e1`.
    pub fn text(&self) -> String {
        let value = &self.envelope.event.as_ref().unwrap().value[..];
        match self.envelope.topic.as_str() {
            "/tasks/create" => "create".into(),
            "/tasks/start" => "start".into(),
            "/tasks/delete" => format!("delete {}", TaskDelete::decode(value).unwrap().exit_status),
            "/tasks/exit" => {
                let exit = TaskExit::decode(value).unwrap();
                let who = if exit.id == exit.container_id { "init" } else { &exit.id };
                format!("exit {who} {}", exit.exit_status)
            }
            "/tasks/exec-added" => {
                format!("exec-added {}", TaskExecAdded::decode(value).unwrap().exec_id)
            }
            "/tasks/exec-started" => {
                format!("exec-started {}", TaskExecStarted::decode(value).unwrap().exec_id)
            }
            "/tasks/oom" => "oom".into(),
            other => other.trim_start_matches("/tasks/").into(),
        }
    }

    /// The container it is about.
    pub fn container(&self) -> String {
        let value = &self.envelope.event.as_ref().unwrap().value[..];
        // Field 1 of every task event is the container's id.
        match self.envelope.topic.as_str() {
            "/tasks/create" => TaskCreate::decode(value).unwrap().container_id,
            "/tasks/oom" => TaskOom::decode(value).unwrap().container_id,
            "/tasks/exit" => TaskExit::decode(value).unwrap().container_id,
            "/tasks/delete" => TaskDelete::decode(value).unwrap().container_id,
            "/tasks/exec-added" => TaskExecAdded::decode(value).unwrap().container_id,
            "/tasks/exec-started" => TaskExecStarted::decode(value).unwrap().container_id,
            _ => TaskStart::decode(value).unwrap().container_id,
        }
    }
}

/// How the daemon answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Takes every event.
    Takes,
    /// Says Unavailable.
    Fails,
    /// Says InvalidArgument.
    Refuses,
    /// Never answers.
    Silent,
}

/// A daemon as far as events go.
pub struct Daemon {
    pub socket: PathBuf,
    got: Arc<Mutex<Vec<Received>>>,
    changed: watch::Sender<usize>,
    mood: Arc<Mutex<Mood>>,
    /// Calls that were not taken.
    pub failed: Arc<AtomicUsize>,
    running: Option<JoinHandle<()>>,
}

impl Daemon {
    pub fn new(dir: &Path) -> Self {
        let mut daemon = Self {
            socket: dir.join("daemon.ttrpc"),
            got: Arc::default(),
            changed: watch::Sender::new(0),
            mood: Arc::new(Mutex::new(Mood::Takes)),
            failed: Arc::default(),
            running: None,
        };
        daemon.up();
        daemon
    }

    pub fn mood(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Dies: connections break and the socket is gone.
    pub fn down(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
        let _ = std::fs::remove_file(&self.socket);
    }

    pub fn up(&mut self) {
        let listener = UnixListener::bind(&self.socket).unwrap();
        let (got, changed, mood) = (self.got.clone(), self.changed.clone(), self.mood.clone());
        let failed = self.failed.clone();
        self.running = Some(tokio::spawn(async move {
            // Dropped with this task, and every connection with it.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(connection(
                    stream,
                    got.clone(),
                    changed.clone(),
                    mood.clone(),
                    failed.clone(),
                ));
            }
        }));
    }

    /// What has come so far.
    pub fn received(&self) -> Vec<Received> {
        self.got.lock().unwrap().clone()
    }

    /// What has come about `container`, as short texts.
    pub fn texts(&self, container: &str) -> Vec<String> {
        self.received().iter().filter(|r| r.container() == container).map(Received::text).collect()
    }

    /// Waits until the texts about `container` fulfil `wanted`, and returns them.
    pub async fn until(&self, container: &str, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        let mut changes = self.changed.subscribe();
        let waiting = async {
            loop {
                let texts = self.texts(container);
                if wanted(&texts) {
                    return texts;
                }
                changes.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(Duration::from_secs(30), waiting).await {
            Ok(texts) => texts,
            Err(_) => panic!("events stayed {:?}", self.texts(container)),
        }
    }

    /// Waits for one text.
    pub async fn until_text(&self, container: &str, text: &str) -> Vec<String> {
        self.until(container, |texts| texts.iter().any(|t| t == text)).await
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.down();
    }
}

async fn connection(
    stream: tokio::net::UnixStream,
    got: Arc<Mutex<Vec<Received>>>,
    changed: watch::Sender<usize>,
    mood: Arc<Mutex<Mood>>,
    failed: Arc<AtomicUsize>,
) {
    let (reader, writer) = stream.into_split();
    let (mut connection, answers) = server::connection(reader, writer);
    let mut writers = tokio::task::JoinSet::new();
    writers.spawn(answers);
    let mut unanswered = Vec::new();
    while let Ok(Some(call)) = connection.next().await {
        let mood = *mood.lock().unwrap();
        if mood == Mood::Silent {
            unanswered.push(call.reply);
            continue;
        }
        let request = &call.request;
        assert_eq!(request.service, "containerd.services.events.ttrpc.v1.Events");
        assert_eq!(request.method, "Forward");
        let forward = ForwardRequest::decode(request.payload.as_slice()).unwrap();
        let number = |key| message::metadata(request, key).map(|v| v.parse().unwrap());
        let received = Received {
            envelope: forward.envelope.unwrap(),
            seq: number("gantry-exit-seq"),
            start_time: number("gantry-exit-start-time"),
        };
        let result = match mood {
            Mood::Fails => Err(status(Code::Unavailable, "try later")),
            Mood::Refuses => Err(status(Code::InvalidArgument, "not like this")),
            Mood::Takes | Mood::Silent => {
                assert!(received.envelope.timestamp.is_some());
                got.lock().unwrap().push(received);
                changed.send_modify(|n| *n += 1);
                Ok(Vec::new())
            }
        };
        if result.is_err() {
            failed.fetch_add(1, Ordering::SeqCst);
        }
        call.reply.send(result);
    }
}
