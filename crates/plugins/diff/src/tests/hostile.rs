//! Properties: whatever an archive says, the host is as it was; and both layouts of an ordinary
//! layer give the same tree.

use std::io::Cursor;
use std::os::fd::AsRawFd as _;

use proptest::prelude::*;

use super::support::{cx, entry, tree};
use super::{Fixture, Layer};
use crate::apply::{Layout, Options, Upper, apply};
use crate::archive::{Entry, EntryKind};
use crate::{Limits, mounts};

/// Applies an archive without the pipeline around it.
fn apply_core(f: &Fixture, root: &str, upper: bool, archive: &[u8]) -> gantry_core::Result<()> {
    let open = |name: &str| mounts::open_dir(f.path(name).to_str().unwrap()).unwrap();
    let layout = match upper {
        true => Layout::Upper(Upper { lowers: vec![open("lower")], user_xattr: false }),
        false => Layout::Merged,
    };
    let options = Options { layout, limits: &Limits::default(), devices: true };
    Ok(apply(&cx(), open(root), Cursor::new(archive), options)?)
}

fn fixture() -> Fixture {
    let f = Fixture::new();
    for dir in ["lower", "upper"] {
        std::fs::create_dir_all(f.path(dir)).unwrap();
    }
    f
}

/// Names that meet each other, climb, and pass through each other.
fn evil_name() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "l", "outside", "canary", "dir"]),
        2 => prop::sample::select(vec!["..", ".", "", "HOST"]),
        1 => prop::sample::select(vec![".wh.a", ".wh.l", ".wh..wh..opq", ".wh...", ".wh.outside"]),
    ];
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

fn evil_target() -> impl Strategy<Value = String> {
    prop_oneof![
        evil_name(),
        prop::sample::select(vec![
            "../outside",
            "../outside/canary",
            "../canary",
            "HOST",
            "HOST/outside",
            "HOST/canary",
            "/proc/self/cwd",
            ".",
            "/",
        ])
        .prop_map(str::to_owned),
    ]
}

fn kinds() -> impl Strategy<Value = EntryKind> {
    use EntryKind::*;
    prop_oneof![
        3 => prop::sample::select(vec![Regular, Directory]),
        3 => prop::sample::select(vec![Symlink, HardLink]),
        1 => prop::sample::select(vec![CharDevice, Fifo]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_global_rejects: 5000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_outside_of_the_root_ever_changes(
        entries in prop::collection::vec((kinds(), evil_name(), evil_target(), 0..0o10000_u32), 1..14),
        upper in any::<bool>(),
    ) {
        let f = fixture();
        let host = f.temp.path().to_str().unwrap().to_owned();
        let before = f.outside();
        for (kind, name, link, mode) in entries {
            // One archive each, so that an entry that fails does not save the next from its turn.
            let made = Entry {
                mode,
                uid: 7,
                xattrs: vec![(b"user.x".to_vec(), b"1".to_vec())],
                ..entry(kind, &name.replace("HOST", &host), &link.replace("HOST", &host))
            };
            let archive = Layer::new().entry(&made, b"").bytes();
            let root = if upper { "upper" } else { "root" };
            let _ = apply_core(&f, root, upper, &archive);
            prop_assert_eq!(f.outside(), before.clone());
        }
    }

    #[test]
    fn broken_archives_neither_panic_nor_reach_outside(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        reseal in any::<bool>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let f = fixture();
        let mut archive = Layer::new()
            .dir("d/")
            .file("d/f", "data")
            .pax(&[("path", "d/long"), ("mtime", "1.5"), ("SCHILY.xattr.user.x", "1")])
            .raw(b'0', "x", 3, b"abc", |_| {})
            .symlink("l", "../outside")
            .hard_link("h", "d/f")
            .pax(&[("GNU.sparse.map", "0,1"), ("GNU.sparse.size", "5")])
            .raw(b'0', "s", 1, b"a", |_| {})
            .hide("d/.wh.f")
            .bytes();
        for (index, byte) in flips {
            let index = index.index(archive.len());
            archive[index] = byte;
        }
        if reseal {
            // Checksums that are right again let the damage through to the fields.
            for block in archive.chunks_exact_mut(512) {
                if &block[257..262] == b"ustar" {
                    block[148..156].fill(b' ');
                    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
                    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
            }
        }
        archive.truncate(cut.index(archive.len() * 4));
        let before = f.outside();
        let _ = apply_core(&f, "root", false, &archive);
        let _ = apply_core(&f, "upper", true, &archive);
        prop_assert_eq!(f.outside(), before);
    }

    #[test]
    fn both_layouts_give_the_same_tree(below in layer(false), above in layer(true)) {
        let f = fixture();
        prop_assume!(apply_core(&f, "root", false, &below.clone().bytes()).is_ok());
        apply_core(&f, "lower", false, &below.clone().bytes()).unwrap();
        // A file in the way of a parent fails in a merged tree; in an overlay it is covered.
        prop_assume!(apply_core(&f, "root", false, &above.clone().bytes()).is_ok());
        let overlay = f.overlay(&["lower"], "upper");
        apply_core(&f, "upper", true, &above.clone().bytes()).unwrap();
        let view = mounts::open(&mounts::read_only(&[overlay]), &f.path("mounts")).unwrap();
        let view = tree(format!("/proc/self/fd/{}/.", view.as_raw_fd()).as_ref());
        let plain = |tree: String| {
            // Parents get the time of the moment; marks of the overlay are its own.
            let line = |line: &str| {
                let mut words: Vec<_> = line.split(' ').collect();
                words.remove(3);
                words.retain(|word| !word.starts_with("trusted.overlay"));
                words.join(" ")
            };
            tree.lines().map(line).collect::<Vec<_>>()
        };
        prop_assert_eq!(plain(view), plain(f.root()));
    }
}

/// An ordinary layer without symlinks: files, directories, and (`whiteouts`) what hides others.
fn layer(whiteouts: bool) -> impl Strategy<Value = Layer> {
    let name = prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4);
    let what = if whiteouts { 0..4_u8 } else { 0..2_u8 };
    prop::collection::vec((name, what, 0..0o1000_u32), 0..12).prop_map(|entries| {
        entries.into_iter().fold(Layer::new(), |layer, (parts, what, mode)| {
            let (base, dir) = parts.split_last().unwrap();
            let beside = |name: &str| {
                let mut parts = dir.to_vec();
                parts.push(name);
                parts.join("/")
            };
            let made = |kind, name: &str| Entry { mode, ..entry(kind, name, "") };
            // A whiteout comes with its directory, as the image-spec has it: one that is only
            // implied by a whiteout and then hidden with its parent is anybody's guess.
            let layer = match what {
                2.. if !dir.is_empty() => {
                    layer.entry(&made(EntryKind::Directory, &dir.join("/")), b"")
                }
                _ => layer,
            };
            match what {
                0 => layer.entry(&made(EntryKind::Directory, &parts.join("/")), b""),
                1 => layer.entry(&made(EntryKind::Regular, &parts.join("/")), b""),
                2 => layer.hide(&beside(&format!(".wh.{base}"))),
                _ => layer.hide(&beside(".wh..wh..opq")),
            }
        })
    })
}
