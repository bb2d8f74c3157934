//! A manager in a folder of its own, and what is mounted below it.

#![allow(dead_code, clippy::unwrap_used)] // each test file uses a part

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gantry_core::snapshot::Mount;
use gantry_core::{CallCx, Cx, Labels, LeaseId, MountName, Namespace, Result, SystemClock};
use gantry_metadata::Metadata;
use gantry_metadata::stores::{Activation, ActivationState};
use gantry_plugin_mounts::{Manager, Options, Request};

/// Takes everything down when it is dropped, whatever the test has left.
pub(crate) struct Home {
    dir: tempfile::TempDir,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) options: Options,
}

impl Home {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let options = Options {
            folder: dir.path().join("mounts"),
            roots: vec![root],
            boot_id: [7; 16],
            programs: "/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            program_bound: Duration::from_secs(60),
        };
        Self { dir, metadata: Metadata::in_memory(Arc::new(SystemClock)).unwrap(), options }
    }
    pub(crate) fn open(&self) -> Arc<Manager> {
        Manager::open(Arc::clone(&self.metadata), self.options.clone()).unwrap()
    }
    /// The allowed root.
    pub(crate) fn root(&self) -> &Path {
        &self.options.roots[0]
    }
    /// A path below the allowed root.
    pub(crate) fn at(&self, name: &str) -> String {
        self.root().join(name).display().to_string()
    }
    /// Where something is mounted below the manager's folder.
    pub(crate) fn mounted(&self) -> Vec<PathBuf> {
        let table = gantry_sys::mount::table().unwrap();
        let folder = self.options.folder.canonicalize().unwrap();
        table.into_iter().map(|e| e.target).filter(|t| t.starts_with(&folder)).collect()
    }
    /// The numbered folders.
    pub(crate) fn folders(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.options.folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
    /// What is recorded stands, and nothing else does.
    #[track_caller]
    pub(crate) fn assert_whole(&self, at: &str) {
        let records = self.metadata.read_blocking(|view| view.activations(None)).unwrap();
        let mut folders = Vec::new();
        let mut points = Vec::new();
        for (_, activation) in records {
            assert_eq!(activation.state, ActivationState::Active, "{at}");
            folders.push(activation.number.to_string());
            points.extend(activation.active.iter().map(|a| PathBuf::from(&a.mount_point)));
        }
        folders.sort();
        points.sort();
        let mut mounted = self.mounted();
        mounted.sort();
        assert_eq!(self.folders(), folders, "{at}");
        assert_eq!(mounted, points, "{at}");
    }
    /// Nothing is mounted, and no folder nor record is left.
    #[track_caller]
    pub(crate) fn assert_bare(&self, at: &str) {
        assert_eq!(self.mounted(), Vec::<PathBuf>::new(), "{at}");
        assert_eq!(self.folders(), Vec::<String>::new(), "{at}");
        let records = self.metadata.read_blocking(|view| view.activations(None)).unwrap();
        assert!(records.is_empty(), "{at}: {records:?}");
        let found = self.metadata.read_blocking(gantry_metadata::check::check).unwrap();
        assert!(found.is_empty(), "{at}: {found:?}");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = gantry_sys::mount::unmount_all(self.dir.path());
    }
}

pub(crate) fn cx() -> Cx {
    CallCx::default().in_namespace(Namespace::new("n").unwrap(), None)
}

pub(crate) fn leased(lease: &str) -> Cx {
    cx().with_lease(Some(LeaseId::new(lease).unwrap()))
}

pub(crate) fn name(name: &str) -> MountName {
    MountName::new(name).unwrap()
}

pub(crate) fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    let options = options.iter().map(|o| (*o).to_owned()).collect();
    Mount { kind: kind.to_owned(), source: source.to_owned(), options, ..Mount::default() }
}

pub(crate) fn tmpfs() -> Mount {
    mount("tmpfs", "tmpfs", &["size=64k"])
}

pub(crate) fn request(of: &str, mounts: Vec<Mount>) -> Request {
    Request {
        name: name(of),
        mounts,
        labels: Labels::default(),
        temporary: false,
        allowed: Vec::new(),
    }
}

/// As [`request`], everything to be mounted.
pub(crate) fn temporary(of: &str, mounts: Vec<Mount>) -> Request {
    Request { temporary: true, ..request(of, mounts) }
}

pub(crate) async fn activate(manager: &Arc<Manager>, request: Request) -> Result<Activation> {
    manager.activate(&cx(), request).await
}
