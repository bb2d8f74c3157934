//! What the differ writes, and that applying it gives the upper tree.

use std::collections::BTreeMap;
use std::fs::{create_dir_all, remove_file, write};
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use gantry_core::content::{ContentStore as _, WriterOpts};
use gantry_core::diff::{Comparer as _, DiffOpts};
use gantry_core::id::ContentRef;
use gantry_core::model::Descriptor;
use gantry_core::snapshot::Mount;
use gantry_core::{Digest, Kind, Labels};

use super::support::{cx, names};
use super::{Fixture, Layer, tree};
use crate::{LAYER, LAYER_GZIP, LAYER_ZSTD};

const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// Sets times in whole seconds, so that trees compare after a trip through a layer.
pub(super) fn age(path: &Path, secs: u64) {
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).unwrap() {
            age(&entry.unwrap().path(), secs);
        }
    }
    let spec = rustix::fs::Timespec { tv_sec: secs as i64, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: spec, last_modification: spec };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).unwrap();
}

impl Fixture {
    pub(super) async fn diff(
        &self,
        lower: &[Mount],
        upper: &[Mount],
        opts: DiffOpts,
    ) -> gantry_core::Result<Descriptor> {
        self.walking.diff(&cx(), lower, upper, opts).await
    }
    /// The plain archive of the difference of two folders.
    pub(super) async fn archive(&self, lower: &str, upper: &str) -> Vec<u8> {
        let opts = DiffOpts { media_type: LAYER.into(), ..DiffOpts::default() };
        let made = self.diff(&[self.bind(lower)], &[self.bind(upper)], opts).await.unwrap();
        self.store.get(&made.digest).to_vec()
    }
}

/// The entries of an archive by the word of another parser: type, name, link target.
fn listing(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    let line = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let entry = entry.unwrap();
        let kind = entry.header().entry_type().as_byte() as char;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        match entry.link_name_bytes().filter(|link| !link.is_empty()) {
            Some(link) => format!("{kind} {name} -> {}", String::from_utf8_lossy(&link)),
            None => format!("{kind} {name}"),
        }
    };
    archive.entries().unwrap().map(line).collect()
}

#[tokio::test]
async fn changes_come_in_order_with_their_parents() {
    let f = Fixture::new();
    for side in ["lower", "upper"] {
        create_dir_all(f.path(side).join("etc/conf.d")).unwrap();
        create_dir_all(f.path(side).join("usr/share/doc")).unwrap();
        write(f.path(side).join("etc/same"), "same").unwrap();
        write(f.path(side).join("usr/share/doc/readme"), "same").unwrap();
    }
    let (lower, upper) = (f.path("lower"), f.path("upper"));
    write(lower.join("etc/old"), "old").unwrap();
    create_dir_all(lower.join("gone/deep")).unwrap();
    write(lower.join("changed"), "one").unwrap();
    write(upper.join("changed"), "two").unwrap();
    write(lower.join("etc/type"), "file").unwrap();
    symlink("/x", upper.join("etc/type")).unwrap();
    create_dir_all(lower.join("dir-to-file/x")).unwrap();
    write(upper.join("dir-to-file"), "").unwrap();
    write(upper.join("usr/share/doc/new"), "new").unwrap();
    write(upper.join("etc.d"), "sorts between etc and etc/").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap();
    write(upper.join(".wh.odd"), "").unwrap();
    age(&lower, 1000);
    age(&upper, 1000);
    let archive = f.archive("lower", "upper").await;
    assert_eq!(
        listing(&archive),
        [
            "0 changed",
            "0 dir-to-file",
            "5 etc/",
            "0 etc/.wh.old",
            "2 etc/type -> /x",
            "0 etc.d",
            "0 .wh.gone",
            "5 usr/",
            "5 usr/share/",
            "5 usr/share/doc/",
            "0 usr/share/doc/new",
        ]
    );
    assert_eq!(archive, f.archive("lower", "upper").await, "the same trees give the same bytes");
    assert_eq!(listing(&f.archive("upper", "upper").await), [""; 0]);
}

#[tokio::test]
async fn names_of_one_file_stay_together() {
    let f = Fixture::new();
    create_dir_all(f.path("lower/a")).unwrap();
    write(f.path("lower/a/first"), "data").unwrap();
    age(&f.path("lower"), 1000);
    std::process::Command::new("cp")
        .args(["-a", "lower", "upper"])
        .current_dir(f.temp.path())
        .status()
        .unwrap();
    create_dir_all(f.path("upper/b")).unwrap();
    std::fs::hard_link(f.path("upper/a/first"), f.path("upper/b/second")).unwrap();
    std::fs::hard_link(f.path("upper/a/first"), f.path("upper/b/third")).unwrap();
    age(&f.path("upper"), 1000);
    let archive = f.archive("lower", "upper").await;
    let expected = ["5 b/", "0 b/second", "5 a/", "1 a/first -> b/second", "1 b/third -> b/second"];
    assert_eq!(listing(&archive), expected);
    std::fs::rename(f.path("lower"), f.path("applied")).unwrap();
    f.apply_to(&[f.bind("applied")], LAYER, archive).await.unwrap();
    assert_eq!(tree(&f.path("applied")), tree(&f.path("upper")));
}

#[tokio::test]
async fn what_a_layer_can_say_survives_the_trip() {
    let f = Fixture::new();
    let upper = f.path("upper");
    create_dir_all(upper.join("dir")).unwrap();
    create_dir_all(upper.join("d".repeat(120)).join("n".repeat(200))).unwrap();
    write(upper.join("dir/setuid"), "x".repeat(1_000_000)).unwrap();
    std::fs::set_permissions(upper.join("dir/setuid"), PermissionsExt::from_mode(0o6755)).unwrap();
    write(upper.join("größe\nzwei"), "odd name").unwrap();
    write(upper.join("owned"), "").unwrap();
    chown(upper.join("owned"), Some(4_000_000_000), Some(3_000_000)).unwrap();
    symlink("l".repeat(300), upper.join("long-link")).unwrap();
    let make = |name: &str, kind, dev| {
        rustix::fs::mknodat(rustix::fs::CWD, upper.join(name), kind, 0o600.into(), dev).unwrap();
    };
    make("null", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    make("big", rustix::fs::FileType::BlockDevice, rustix::fs::makedev(4095, 1_048_575));
    make("fifo", rustix::fs::FileType::Fifo, 0);
    let attributes = [
        ("security.capability", &b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..]),
        ("user.note", b"a\nb"),
    ];
    for (key, value) in attributes {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(upper.join("dir/setuid"), key, value, flags).unwrap();
    }
    let hidden = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(upper.join("dir"), "trusted.secret", b"x", hidden).unwrap();
    age(&upper, 5_000_000_000);
    create_dir_all(f.path("empty")).unwrap();
    for media_type in [LAYER, LAYER_GZIP, LAYER_ZSTD, ""] {
        let opts = DiffOpts { media_type: media_type.into(), ..DiffOpts::default() };
        let made = f.diff(&[], &[f.bind("upper")], opts).await.unwrap();
        let expected = if media_type.is_empty() { LAYER_GZIP } else { media_type };
        assert_eq!(made.media_type, expected);
        let blob = f.store.get(&made.digest).to_vec();
        assert_eq!(made.size as usize, blob.len());
        let _ = std::fs::remove_dir_all(f.path("applied"));
        create_dir_all(f.path("applied")).unwrap();
        let applied = f.apply_to(&[f.bind("applied")], expected, blob).await.unwrap();
        let label = f.store.info(&cx(), &made.digest).await.unwrap().labels;
        assert_eq!(label.get(UNCOMPRESSED), Some(applied.digest.as_str()), "{media_type}");
        let expected = tree(&upper).replace(" trusted.secret=[78]", "");
        assert_eq!(tree(&f.path("applied")), expected);
    }
    let opts = DiffOpts { media_type: "application/x".into(), ..DiffOpts::default() };
    let error = f.diff(&[], &[f.bind("upper")], opts).await.unwrap_err();
    assert_eq!(error.message(), "unsupported diff media type: application/x: not implemented");
}

#[tokio::test]
async fn times_are_cut_to_the_second_and_bound() {
    let f = Fixture::new();
    create_dir_all(f.path("upper")).unwrap();
    for (name, millis) in [("early", 1_500), ("late", 9_900)] {
        let file = std::fs::File::create(f.path("upper").join(name)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(millis)).unwrap();
    }
    let opts =
        DiffOpts { media_type: LAYER.into(), source_date_epoch: Some(5), ..DiffOpts::default() };
    let made = f.diff(&[], &[f.bind("upper")], opts).await.unwrap();
    let blob = f.store.get(&made.digest);
    let mut archive = tar::Archive::new(&blob[..]);
    let times: BTreeMap<_, _> = archive
        .entries()
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| (e.path().unwrap().display().to_string(), e.header().mtime().unwrap()))
        .collect();
    assert_eq!(times, BTreeMap::from([("early".into(), 1), ("late".into(), 5)]));
}

#[tokio::test]
async fn files_cut_to_the_second_are_compared_by_content() {
    let f = Fixture::new();
    for (side, data) in [("lower", "one"), ("upper", "two")] {
        create_dir_all(f.path(side)).unwrap();
        write(f.path(side).join("changed"), data).unwrap();
        write(f.path(side).join("same"), "same").unwrap();
        symlink(data, f.path(side).join("link")).unwrap();
        age(&f.path(side), 1000);
    }
    let archive = f.archive("lower", "upper").await;
    assert_eq!(listing(&archive), ["0 changed", "2 link -> two"]);
}

#[tokio::test]
async fn refs_labels_and_blobs_that_exist() {
    let f = Fixture::new();
    create_dir_all(f.path("upper")).unwrap();
    write(f.path("upper/a"), "1").unwrap();
    age(&f.path("upper"), 1000);
    let opts = |labels| DiffOpts {
        media_type: LAYER.into(),
        reference: Some(ContentRef::new("mine").unwrap()),
        labels,
        ..DiffOpts::default()
    };
    let reference = ContentRef::new("mine").unwrap();
    let stale = WriterOpts { reference, total: 0, expected: None };
    let mut writer = f.store.writer(&cx(), stale).await.unwrap();
    writer.write("left by an earlier try".into()).await.unwrap();
    drop(writer);
    let labels = Labels::checked([("k".into(), "v".into())]).unwrap();
    let made = f.diff(&[], &[f.bind("upper")], opts(labels)).await.unwrap();
    assert_eq!(listing(&f.store.get(&made.digest)), ["0 a"]);
    let info = f.store.info(&cx(), &made.digest).await.unwrap();
    assert_eq!(info.labels.get("k"), Some("v"));
    assert_eq!(info.labels.get(UNCOMPRESSED), Some(made.digest.as_str()));

    let again = f.diff(&[], &[f.bind("upper")], opts(Labels::default())).await.unwrap();
    assert_eq!(again, made);
    // A blob pulled before has no such label yet.
    let other = Fixture::new();
    assert_eq!(other.store.put(f.store.get(&made.digest)), made.digest);
    create_dir_all(other.path("upper")).unwrap();
    write(other.path("upper/a"), "1").unwrap();
    age(&other.path("upper"), 1000);
    other.diff(&[], &[other.bind("upper")], opts(Labels::default())).await.unwrap();
    let info = other.store.info(&cx(), &made.digest).await.unwrap();
    assert_eq!(info.labels.get(UNCOMPRESSED), Some(made.digest.as_str()));
}

#[tokio::test]
async fn a_diff_that_fails_leaves_nothing() {
    let f = Fixture::new();
    let error = f.diff(&[], &[f.bind("absent")], DiffOpts::default()).await.unwrap_err();
    assert!(error.message().contains("absent"), "{}", error.message());
    assert_eq!(f.store.ingests(), 0);
    let error = f.diff(&[], &[], DiffOpts::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert_eq!(names(&f.path("mounts")), [""; 0]);
}

#[tokio::test]
async fn an_overlay_is_compared_by_its_upper_directory_alike() {
    let f = Fixture::new();
    let layer = Layer::new()
        .file("etc/hosts", "1")
        .file("etc/motd", "1")
        .file("opt/app/bin", "1")
        .file("opt/app/lib", "1")
        .file("srv/a/b/c", "1")
        .file("var/keep", "1")
        .file("plain", "1");
    f.apply(layer.bytes()).await.unwrap();
    age(&f.path("root"), 1000);
    let overlay = f.overlay(&["root"], "upper");
    let target = f.path("mnt");
    create_dir_all(&target).unwrap();
    let data = overlay.options.join(",");
    let flags = rustix::mount::MountFlags::empty();
    let data = std::ffi::CString::new(data).unwrap();
    rustix::mount::mount("overlay", &target, "overlay", flags, data.as_c_str()).unwrap();
    write(target.join("etc/hosts"), "2").unwrap();
    remove_file(target.join("etc/motd")).unwrap();
    std::fs::remove_dir_all(target.join("opt/app")).unwrap();
    create_dir_all(target.join("opt/app/new")).unwrap();
    write(target.join("opt/app/lib"), "1").unwrap();
    std::fs::remove_dir_all(target.join("srv")).unwrap();
    write(target.join("srv"), "now a file").unwrap();
    std::fs::hard_link(target.join("plain"), target.join("linked")).unwrap();
    rustix::mount::unmount(&target, rustix::mount::UnmountFlags::empty()).unwrap();

    let digest = async |lower: Mount| -> (Digest, Vec<u8>) {
        let opts = DiffOpts { media_type: LAYER.into(), ..DiffOpts::default() };
        let made = f.diff(&[lower], std::slice::from_ref(&overlay), opts).await.unwrap();
        (made.digest.clone(), f.store.get(&made.digest).to_vec())
    };
    let hinted = digest(f.bind("root")).await;
    let walked = digest(f.bind("root/.")).await;
    assert_eq!(listing(&hinted.1), listing(&walked.1));
    assert_eq!(hinted, walked);
    let listed = listing(&hinted.1);
    for expected in
        ["0 etc/.wh.motd", "0 opt/app/.wh.bin", "5 opt/app/new/", "0 srv", "0 etc/hosts"]
    {
        assert!(listed.iter().any(|line| line == expected), "{expected}: {listed:#?}");
    }
    assert!(!listed.iter().any(|line| line.contains("var")), "{listed:#?}");
    let mut data = String::new();
    let mut archive = tar::Archive::new(&hinted.1[..]);
    for entry in archive.entries().unwrap() {
        entry.unwrap().read_to_string(&mut data).unwrap();
    }
    assert!(data.contains("now a file"));
}

#[tokio::test]
async fn trees_deeper_than_descriptors_reach_are_compared() {
    let f = Fixture::new();
    for side in ["lower", "upper"] {
        let deep = vec!["d"; 300].join("/");
        create_dir_all(f.path(side).join(&deep)).unwrap();
        create_dir_all(f.path(side).join("d/d/sibling")).unwrap();
    }
    write(f.path("upper").join(vec!["d"; 300].join("/")).join("leaf"), "x").unwrap();
    write(f.path("upper/d/d/sibling/leaf"), "x").unwrap();
    age(&f.path("lower"), 1000);
    age(&f.path("upper"), 1000);
    let listed = listing(&f.archive("lower", "upper").await);
    assert_eq!(listed.len(), 300 + 1 + 2);
    assert_eq!(listed.last().unwrap(), "0 d/d/sibling/leaf");
}
