//! Failures where only a test can make them: at each failpoint the call fails with the reason,
//! leaves no mount and no ingest, and the same call succeeds afterwards.
//!
//! A program of its own, since failpoints are the process's.

#![allow(clippy::unwrap_used)]

#[path = "../src/tests/store.rs"]
#[allow(dead_code)]
mod store;

use std::sync::Arc;

use gantry_core::diff::{Applier as _, ApplyOpts, Comparer as _, DiffOpts};
use gantry_core::model::Descriptor;
use gantry_core::snapshot::Mount;

use gantry_core::{CallCx, Namespace};
use gantry_plugin_diff::{FAILPOINTS, LAYER, StreamProcessor, Walking};
use store::Memory;

#[test]
fn every_failpoint_fails_the_call_and_leaves_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _scenario = fail::FailScenario::setup();
    for name in FAILPOINTS {
        runtime.block_on(fails_and_recovers(name));
    }
}

async fn fails_and_recovers(name: &str) {
    let temp = tempfile::tempdir().unwrap();
    let (root, mounts) = (temp.path().join("root"), temp.path().join("mounts"));
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(&mounts).unwrap();
    let store = Memory::default();
    let cat = StreamProcessor {
        id: "cat".into(),
        accepts: vec!["x/cat".into()],
        returns: LAYER.into(),
        path: "cat".into(),
        args: vec![],
        env: vec![],
    };
    let walking =
        Walking::new(Arc::new(store.clone()), &mounts).unwrap().with_processors(vec![cat]);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut tar::Header::new_ustar(), "file", &b""[..]).unwrap();
    let descriptor = Descriptor {
        media_type: "x/cat".into(),
        digest: store.put(tar.into_inner().unwrap()),
        size: 0,
        annotations: Default::default(),
    };
    let bind = Mount {
        kind: "bind".into(),
        source: root.to_str().unwrap().into(),
        options: vec!["rbind".into(), "rw".into()],
        ..Mount::default()
    };
    let cx = CallCx::default().in_namespace(Namespace::new("test").unwrap(), None);
    let call = async || -> gantry_core::Result<()> {
        let bind = std::slice::from_ref(&bind);
        let opts = ApplyOpts { sync_fs: true, ..ApplyOpts::default() };
        walking.apply(&cx, &descriptor, bind, opts).await?;
        walking.diff(&cx, &[], bind, DiffOpts::default()).await.map(|_| ())
    };
    fail::cfg(name, "return(made to fail)").unwrap();
    let error = call().await.unwrap_err();
    assert!(error.message().ends_with("made to fail"), "{name}: {}", error.message());
    assert_eq!(store.ingests(), 0, "{name}");
    assert_eq!(std::fs::read_dir(&mounts).unwrap().count(), 0, "{name}");
    fail::remove(name);
    call().await.unwrap();
}
