//! Ordinary layers by the word of others: what GNU tar archives we unpack as GNU tar does, what
//! we archive GNU tar reads, and umoci unpacks two layers to the tree that we do.

use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::diffs::age;
use super::support::{Layer, entry};
use super::{Fixture, tree};
use crate::LAYER;
use crate::archive::{Entry, EntryKind};

/// Runs a shell script in `dir`; `None` with one line of reason when a program is absent.
fn run(dir: &Path, needs: &str, script: &str) -> Option<()> {
    let found = Command::new(needs).arg("--version").stdout(Stdio::null()).status();
    if found.is_err() {
        eprintln!("skipped: {needs} is not installed");
        return None;
    }
    let output = Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

/// A tree with a bit of everything, made by the tools of the trade.
const TREE: &str = r#"
    mkdir -p src/bin src/etc/deep/er src/tmp
    printf 'hello\n' >src/bin/tool; chmod 4755 src/bin/tool; chown 12:34 src/bin/tool
    ln src/bin/tool src/bin/linked
    ln -s ../bin/tool src/etc/relative; ln -s /etc/passwd src/etc/absolute
    mknod src/etc/null c 1 3; mknod src/etc/disk b 8 1; mkfifo src/etc/fifo
    chmod 1777 src/tmp; touch -d '2001-02-03 04:05:06.789' src/tmp/when
    printf x >"src/etc/$(printf 'n%.0s' $(seq 120))"
    printf y >"src/etc/größe"
    chown 3000000:4000000000 src/etc/deep/er
    truncate -s 3M src/etc/sparse; printf end >>src/etc/sparse
    printf mid | dd of=src/etc/sparse bs=1 seek=1000000 conv=notrunc status=none
    find src -depth -exec touch -h -d '2020-01-02 03:04:05' {} +
"#;

fn make_tree(f: &Fixture) -> Option<()> {
    run(f.temp.path(), "tar", TREE)?;
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(f.path("src/etc/deep"), "user.note", b"two\nlines", flags).unwrap();
    Some(())
}

#[tokio::test]
async fn gnu_tars_archives_unpack_as_gnu_tar_unpacks_them() {
    for (format, options) in [
        ("gnu", ""),
        ("gnu", "--sparse"),
        ("oldgnu", "--sparse"),
        ("posix", "--xattrs"),
        ("posix", "--sparse --sparse-version=0.0"),
        ("posix", "--sparse --sparse-version=0.1"),
        ("posix", "--sparse --sparse-version=1.0"),
        ("posix", "--pax-option=exthdr.name=%d/PaxHeaders/%f,atime:=1.5"),
    ] {
        let f = Fixture::new();
        let Some(()) = make_tree(&f) else { return };
        let script = format!(
            "tar -C src --numeric-owner --format={format} {options} -cf layer.tar . \n\
             mkdir theirs; tar -C theirs --numeric-owner --xattrs -xpf layer.tar"
        );
        run(f.temp.path(), "tar", &script).unwrap();
        f.apply(std::fs::read(f.path("layer.tar")).unwrap()).await.unwrap();
        assert_eq!(f.root(), tree(&f.path("theirs")), "{format} {options}");
    }
}

#[tokio::test]
async fn gnu_tar_reads_what_we_write() {
    let f = Fixture::new();
    let Some(()) = make_tree(&f) else { return };
    std::fs::create_dir(f.path("none")).unwrap();
    std::fs::write(f.path("ours.tar"), f.archive("none", "src").await).unwrap();
    let script =
        "mkdir theirs; tar -C theirs --numeric-owner --xattrs -xpf ours.tar 2>err; cat err >&2
                  test ! -s err";
    run(f.temp.path(), "tar", script).unwrap();
    assert_eq!(tree(&f.path("theirs")), tree(&f.path("src")));
}

#[tokio::test]
async fn umoci_unpacks_layers_to_the_same_tree() {
    let f = Fixture::new();
    let below = Layer::new()
        .dir("etc/")
        .file("etc/hosts", "1")
        .file("etc/motd", "1")
        .dir("opt/")
        .file("opt/low", "1")
        .dir("opt/sub/")
        .file("opt/sub/low", "1")
        .dir("type/")
        .file("type/x", "1")
        .symlink("link", "etc")
        .dir("gone/")
        .file("gone/x", "1");
    let owned = Entry { uid: 5, gid: 6, mode: 0o2750, ..entry(EntryKind::Directory, "etc/", "") };
    let above = Layer::new()
        .entry(&owned, b"")
        .hide("etc/.wh.motd")
        .dir("opt/")
        .hide("opt/.wh..wh..opq")
        .file("opt/new", "2")
        .file("type", "now a file")
        .hide(".wh.gone")
        .hard_link("type2", "type")
        .hard_link("hosts2", "etc/hosts")
        .file("link", "no link any more");
    for (name, layer) in [("1.tar", below), ("2.tar", above)] {
        let bytes = layer.bytes();
        std::fs::write(f.path(name), &bytes).unwrap();
        f.apply(bytes).await.unwrap();
    }
    let script = "
        umoci init --layout oci; umoci new --image oci:t
        umoci raw add-layer --image oci:t 1.tar; umoci raw add-layer --image oci:t 2.tar
        umoci unpack --image oci:t bundle";
    let Some(()) = run(f.temp.path(), "umoci", script) else { return };
    assert_eq!(f.root(), tree(&f.path("bundle/rootfs")));
}

/// One step that makes a tree other.
#[derive(Clone, Debug)]
enum Step {
    File(String, Vec<u8>, u32),
    Dir(String, u32),
    Symlink(String, String),
    Link(String, String),
    Fifo(String),
    Remove(String),
    Attribute(String, Vec<u8>),
    Own(String, u32),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || {
        let part = prop::sample::select(vec!["a", "b", "c", "ä\n"]);
        prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
    };
    let mode = || 0..0o1000_u32;
    prop_oneof![
        4 => (name(), prop::collection::vec(any::<u8>(), 0..40), mode())
            .prop_map(|(n, d, m)| Step::File(n, d, m)),
        3 => (name(), mode()).prop_map(|(n, m)| Step::Dir(n, m)),
        1 => (name(), name()).prop_map(|(n, t)| Step::Symlink(n, t)),
        2 => (name(), name()).prop_map(|(n, t)| Step::Link(n, t)),
        1 => name().prop_map(Step::Fifo),
        2 => name().prop_map(Step::Remove),
        1 => (name(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(n, v)| Step::Attribute(n, v)),
        1 => (name(), any::<u16>()).prop_map(|(n, id)| Step::Own(n, id.into())),
    ]
}

/// Takes a step as far as it can be taken; what is in the way stays.
fn take(root: &Path, step: &Step) {
    let path = |name: &str| root.join(name);
    let mode = |name: &str, mode| {
        use std::os::unix::fs::PermissionsExt;
        let _ = std::fs::set_permissions(path(name), PermissionsExt::from_mode(mode));
    };
    // Symlinks among the parents would lead out of the tree by "..", which no name here has.
    match step {
        Step::File(name, data, bits) => {
            // Opening a fifo would wait for a reader.
            let there = std::fs::symlink_metadata(path(name));
            let writable = there.map_or(true, |meta| meta.is_file());
            if writable && std::fs::write(path(name), data).is_ok() {
                mode(name, *bits);
            }
        }
        Step::Dir(name, bits) => {
            if std::fs::create_dir(path(name)).is_ok() {
                mode(name, *bits);
            }
        }
        Step::Symlink(name, target) => drop(std::os::unix::fs::symlink(target, path(name))),
        Step::Link(name, target) => drop(std::fs::hard_link(path(target), path(name))),
        Step::Fifo(name) => {
            let (kind, mode) = (rustix::fs::FileType::Fifo, 0o600.into());
            let _ = rustix::fs::mknodat(rustix::fs::CWD, path(name), kind, mode, 0);
        }
        Step::Remove(name) => {
            let _ = std::fs::remove_file(path(name));
            if !path(name).is_symlink() {
                let _ = std::fs::remove_dir_all(path(name));
            }
        }
        Step::Attribute(name, value) => {
            let flags = rustix::fs::XattrFlags::empty();
            let _ = rustix::fs::lsetxattr(path(name), "user.x", value, flags);
        }
        Step::Own(name, id) => drop(std::os::unix::fs::lchown(path(name), Some(*id), Some(*id))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn applying_a_diff_gives_the_upper_tree(
        first in prop::collection::vec(step(), 0..20),
        second in prop::collection::vec(step(), 0..20),
    ) {
        let f = Fixture::new();
        let (lower, upper) = (f.path("lower"), f.path("upper"));
        std::fs::create_dir(&lower).unwrap();
        first.iter().for_each(|step| take(&lower, step));
        age(&lower, 1000);
        let copied = Command::new("cp").arg("-a").args([&lower, &upper]).status().unwrap();
        prop_assert!(copied.success());
        second.iter().for_each(|step| take(&upper, step));
        // Times that a layer can say; changed ones stay later than all before.
        round_times(&upper);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let archive = f.archive("lower", "upper").await;
            f.apply_to(&[f.bind("lower")], LAYER, archive).await.unwrap();
        });
        let plain = |root: &Path| {
            // A directory that is the same but for its time is no change (as in containerd).
            let line = |line: &str| {
                let mut words: Vec<_> = line.split(' ').collect();
                if words.len() > 3 && words[1].starts_with('4') {
                    words.remove(3);
                }
                words.join(" ")
            };
            tree(root).split('\n').map(line).collect::<Vec<_>>()
        };
        prop_assert_eq!(plain(&lower), plain(&upper));
    }
}

/// Cuts times to the second, as a layer does.
fn round_times(path: &Path) {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::symlink_metadata(path).unwrap();
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            round_times(&entry.unwrap().path());
        }
    }
    let spec = rustix::fs::Timespec { tv_sec: meta.mtime(), tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: spec, last_modification: spec };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).unwrap();
}
