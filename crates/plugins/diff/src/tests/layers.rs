//! Ordinary layers, in either layout.

use gantry_core::Kind;

use super::support::{cx, entry, gzip, names};
use super::{Fixture, Layer, tree};
use crate::archive::{Entry, EntryKind, Time};
use crate::{LAYER, LAYER_GZIP};

#[tokio::test]
async fn every_kind_of_file_is_made() {
    let f = Fixture::new();
    let special = |kind, name, major, minor| Entry { major, minor, ..entry(kind, name, "") };
    let setuid = Entry { mode: 0o4755, uid: 5, gid: 6, ..entry(EntryKind::Regular, "bin/su", "") };
    let sticky = Entry {
        mode: 0o1777,
        mtime: Time { secs: 7, nanos: 123_456_789 },
        ..entry(EntryKind::Directory, "tmp/", "")
    };
    let cap = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    let attributes = vec![
        (b"security.capability".to_vec(), cap),
        (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
        (b"user.note".to_vec(), b"line\nline".to_vec()),
    ];
    let capable = Entry { xattrs: attributes, ..entry(EntryKind::Regular, "bin/ping", "") };
    let layer = Layer::new()
        .dir("bin/")
        .entry(&setuid, b"")
        .entry(&capable, b"")
        .hard_link("bin/ping2", "/bin/ping")
        .entry(&sticky, b"")
        .symlink("etc/link", "../../../etc/passwd")
        .hard_link("etc/link2", "etc/link")
        .entry(&special(EntryKind::CharDevice, "dev/null", 1, 3), b"")
        .entry(&special(EntryKind::BlockDevice, "dev/sda", 8, 0), b"")
        .entry(&special(EntryKind::Fifo, "dev/fifo", 0, 0), b"")
        .file("tmp/file", "data");
    f.apply(layer.bytes()).await.unwrap();
    let root = f.root();
    let line = |name: &str| {
        let line = root.lines().find(|l| l.starts_with(&format!("{name} "))).unwrap().to_owned();
        line[name.len() + 1..].to_owned()
    };
    assert_eq!(line("bin/su"), "104755 5:6 1000.000000000 \"\" 0");
    assert_eq!(line("tmp"), "41777 0:0 7.123456789");
    assert!(line("bin/ping").contains("security.capability=[1, 0, 0, 2"), "{root}");
    assert!(line("bin/ping").contains("user.note=[6c, 69, 6e, 65, a"), "{root}");
    assert!(!root.contains("trusted."), "{root}");
    assert!(line("bin/ping2").contains(" = bin/ping"), "{root}");
    assert_eq!(line("etc/link"), "120777 0:0 1000.000000000 -> \"../../../etc/passwd\"");
    assert!(line("etc/link2").ends_with("-> \"../../../etc/passwd\" = etc/link"), "{root}");
    assert_eq!(line("dev/null"), "20644 0:0 1000.000000000 103");
    assert_eq!(line("dev/sda"), "60644 0:0 1000.000000000 800");
    assert_eq!(line("dev/fifo"), "10644 0:0 1000.000000000 0");
    assert!(line("dev").starts_with("40755 0:0 "), "missing parents are made: {root}");
}

#[tokio::test]
async fn media_types_and_trailing_bytes() {
    let f = Fixture::new();
    let mut tar = Layer::new().file("a", "1").bytes();
    tar.extend_from_slice(&[0; 4096]);
    tar.extend_from_slice(b"and then some");
    f.apply(tar.clone()).await.unwrap();
    let members: Vec<u8> = tar.chunks(700).flat_map(gzip).collect();
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    for (media_type, blob) in [
        (LAYER_GZIP, gzip(&tar)),
        (LAYER_GZIP, members),
        (LAYER_GZIP, tar.clone()),
        ("application/vnd.oci.image.layer.v1.tar+zstd", zstd.clone()),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", gzip(&tar)),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", zstd),
        ("application/vnd.docker.image.rootfs.diff.tar", gzip(&tar)),
    ] {
        let f = Fixture::new();
        let applied = f.apply_to(&[f.bind("root")], media_type, blob).await.unwrap();
        assert_eq!(applied.digest, gantry_core::Digest::of(&tar), "{media_type}");
        assert_eq!(applied.size as usize, tar.len());
        assert_eq!(names(&f.path("root")), ["a"]);
    }
    // More than the pipeline holds at once.
    let mut long = Layer::new().file("a", "1").bytes();
    long.resize(long.len() + 8_000_000, 7);
    f.apply(long).await.unwrap();
    let error = f.apply_to(&[f.bind("root")], "x/y", tar).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotImplemented);
    // Docker's oldest images have layers of no bytes at all.
    let empty = f.apply_to(&[f.bind("root")], LAYER_GZIP, Vec::new()).await.unwrap();
    assert_eq!((empty.size, empty.digest), (0, gantry_core::Digest::of(b"")));
}

#[tokio::test]
async fn whiteouts_hide_what_lies_below_in_either_layout() {
    let below = || {
        Layer::new()
            .dir("etc/")
            .file("etc/hosts", "1")
            .file("etc/motd", "1")
            .dir("opt/")
            .dir("opt/sub/")
            .file("opt/sub/low", "1")
            .file("opt/low", "1")
            .dir("gone/")
            .file("gone/x", "1")
            .dir("again/")
            .file("again/low", "1")
            .file("type", "1")
            .dir("typedir/")
            .file("typedir/low", "1")
            .bytes()
    };
    let above = || {
        Layer::new()
            .hide("etc/.wh.motd")
            .dir("opt/")
            .file("opt/new", "2")
            .file("opt/sub/new", "2")
            .hide("opt/.wh..wh..opq")
            .hide(".wh.gone")
            .hide(".wh.again")
            .file("again/new", "2")
            .dir("type/")
            .file("type/x", "2")
            .file("typedir", "2")
            .hide(".wh.absent")
            .bytes()
    };
    let expected = [
        "again",
        "again/new",
        "etc",
        "etc/hosts",
        "opt",
        "opt/new",
        "opt/sub",
        "opt/sub/new",
        "type",
        "type/x",
        "typedir",
    ];

    let merged = Fixture::new();
    merged.apply(below()).await.unwrap();
    merged.apply(above()).await.unwrap();
    assert_eq!(names(&merged.path("root")), expected);

    let layered = Fixture::new();
    let overlay = layered.overlay(&["root"], "upper");
    layered.apply(below()).await.unwrap();
    layered.apply_to(std::slice::from_ref(&overlay), LAYER, above()).await.unwrap();
    let view = crate::mounts::open(&crate::mounts::read_only(&[overlay]), &layered.path("mounts"));
    let view = view.unwrap();
    let path = format!("/proc/self/fd/{}/.", std::os::fd::AsRawFd::as_raw_fd(&view));
    assert_eq!(names(path.as_ref()), expected);
    let upper = tree(&layered.path("upper"));
    assert!(upper.contains("etc/motd 20000 0:0"), "{upper}");
    assert!(upper.contains("trusted.overlay.opaque=[79]"), "{upper}");
}

#[tokio::test]
async fn an_opaque_root_hides_everything_below() {
    let below = || Layer::new().file("a", "1").file("dir/low", "1").file("keep", "1").bytes();
    let above = || {
        Layer::new()
            .file("dir/new", "2")
            .hide(".wh..wh..opq")
            .file("b", "2")
            .file("keep", "2")
            .bytes()
    };
    let merged = Fixture::new();
    merged.apply(below()).await.unwrap();
    merged.apply(above()).await.unwrap();
    assert_eq!(names(&merged.path("root")), ["b", "dir", "dir/new", "keep"]);

    let layered = Fixture::new();
    let overlay = layered.overlay(&["root"], "upper");
    layered.apply(below()).await.unwrap();
    layered.apply_to(std::slice::from_ref(&overlay), LAYER, above()).await.unwrap();
    let view = crate::mounts::open(&crate::mounts::read_only(&[overlay]), &layered.path("mounts"));
    let view = view.unwrap();
    let path = format!("/proc/self/fd/{}/.", std::os::fd::AsRawFd::as_raw_fd(&view));
    assert_eq!(names(path.as_ref()), ["b", "dir", "dir/new", "keep"]);
}

#[tokio::test]
async fn a_missing_parent_looks_as_it_does_below() {
    let f = Fixture::new();
    let private = Entry {
        mode: 0o700,
        uid: 7,
        gid: 8,
        xattrs: vec![(b"user.k".to_vec(), b"v".to_vec())],
        ..entry(EntryKind::Directory, "srv/data/", "")
    };
    f.apply(Layer::new().entry(&private, b"").bytes()).await.unwrap();
    let overlay = f.overlay(&["root"], "upper");
    let layer = Layer::new().file("srv/data/file", "x").file("new/file", "x").bytes();
    f.apply_to(&[overlay], LAYER, layer).await.unwrap();
    let upper = tree(&f.path("upper"));
    assert!(upper.contains("srv/data 40700 7:8 1000.000000000 user.k=[76]"), "{upper}");
    assert!(upper.contains("new 40755 0:0 "), "{upper}");
}

#[tokio::test]
async fn other_mounts_are_mounted_for_the_moment() {
    let f = Fixture::new();
    let mut first = f.bind("root");
    std::fs::create_dir(f.path("root/sub")).unwrap();
    std::fs::create_dir(f.path("second")).unwrap();
    first.options = vec!["bind".into()];
    let mut second = f.bind("second");
    second.target = "/sub".into();
    let layer = Layer::new().file("a", "1").file("sub/b", "2").bytes();
    f.apply_to(&[first, second], LAYER, layer).await.unwrap();
    assert_eq!(names(&f.path("root")), ["a", "sub"]);
    assert_eq!(names(&f.path("second")), ["b"]);
    assert_eq!(names(&f.path("mounts")), [""; 0]);
    let mounted = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounted.contains(f.temp.path().to_str().unwrap()));
}

#[tokio::test]
async fn read_only_mounts_and_unknown_blobs_are_refused() {
    let f = Fixture::new();
    let mut view = f.bind("root");
    view.options = vec!["ro".into(), "rbind".into()];
    let layer = Layer::new().file("a", "1").bytes();
    let error = f.apply_to(&[view], LAYER, layer.clone()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    let mut lowers = f.overlay(&["root"], "upper");
    lowers.options.retain(|o| o.starts_with("lowerdir="));
    let error = f.apply_to(&[lowers], LAYER, layer.clone()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    let mut mapped = f.bind("root");
    mapped.options.push("uidmap=0:100000:65536".into());
    let error = f.apply_to(&[mapped], LAYER, layer.clone()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotImplemented);
    assert_eq!(f.root(), "");
    let error = f.apply_to(&[], LAYER, layer).await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);

    use gantry_core::diff::Applier as _;
    let descriptor = gantry_core::model::Descriptor {
        media_type: LAYER.into(),
        digest: gantry_core::Digest::of(b"never stored"),
        size: 1,
        annotations: Default::default(),
    };
    let error = f.walking.apply(&cx(), &descriptor, &[f.bind("root")], Default::default()).await;
    assert_eq!(error.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_store_that_fails_and_a_call_that_stops_say_so() {
    let f = Fixture::new();
    let layer = Layer::new().file("a", &"x".repeat(2_000_000)).bytes();
    f.store.break_at(600_000);
    let error = f.apply_to(&[f.bind("root")], LAYER, layer.clone()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DataLoss);
    assert_eq!(error.message(), "read blob: disk on fire: data loss");

    use gantry_core::diff::Applier as _;
    let f = Fixture::new();
    let cancel = tokio_util::sync::CancellationToken::new();
    cancel.cancel();
    let cx = gantry_core::CallCx::background(cancel)
        .in_namespace(gantry_core::Namespace::new("test").unwrap(), None);
    let descriptor = gantry_core::model::Descriptor {
        media_type: LAYER.into(),
        digest: f.store.put(layer.clone()),
        size: 1,
        annotations: Default::default(),
    };
    let error = f.walking.apply(&cx, &descriptor, &[f.bind("root")], Default::default()).await;
    assert_eq!(error.unwrap_err().kind(), Kind::Cancelled);
    let late = super::support::cx();
    let late = (*late).clone().with_deadline(Some(std::time::Instant::now()));
    let late = late.in_namespace(gantry_core::Namespace::new("test").unwrap(), None);
    let error = f.walking.apply(&late, &descriptor, &[f.bind("root")], Default::default()).await;
    assert_eq!(error.unwrap_err().kind(), Kind::DeadlineExceeded);
}
