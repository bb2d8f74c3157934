//! Executables between the blob and the tar.

use std::time::{Duration, Instant};

use gantry_core::diff::{Applier as _, ApplyOpts};
use gantry_core::model::{Descriptor, TypedAny};
use gantry_core::{CallCx, Kind, Namespace};

use super::support::{cx, gzip, names};
use super::{Fixture, Layer};
use crate::{LAYER, LAYER_GZIP, StreamProcessor};

fn processor(id: &str, accepts: &str, returns: &str, script: &str) -> StreamProcessor {
    StreamProcessor {
        id: id.into(),
        accepts: vec![accepts.into()],
        returns: returns.into(),
        path: "sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec![("FROM_CONFIG".into(), "yes".into())],
    }
}

fn fixture(processors: Vec<StreamProcessor>) -> Fixture {
    let mut f = Fixture::new();
    f.walking = f.walking.with_processors(processors);
    f
}

fn layer() -> Vec<u8> {
    Layer::new().file("a", &"x".repeat(1_000_000)).file("b", "").bytes()
}

#[tokio::test]
async fn a_chain_of_executables_ends_in_a_tar() {
    let swap =
        "test \"$STREAM_PROCESSOR_MEDIATYPE\" = x/outer && test $FROM_CONFIG = yes && tr ab ba";
    let key = "grep -q 'secret of the key' <&3 && cat";
    let f = fixture(vec![
        processor("outer", "x/outer", "x/inner", swap),
        processor("inner", "x/inner", LAYER_GZIP, key),
    ]);
    let swapped: Vec<u8> = gzip(&layer())
        .into_iter()
        .map(|b| match b {
            b'a' => b'b',
            b'b' => b'a',
            other => other,
        })
        .collect();
    let descriptor = |digest| Descriptor {
        media_type: "x/outer".into(),
        digest,
        size: 0,
        annotations: Default::default(),
    };
    let payload = TypedAny {
        type_url: "keys/key".into(),
        value: [b"secret of the key", &[b'.'; 300][..]].concat(),
    };
    let opts = ApplyOpts { payloads: [("inner".into(), payload)].into(), ..ApplyOpts::default() };
    let descriptor = descriptor(f.store.put(swapped));
    let applied = f.walking.apply(&cx(), &descriptor, &[f.bind("root")], opts).await.unwrap();
    assert_eq!(applied.digest, gantry_core::Digest::of(&layer()));
    assert_eq!(names(&f.path("root")), ["a", "b"]);
}

#[tokio::test]
async fn an_executable_that_fails_says_why() {
    let f = fixture(vec![
        processor("broken", "x/broken", LAYER, "cat; echo no key >&2; exit 3"),
        processor("silent", "x/silent", LAYER, "exit 1"),
        processor("loud", "x/loud", LAYER, "yes reason >&2 2>/dev/null; yes reason >&2; exit 1"),
        processor("ping", "x/ping", "x/pong", "cat"),
        processor("pong", "x/pong", "x/ping", "cat"),
    ]);
    let fail = async |media_type: &str| {
        f.apply_to(&[f.bind("root")], media_type, layer()).await.unwrap_err().message()
    };
    assert_eq!(fail("x/broken").await, "stream processor broken: no key");
    assert_eq!(fail("x/silent").await, "stream processor silent: failed without a reason");
    assert!(fail("x/loud").await.starts_with("stream processor loud: reason\nreason\n"));
    assert!(fail("x/ping").await.contains("no processor for media-type"));
    let mut absent = processor("absent", "x/absent", LAYER, "");
    absent.path = "/no/such/file".into();
    let f = fixture(vec![absent]);
    let error = f.apply_to(&[f.bind("root")], "x/absent", layer()).await.unwrap_err();
    assert!(error.message().contains("stream processor absent: cannot start"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executable_that_hangs_dies_with_the_call() {
    let f = fixture(vec![processor("stuck", "x/stuck", LAYER, "exec sleep 1000")]);
    let blob = f.store.put(layer());
    let descriptor = Descriptor {
        media_type: "x/stuck".into(),
        digest: blob,
        size: 0,
        annotations: Default::default(),
    };
    let deadline = Instant::now() + Duration::from_millis(300);
    let cx = CallCx::default()
        .with_deadline(Some(deadline))
        .in_namespace(Namespace::new("test").unwrap(), None);
    let begun = Instant::now();
    let error = f.walking.apply(&cx, &descriptor, &[f.bind("root")], ApplyOpts::default()).await;
    assert_eq!(error.unwrap_err().kind(), Kind::DeadlineExceeded);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}
