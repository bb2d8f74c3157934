//! One archive per trick that archives have played. Each is applied to a plain folder and to an
//! overlay's upper directory; whatever comes of it, what lies outside does not change.

use gantry_core::{Kind, Result};

use super::support::{entry, names};
use super::{Fixture, Layer, tree};
use crate::archive::{Entry, EntryKind, Time};
use crate::{LAYER, Limits};

/// Applies `layer` in both layouts and returns what came of the plain one.
pub(super) async fn play(layer: Layer) -> (Fixture, Result<()>) {
    play_with(|_| layer.clone(), Limits::default()).await
}

/// The same for a layer that knows the fixture's path, which to it is "the host".
pub(super) async fn play_with(
    layer: impl Fn(&str) -> Layer,
    limits: Limits,
) -> (Fixture, Result<()>) {
    let f = Fixture::new().with_limits(limits);
    let host = f.temp.path().to_str().unwrap().to_owned();
    let before = f.outside();
    let result = f.apply(layer(&host).bytes()).await;
    assert_eq!(f.outside(), before, "plain: {result:?}");
    let overlay = f.overlay(&["lower"], "upper");
    let upper = f.apply_to(&[overlay], LAYER, layer(&host).bytes()).await;
    assert_eq!(f.outside(), before, "overlay: {upper:?}");
    (f, result)
}

pub(super) fn kind(result: Result<()>) -> Kind {
    result.unwrap_err().kind()
}

pub(super) fn says(result: Result<()>, text: &str) {
    let message = result.map_err(|error| error.message()).unwrap_err();
    assert!(message.contains(text), "{message}");
}

#[tokio::test]
async fn names_that_climb_or_are_absolute_stay_inside() {
    let (f, result) = play_with(
        |host| {
            Layer::new()
                .file("../canary", "1")
                .file("../../outside/dir/../canary", "1")
                .file("/abs", "1")
                .file(&format!("{host}/canary"), "1")
                .dir("..")
                .dir("./")
                .symlink("/", "/etc")
                .file("a/../../b", "1")
        },
        Limits::default(),
    )
    .await;
    result.unwrap();
    let root = names(&f.path("root"));
    for name in ["canary", "outside/canary", "abs", "b"] {
        assert!(root.iter().any(|n| n == name), "{name}: {root:?}");
    }
}

#[tokio::test]
async fn a_symlink_as_parent_leads_nowhere_else() {
    let (f, result) = play_with(
        |host| {
            Layer::new()
                .symlink("up", "../outside")
                .file("up/canary", "dead")
                .file("up/dir/canary", "dead")
                .symlink("abs", &format!("{host}/outside"))
                .file("abs/canary", "dead")
                .hide("abs/.wh.dir")
                .hide("up/.wh..wh..opq")
                .symlink("p", "/proc/self/root")
                .file(&format!("p{host}/canary"), "dead")
        },
        Limits::default(),
    )
    .await;
    result.unwrap();
    let host = f.temp.path().to_str().unwrap().to_owned();
    assert!(f.path("root/outside/canary").exists());
    assert!(f.path("root").join(&host[1..]).join("outside/canary").exists());
    assert!(f.path("root/proc/self/root").join(&host[1..]).join("canary").exists());
}

#[tokio::test]
async fn a_directory_replaced_by_a_symlink_leads_nowhere_else() {
    // CVE-2021-32760: times and modes set late, by a name that means something else by then.
    let late = Entry {
        mode: 0o777,
        uid: 9,
        mtime: Time { secs: 5, nanos: 0 },
        ..entry(EntryKind::Directory, "d", "")
    };
    let (f, result) = play_with(
        |host| {
            Layer::new()
                .entry(&late, b"")
                .file("d/x", "1")
                .symlink("d", &format!("{host}/outside"))
                .file("d/canary", "dead")
                .entry(&late, b"")
                .symlink("d", "../../outside/dir")
        },
        Limits::default(),
    )
    .await;
    result.unwrap();
    assert!(f.path("root/d").is_symlink());
}

#[tokio::test]
async fn a_name_is_resolved_anew_when_what_it_leads_through_is_replaced() {
    let layer = Layer::new()
        .symlink("a/l", ".")
        .file("a/l/x", "1")
        .file("a/l/l", "takes the place of the symlink")
        .file("a/l/y", "1");
    let (f, result) = play(layer).await;
    says(result, "Not a directory");
    assert_eq!(names(&f.path("root")), ["a", "a/l", "a/x"]);

    let late = Entry { mtime: Time { secs: 5, nanos: 0 }, ..entry(EntryKind::Directory, "d", "") };
    let layer =
        Layer::new().entry(&late, b"").file("d", "").file("e", "").hide(".wh.d").file("d/x", "1");
    let (f, result) = play(layer).await;
    result.unwrap();
    let other = !f.root().contains("d 40755 0:0 5.000000000");
    assert!(other, "times were for a directory that is gone: {}", f.root());
}

#[tokio::test]
async fn hard_links_reach_nothing_outside() {
    for target in
        ["../outside/canary", "HOST/outside/canary", "up/canary", "abs/canary", "..", "/", ""]
    {
        let (f, result) = play_with(
            |host| {
                Layer::new()
                    .symlink("up", "../outside")
                    .symlink("abs", &format!("{host}/outside"))
                    .hard_link("h", &target.replace("HOST", host))
                    .file("h", "dead")
            },
            Limits::default(),
        )
        .await;
        assert!(result.is_err(), "{target}");
        assert!(!f.path("root/h").exists(), "{target}");
    }
}

#[tokio::test]
async fn a_hard_link_to_a_symlink_is_not_followed() {
    let (f, result) = play_with(
        |host| {
            let evil = Entry {
                mode: 0o4777,
                uid: 9,
                gid: 9,
                mtime: Time { secs: 5, nanos: 0 },
                xattrs: vec![(b"user.evil".to_vec(), b"1".to_vec())],
                ..entry(EntryKind::HardLink, "h", "s")
            };
            Layer::new().symlink("s", &format!("{host}/canary")).entry(&evil, b"").file("s2", "")
        },
        Limits::default(),
    )
    .await;
    result.unwrap();
    assert!(tree(&f.path("root")).contains("h 120777 9:9 5.000000000 -> "), "{}", f.root());
}

#[tokio::test]
async fn a_hard_link_keeps_what_its_entry_does_not_repeat() {
    let cap = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    let xattrs = vec![(b"security.capability".to_vec(), cap)];
    let ping = Entry { xattrs, ..entry(EntryKind::Regular, "ping", "") };
    let layer =
        Layer::new().entry(&ping, b"").hard_link("ping2", "ping").hard_link("ping2", "ping");
    let (f, result) = play(layer).await;
    result.unwrap();
    assert_eq!(f.root().matches("security.capability").count(), 2, "{}", f.root());
}

#[tokio::test]
async fn symlink_loops_end() {
    let layer = Layer::new().symlink("a", "b").symlink("b", "a").file("a/x", "1");
    says(play(layer).await.1, "make the parents of \"a/x\"");
    let layer = Layer::new().symlink("a", "a/b").file("a/x", "1");
    assert!(play(layer).await.1.is_err());
}

#[tokio::test]
async fn a_file_is_no_parent() {
    let layer = Layer::new().file("f", "1").file("f/x", "1");
    says(play(layer).await.1, "Not a directory");
}

#[tokio::test]
async fn the_last_of_several_entries_counts() {
    let layer = Layer::new()
        .file("a", "first, longer")
        .file("a", "second")
        .dir("b")
        .file("b/x", "1")
        .file("b", "now a file")
        .file("c", "1")
        .dir("c")
        .symlink("l", "a")
        .file("l", "not through the link")
        .hard_link("h", "a")
        .file("h", "not through the link");
    let (f, result) = play(layer).await;
    result.unwrap();
    assert_eq!(names(&f.path("root")), ["a", "b", "c", "h", "l"]);
    assert_eq!(std::fs::read_to_string(f.path("root/a")).unwrap(), "second");
    assert_eq!(std::fs::read_to_string(f.path("root/b")).unwrap(), "now a file");
    assert!(f.path("root/c").is_dir());
}

#[tokio::test]
async fn whiteouts_of_no_name_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh...", "d/.wh.."] {
        let (f, result) = play(Layer::new().file("keep", "1").dir("d").hide(name)).await;
        assert_eq!(kind(result), Kind::InvalidArgument, "{name}");
        assert!(f.path("root/keep").exists());
    }
}

#[tokio::test]
async fn sizes_that_disagree_cannot_hide_entries() {
    let inner = Layer::new().file("evil", "hidden in a file");
    let data = inner.clone().bytes();
    let size = data.len().to_string();
    let data_size = data.len() as u64;
    // CVE-2025-62518: the size of the PAX record counts, not that of the header.
    let pax =
        Layer::new().pax(&[("size", &size)]).raw(b'0', "outer", 0, &data, |_| {}).file("z", "");
    // And it belongs to the file, not to another extension header in between.
    let long = format!("{}\0", "n".repeat(150));
    let split = Layer::new()
        .pax(&[("size", &size)])
        .raw(b'L', "././@LongLink", long.len() as u64, long.as_bytes(), |_| {})
        .raw(b'0', "outer", 0, &data, |_| {})
        .file("z", "");
    // Of two records the last counts.
    let twice = Layer::new()
        .pax(&[("size", "0"), ("size", &size)])
        .raw(b'0', "outer", 0, &data, |_| {})
        .file("z", "");
    // A record that is no record ends the matter.
    for (name, layer) in [("pax", pax), ("split", split), ("twice", twice)] {
        let (f, result) = play(layer).await;
        result.unwrap();
        let names = names(&f.path("root"));
        assert!(names.iter().any(|n| n == "z") && !names.iter().any(|n| n == "evil"), "{name}");
        let outer = std::fs::read_dir(f.path("root")).unwrap();
        let sizes: Vec<_> = outer.map(|e| e.unwrap().metadata().unwrap().len()).collect();
        assert!(sizes.contains(&data_size), "{name}: {sizes:?}");
    }
    for bad in ["-1", "1x", "99999999999999999999"] {
        let layer = Layer::new().pax(&[("size", bad)]).raw(b'0', "outer", 0, &data, |_| {});
        assert_eq!(kind(play(layer).await.1), Kind::InvalidArgument, "{bad}");
    }
    // Links, devices and directories have no data, whatever their header says (as in Go).
    let header_only = Layer::new()
        .raw(b'2', "link", data_size, b"", |h| h.set_link_name("x").unwrap())
        .file("seen", "");
    let (f, result) = play(header_only).await;
    result.unwrap();
    assert_eq!(names(&f.path("root")), ["link", "seen"]);
}

#[tokio::test]
async fn ids_that_do_not_fit_are_refused() {
    // CVE-2024-40635: an id beyond 32 bits must not come out as another one, least of all root.
    for id in [-1, u32::MAX.into(), 1 << 32, i64::MAX] {
        for layer in [
            Layer::new().entry(&Entry { uid: id, ..entry(EntryKind::Regular, "f", "") }, b""),
            Layer::new().entry(&Entry { gid: id, ..entry(EntryKind::Directory, "f", "") }, b""),
            Layer::new().entry(&Entry { uid: id, ..entry(EntryKind::Regular, ".wh.f", "") }, b""),
            Layer::new().raw(b'0', "f", 0, b"", |h| {
                h.as_mut_bytes()[108..116].copy_from_slice(&[0xff; 8]);
            }),
        ] {
            let (f, result) = play(layer).await;
            assert_eq!(kind(result), Kind::InvalidArgument, "{id}");
            assert!(!f.path("root/f").exists());
        }
    }
    let largest = Entry { uid: (u32::MAX - 1).into(), ..entry(EntryKind::Regular, "f", "") };
    let (f, result) = play(Layer::new().entry(&largest, b"")).await;
    result.unwrap();
    assert!(f.root().contains("4294967294:0"));
}

#[tokio::test]
async fn times_before_the_epoch_are_the_epoch() {
    let past = Entry { mtime: Time { secs: -5, nanos: 0 }, ..entry(EntryKind::Regular, "pax", "") };
    let layer = Layer::new()
        .entry(&past, b"")
        .pax(&[("mtime", "-1.5")])
        .raw(b'0', "fraction", 0, b"", |_| {})
        .raw(b'5', "base256", 0, b"", |h| {
            h.as_mut_bytes()[136..148].copy_from_slice(&[0xff; 12]);
        });
    let (f, result) = play(layer).await;
    result.unwrap();
    assert_eq!(f.root().matches(" 0.000000000").count(), 3, "{}", f.root());
}

#[tokio::test]
async fn devices_beyond_the_kernels_numbers_are_refused() {
    let device = |major, minor| {
        let made = Entry { major, minor, ..entry(EntryKind::CharDevice, "d", "") };
        Layer::new().entry(&made, b"")
    };
    assert_eq!(kind(play(device(1 << 12, 0)).await.1), Kind::InvalidArgument);
    assert_eq!(kind(play(device(0, 1 << 20)).await.1), Kind::InvalidArgument);
}

#[tokio::test]
async fn attributes_that_cannot_be_are_tolerated_as_containerd_does() {
    let xattrs = |name: &[u8]| vec![(name.to_vec(), b"1".to_vec())];
    let layer = Layer::new()
        .entry(&Entry { xattrs: xattrs(b"user.x"), ..entry(EntryKind::Symlink, "l", "t") }, b"")
        .entry(&Entry { xattrs: xattrs(b"user.x"), ..entry(EntryKind::Fifo, "p", "") }, b"")
        .entry(&Entry { xattrs: xattrs(b"odd"), ..entry(EntryKind::Regular, "f", "") }, b"")
        .entry(
            &Entry {
                xattrs: xattrs(b"trusted.overlay.redirect"),
                ..entry(EntryKind::Directory, "d", "")
            },
            b"",
        );
    let (f, result) = play(layer).await;
    result.unwrap();
    assert!(!tree(&f.path("upper")).contains("trusted"));
    let endless = Entry { xattrs: xattrs(&[b'x'; 300]), ..entry(EntryKind::Regular, "f", "") };
    assert!(play(Layer::new().entry(&endless, b"")).await.1.is_err());
}

#[tokio::test]
async fn an_overlay_with_its_own_attributes_takes_none_from_a_layer() {
    let f = Fixture::new();
    let mut overlay = f.overlay(&["lower"], "upper");
    overlay.options.push("userxattr".into());
    let redirect = Entry {
        xattrs: vec![(b"user.overlay.redirect".to_vec(), b"/etc".to_vec())],
        ..entry(EntryKind::Directory, "d", "")
    };
    let layer = Layer::new().entry(&redirect, b"").dir("o").hide("o/.wh..wh..opq");
    f.apply_to(&[overlay], LAYER, layer.bytes()).await.unwrap();
    let upper = tree(&f.path("upper"));
    assert!(!upper.contains("redirect"), "{upper}");
    assert!(upper.contains("user.overlay.opaque=[79]"), "{upper}");
}
